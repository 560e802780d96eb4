"""control: releases with a release command, as callers see them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from desk_of_control import WEB, WORKER, ControlDesk

from formation.model import ProcessType, Release
from formation.releasecommand import Candidate, CommandEnd, ReleaseCommand
from formation.requests import ChangeKind, QuantityChange, RunState
from formation.seen import Rollout
from formation_coordinator.changing import Applied, Refused
from formation_coordinator.control_releases import Steering
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Put

MIGRATE = ReleaseCommand(command="./migrate", timeout_s=60.0)
UP = QuantityChange(type="web", kind=ChangeKind.ADD, quantity=1)


@pytest.fixture
def desk() -> ControlDesk:
    return ControlDesk()


async def apply(
    desk: ControlDesk,
    version: str,
    *types: ProcessType,
    command: ReleaseCommand | None = MIGRATE,
    canary: int = 0,
    **quantities: int,
) -> Applied:
    wanted = Release(
        app="shop", number=0, types=types or (WEB,), env={"VERSION": version}, command=command
    )
    return await desk.apps.apply(wanted, quantities, "ann", canary=canary)


async def passed(desk: ControlDesk) -> None:
    """As the leader notes it."""
    app = await desk.app()
    assert app.candidate is not None
    number = app.candidate.release
    release = await desk.apps.read_release(app, number)
    assert release is not None
    ended = replace(release, command_end=CommandEnd(passed=True))
    formation = {**app.candidate.formation, **app.formation}
    await desk.put_app(
        replace(app, release=number, stable_release=number, candidate=None, formation=formation)
    )
    await desk.store.commit([], [Put(keys.release("shop", number), codec.encode(ended))])


async def released(desk: ControlDesk, version: str = "1") -> None:
    await apply(desk, version)
    await passed(desk)


async def test_it_becomes_a_candidate_with_a_run_and_nothing_else_changes(
    desk: ControlDesk,
) -> None:
    await released(desk)
    applied = await apply(desk, "2", WEB, WORKER, canary=1, worker=4)
    app = await desk.app()
    assert (app.release, app.latest_release, app.formation) == (1, 2, {"web": 1})
    assert app.candidate == Candidate(release=2, canary=1, formation={"worker": 4})
    assert (applied.app, applied.release.number) == (app, 2)
    run = await desk.run("release.2")
    assert (run.state, run.release, run.command) == (RunState.PENDING, 2, "./migrate")
    assert str(run.slot) == "shop/release.2"
    assert (await desk.history())[-1].after == "v2"


async def test_a_first_one_makes_an_app_without_a_release(desk: ControlDesk) -> None:
    await apply(desk, "1")
    app = await desk.app()
    assert (app.release, app.formation) == (0, {})
    assert app.candidate == Candidate(release=1, formation={"web": 1})
    no = "app shop: it has no release yet, v1 waits for its release command"
    with pytest.raises(Refused, match=no):
        await desk.apps.scale("shop", [UP], "ann")
    with pytest.raises(Refused, match=no):
        await desk.releases.rollback("shop", 0, "ann")


async def test_what_the_candidate_says_already_makes_no_other(desk: ControlDesk) -> None:
    await released(desk)
    await apply(desk, "2")
    again = await apply(desk, "2")
    assert (again.unchanged, again.release.number) == (True, 2)
    other = await apply(desk, "1")
    assert (other.unchanged, other.release.number) == (False, 3)


async def test_a_changed_command_alone_is_a_release(desk: ControlDesk) -> None:
    await released(desk)
    longer = replace(MIGRATE, timeout_s=600.0)
    assert (await apply(desk, "1", command=longer)).release.number == 2


async def test_a_newer_one_takes_its_place(desk: ControlDesk) -> None:
    await released(desk)
    await apply(desk, "2")
    await apply(desk, "3")
    app = await desk.app()
    assert app.candidate is not None
    assert (app.release, app.candidate.release) == (1, 3)
    # Its run is for the leader to end.
    assert (await desk.run("release.2")).state is RunState.PENDING


async def test_one_without_a_command_does_too_and_waits_for_nothing(desk: ControlDesk) -> None:
    await released(desk)
    await apply(desk, "2")
    await apply(desk, "3", command=None)
    app = await desk.app()
    assert (app.release, app.candidate) == (3, None)


async def test_config_builds_on_the_candidate(desk: ControlDesk) -> None:
    await released(desk)
    await apply(desk, "2")
    set_one = await desk.releases.set_config("shop", {"KEY": "1"}, (), "ann")
    assert set_one.release.number == 3
    assert set_one.release.env == {"VERSION": "2"}
    assert set_one.release.command == MIGRATE
    assert (await desk.app()).candidate == Candidate(release=3)


async def test_the_end_of_one_command_is_not_handed_on(desk: ControlDesk) -> None:
    await released(desk)
    applied = await desk.releases.set_config("shop", {"KEY": "1"}, (), "ann")
    assert applied.release.number == 2
    kept = await desk.apps.read_release(applied.app, 2)
    assert kept is not None
    assert kept.command_end is None


async def test_a_first_one_that_failed_can_be_tried_again_or_built_on(desk: ControlDesk) -> None:
    await apply(desk, "1")
    app = await desk.app()
    failed = Rollout(undone_release=1, reason="release.1 failed on a: exit 1")
    await desk.put_app(replace(app, candidate=None, rollout=failed))
    with pytest.raises(Refused, match=r"has no release yet; release\.1 failed on a: exit 1"):
        await desk.apps.restart("shop", "", 0, "ann", None)  # type: ignore[arg-type]
    assert (await apply(desk, "1")).release.number == 2
    await desk.put_app(replace(await desk.app(), candidate=None, rollout=failed))
    built = await desk.releases.set_config("shop", {"KEY": "1"}, (), "ann")
    assert (built.release.number, built.release.env) == (3, {"VERSION": "1"})


# -- back ------------------------------------------------------------------------------------------


async def test_a_rollback_takes_a_candidate_back_and_runs_nothing(desk: ControlDesk) -> None:
    await released(desk, "1")
    await released(desk, "2")
    await apply(desk, "3")
    back = await desk.releases.rollback("shop", 0, "ann")
    assert (back.unchanged, back.app.release, back.app.candidate) == (False, 2, None)
    assert back.app.rollout == Rollout(undone_release=3, reason="rolled back by ann")
    last = (await desk.history())[-1]
    assert (last.before, last.after) == ("v3", "v2")
    further = await desk.releases.rollback("shop", 1, "ann")
    assert (further.app.release, further.app.candidate) == (1, None)


async def test_one_that_has_not_passed_cannot_be_gone_back_to(desk: ControlDesk) -> None:
    await released(desk, "1")
    await apply(desk, "2")
    with pytest.raises(Refused, match="v2 waits for its release command already"):
        await desk.releases.rollback("shop", 2, "ann")
    await desk.releases.steer("shop", Steering.ABORT, "ann")
    with pytest.raises(Refused, match="the release command of v2 has not passed; formctl apply"):
        await desk.releases.rollback("shop", 2, "ann")


async def test_abort_ends_a_candidate_before_anything_else(desk: ControlDesk) -> None:
    await released(desk, "1")
    await desk.put_app(replace(await desk.app(), stable_release=0, release=1))
    await apply(desk, "2")
    after, _ = await desk.releases.steer("shop", Steering.ABORT, "ann")
    assert (after.release, after.candidate) == (1, None)
    assert after.rollout == Rollout(undone_release=2, reason="aborted by ann")
    last = (await desk.history())[-1]
    assert (last.action, last.before, last.after) == ("abort", "v2", "v1")


async def test_there_is_nothing_else_to_steer_of_a_candidate(desk: ControlDesk) -> None:
    await released(desk, "1")
    await apply(desk, "2")
    with pytest.raises(Refused, match="v2 waits for its release command, which abort ends"):
        await desk.releases.steer("shop", Steering.PAUSE, "ann")


async def test_a_plan_is_of_what_comes_when_it_has_passed(desk: ControlDesk) -> None:
    await released(desk, "1")
    wanted = Release(app="shop", number=0, types=(WEB,), env={"VERSION": "2"}, command=MIGRATE)
    changes = {c.kind: c.record for c in await desk.apps.applied_in_thought(wanted, {})}
    app = changes["apps"]
    assert (app.release, app.candidate) == (2, None)  # type: ignore[union-attr]
