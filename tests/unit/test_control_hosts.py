"""control: what is said of hosts, and runs, as callers see them."""

from __future__ import annotations

import pytest
from desk_of_control import ControlDesk
from worlds import process_type, stay

from formation.model import AssignmentDocument, Bundle, Release, Session, Terms
from formation.requests import Move, RunState
from formation.rules import Schedule
from formation_coordinator.changing import Invalid, Refused, Unknown
from formation_coordinator.control_hosts import HostWord
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Put
from formation_coordinator.world import World


@pytest.fixture
async def desk() -> ControlDesk:
    desk = ControlDesk()
    await desk.join("a")
    return desk


# -- cordon, drain, labels -------------------------------------------------------------------------


async def test_a_drain_cordons_and_uncordon_takes_both_back(desk: ControlDesk) -> None:
    await desk.hosts.set_host("a", HostWord(draining=True, drain_deadline_s=60.0), "ann", "disk")
    host = await desk.host("a")
    assert (host.cordoned, host.draining, host.drain_deadline_s) == (True, True, 60.0)
    last = (await desk.history())[-1]
    assert (last.who, last.action, last.subject, last.why) == ("ann", "drain", "a", "disk")
    await desk.hosts.set_host("a", HostWord(cordoned=False, draining=False), "ann")
    host = await desk.host("a")
    assert (host.cordoned, host.draining) == (False, False)


async def test_the_same_word_again_changes_nothing_and_leaves_no_trace(desk: ControlDesk) -> None:
    _, first = await desk.hosts.set_host("a", HostWord(cordoned=True), "ann")
    _, again = await desk.hosts.set_host("a", HostWord(cordoned=True), "ann")
    assert first == again
    assert len(await desk.history()) == 1


async def test_labels_are_set_and_unset(desk: ControlDesk) -> None:
    await desk.hosts.set_host("a", HostWord(labels={"zone": "z1", "gpu": ""}), "ann")
    await desk.hosts.set_host("a", HostWord(unset=("zone",)), "ann")
    assert dict((await desk.host("a")).labels) == {"gpu": ""}


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"a b": "1"}, "bad label 'a b'"),
        ({"zone": "x" * 256}, "label zone: its value"),
        ({"zone": "a\nb"}, "label zone: its value"),
    ],
)
async def test_bad_labels_are_refused(desk: ControlDesk, labels: dict[str, str], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        await desk.hosts.set_host("a", HostWord(labels=labels), "ann")


async def test_an_unknown_host_is_named(desk: ControlDesk) -> None:
    with pytest.raises(Unknown, match="no host 'x'; see formctl hosts"):
        await desk.hosts.set_host("x", HostWord(cordoned=True), "ann")
    with pytest.raises(Unknown, match="no host 'x'; see formctl hosts"):
        await desk.hosts.forget_host("x", "ann", World())


# -- forgetting ------------------------------------------------------------------------------------


async def listed(desk: ControlDesk, type_name: str) -> None:
    terms = Terms(app="shop", type=type_name, stem="s1", release=1)
    document = AssignmentDocument(
        host="a", generation=4, epoch=1, bundles=(Bundle(terms=terms, ordinals=(1, 2)),)
    )
    await desk.store.commit([], [Put(keys.assignments("a"), codec.encode(document))])


async def left(desk: ControlDesk) -> AssignmentDocument:
    item = await desk.store.get(keys.assignments("a"))
    assert item is not None
    record = codec.decode(item.key, item.value)
    assert isinstance(record, AssignmentDocument)
    return record


def knowing(*names: str) -> World:
    types = tuple(process_type(name, exclusive=name == "leader") for name in names)
    return World(releases={("shop", 1): Release(app="shop", number=1, types=types)})


async def test_a_forgotten_host_would_stop_what_it_runs(desk: ControlDesk) -> None:
    await listed(desk, "web")
    await desk.hosts.forget_host("a", "ann", knowing("web"))
    document = await left(desk)
    assert (document.generation, document.bundles) == (5, ())
    assert await desk.store.get(keys.host("a")) is None
    assert (await desk.history())[-1].action == "forget-host"


async def test_exclusive_ones_of_a_forgotten_host_end_first(desk: ControlDesk) -> None:
    await listed(desk, "leader")
    await desk.hosts.forget_host("a", "ann", knowing("leader"))
    items = (await left(desk)).instances
    assert [(item.slot.short, item.ending) for item in items] == [
        ("leader.1", True), ("leader.2", True),
    ]  # fmt: skip


async def test_a_living_host_is_not_forgotten(desk: ControlDesk) -> None:
    session = Session(session_id="s", coordinator_id="c1", agent_id="x")
    await desk.store.commit([], [Put(keys.session("a"), codec.encode(session))])
    with pytest.raises(Refused, match=r"host a is alive \(connected to c1\); stop its agent"):
        await desk.hosts.forget_host("a", "ann", World())


async def test_one_rebalance_at_a_time(desk: ControlDesk) -> None:
    moves = [Move(slot=stay("web.1").slot, from_host="a", to_host="b")]
    await desk.hosts.rebalance(moves, "ann")
    with pytest.raises(Refused, match="an earlier rebalance are not all made yet"):
        await desk.hosts.rebalance(moves, "ann")


# -- runs ------------------------------------------------------------------------------------------


async def test_runs_are_numbered_and_can_be_cancelled_once(desk: ControlDesk) -> None:
    await desk.apply()
    first, _ = await desk.runs.start("shop", "", "rake db:migrate", "ann")
    second, _ = await desk.runs.start("shop", "web", "sh", "ann")
    assert [first.id, second.id] == ["run.1", "run.2"]
    assert (second.like, second.slot.short) == ("web", "run.2")
    await desk.runs.cancel("shop", "run.1", "bob")
    cancelled = await desk.run("run.1")
    assert (cancelled.state, cancelled.reason) == (RunState.CANCELLED, "cancelled by bob")
    with pytest.raises(Refused, match=r"run run\.1 is over already: cancelled"):
        await desk.runs.cancel("shop", "run.1", "bob")
    assert [r.action for r in await desk.history()] == ["apply", "run", "run", "cancel"]


@pytest.mark.parametrize(
    ("like", "command", "said"),
    [
        ("mail", "sh", "app shop has no type 'mail'; it has web, worker"),
        ("", "  ", "nothing to run: give a command, or the type to run now"),
        ("web", "", r"web has no schedule: formctl scale web\+1 starts one more"),
    ],
)
async def test_a_run_that_makes_no_sense_is_refused(
    desk: ControlDesk, like: str, command: str, said: str
) -> None:
    await desk.apply()
    with pytest.raises((Unknown, Invalid), match=said):
        await desk.runs.start("shop", like, command, "ann")


async def test_a_scheduled_type_can_be_run_now(desk: ControlDesk) -> None:
    nightly = process_type("nightly", schedule=Schedule(cron="0 3 * * *"))
    await desk.apply(nightly)
    run, _ = await desk.runs.start("shop", "nightly", "", "ann")
    assert (run.slot.type, run.command, run.tick_ms) == ("nightly", "", 0)


async def test_an_unknown_run_is_named(desk: ControlDesk) -> None:
    with pytest.raises(Unknown, match=r"app shop has no run run\.9; see formctl runs"):
        await desk.runs.cancel("shop", "run.9", "ann")
