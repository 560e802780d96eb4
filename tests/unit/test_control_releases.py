"""control: releases, config and what is said of a change under way, as callers see them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from desk_of_control import WEB, ControlDesk

from formation.requests import ChangeKind, QuantityChange
from formation.seen import Rollout
from formation_coordinator.changing import ControlError, Invalid, RaceLost, Refused, Unknown
from formation_coordinator.control_releases import Steering
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Compare, Operation, Outcome, Put, StoreUnavailable


@pytest.fixture
def desk() -> ControlDesk:
    return ControlDesk()


# -- config ----------------------------------------------------------------------------------------


async def test_config_is_a_release_and_is_handed_on_by_the_next(desk: ControlDesk) -> None:
    await desk.apply(env={"LEVEL": "info"})
    set_one = await desk.releases.set_config("shop", {"KEY": "s3cret"}, (), "ann")
    assert (set_one.release.number, dict(set_one.release.config)) == (2, {"KEY": "s3cret"})
    app = await desk.apply(env={"LEVEL": "debug"})
    release = await desk.releases.read_release(app, app.release)
    assert release is not None
    assert (app.release, dict(release.config)) == (3, {"KEY": "s3cret"})
    gone = await desk.releases.set_config("shop", {}, ("KEY",), "ann")
    assert (gone.release.number, dict(gone.release.config)) == (4, {})


async def test_values_are_in_no_audit_record(desk: ControlDesk) -> None:
    await desk.apply()
    await desk.releases.set_config("shop", {"KEY": "s3cret"}, (), "ann")
    last = (await desk.history())[-1]
    assert (last.action, last.who, last.before, last.after) == ("config", "ann", "v1", "v2")
    assert "s3cret" not in repr(last)
    assert last.why == "set KEY"


async def test_config_that_changes_nothing_is_no_release(desk: ControlDesk) -> None:
    await desk.apply()
    await desk.releases.set_config("shop", {"KEY": "1"}, (), "ann")
    again = await desk.releases.set_config("shop", {"KEY": "1"}, (), "ann")
    assert (again.unchanged, again.release.number) == (True, 2)


@pytest.mark.parametrize(
    ("values", "unset", "said"),
    [
        ({}, (), "no variable is named"),
        ({"A=B": "1"}, (), "bad environment variable 'A=B'"),
        ({"PORT": "1"}, (), "PORT is set by Formation for each instance"),
        ({"FORMATION_X": "1"}, (), "FORMATION_X is set by Formation for each instance"),
        ({}, ("GONE",), "app shop: GONE is not set by formctl config"),
        ({}, ("LEVEL",), "LEVEL is not set by formctl config, the project's files say it"),
    ],
)
async def test_config_that_makes_no_sense_is_refused(
    desk: ControlDesk, values: dict[str, str], unset: tuple[str, ...], said: str
) -> None:
    await desk.apply(env={"LEVEL": "info"})
    with pytest.raises(Invalid, match=said):
        await desk.releases.set_config("shop", values, unset, "ann")
    assert (await desk.app()).release == 1


# -- rollback --------------------------------------------------------------------------------------


async def test_rollback_goes_to_the_release_that_had_arrived(desk: ControlDesk) -> None:
    await desk.apply(env={"N": "1"})
    await desk.arrive()
    await desk.apply(env={"N": "2"})
    await desk.apply(env={"N": "3"})
    done = await desk.releases.rollback("shop", 0, "ann", "it is slow")
    assert (done.app.release, done.app.latest_release) == (1, 3)
    last = (await desk.history())[-1]
    assert (last.action, last.before, last.after) == ("rollback", "v3", "v1")
    assert last.why == "it is slow"
    assert (await desk.apply(env={"N": "4"})).release == 4


async def test_rollback_to_a_number(desk: ControlDesk) -> None:
    for number in range(1, 4):
        await desk.apply(env={"N": str(number)})
    assert (await desk.releases.rollback("shop", 2, "ann")).app.release == 2
    assert (await desk.releases.rollback("shop", 2, "ann")).unchanged
    with pytest.raises(Unknown, match="app shop has no release v9; there is v1, v2, v3"):
        await desk.releases.rollback("shop", 9, "ann")


async def test_the_first_release_has_none_before_it(desk: ControlDesk) -> None:
    await desk.apply()
    with pytest.raises(ControlError):
        await desk.releases.rollback("shop", 0, "ann")
    with pytest.raises(Unknown, match="no app 'blog'"):
        await desk.releases.rollback("blog", 0, "ann")


# -- a change under way ----------------------------------------------------------------------------


async def test_a_change_is_paused_goes_on_is_promoted_and_taken_back(desk: ControlDesk) -> None:
    await desk.apply(env={"N": "1"})
    await desk.arrive()
    await desk.apply(env={"N": "2"}, canary=2)
    paused, _ = await desk.releases.steer("shop", Steering.PAUSE, "ann")
    assert paused.rollout == Rollout(paused=True, canary=2)
    on, _ = await desk.releases.steer("shop", Steering.RESUME, "ann")
    assert on.rollout == Rollout(canary=2)
    wide, _ = await desk.releases.steer("shop", Steering.PROMOTE, "ann")
    assert (wide.rollout, wide.release) == (Rollout(), 2)
    back, _ = await desk.releases.steer("shop", Steering.ABORT, "ann", "too slow")
    assert back.release == 1
    assert back.rollout == Rollout(undone_release=2, reason="aborted by ann")
    last = (await desk.history())[-1]
    assert (last.action, last.before, last.after, last.why) == ("abort", "v2", "v1", "too slow")


@pytest.mark.parametrize("how", list(Steering))
async def test_where_no_change_is_under_way_there_is_nothing_to_say_of_it(
    desk: ControlDesk, how: Steering
) -> None:
    await desk.apply()
    await desk.arrive()
    with pytest.raises(Refused, match="app shop: "):
        await desk.releases.steer("shop", how, "ann")


async def test_a_plain_change_is_no_canary_and_a_first_release_cannot_be_aborted(
    desk: ControlDesk,
) -> None:
    await desk.apply()
    with pytest.raises(Refused, match="v1 is no canary"):
        await desk.releases.steer("shop", Steering.PROMOTE, "ann")
    with pytest.raises(Refused, match="v1 is its first release"):
        await desk.releases.steer("shop", Steering.ABORT, "ann")


# -- quantities ------------------------------------------------------------------------------------


def to(quantity: int, name: str = "web") -> list[QuantityChange]:
    return [QuantityChange(type=name, kind=ChangeKind.SET, quantity=quantity)]


async def test_scaling_is_undone_step_by_step(desk: ControlDesk) -> None:
    await desk.apply()
    for quantity in (3, 5):
        await desk.apps.scale("shop", to(quantity), "ann")
    assert (await desk.apps.undo_scale("shop", "bob")).after["web"] == 3
    assert (await desk.apps.undo_scale("shop", "bob")).after["web"] == 1
    with pytest.raises(Refused, match="no change of its formation is known to undo"):
        await desk.apps.undo_scale("shop", "bob")
    steps = [(r.action, r.before, r.after) for r in (await desk.history())[1:]]
    assert [after for *_, after in steps] == [
        "web=3 worker=0", "web=5 worker=0", "web=3 worker=0", "web=1 worker=0",
    ]  # fmt: skip


async def test_a_release_leaves_quantities_and_scaling_leaves_releases(desk: ControlDesk) -> None:
    await desk.apply(env={"N": "1"})
    await desk.apps.scale("shop", to(4), "ann")
    app = await desk.apply(env={"N": "2"})
    assert (app.formation["web"], app.release) == (4, 2)
    await desk.apps.scale("shop", to(2), "ann")
    assert (await desk.app()).release == 2


# -- others, and a store that fails ----------------------------------------------------------------


async def test_two_who_change_the_same_app_lose_nothing(desk: ControlDesk) -> None:
    await desk.apply()
    commit, others = desk.store.commit, 2

    async def interrupted(compares: list[Compare], operations: list[Operation]) -> Outcome:
        nonlocal others
        if others and any(isinstance(o, Put) and o.key == keys.app("shop") for o in operations):
            others -= 1
            app = await desk.app()
            marks = {**app.retry_marks, "web": app.retry_marks.get("web", 0) + 1}
            changed = replace(app, retry_marks=marks)
            await commit([], [Put(keys.app("shop"), codec.encode(changed))])
        return await commit(compares, operations)

    desk.store.commit = interrupted  # type: ignore[method-assign,assignment]
    await desk.apps.scale("shop", to(3), "ann")
    app = await desk.app()
    assert (app.formation["web"], app.retry_marks["web"]) == (3, 2)


async def test_who_is_always_second_is_told_so(desk: ControlDesk) -> None:
    await desk.apply()

    async def second(_compares: object, _operations: object) -> Outcome:
        return Outcome(succeeded=False, revision=desk.store.revision)

    desk.store.commit = second  # type: ignore[method-assign,assignment]
    with pytest.raises(RaceLost, match="app shop"):
        await desk.releases.set_config("shop", {"A": "1"}, (), "ann")


async def test_without_a_store_nothing_is_changed(desk: ControlDesk) -> None:
    await desk.apply()
    desk.store.unavailable = True
    with pytest.raises(StoreUnavailable):
        await desk.apps.scale("shop", to(3), "ann")
    desk.store.unavailable = False
    assert (await desk.app()).formation["web"] == 1


async def test_a_type_that_is_gone_keeps_its_quantity_for_when_it_is_back(
    desk: ControlDesk,
) -> None:
    await desk.apply()
    await desk.apps.scale("shop", to(2, "worker"), "ann")
    await desk.apply(WEB)
    app = await desk.apply()
    assert app.formation["worker"] == 2
