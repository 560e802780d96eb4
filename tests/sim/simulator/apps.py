"""The apps of the simulation: every kind of type there is, and releases good and bad."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from formation.model import Probe, ProbeKind, ProcessType, Release, RestartPolicy
from formation.releasecommand import ReleaseCommand
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

# A release command that runs on and on is given up after so long; one that ends, hardly ever.
STUCK_S, PATIENT_S = 10.0, 200.0
_NO_GPU = Constraint(label="gpu", operator=Operator.NOT_IN)


def _rules(surge: Share, unavailable: Share) -> RolloutRules:
    return RolloutRules(surge=surge, unavailable=unavailable, healthy_s=0.5, deadline_s=15.0)


IN_PLACE = _rules(Share(), Share(count=1))
BESIDE = _rules(Share(count=1), Share())


def _type(name: str, **fields: Any) -> ProcessType:
    plain = ProcessType(name=name, command="true", ready_after_s=0.3, stop_grace_s=2.0)
    return replace(plain, **fields)


WEB = _type("web", initial_quantity=3, rollout=BESIDE)
API = _type(
    "api",
    ready_after_s=0.0,
    initial_quantity=2,
    readiness=Probe(kind=ProbeKind.TCP),
    start_grace_s=2.0,
    rollout=_rules(Share(percent=50), Share(count=1)),
    where=Where(require=(_NO_GPU,), spread=("zone", "rack")),
    on_host_loss=HostLoss(after_s=4.0, keep=Keep.ORIGINAL),
)
WORKER = _type("worker", port=8080, initial_quantity=1, rollout=IN_PLACE)
LEADER = _type("leader", exclusive=True, initial_quantity=2, rollout=IN_PLACE)
EVERYWHERE = _type("everywhere", per_host=True, initial_quantity=1, rollout=IN_PLACE)
HEAVY = _type(
    "heavy",
    initial_quantity=2,
    resources=Resources(memory_bytes=400 * 2**20),
    where=Where(max_per_host=2, apart_from=("worker",)),
    rollout=BESIDE,
)
PINNED = _type(
    "pinned",
    initial_quantity=1,
    on_host_loss=HostLoss(action=LossAction.WAIT),
    rollout=IN_PLACE,
)
NIGHTLY = _type(
    "nightly",
    initial_quantity=1,
    restart=RestartPolicy.NEVER,
    env={"BEHAVE": "job"},
    schedule=Schedule(cron="* * * * *", overlap=Overlap.ALLOW, missed=Missed.ONCE, keep=5),
)
OPTIONAL = (API, WORKER, LEADER, EVERYWHERE, HEAVY, PINNED)


def chosen(dice: random.Random) -> tuple[ProcessType, ...]:
    some = dice.sample(OPTIONAL, dice.randint(1, 3))
    return (WEB, *sorted(some, key=lambda spec: spec.name), NIGHTLY)


def release(
    app: str, types: tuple[ProcessType, ...], number: int, behaves: str, command: str = ""
) -> Release:
    """`behaves`: of its lasting types; a deaf one is never found ready. `command`: how its release
    command behaves; "": it has none."""
    env = {"NUMBER": str(number), "BEHAVE": behaves, "COMMAND": command}
    timeout_s = STUCK_S if command == "well" else PATIENT_S
    asked = ReleaseCommand(command="true", timeout_s=timeout_s) if command else None
    if behaves == "deaf":
        probed = [replace(t, readiness=Probe(kind=ProbeKind.TCP), start_grace_s=1.0) for t in types]
        types = tuple(
            new if t.schedule is None else t for t, new in zip(types, probed, strict=True)
        )
    return Release(app=app, number=0, types=types, env=env, workdir="/", command=asked)
