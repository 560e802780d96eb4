"""Formation arguments, `web=5 worker+1`: changes, and what they make of a formation. Pure.

A command with one bad word is refused whole: half a formation is never what was meant. The
coordinator and formctl both use these, so that they refuse for the same reasons.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from formation.model import QUANTITY_MAX
from formation.requests import ChangeKind, QuantityChange

# Greedy, so that the last sign is the operator: `foo-bar-2` takes two from `foo-bar`.
_WORD = re.compile(r"([A-Za-z0-9_-]{1,63})([=+-])([0-9]+)")
# Python refuses to read integers of thousands of digits; nobody means them.
_DIGITS_MAX = len(str(QUANTITY_MAX))
_EVERY_TYPE = "all"
_LIST_EXAMPLE = "web=2 or web=2,worker=1"


class QuantityError(ValueError):
    """`problems`: one line for each bad word or impossible change."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


def initial_quantity(type_name: str) -> int:
    """How many of a type an app starts with when nobody says: one `web`, none of the others."""
    return 1 if type_name == "web" else 0


def parse_changes(
    words: Sequence[str], example: str = "web=5, worker+1 or worker-2"
) -> tuple[QuantityChange, ...]:
    """`web=5` sets, `web+1` adds, `web-1` takes away; each type at most once."""
    problems: list[str] = []
    changes: dict[str, QuantityChange] = {}
    for word in words:
        match = _WORD.fullmatch(word)
        if not match:
            problems.append(f"{word!r} is not a quantity: write {example}")
            continue
        name, kind, quantity = match[1], ChangeKind(match[2]), _number(match[3])
        if name in changes:
            problems.append(f"{word!r}: {name} is given twice")
        if quantity > QUANTITY_MAX:
            problems.append(f"{word!r}: more than {QUANTITY_MAX}")
        changes[name] = QuantityChange(type=name, kind=kind, quantity=quantity)
    if problems:
        raise QuantityError(problems)
    return tuple(changes.values())


def apply_changes(
    formation: Mapping[str, int], changes: Sequence[QuantityChange], known_types: Sequence[str]
) -> dict[str, int]:
    """The whole formation afterwards; types that are not named keep what they had."""
    after = dict(formation)
    problems: list[str] = []
    for change in changes:
        if change.type not in known_types:
            problems.append(f"no process type {change.type}: there is {_listed(known_types)}")
            continue
        before = formation.get(change.type, 0)
        quantity = _changed(before, change)
        if quantity < 0:
            problems.append(f"{change.type}-{change.quantity}: there are only {before}")
        if quantity > QUANTITY_MAX:
            problems.append(f"{change.type}: {quantity} is more than {QUANTITY_MAX}")
        after[change.type] = quantity
    if problems:
        raise QuantityError(problems)
    return after


def parse_dev(text: str, types: Sequence[str]) -> dict[str, int]:
    """foreman's `-m all=1,web=2`: who is not named gets what `all` says, else none."""
    given = _quantities(text, types, (_EVERY_TYPE,))
    rest = given.pop(_EVERY_TYPE, 0)
    return {name: given.get(name, rest) for name in types}


def parse_initial(text: str, types: Sequence[str]) -> dict[str, int]:
    """`-m web=2,worker=1` of `formctl apply`: only what is named."""
    return _quantities(text, types, ())


def _quantities(text: str, types: Sequence[str], also: Sequence[str]) -> dict[str, int]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    changes = parse_changes(words, _LIST_EXAMPLE)
    problems = [
        f"'{change.type}{change.kind}{change.quantity}' is no quantity here: write {_LIST_EXAMPLE}"
        for change in changes
        if change.kind is not ChangeKind.SET
    ]
    problems += [
        f"no process type {change.type}: there is {_listed(types)}"
        for change in changes
        if change.type not in types and change.type not in also
    ]
    if not words:
        problems.append(f"no quantity given: write {_LIST_EXAMPLE}")
    if problems:
        raise QuantityError(problems)
    return {change.type: change.quantity for change in changes}


def show(formation: Mapping[str, int]) -> str:
    """`web=5 worker=3`: what `formctl scale` takes back."""
    return " ".join(f"{name}={quantity}" for name, quantity in formation.items())


def _number(digits: str) -> int:
    significant = digits.lstrip("0") or "0"
    return int(significant) if len(significant) <= _DIGITS_MAX else QUANTITY_MAX + 1


def _changed(before: int, change: QuantityChange) -> int:
    if change.kind is ChangeKind.SET:
        return change.quantity
    return before + (change.quantity if change.kind is ChangeKind.ADD else -change.quantity)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
