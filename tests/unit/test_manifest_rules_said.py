"""Any rules of a type that are written down in formation.toml are read as they were."""

from __future__ import annotations

from dataclasses import asdict, replace

from hypothesis import given
from hypothesis import strategies as st

from formation import manifest, wire
from formation.manifest_rules import contradiction
from formation.model import ProcessType, RestartPolicy
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
from formation_coordinator.checks import type_problems

IN_PLACE = RolloutRules(surge=Share(), unavailable=Share(count=1))
LABELS = st.from_regex(r"[A-Za-z0-9_./-]{1,6}", fullmatch=True)
PATTERNS = st.from_regex(r"[a-z*?][a-z0-9*?=!.-]{0,4}", fullmatch=True)
CONSTRAINTS = st.builds(
    lambda label, operator, patterns: Constraint(
        label=label, operator=operator, patterns=tuple(patterns)
    ),
    LABELS,
    st.sampled_from(Operator),
    st.lists(PATTERNS, max_size=3),
)
SHARES = st.integers(0, 1000).map(lambda count: Share(count=count)) | st.integers(1, 100).map(
    lambda percent: Share(percent=float(percent))
)
SOME = st.lists(CONSTRAINTS, max_size=2, unique_by=str).map(tuple)
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), max_size=5)
CRONS = st.sampled_from(["* * * * *", "*/5 0-6,22 * JAN-MAR SUN", "0 0 L * *"])


@st.composite
def rollouts(draw: st.DrawFn, defaults: RolloutRules) -> RolloutRules:
    healthy_s = draw(st.integers(0, 86_000)) / 1.0
    found = replace(
        defaults,
        unavailable=draw(SHARES),
        healthy_s=healthy_s,
        deadline_s=healthy_s + draw(st.integers(1, 400)),
        rollback=draw(st.booleans()),
    )
    if defaults == RolloutRules():
        found = replace(found, surge=draw(SHARES))
    none = found.surge == found.unavailable == Share()
    return replace(found, unavailable=Share(count=1)) if none else found


@st.composite
def ruled_types(draw: st.DrawFn) -> ProcessType:
    kind = draw(st.sampled_from(["plain", "exclusive", "per_host", "schedule"]))
    alone = kind in {"exclusive", "per_host"}
    spec = ProcessType(
        name="web",
        command="x",
        initial_quantity=1,
        env=draw(st.dictionaries(st.from_regex(r"[A-Z_]{1,5}", fullmatch=True), TEXTS)),
        resources=Resources(
            cpus=draw(st.just(0.0) | st.floats(0.01, 10_000)),
            memory_bytes=draw(st.just(0) | st.integers(2**20, 2**60)),
        ),
        where=Where(
            require=draw(SOME.filter(lambda items: not contradiction(items))),
            apart_from=draw(st.sampled_from([(), ("worker",), ("worker", "other/x")])),
        ),
        exclusive=kind == "exclusive",
        per_host=kind == "per_host",
        rollout=IN_PLACE if alone else RolloutRules(),
    )
    if kind == "schedule":
        return replace(spec, restart=RestartPolicy.NEVER, schedule=draw(schedules()))
    spec = replace(spec, rollout=draw(rollouts(spec.rollout)))
    if kind == "per_host":
        return spec
    spread = draw(st.lists(LABELS, max_size=2, unique=True))
    where = replace(spec.where, prefer=draw(SOME), spread=tuple(spread))
    keeps = [Keep.BEST] if spec.exclusive else [*Keep]
    losses = st.just(HostLoss(action=LossAction.WAIT)) | st.builds(
        lambda after_s, keep: HostLoss(after_s=float(after_s), keep=keep),
        st.integers(0, 86_400),
        st.sampled_from(keeps),
    )
    where = replace(where, max_per_host=draw(st.integers(0, 1_000_000)))
    return replace(spec, where=where, on_host_loss=draw(losses))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    return Schedule(
        cron=draw(CRONS),
        zone=draw(st.sampled_from(["UTC", "Europe/Berlin", "Etc/GMT+8"])),
        overlap=draw(st.sampled_from(Overlap)),
        missed=draw(st.sampled_from(Missed)),
        keep=draw(st.integers(1, 1000)),
    )


@given(ruled_types())
def test_any_rules_that_are_written_down_are_read_as_they_were(spec: ProcessType) -> None:
    text = f"{written(spec)}\n[types.worker]\ncommand = 'y'\n"
    assert manifest.parse(text).types[0] == spec
    assert type_problems(spec) == []
    assert wire.process_type_from_pb(wire.process_type_to_pb(spec)) == spec


def written(spec: ProcessType) -> str:
    where, loss = spec.where, spec.on_host_loss
    plain: dict[str, object] = {
        "command": spec.command,
        "quantity": spec.initial_quantity,
        "exclusive": spec.exclusive or None,
        "per_host": spec.per_host or None,
        "resources.cpus": spec.resources.cpus or None,
        "resources.memory": spec.resources.memory_bytes or None,
        "placement.require": [str(item) for item in where.require],
        "placement.prefer": [str(item) for item in where.prefer] or None,
        "placement.spread": [*where.spread] if where.spread != ("zone",) else None,
        "placement.max_per_host": where.max_per_host or None,
        "placement.apart_from": [*where.apart_from],
        **{f"env.{name}": value for name, value in spec.env.items()},
    }
    if spec.schedule:
        plain |= {f"schedule.{key}": value for key, value in asdict(spec.schedule).items()}
    else:
        plain |= {
            "rollout.surge": share(spec.rollout.surge),
            "rollout.unavailable": share(spec.rollout.unavailable),
            "rollout.healthy": spec.rollout.healthy_s,
            "rollout.deadline": spec.rollout.deadline_s,
            "rollout.rollback": spec.rollout.rollback,
        }
    if loss != HostLoss():
        waits = loss.action is LossAction.WAIT
        plain["on_host_loss.action"] = loss.action.value
        plain["on_host_loss.after"] = None if waits else loss.after_s
        plain["on_host_loss.keep"] = None if waits or spec.exclusive else loss.keep.value
    lines = [f"{key} = {toml(value)}" for key, value in plain.items() if value is not None]
    return "\n".join(["[types.web]", *lines])


def share(value: Share) -> object:
    return str(value) if value.percent else value.count


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return repr(value)
