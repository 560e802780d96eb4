"""One step of a rolling change, and whether it has arrived or failed. Pure.

A stay is stale when its release says something else of its type than the wanted one, or when it has
not had a restart that was asked for. While there are stale ones, `surge` more may run: they come
first, with the new release. A stale one is replaced in its place, and it costs one that works, so
it goes only while more than `quantity - unavailable` work. What works is healthy, and if it is new
it was so for `healthy_s` without a break. What does not work costs nothing to replace. Nothing else
takes instances away during a change, so whatever hosts do meanwhile, the change never takes a type
below that number; and a release that does not come up stops itself.

A change of release has failed when a new instance ended for good or keeps crashing while no new
one works, or when for `deadline_s` no further one has come to work. What has FINISHED works: it is
done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from formation.rules import RolloutRules
from formation.seen import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """`works`: healthy, and long enough if it is new. `broken`: it ended for good, or it crashes
    again and again. `waits`: why its process is not even started. `demanded`: an operator named
    this very slot, so no budget holds it. `fixed`: it cannot be replaced now."""

    ordinal: int
    stale: bool
    works: bool
    broken: str = ""
    waits: str = ""
    surge: bool = False
    demanded: bool = False
    fixed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`replace`: ordinals, lowest first. `surge`: how many are to run beyond the quantity.
    `held`: why nothing more happens now, for people."""

    replace: tuple[int, ...] = ()
    surge: int = 0
    held: str = ""


def surge_max(rules: RolloutRules, quantity: int) -> int:
    return rules.surge.of(quantity) if quantity else 0


def unavailable_max(rules: RolloutRules, quantity: int) -> int:
    """At least one where nothing may surge: there would be no way to change anything."""
    allowed = rules.unavailable.of(quantity)
    return max(1, allowed) if surge_max(rules, quantity) == 0 else allowed


def step(stays: Sequence[Stay], quantity: int, rules: RolloutRules, word: Rollout) -> Step:
    """What may happen now. `stays` holds the one kept stay of every slot."""
    stale = [stay for stay in stays if stay.stale and not (stay.fixed or stay.surge)]
    surging = sum(stay.surge for stay in stays)
    demanded = tuple(stay.ordinal for stay in stale if stay.demanded)
    if not stale:
        # The last one that was replaced may still be on its way, another out of reach.
        plain = [stay for stay in stays if not stay.surge]
        over = len(plain) >= quantity and all(stay.works and not stay.stale for stay in plain)
        useful = sum(stay.surge and (stay.works or not stay.stale) for stay in stays)
        return Step(surge=0 if over else useful)
    if word.paused:
        return Step(replace=demanded, surge=surging, held="paused")
    new = sum(not stay.stale for stay in stays)
    most = surge_max(rules, quantity)
    left = max(0, word.canary - new) if word.canary else len(stays) + most
    # One more is of use only beside what works now.
    useful = sum(stay.works and not stay.demanded for stay in stale)
    surge = min(most, max(surging, min(useful, surging + left)))
    left -= max(0, surge - surging)
    # What was named goes whatever the numbers say, but it is away then, too.
    remain = sum(stay.works for stay in stays if stay.ordinal not in demanded)
    budget = remain - (quantity - unavailable_max(rules, quantity))
    chosen = _chosen(stale, budget, left)
    held = "" if chosen or not word.canary or left > 0 else f"canary: {new} run the new release"
    # One of an earlier change that does not work holds a place that a new one could have.
    useless = {s.ordinal for s in stays if s.surge and s.stale and not (s.works or s.fixed)}
    return Step(replace=tuple(sorted({*chosen, *demanded, *useless})), surge=surge, held=held)


def _chosen(stale: Sequence[Stay], budget: int, left: int) -> list[int]:
    """Those that do not work first: they cost nothing."""
    chosen: list[int] = []
    for stay in sorted(stale, key=lambda stay: (stay.works, stay.ordinal)):
        if len(chosen) >= left:
            break
        if stay.works and not stay.demanded:
            if budget <= 0:
                continue
            budget -= 1
        chosen.append(stay.ordinal)
    return chosen


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a type's change had come, and since when it has not come further."""

    towards: object
    done: int
    since_s: float


def progress(before: Progress | None, towards: object, done: int, now_s: float) -> Progress:
    """Further than ever, or towards something else: the time begins anew."""
    if before is None or before.towards != towards or done > before.done:
        return Progress(towards, done, now_s)
    return before


def failure(stays: Sequence[Stay]) -> str:
    """Why a change of release has failed already; "" when it may still succeed."""
    new = [stay for stay in stays if not stay.stale]
    if any(stay.works for stay in new):
        return ""
    return next((stay.broken for stay in new if stay.broken), "")


def arrived(stays: Sequence[Stay]) -> bool:
    """Nothing stale is left, and all that runs works."""
    return all(stay.works and not stay.stale for stay in stays)
