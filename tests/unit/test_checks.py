"""What a coordinator refuses to make a release of, whoever calls."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from formation import manifest, wire
from formation.builds import Build
from formation.manifest_keys import CRON_EXAMPLES
from formation.model import Limits, Probe, ProbeKind, ProcessType, RestartPolicy
from formation.rules import (
    Constraint,
    HostLoss,
    Operator,
    Resources,
    RolloutRules,
    Schedule,
    Share,
    Where,
)
from formation.v1 import control_pb2 as pb
from formation_coordinator.checks import BadRelease, release_wanted, type_problems

WEB = ProcessType(name="web", command="./web")
IN_PLACE = RolloutRules(surge=Share(), unavailable=Share(count=1))
NIGHTLY = replace(WEB, restart=RestartPolicy.NEVER, schedule=Schedule(cron="0 3 * * *"))
EVERYTHING = """\
[types.web]
command = "./web"
env.A = "1"
resources.cpus = 0.5
limits.cpus = 1
placement.require = ["zone=eu-*", "!gpu", "disk in (nvme, ssd)"]
placement.prefer = ["rack not in (r1, r2)"]
placement.spread = ["zone", "rack"]
placement.max_per_host = 3
placement.apart_from = ["worker", "shop/db"]
rollout.surge = "10%"
rollout.unavailable = 2
on_host_loss.after = "1h"
[types.worker]
command = "x"
exclusive = true
[types.sidecar]
command = "x"
per_host = true
[types.backup]
command = "x"
schedule.cron = "0 3 * * *"
schedule.zone = "Europe/Berlin"
"""


def request(*types: ProcessType) -> pb.ApplyRequest:
    return pb.ApplyRequest(app="shop", types=[wire.process_type_to_pb(spec) for spec in types])


def test_what_formation_toml_can_say_is_taken() -> None:
    types = manifest.parse(EVERYTHING).types
    assert release_wanted(request(*types)).types == types


def test_all_problems_are_told_in_one_line() -> None:
    wanted = request(replace(WEB, command=" ", env={"A=B": "1"}), replace(WEB, name="a b"))
    with pytest.raises(BadRelease) as caught:
        release_wanted(wanted)
    assert str(caught.value) == (
        "app shop: web: no command; web: bad environment variable 'A=B'; bad type name 'a b'"
    )


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (pb.ApplyRequest(app="Shop"), "bad app name 'Shop'"),
        (pb.ApplyRequest(app="shop"), "app shop: no process types defined"),
        (request(WEB, WEB), "app shop: type web is defined twice"),
    ],
)
def test_an_app_needs_a_name_and_types(wanted: pb.ApplyRequest, told: str) -> None:
    with pytest.raises(BadRelease) as caught:
        release_wanted(wanted)
    assert str(caught.value).startswith(told)


def test_names_and_quantities_of_the_request_are_looked_at_too() -> None:
    wanted = request(WEB)
    wanted.env["A\0"] = "1"
    wanted.formation["web"] = 1_000_001
    with pytest.raises(BadRelease) as caught:
        release_wanted(wanted)
    assert str(caught.value) == (
        "app shop: bad environment variable 'A\\x00'; web: quantity 1000001 is over 1000000"
    )


def where(**fields: object) -> ProcessType:
    return replace(WEB, where=Where(**fields))  # type: ignore[arg-type]


def changed(**fields: object) -> ProcessType:
    return replace(WEB, rollout=RolloutRules(**fields))  # type: ignore[arg-type]


def nightly(**fields: object) -> ProcessType:
    return replace(NIGHTLY, schedule=replace(NIGHTLY.schedule, **fields))  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (replace(WEB, command="\0x"), "a NUL byte in the command, user, group or workdir"),
        (replace(WEB, initial_quantity=10**7), "quantity over 1000000"),
        (replace(WEB, stop_signal="FOO"), "unknown stop signal 'FOO'"),
        (replace(WEB, stop_grace_s=-1.0), "bad stop grace"),
        (replace(WEB, stop_drain_s=-1.0), "bad stop drain"),
        (replace(WEB, ready_after_s=math.nan), "bad ready after"),
        (replace(WEB, start_grace_s=math.inf), "bad start grace"),
        (replace(WEB, watchdog_s=math.nan), "bad watchdog"),
        (replace(WEB, port=70_000), "bad port"),
        (replace(WEB, nice=20), "bad nice"),
        (replace(WEB, umask=0o1000), "bad umask"),
        (replace(WEB, workdir="../x"), "bad workdir"),
        (replace(WEB, readiness=Probe(kind=ProbeKind.HTTP, target="x")), "bad readiness probe"),
        (replace(WEB, liveness=Probe(kind=ProbeKind.TCP, period_s=0.0)), "bad liveness probe"),
        (replace(WEB, limits=Limits(cpus=math.nan)), "bad limits"),
        (replace(WEB, limits=Limits(rlimits={"core": -2})), "bad limits"),
        (replace(WEB, env={"": "x"}), "bad environment variable ''"),
        (replace(WEB, env={"A": "\0"}), "bad environment variable 'A'"),
        (replace(WEB, on_host_loss=HostLoss(after_s=math.nan)), "bad on_host_loss after"),
        (replace(WEB, resources=Resources(cpus=math.nan)), "bad resources"),
        (replace(WEB, resources=Resources(cpus=-1.0)), "bad resources"),
        (replace(WEB, resources=Resources(cpus=2.0), limits=Limits(cpus=1.0)),
         "resources keep more cpus than limits allow"),
        (replace(WEB, resources=Resources(memory_bytes=2), limits=Limits(memory_bytes=1)),
         "resources keep more memory than limits allow"),
        (where(require=(Constraint(label="a b"),)), "bad condition on a label 'a b'"),
        (where(prefer=(Constraint(label="a", patterns=("x y",)),)),
         "bad condition on a label 'a=x y'"),
        (where(prefer=(Constraint(label="a", patterns=("",)),)), "bad condition on a label 'a='"),
        (where(spread=("",)), "bad label '' to spread over"),
        (where(max_per_host=-1), "bad max_per_host"),
        (where(require=(Constraint(label="a"), Constraint(label="a", operator=Operator.NOT_IN))),
         'no host can have "a" and "!a"'),
        (where(apart_from=("web",)), "apart from itself, web"),
        (where(apart_from=("A/web",)), "bad type 'A/web' to be apart from"),
        (where(apart_from=("/web",)), "bad type '/web' to be apart from"),
        (changed(surge=Share(percent=math.nan)), "bad surge or unavailable"),
        (changed(surge=Share(percent=101.0)), "bad surge or unavailable"),
        (changed(unavailable=Share(count=-1)), "bad surge or unavailable"),
        (changed(healthy_s=math.nan), "bad healthy or deadline"),
        (changed(deadline_s=-1.0), "bad healthy or deadline"),
        (changed(deadline_s=10.0), "deadline is not longer than healthy"),
        (changed(surge=Share()), "surge and unavailable are both 0"),
        (replace(WEB, exclusive=True), "surge with exclusive or per_host, it must be 0"),
        (replace(WEB, per_host=True), "surge with exclusive or per_host, it must be 0"),
        (nightly(cron="@daily"), f"schedule '@daily' are not five fields: {CRON_EXAMPLES}"),
        (nightly(zone="no where"), "schedule 'no where' is no time zone such as \"Europe/Berlin\""),
        (nightly(keep=0), "schedule must keep 1 to 1000 runs"),
        (replace(NIGHTLY, exclusive=True, rollout=IN_PLACE),
         "exclusive or per_host with a schedule"),
        (replace(NIGHTLY, per_host=True, rollout=IN_PLACE),
         "exclusive or per_host with a schedule"),
        (replace(NIGHTLY, restart=RestartPolicy.ALWAYS), "restart always with a schedule"),
        (replace(NIGHTLY, notify=True), "a readiness probe with a schedule"),
    ],
)  # fmt: skip
def test_a_type_that_is_impossible_says_why(spec: ProcessType, problem: str) -> None:
    assert type_problems(spec) == [f"web: {problem}"]


@pytest.mark.parametrize(
    "spec",
    [
        WEB,
        NIGHTLY,
        replace(NIGHTLY, rollout=RolloutRules(surge=Share())),
        replace(WEB, exclusive=True, rollout=IN_PLACE),
        replace(WEB, port=80),
        where(spread=(), apart_from=("worker", "other/web")),
    ],
)
def test_a_type_that_is_possible_has_no_problem(spec: ProcessType) -> None:
    assert type_problems(spec) == []


def test_a_build_without_a_command_or_with_a_type_of_its_name_is_refused() -> None:
    asked = request(WEB)
    asked.build.command = "make"
    assert release_wanted(asked).build == Build(command="make")
    asked.build.command = " "
    with pytest.raises(BadRelease, match="build: no command"):
        release_wanted(asked)
    asked.build.command = "make"
    asked.types[0].name = "build"
    with pytest.raises(BadRelease, match="build: a type of that name beside a build"):
        release_wanted(asked)
