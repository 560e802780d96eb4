"""What is sent as a difference brings whoever had the one before to what is there now."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from worlds import app, host, process_type, release, seen, stay, world

from formation import wire
from formation.model import AssignmentDocument, Assignments, Bundle, Terms
from formation.seen import InstanceState
from formation.v1 import control_pb2 as pb
from formation_coordinator import orders
from formation_coordinator.plan import Plan
from formation_coordinator.planning import view_to_pb
from formation_coordinator.views import host_instances
from formation_coordinator.watching import _View
from formation_coordinator.world import HostEntry, World

APPS = ("shop", "blog")


@st.composite
def bundles(draw: st.DrawFn) -> tuple[Bundle, ...]:
    """No uid twice: each stem has one bundle."""
    found = []
    for stem in draw(st.lists(st.sampled_from("abcd"), unique=True)):
        ordinals = draw(st.lists(st.integers(1, 5), unique=True, min_size=1))
        terms = Terms(
            app=draw(st.sampled_from(APPS)),
            type="web",
            release=1,
            stem=stem,
            retry_mark=draw(st.integers(0, 1)),
            ending=draw(st.booleans()),
        )
        found.append(Bundle(terms, tuple(sorted(ordinals))))
    return tuple(found)


def document(found: tuple[Bundle, ...], generation: int) -> AssignmentDocument:
    return AssignmentDocument(host="a", generation=generation, epoch=1, bundles=found)


@given(bundles(), bundles(), st.booleans())
def test_of_an_order(before: tuple[Bundle, ...], now: tuple[Bundle, ...], by_bundle: bool) -> None:
    def sent(wanted: AssignmentDocument, base: AssignmentDocument | None) -> Assignments:
        return wire.assignments_from_pb(orders.message(wanted, base, [], bundles=by_bundle))

    base, wanted = document(before, 1), document(now, 2)
    order = sent(wanted, base)
    whole = {item.uid: item for item in sent(base, None).instances}
    for uid in order.removed_uids:
        del whole[uid]
    named = {item.uid for item in order.instances}
    assert not [item for item in order.instances if whole.get(item.uid) == item]  # nothing idle
    whole |= {item.uid: item for item in order.instances}
    assert tuple(sent(wanted, None).instances) == wanted.instances
    assert whole == {item.uid: item for item in wanted.instances}
    assert not named & set(order.removed_uids)


def test_who_takes_no_bundles_is_sent_none() -> None:
    stays = (Bundle(Terms(app="shop", type="web", release=1, stem="a"), (1, 2)),)
    old = orders.message(document(stays, 1), None, [], bundles=False)
    assert (len(old.bundles), len(old.instances)) == (0, 2)
    new = orders.message(document(stays, 1), None, [], bundles=True)
    assert (len(new.bundles), len(new.instances)) == (1, 0)


@st.composite
def entries(draw: st.DrawFn, name: str) -> HostEntry:
    stays = []
    for number in range(1, draw(st.integers(0, 3)) + 1):
        stem = f"{name}{draw(st.integers(0, 1))}"
        stays.append(stay(f"web.{number}", stem=stem, app_name=draw(st.sampled_from(APPS))))
    says = [seen(item, draw(st.sampled_from(InstanceState))) for item in stays]
    return host(name, *stays, says=says)


def shown(now: World, only: str) -> dict[str, pb.InstanceView]:
    return {
        view.status.uid: view_to_pb(view)
        for entry in now.hosts.values()
        for view in host_instances(entry, now)
        if view.status.state is not InstanceState.STOPPED and only in ("", view.status.slot.app)
    }


@given(st.data(), st.sampled_from(["", *APPS]))
def test_of_a_list_that_is_watched(data: st.DataObject, only: str) -> None:
    hosts = {name: data.draw(entries(name)) for name in "abc"}
    apps = {name: app({"web": 3}, name=name) for name in APPS}
    releases = tuple(release(process_type("web"), name=name) for name in APPS)
    view, told = _View(only), dict[str, pb.InstanceView]()
    for _step in range(5):
        now = world(*hosts.values(), apps=tuple(apps.values()), releases=releases)
        update = view.step(now, Plan(), "")
        for uid in update.gone_uids if update else ():
            del told[uid]
        told |= {item.status.uid: item for item in (update.changed if update else ())}
        assert told == shown(now, only)
        for name in "abc":
            what = data.draw(st.sampled_from(["stays", "changes", "goes"]))
            if what == "changes":
                hosts[name] = data.draw(entries(name))
            elif what == "goes":
                hosts.pop(name, None)
        for name in APPS:  # nothing of it is wanted any more, or something again
            if data.draw(st.booleans()):
                apps[name] = app({"web": data.draw(st.integers(0, 1))}, name=name)


def test_nothing_new_is_no_update() -> None:
    now = world(host("a", stay("web.1")), apps=app({"web": 1}), releases=(release("web"),))
    view = _View("")
    assert view.step(now, Plan(), "") is not None
    assert view.step(now, Plan(), "") is None
