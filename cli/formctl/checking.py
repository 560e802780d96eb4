"""What an app's description would do, for people who read it before it is applied. Pure.

What is wrong is refused when it is read. Here is told what is right, and what is legal but hardly
meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from cronsim import CronSim

from formation.model import ProcessType
from formation.releasecommand import ReleaseCommand
from formation.rules import Schedule, rollout_defaults
from formctl import jsonview, typelines
from formctl.jsonview import Json
from formctl.naming import STDIN
from formctl.spec import AppSpec
from formctl.tables import hanging, printable

_RARE = timedelta(days=366)
_LABEL_WIDTH = 9


def next_run(schedule: Schedule, now: datetime) -> datetime | None:
    """In the schedule's zone; None: not within 50 years."""
    return next(CronSim(schedule.cron, now.astimezone(_zone(schedule.zone))), None)


def _zone(name: str) -> tzinfo:
    """UTC where this machine has no such zone: the coordinator's may have it."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        return UTC


def _source(found: AppSpec) -> str:
    return "standard input" if found.source == STDIN else found.source


# -- what is hardly meant --------------------------------------------------------------------------


def warnings(found: AppSpec, now: datetime) -> list[str]:
    """`types.web.…: what happens`, for what is legal and hardly meant; notes of reading first."""
    described = [
        f"{_source(found)}: types.{spec.name}.{line}"
        for spec in found.types
        for line in _hardly_meant(spec, now)
    ]
    return [*found.notes, *_of_nobody(found), *described]


def _of_nobody(found: AppSpec) -> Iterator[str]:
    """A release command has nothing of any type unless it says so."""
    having = next((spec for spec in found.types if spec.user), None)
    if found.command and not found.command.like and having:
        told = f'it does not run as {having.user}, as {having.name} does: type = "{having.name}"'
        yield f"{_source(found)}: release: {told}"


def _hardly_meant(spec: ProcessType, now: datetime) -> Iterator[str]:
    if spec.schedule and (rare := _rare(spec.schedule, now)):
        yield f"schedule.cron: {spec.schedule.cron!r} {rare}"
    if _may_stop_all(spec):
        of = f"{spec.rollout.unavailable} of quantity {spec.initial_quantity}"
        yield f"rollout.unavailable: {of}: a change may stop all of them at once"
    if spec.resources.memory_bytes and not spec.limits.memory_bytes:
        yield "resources.memory: without limits.memory it may use more than is kept for it"
    if _counts_too_early(spec):
        after = f"{spec.ready_after_s:g} s"
        yield f"rollout: without ready.… an instance is taken for healthy when up {after}"


def _rare(schedule: Schedule, now: datetime) -> str:
    comes = next_run(schedule, now)
    if comes is None:
        return "never comes"
    return f"comes on {comes:%Y-%m-%d}, not within a year" if comes - now > _RARE else ""


def _may_stop_all(spec: ProcessType) -> bool:
    """What can only be replaced in its place has no choice."""
    usual = rollout_defaults(port=spec.port, exclusive=spec.exclusive, per_host=spec.per_host)
    quantity = spec.initial_quantity
    unavailable = spec.rollout.unavailable
    return unavailable != usual.unavailable and 0 < quantity <= unavailable.of(quantity)


def _counts_too_early(spec: ProcessType) -> bool:
    """Who says something of a rollout wants to go on only when the new ones work."""
    asked = spec.readiness or spec.notify
    plain = ProcessType(name=spec.name, command=spec.command)
    usual = rollout_defaults(port=spec.port, exclusive=spec.exclusive, per_host=spec.per_host)
    return not asked and spec.rollout != usual and spec.ready_after_s == plain.ready_after_s


# -- what would be applied -------------------------------------------------------------------------


def summary(app: str, found: AppSpec, now: datetime, width: int | None = None) -> str:
    count = "1 type" if len(found.types) == 1 else f"{len(found.types)} types"
    lines = [f"{_source(found)}: app {app}, {count}, in {printable(found.workdir)}"]
    if found.env:
        lines.append(hanging("env  ", " ".join(map(printable, sorted(found.env))), width))
    if found.build:
        lines.append(hanging("build  ", printable(found.build.command), width))
    lines.append("")
    if found.command:
        lines.append(hanging("release  ", printable(_of_command(found.command)), width))
    for spec in found.types:
        lines += _type(spec, now, width)
    return "\n".join(lines)


def _of_command(command: ReleaseCommand) -> str:
    like = f", as {command.like}" if command.like else ""
    within = f"within {command.timeout_s:g} s"
    return f"{command.command}  (once for each release, before it starts{like}, {within})"


def _type(spec: ProcessType, now: datetime, width: int | None) -> Iterator[str]:
    yield hanging(f"{spec.name}={spec.initial_quantity}  ", printable(spec.command), width)
    for what, how in special(spec, now):
        yield hanging(f"  {what.ljust(_LABEL_WIDTH)}  ", printable(how), width)


def special(spec: ProcessType, now: datetime) -> Sequence[tuple[str, str]]:
    """(what, how) of all that a plain type does not have."""
    plain = ProcessType(name=spec.name, command=spec.command)
    usual = set(typelines.described(plain))
    found = [line for line in typelines.described(spec) if line not in usual]
    if spec.schedule and (comes := next_run(spec.schedule, now)):
        found.append(("next run", f"{comes:%a %Y-%m-%d %H:%M %Z}"))
    return found


def as_json(app: str, found: AppSpec, told: Sequence[str]) -> Json:
    return {
        "app": app,
        "source": found.source,
        "workdir": found.workdir,
        "env_names": sorted(found.env),
        "build": jsonview.build(found.build),
        "release_command": jsonview.release_command(found.command),
        "types": [
            {**jsonview.process_type(spec), "quantity": spec.initial_quantity}
            for spec in found.types
        ],
        "warnings": list(told),
        "problems": [],
    }


def failure_as_json(problems: Sequence[str]) -> Json:
    return {
        "app": None,
        "source": None,
        "workdir": None,
        "env_names": [],
        "build": None,
        "release_command": None,
        "types": [],
        "warnings": [],
        "problems": list(problems),
    }
