"""placement, rollout, schedule and on_host_loss of a type in formation.toml. Pure; a part of
`formation.manifest`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from formation.manifest_values import Section
from formation.rules import (
    Constraint,
    HostLoss,
    LossAction,
    Operator,
    Resources,
    RolloutRules,
    Schedule,
    Share,
    Where,
)

RESOURCE_KEYS = ("cpus", "memory")
PLACEMENT_KEYS = ("require", "prefer", "spread", "max_per_host", "apart_from")
ROLLOUT_KEYS = ("surge", "unavailable", "healthy", "deadline", "rollback")
SCHEDULE_KEYS = ("cron", "zone", "overlap", "missed", "keep")
LOSS_KEYS = ("action", "after", "keep")

CPUS_MIN, CPUS_MAX = 0.01, 10_000.0
MEMORY_MIN_BYTES = 2**20
PER_HOST_MAX = 5_000
SHARE_MAX, PERCENT_MAX = 1_000_000, 100.0
KEEP_MAX = 1_000
DEFAULTS = RolloutRules()
# Of types of which two cannot be beside each other on a host, or anywhere.
IN_PLACE = RolloutRules(surge=Share(), unavailable=Share(count=1))
_CRON_FIELDS = 5
LABEL = re.compile(r"[A-Za-z0-9_./-]{1,63}")
_LISTED = re.compile(r"(\S+)\s+(not\s+in|in)\s*\((.*)\)")
_COMPARED = re.compile(r"([^\s=!]+)\s*(!?=)\s*(\S+)")
_PRESENT = re.compile(r"(!?)\s*([^\s=!()]+)")
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")
_CONSTRAINTS = '"zone=eu-*", "ssd", "!gpu", "zone!=eu-3", "disk in (nvme, ssd)"'


def read_resources(section: Section) -> Resources:
    return Resources(
        cpus=section.number("cpus", 0.0, CPUS_MIN, CPUS_MAX),
        memory_bytes=section.bytes("memory", 0, MEMORY_MIN_BYTES),
    )


# -- placement -------------------------------------------------------------------------------------


def read_where(section: Section, name: str, known: Sequence[str]) -> Where:
    """`known`: the types of the file, which `apart_from` may name."""
    require = _constraints(section, "require")
    for one in require:
        against = _opposite(one)
        if against in require:
            section.problem("require", f"{one} and {against} exclude each other")
            break
    return Where(
        require=require,
        prefer=_constraints(section, "prefer"),
        spread=_spread(section),
        max_per_host=section.whole("max_per_host", 0, 1, PER_HOST_MAX),
        apart_from=_apart_from(section, name, known),
    )


def _constraints(section: Section, key: str) -> tuple[Constraint, ...]:
    found = []
    for text in section.texts(key):
        constraint = parse_constraint(text)
        if constraint is None:
            section.problem(key, f"{text!r} is no condition on a label: write {_CONSTRAINTS}")
        else:
            found.append(constraint)
    return tuple(found)


def parse_constraint(text: str) -> Constraint | None:
    """`zone=eu-*`, `zone!=eu-3`, `ssd`, `!gpu`, `disk in (nvme, ssd)`, `rack not in (r1, r2)`."""
    text = text.strip()
    if match := _LISTED.fullmatch(text):
        values = tuple(value.strip() for value in match[3].split(","))
        negated = match[2] != "in"
        return _constraint(match[1], values, negated=negated) if all(values) else None
    if match := _COMPARED.fullmatch(text):
        return _constraint(match[1], (match[3],), negated=match[2] == "!=")
    if match := _PRESENT.fullmatch(text):
        return _constraint(match[2], (), negated=match[1] == "!")
    return None


def _constraint(label: str, values: tuple[str, ...], *, negated: bool) -> Constraint | None:
    if not LABEL.fullmatch(label):
        return None
    operator = Operator.NOT_IN if negated else Operator.IN
    return Constraint(label=label, operator=operator, patterns=values)


def _opposite(one: Constraint) -> Constraint:
    other = Operator.IN if one.operator is Operator.NOT_IN else Operator.NOT_IN
    return Constraint(label=one.label, operator=other, patterns=one.patterns)


def _spread(section: Section) -> tuple[str, ...]:
    if "spread" not in section:
        return Where().spread
    given = section.table["spread"]
    labels = (given,) if isinstance(given, str) else section.texts("spread")
    for label in labels:
        if not LABEL.fullmatch(label):
            section.problem("spread", f"{label!r} is no name of a label")
    if len(set(labels)) < len(labels):
        section.problem("spread", "names something twice")
    return tuple(labels)


def _apart_from(section: Section, name: str, known: Sequence[str]) -> tuple[str, ...]:
    names = section.texts("apart_from")
    for other in names:
        if other == name:
            section.problem("apart_from", f"{name} itself: that is max_per_host = 1")
        elif "/" not in other and other not in known:
            section.unknown("apart_from", f"no type {other!r} in this file", other, known)
    return names


# -- rollout ---------------------------------------------------------------------------------------


def read_rollout(section: Section, *, in_place: bool, alone: bool) -> RolloutRules:
    """`in_place`: two cannot be beside each other, so other defaults; `alone`: nor may they."""
    defaults = IN_PLACE if in_place else DEFAULTS
    rules = RolloutRules(
        surge=_share(section, "surge", defaults.surge),
        unavailable=_share(section, "unavailable", defaults.unavailable),
        healthy_s=section.duration("healthy", defaults.healthy_s),
        deadline_s=section.duration("deadline", defaults.deadline_s, 1.0),
        rollback=section.boolean("rollback", defaults.rollback),
    )
    if rules.surge == rules.unavailable == Share():
        section.problem("", "surge and unavailable are both 0: nothing could ever be replaced")
    if alone and "surge" in section and rules.surge != Share():
        section.problem("surge", "an exclusive or per_host type has none beside it: leave it out")
    if rules.deadline_s <= rules.healthy_s:
        section.problem("deadline", f"must be longer than healthy, {rules.healthy_s:g} s")
    return rules


def _share(section: Section, key: str, default: Share) -> Share:
    value = section.table.get(key)
    if isinstance(value, str) and (match := _PERCENT.fullmatch(value.strip())):
        percent = float(match[1])
        if percent > PERCENT_MAX:
            section.problem(key, "must be at most 100%")
        return Share(percent=percent) if percent else Share()
    if value is None:
        return default
    if isinstance(value, str):
        section.problem(key, 'must be a whole number, or text such as "25%"')
        return default
    return Share(count=section.whole(key, 0, 0, SHARE_MAX))


# -- schedule, loss --------------------------------------------------------------------------------


def read_schedule(section: Section) -> Schedule | None:
    if not section.table:
        return None
    cron, zone = section.text("cron"), section.text("zone", "UTC")
    if "cron" not in section:
        section.problem("cron", 'missing: five fields such as "0 3 * * *"')
    elif why := cron_problem(cron):
        section.problem("cron", f"{cron!r}: {why}")
    if not zone_exists(zone):
        section.problem("zone", f'{zone!r} is no time zone: write one as "Europe/Berlin"')
    plain = Schedule(cron=cron)
    return Schedule(
        cron=cron,
        zone=zone,
        overlap=section.word("overlap", plain.overlap),
        missed=section.word("missed", plain.missed),
        keep=section.whole("keep", plain.keep, 1, KEEP_MAX),
    )


def cron_problem(cron: str) -> str:
    """Why nothing would ever run at these times; "" when it would."""
    if len(cron.split()) != _CRON_FIELDS:
        return 'must be five fields: minute hour day month weekday, such as "0 3 * * *"'
    try:
        next(CronSim(cron, datetime(2024, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        return str(error).lower()
    except StopIteration:
        return "there is no such day"
    return ""


def zone_exists(zone: str) -> bool:
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def read_loss(section: Section) -> HostLoss:
    plain = HostLoss()
    found = HostLoss(
        action=section.word("action", plain.action),
        after_s=section.duration("after", plain.after_s),
        keep=section.word("keep", plain.keep),
    )
    if found.action is LossAction.WAIT:
        for key in ("after", "keep"):
            if key in section:
                section.problem(key, 'means nothing with action = "wait": nothing is replaced')
    return found
