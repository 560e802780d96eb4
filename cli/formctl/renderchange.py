"""A change under way, plans and explanations → text for people. Pure.

Of the wire's own messages where those say just what is shown; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from formation.model import App
from formctl.tables import hanging, printable, table
from formctl.views import AppLine, Instance

_STEPS_SHOWN = 40
_HOSTS_SHOWN = 20


class Term(Protocol):
    name: str
    value: int


class Check(Protocol):
    name: str
    passed: bool
    detail: str


class Verdict(Protocol):
    host: str
    fits: bool
    rank: int
    current: bool

    @property
    def checks(self) -> Sequence[Check]: ...
    @property
    def terms(self) -> Sequence[Term]: ...


class Step(Protocol):
    kind: str
    type: str
    ordinal: int
    from_host: str
    to_host: str
    reason: str


class Unplaced(Protocol):
    type: str
    count: int
    reason: str
    remedy: str

    @property
    def hosts(self) -> Sequence[Verdict]: ...


class Spread(Protocol):
    app: str
    type: str
    before: int
    after: int
    skew_before: int
    skew_after: int


class Plan(Protocol):
    revision: int

    @property
    def steps(self) -> Sequence[Step]: ...
    @property
    def totals(self) -> Mapping[str, int]: ...
    @property
    def unplaced(self) -> Sequence[Unplaced]: ...
    @property
    def types(self) -> Sequence[Spread]: ...
    @property
    def notes(self) -> Sequence[str]: ...


class Explanation(Protocol):
    reason: str
    remedy: str

    @property
    def hosts(self) -> Sequence[Verdict]: ...


# -- rollouts --------------------------------------------------------------------------------------


def phase(app: App) -> str:
    """`rolling`, `paused`, `canary`, `done`, or `first` while there is nothing to go back to;
    `waiting` for a release command when nothing else is on its way, `none` without a release."""
    if app.candidate and app.release == app.stable_release:
        return "waiting"
    if not app.release:
        return "none"
    if app.release == app.stable_release:
        return "done"
    if app.rollout.paused:
        return "paused"
    if app.rollout.canary:
        return "canary"
    return "rolling" if app.stable_release else "first"


def rollout(line: AppLine, instances: Iterable[Instance]) -> str:
    app = line.app
    found = [i for i in instances if i.slot.app == app.name and not i.run and i.is_placed]
    lines = [f"{app.name}: {_headline(app)}"]
    if app.candidate:
        run = app.candidate.run
        told = f"waits for its release command: formctl logs -f {run}, formctl rollout abort"
        lines.append(f"v{app.candidate.release} {told}")
    if app.rollout.undone_release:
        lines.append(f"v{app.rollout.undone_release} was taken back: {app.rollout.reason}")
    rows = []
    for name in line.types:
        of_type = [i for i in found if i.slot.type == name and not i.surplus]
        new = [i for i in of_type if i.current]
        good = sum(i.is_good for i in of_type)
        wanted = "-" if name in line.irregular else str(line.app.formation.get(name, 0))
        rows.append((name, wanted, str(good), str(len(new)), str(len(of_type) - len(new))))
    lines.append(table(("TYPE", "WANTED", "HEALTHY", "CURRENT", "TO REPLACE"), rows))
    return "\n".join(lines)


def _headline(app: App) -> str:
    now = phase(app)
    if not app.release:
        return "it has no release yet"
    if app.release == app.stable_release:
        return f"v{app.release} runs everywhere"
    if now == "first":
        return f"v{app.release} is its first release, on its way"
    more = f" ({app.rollout.canary} of each type)" if now == "canary" else ""
    return f"v{app.stable_release} -> v{app.release}, {now}{more}"


def steered(how: str, app: App, release: int) -> str:
    said = {
        "pause": f"v{app.release} is paused; go on with formctl rollout resume",
        "resume": f"v{app.release} goes on",
        "promote": f"v{app.release} goes on to all",
    }
    back = f"back to v{release}" if release else "nothing of it was rolled out"
    return f"{app.name}: " + said.get(how, back)


# -- plans -----------------------------------------------------------------------------------------


def plan(found: Plan, command: str) -> str:
    lines = [*found.notes, *spreads(found.types)]
    if not found.totals and not found.unplaced:
        return "\n".join([*lines, "nothing would change"])
    lines += _steps(found)
    for item in found.unplaced:
        lines += _unplaced(item)
    total = ", ".join(f"{number} {kind}" for kind, number in sorted(found.totals.items()))
    number = sum(found.totals.values())
    lines.append(f"{number} steps: {total}" if total else "no step is possible")
    lines.append(f"apply just this: {command}")
    return "\n".join(printable(line) for line in "\n".join(lines).split("\n"))


def spreads(types: Iterable[Spread]) -> list[str]:
    return [
        f"{item.app}/{item.type}: {item.before} -> {item.after}"
        f" (skew {item.skew_before} -> {item.skew_after})"
        for item in types
    ]


def _steps(found: Plan) -> Iterator[str]:
    for step in found.steps[:_STEPS_SHOWN]:
        where = " -> ".join(host for host in (step.from_host, step.to_host) if host)
        if step.from_host == step.to_host:
            where = step.to_host
        why = f"  ({step.reason})" if step.reason else ""
        yield f"  {step.kind:<8}{step.type}.{step.ordinal}  {where}{why}"
    more = sum(found.totals.values()) - min(_STEPS_SHOWN, len(found.steps))
    if more:
        yield f"  and {more} more"


def _unplaced(item: Unplaced) -> Iterator[str]:
    yield f"{item.type}: {item.count} would find no host"
    for verdict in item.hosts[:_HOSTS_SHOWN]:
        yield f"  {verdict.host}: {_why_not(verdict)}"
    if len(item.hosts) > _HOSTS_SHOWN:
        yield f"  and {len(item.hosts) - _HOSTS_SHOWN} more hosts"
    if not item.hosts:
        yield f"  {item.reason}"
    if item.remedy:
        yield f"  {item.remedy}"


def _why_not(verdict: Verdict) -> str:
    failed = [f"{check.name}: {check.detail}" for check in verdict.checks if not check.passed]
    return "; ".join(failed) or "it would take one"


# -- explanations ----------------------------------------------------------------------------------


def explanation(
    found: Explanation, instance: Instance, *, all_checks: bool, width: int | None
) -> str:
    slot = instance.slot.short
    where = f"is on {instance.host}" if instance.host else "has no host"
    lines = [hanging("", f"{slot} {where}: {found.reason}", width)]
    fitting = [v for v in found.hosts if v.fits]
    if fitting:
        lines.append("where it would go now, best first:")
        lines.append(_ranking(fitting[:_HOSTS_SHOWN]))
    lines += [
        hanging("", f"{verdict.host}: {_why_not(verdict)}", width)
        for verdict in found.hosts
        if not verdict.fits
    ]
    if all_checks:
        lines += _all_checks(found.hosts)
    if found.remedy:
        lines.append(found.remedy)
    return "\n".join(printable(line) for line in "\n".join(lines).split("\n"))


def _ranking(fitting: Sequence[Verdict]) -> str:
    """One column for each term that all have; the zone's term names another zone for each."""
    names = [_column(term.name) for term in fitting[0].terms]
    rows = [
        (
            f"{verdict.host}{' *' if verdict.current else ''}",
            *(_cell(term) for term in verdict.terms),
        )
        for verdict in fitting
    ]
    return table(("HOST", *(name.upper() for name in names)), rows)


def _column(name: str) -> str:
    """`of this type in zone east` → `of this type in zone`: the value stands in the cell."""
    head, _, _ = name.rpartition(" ") if " in " in name else (name, "", "")
    return head


def _cell(term: Term) -> str:
    value = term.name.rpartition(" ")[2] if " in " in term.name else ""
    return f"{term.value} ({value})" if value else str(term.value)


def _all_checks(hosts: Sequence[Verdict]) -> Iterator[str]:
    for verdict in hosts:
        yield f"{verdict.host}:"
        for check in verdict.checks:
            yield f"  {'ok' if check.passed else 'NO':<3}{check.name}: {check.detail}"
