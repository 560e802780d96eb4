"""A type's rules in formation.toml: where, how many at once, when. Pure.

A part of `formation.manifest`: `manifest_type` reads all else of a type. `cron_problem`,
`zone_problem` and `contradiction` are the coordinator's too, which checks what others send.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache

from cronsim import CronSim, CronSimError

from formation.manifest_keys import (
    CONSTRAINT_PATTERN,
    CRON_EXAMPLES,
    CRON_PATTERN,
    LABEL_PATTERN,
    SCHEDULE_DEFAULTS,
    ZONE_PATTERN,
)
from formation.manifest_values import Section, did_you_mean, show_bytes
from formation.model import ProcessType
from formation.rules import (
    Constraint,
    HostLoss,
    Keep,
    LossAction,
    Missed,
    Operator,
    Overlap,
    Resources,
    RolloutRules,
    Schedule,
    Share,
    Where,
)

_LIST = re.compile(r"(\S+)\s+(not\s+)?in\s*\((.*)\)")
_COMPARED = re.compile(r"([^\s!=]+)\s*(!?=)\s*(.+)")
_WILDCARDS = re.compile(r"[*?\[]")
_CRON_MAX = 200
_ANY_TIME = datetime(2024, 1, 1, tzinfo=UTC)


# -- resources -------------------------------------------------------------------------------------


def reserved(table: Section) -> Resources:
    return Resources(cpus=table.number("cpus"), memory_bytes=table.bytes("memory"))


def _check_reserved(table: Section, found: ProcessType) -> None:
    kept, most = found.resources, found.limits
    if 0 < most.memory_bytes < kept.memory_bytes:
        than = f"limits.memory, {show_bytes(most.memory_bytes)}: it could never use so much"
        table.problem("memory", f"{show_bytes(kept.memory_bytes)} is more than {than}")
    if 0 < most.cpus < kept.cpus:
        than = f"limits.cpus, {most.cpus:g}: it could never use so much"
        table.problem("cpus", f"{kept.cpus:g} is more than {than}")


# -- placement -------------------------------------------------------------------------------------


def constraint(text: str) -> Constraint | None:
    """`ssd`, `!gpu`, `zone=eu-*`, `zone!=eu-3`, `disk in (nvme, ssd)`, `rack not in (r1, r2)`."""
    if not re.fullmatch(CONSTRAINT_PATTERN, text):
        return None
    text = text.strip()
    if match := _LIST.fullmatch(text):
        patterns = tuple(item.strip() for item in match[3].split(","))
        operator = Operator.NOT_IN if match[2] else Operator.IN
        return Constraint(label=match[1], operator=operator, patterns=patterns)
    if match := _COMPARED.fullmatch(text):
        operator = Operator.NOT_IN if match[2] == "!=" else Operator.IN
        return Constraint(label=match[1], operator=operator, patterns=(match[3],))
    operator = Operator.NOT_IN if text.startswith("!") else Operator.IN
    return Constraint(label=text.removeprefix("!"), operator=operator)


def is_label(name: str) -> bool:
    return re.fullmatch(LABEL_PATTERN, name) is not None


def contradiction(required: Sequence[Constraint]) -> str:
    """The conditions that no host can meet at once; "" when there are none that surely exclude
    each other."""
    for label in dict.fromkeys(item.label for item in required):
        about = [item for item in required if item.label == label]
        if not _may_hold(label, about):
            return " and ".join(f'"{item}"' for item in about)
    return ""


def _may_hold(label: str, about: Sequence[Constraint]) -> bool:
    wanted = [item for item in about if item.operator is Operator.IN]
    refusing = [item for item in about if item.operator is Operator.NOT_IN]
    if not wanted:
        return True
    if exact := next((item for item in wanted if _is_exact(item)), None):
        return any(all(item.allows({label: v}) for item in about) for v in exact.patterns)
    refused = {pattern for item in refusing for pattern in item.patterns}
    if "*" in refused or any(not item.patterns for item in refusing):
        return False
    return not any(item.patterns and refused.issuperset(item.patterns) for item in wanted)


def _is_exact(item: Constraint) -> bool:
    return bool(item.patterns) and not any(map(_WILDCARDS.search, item.patterns))


def placement(table: Section) -> Where:
    return Where(
        require=_constraints(table, "require"),
        prefer=_constraints(table, "prefer"),
        spread=table.texts("spread"),
        max_per_host=table.whole("max_per_host"),
        apart_from=table.texts("apart_from"),
    )


def _constraints(table: Section, key: str) -> tuple[Constraint, ...]:
    return tuple(found for text in table.texts(key) if (found := constraint(text)))


def _check_placement(table: Section, found: ProcessType, others: Collection[str], app: str) -> None:
    if together := contradiction(found.where.require):
        table.problem("require", f"no host can have {together}")
    if found.port and found.where.max_per_host > 1:
        told = "with a fixed port there can be only one on a host"
        table.problem("max_per_host", f"{found.where.max_per_host} {told}")
    if found.per_host:
        for key, why in _NOT_PER_HOST.items():
            if key in table:
                table.problem(key, f"means nothing with per_host: {why}")
    for name in found.where.apart_from:
        _check_apart(table, name, found.name, others, app)


_NOT_PER_HOST = {
    "prefer": "every host that fits gets it",
    "spread": "every host that fits gets it",
    "max_per_host": "the quantity says how many",
}


def _check_apart(table: Section, name: str, own: str, others: Collection[str], app: str) -> None:
    of, _, type_name = name.rpartition("/")
    if of and of != app:
        return
    if type_name == own:
        table.problem("apart_from", f"{name} is this type itself; write max_per_host = 1 for that")
    elif type_name not in others:
        hint = did_you_mean(type_name, others) or 'one of another app is "app/type"'
        table.problem("apart_from", f"no type {type_name} in this file; {hint}")


# -- rollout ---------------------------------------------------------------------------------------


def rollout(table: Section, defaults: RolloutRules) -> RolloutRules:
    return RolloutRules(
        surge=table.share("surge", defaults.surge),
        unavailable=table.share("unavailable", defaults.unavailable),
        healthy_s=table.duration("healthy"),
        deadline_s=table.duration("deadline"),
        rollback=table.yes_no("rollback"),
    )


def is_none(share: Share) -> bool:
    return share.count <= 0 and share.percent <= 0


def _check_rollout(table: Section, found: ProcessType) -> None:
    rules = found.rollout
    alone = "exclusive" if found.exclusive else "per_host" if found.per_host else ""
    if alone and not is_none(rules.surge):
        table.problem("surge", f"{rules.surge} with {alone}: there can be no more of them; 0")
    elif is_none(rules.surge) and is_none(rules.unavailable):
        table.problem("", "surge and unavailable are both 0: nothing could be replaced; give one")
    if rules.deadline_s <= rules.healthy_s:
        than = f"not longer than healthy, {rules.healthy_s:g} s: no change could succeed"
        table.problem("deadline", f"{rules.deadline_s:g} s is {than}")


# -- schedule --------------------------------------------------------------------------------------


def schedule(table: Section, *, given: bool) -> Schedule | None:
    if not given:
        return None
    cron, zone = table.text("cron"), table.text("zone")
    for key, value, problem_of in (("cron", cron, cron_problem), ("zone", zone, zone_problem)):
        # What is empty was not given, or is told already.
        if value and (problem := problem_of(value)):
            table.problem(key, problem)
    return Schedule(
        cron=" ".join(cron.split()),
        zone=zone or SCHEDULE_DEFAULTS.zone,
        overlap=table.word("overlap", Overlap),
        missed=table.word("missed", Missed),
        keep=table.whole("keep"),
    )


def cron_problem(cron: str) -> str:
    """What is wrong with it; "" for what five fields of cron may say."""
    if len(cron) > _CRON_MAX or not re.fullmatch(CRON_PATTERN, cron):
        return f"{cron[:_CRON_MAX]!r} are not five fields: {CRON_EXAMPLES}"
    try:
        CronSim(cron, _ANY_TIME)
    except (CronSimError, ValueError) as error:
        return f"{cron!r}: {str(error).lower()}; the fields are {CRON_EXAMPLES}"
    return ""


def zone_problem(zone: str, known: Collection[str] | None = None) -> str:
    """What is wrong with it; "" for one of `known` (None: what this machine knows), and for any
    that is well formed where none is known."""
    if not re.fullmatch(ZONE_PATTERN, zone):
        return f'{zone!r} is no time zone such as "Europe/Berlin"'
    known = _zones() if known is None else known
    if not known or zone in known:
        return ""
    hint = did_you_mean(zone, known) or 'names are such as "Europe/Berlin"'
    return f"no time zone {zone!r} is known; {hint}"


@cache
def _zones() -> frozenset[str]:
    """Looked up when the first schedule needs it: it reads a directory of the machine."""
    return frozenset(zoneinfo.available_timezones())


def _check_schedule(ready: Section, stop: Section, found: ProcessType) -> None:
    if found.schedule is None:
        return
    for key in ("after", "http", "tcp", "exec", "grpc", "notify"):
        if key in ready:
            ready.problem(key, "means nothing with a schedule: nobody waits for a run to be ready")
    if "drain" in stop:
        stop.problem("drain", "means nothing with a schedule: nobody sends requests to a run")


# -- on_host_loss ----------------------------------------------------------------------------------


def host_loss(table: Section) -> HostLoss:
    return HostLoss(
        action=table.word("action", LossAction),
        after_s=table.duration("after"),
        keep=table.word("keep", Keep),
    )


def _check_host_loss(table: Section, found: ProcessType) -> None:
    if found.on_host_loss.action is LossAction.WAIT:
        for key in ("after", "keep"):
            if key in table:
                table.problem(key, 'means nothing with action = "wait": nothing is replaced')
    elif found.exclusive and "keep" in table:
        table.problem("keep", "means nothing with exclusive: there are never two copies")


# -- all of them -----------------------------------------------------------------------------------


def check_rules(
    spec: Section,
    tables: Mapping[str, Section],
    found: ProcessType,
    others: Collection[str],
    app: str,
) -> None:
    """Refuses what cannot mean anything together."""
    if found.per_host and found.port and found.initial_quantity > 1:
        told = "with per_host and a fixed port there can be only one on a host"
        spec.problem("quantity", f"{found.initial_quantity} {told}")
    _check_reserved(tables["resources"], found)
    _check_placement(tables["placement"], found, others, app)
    if found.schedule is None:
        _check_rollout(tables["rollout"], found)
        _check_host_loss(tables["on_host_loss"], found)
    _check_schedule(tables["ready"], tables["stop"], found)
