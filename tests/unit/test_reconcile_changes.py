"""reconcile: a change of release from its first step to its end, and what may become of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from msgspec import structs
from worlds import app, host, process_type, release, seen, stay, step, world

from formation.artifacts import Artifact
from formation.builds import Build
from formation.model import App, Assignment, InstanceState
from formation.rules import RolloutRules, Share
from formation.seen import Rollout
from formation_coordinator.plan import Plan
from formation_coordinator.rollout import Progress
from formation_coordinator.world import HostEntry, World, same_definition

RULES = RolloutRules(healthy_s=10.0)
WEB = process_type("web", rollout=RULES)
RELEASES = (release(WEB), release(WEB, number=2))
NOW_S = 100.0


def new(text: str, **fields: object) -> Assignment:
    return stay(text, stem="new", release_number=2, **fields)  # type: ignore[arg-type]


def changing(*hosts: HostEntry, quantity: int = 3, word: Rollout | None = None) -> World:
    apps = app({"web": quantity}, release=2, stable=1, word=word)
    return world(*hosts, apps=apps, releases=RELEASES)


def of(plan: Plan) -> dict[str, list[tuple[str, int, bool]]]:
    """host → (slot, release, surge) in its new document."""
    return {
        d.host: [(i.slot.short, i.release, i.surge) for i in d.instances] for d in plan.documents
    }


def app_written(plan: Plan) -> App | None:
    found = [change.record for change in plan.records if change.kind == "apps"]
    return found[0] if found and isinstance(found[0], App) else None


def aged(entry: HostEntry, since_s: Mapping[str, float]) -> HostEntry:
    return structs.replace(entry, healthy_since_s=since_s)


def test_first_one_more_comes_with_the_new_release_and_nothing_goes() -> None:
    plan = step(changing(host("a", stay("web.1"), stay("web.2")), host("b", stay("web.3"))))
    assert of(plan) == {"b": [("web.3", 1, False), ("web.4", 2, True)]}
    assert plan.documents[0].instances[1].reason == "for the change to v2"


def test_a_new_one_counts_only_when_it_was_healthy_long_enough() -> None:
    extra = new("web.4", surge=True)
    b = host("b", stay("web.2"), stay("web.3"), extra)
    early = changing(host("a", stay("web.1")), aged(b, {extra.uid: 95.0}))
    plan = step(early)
    assert (plan.documents, plan.wake_at_s) == ((), 105.0)
    late = changing(host("a", stay("web.1")), aged(b, {extra.uid: 90.0}))
    assert of(step(late)) == {"a": [("web.1", 2, False)]}


def test_the_next_goes_when_the_one_before_works() -> None:
    extra, first = new("web.4", surge=True), new("web.1")
    b = host("b", stay("web.2"), stay("web.3"), extra)
    a = host("a", first)
    assert step(changing(aged(a, {first.uid: 99.0}), b)).documents == ()
    assert of(step(changing(a, b))) == {
        "b": [("web.2", 2, False), ("web.3", 1, False), ("web.4", 2, True)]
    }


def test_at_the_end_the_one_more_goes_and_the_release_is_stable() -> None:
    stays = [new(f"web.{n}") for n in (1, 2, 3)]
    done = changing(host("a", *stays), host("b", new("web.4", surge=True)))
    plan = step(done)
    assert of(plan) == {"b": []}
    written = app_written(plan)
    assert written is not None
    assert (written.release, written.stable_release) == (2, 2)


def test_the_one_more_stays_until_the_last_that_was_replaced_works() -> None:
    stays = [new("web.1"), new("web.2"), new("web.3")]
    starting = seen(stays[2], InstanceState.STARTING)
    given = changing(host("a", *stays, says=[starting]), host("b", new("web.4", surge=True)))
    assert step(given).documents == ()


def test_a_type_that_says_the_same_in_both_releases_is_not_touched() -> None:
    same = (release(WEB, env={}), release(WEB, number=2, env={}))
    apps = app({"web": 2}, release=2, stable=1)
    given = world(host("a", stay("web.1"), stay("web.2")), apps=apps, releases=same)
    plan = step(given)
    assert plan.documents == ()
    written = app_written(plan)
    assert written is not None
    assert written.stable_release == 2


def test_other_placement_alone_replaces_nothing() -> None:
    moved = replace(WEB, where=replace(WEB.where, max_per_host=1), initial_quantity=7)
    releases = (release(WEB, env={}), release(moved, number=2, env={}))
    apps = app({"web": 2}, release=2, stable=1)
    given = world(host("a", stay("web.1"), stay("web.2")), apps=apps, releases=releases)
    assert step(given).documents == ()


def test_hosts_that_fail_meanwhile_hold_the_change_up() -> None:
    extra = new("web.4", surge=True)
    a = host("a", stay("web.1"), stay("web.2"), says=[seen(stay("web.2"), InstanceState.UNREADY)])
    given = changing(a, host("b", stay("web.3"), extra))
    assert of(step(given)) == {"a": [("web.1", 1, False), ("web.2", 2, False)]}
    silent = changing(
        host("a", stay("web.1"), stay("web.2"), silent_since_s=99.0),
        host("b", stay("web.3"), extra),
    )
    assert step(silent).documents == ()


def test_a_first_release_is_stable_when_all_are_healthy() -> None:
    apps = app({"web": 1}, stable=0)
    item = stay("web.1")
    starting = host("a", item, says=[seen(item, InstanceState.STARTING)])
    assert app_written(step(world(starting, apps=apps, releases=RELEASES))) is None
    written = app_written(step(world(host("a", item), apps=apps, releases=RELEASES)))
    assert written is not None
    assert written.stable_release == 1


# ---------------------------------------------------------------------- failing


def failed(*states: tuple[Assignment, InstanceState, bool], hosts: Sequence[str] = "ab") -> Plan:
    """Three old ones on a, and these new ones on b."""
    stays = [item for item, _, _ in states]
    says = [
        seen(item, state, crash_looping=loops, last_exit="exit 1") for item, state, loops in states
    ]
    entries = [host("a", stay("web.1"), stay("web.2"), stay("web.3"))]
    entries += [host(name, *(stays if name == "b" else ()), says=says if name == "b" else ())
                for name in hosts if name != "a"]  # fmt: skip
    return step(changing(*entries))


def test_it_goes_back_at_once_when_a_new_one_ended_for_good() -> None:
    plan = failed((new("web.4", surge=True), InstanceState.FAILED, False))
    written = app_written(plan)
    assert written is not None
    assert (written.release, written.stable_release) == (1, 1)
    assert written.rollout.undone_release == 2
    assert written.rollout.reason == "web.4 failed on b: exit 1"
    assert plan.decisions[0].action == "undo"


def test_what_crashes_again_and_again_is_tried_on_another_host_first() -> None:
    extra = new("web.4", surge=True)
    assert app_written(failed((extra, InstanceState.BACKOFF, True))) is None
    moved = structs.replace(extra, avoided_hosts=("c",))
    written = app_written(failed((moved, InstanceState.BACKOFF, False)))
    assert written is not None
    assert written.rollout.reason == "web.4 keeps crashing on b: exit 1"


def test_while_another_new_one_works_it_may_be_the_host() -> None:
    bad = new("web.4", surge=True, avoided=["c"])
    good = new("web.1")
    given = changing(
        host("a", good, stay("web.2"), stay("web.3")),
        host("b", bad, says=[seen(bad, InstanceState.BACKOFF)]),
    )
    assert app_written(step(given)) is None


def test_without_progress_for_the_deadline_it_goes_back() -> None:
    extra = new("web.4", surge=True)
    slow = seen(extra, InstanceState.UNREADY)
    given = changing(
        host("a", stay("web.1"), stay("web.2"), stay("web.3")), host("b", extra, says=[slow])
    )
    first = step(given)
    since = first.progress["shop", "web"]
    assert (since.done, since.since_s) == (0, NOW_S)
    assert first.wake_at_s == NOW_S + RULES.deadline_s
    later = step(given, now_s=NOW_S + 299, progress=first.progress)
    assert app_written(later) is None
    late = app_written(step(given, now_s=NOW_S + 300, progress=later.progress))
    assert late is not None
    assert late.rollout.reason == "no further web came to work within 300 s"


def test_what_the_old_ones_drain_is_not_held_against_the_new_ones() -> None:
    extra = new("web.4", surge=True)
    given = world(
        host("a", stay("web.1"), stay("web.2"), stay("web.3")),
        host("b", extra, says=[seen(extra, InstanceState.UNREADY)]),
        apps=app({"web": 3}, release=2, stable=1),
        releases=(release(replace(WEB, stop_drain_s=60)), RELEASES[1]),
    )
    assert step(given).wake_at_s == NOW_S + RULES.deadline_s + 60


def test_while_hosts_may_build_the_deadline_waits() -> None:
    extra = new("web.4", surge=True)
    artifact = Artifact(digest="ab" * 32, size_bytes=1)
    built = replace(RELEASES[1], artifact=artifact, build=Build(command="make", timeout_s=90))
    given = world(
        host("a", stay("web.1"), stay("web.2"), stay("web.3")),
        host("b", extra, says=[seen(extra, InstanceState.WAITING)]),
        apps=app({"web": 3}, release=2, stable=1),
        releases=(RELEASES[0], built),
    )
    assert step(given).wake_at_s == NOW_S + RULES.deadline_s + 90


def test_a_new_leader_gives_it_the_whole_deadline_again() -> None:
    given = changing(host("a", stay("web.1"), stay("web.2"), stay("web.3")), quantity=3)
    known = {("shop", "web"): Progress("of another leader", 2, 0.0)}
    assert app_written(step(given, progress=known)) is None


def test_where_rollback_is_off_it_stays_and_says_so() -> None:
    stubborn = replace(WEB, rollout=replace(RULES, rollback=False))
    extra = new("web.2", surge=True)
    given = world(
        host("a", stay("web.1")),
        host("b", extra, says=[seen(extra, InstanceState.FAILED, last_exit="exit 1")]),
        apps=app({"web": 1}, release=2, stable=1),
        releases=(release(stubborn), release(stubborn, number=2)),
    )
    plan = step(given)
    assert app_written(plan) is None
    assert "the change to v2 has failed: web.2 failed on b" in plan.sentence


def test_after_it_was_taken_back_what_was_replaced_is_replaced_again_and_the_rest_left() -> None:
    apps = app({"web": 3}, release=1, stable=1, word=Rollout(undone_release=2))
    broken = new("web.4", surge=True)
    given = world(
        host("a", stay("web.1"), stay("web.2"), stay("web.3")),
        host("b", broken, says=[seen(broken, InstanceState.BACKOFF)]),
        apps=apps,
        releases=RELEASES,
    )
    assert of(step(given)) == {"b": []}


# ---------------------------------------------------------------------- held on purpose


def test_paused_nothing_goes_and_what_is_missing_runs_the_release_before() -> None:
    word = Rollout(paused=True)
    extra = new("web.4", surge=True)
    given = changing(host("a", stay("web.1"), stay("web.3")), host("b", extra), word=word)
    assert of(step(given)) == {"b": [("web.2", 1, False), ("web.4", 2, True)]}
    whole = changing(host("a", stay("web.1"), stay("web.2"), stay("web.3")), host("b", extra),
                     word=word)  # fmt: skip
    plan = step(whole, now_s=10_000.0)
    assert plan.documents == ()
    assert app_written(plan) is None


def test_a_canary_is_held_without_a_deadline_until_it_is_promoted() -> None:
    extra = new("web.4", surge=True)
    hosts = (host("a", stay("web.1"), stay("web.2"), stay("web.3")), host("b", extra))
    held = step(changing(*hosts, word=Rollout(canary=1)))
    late = step(changing(*hosts, word=Rollout(canary=1)), now_s=9_999.0, progress=held.progress)
    assert (held.documents, late.documents, app_written(late)) == ((), (), None)
    assert of(step(changing(*hosts))) == {
        "a": [("web.1", 2, False), ("web.2", 1, False), ("web.3", 1, False)]
    }


def test_what_is_missing_beside_a_canary_runs_the_release_before() -> None:
    extra = new("web.4", surge=True)
    given = changing(
        host("a", stay("web.1"), stay("web.2")), host("b", extra), word=Rollout(canary=1)
    )
    assert of(step(given)) == {"b": [("web.3", 1, False), ("web.4", 2, True)]}


# ---------------------------------------------------------------------- no room


def test_without_room_for_one_more_it_waits_and_says_why() -> None:
    full = host("a", stay("web.1"), stay("web.2"), stay("web.3"), instances_max=3)
    plan = step(changing(full))
    assert plan.documents == ()
    (why,) = plan.pending.values()
    assert why == "no room for one more while v2 comes; no host: a: full (3 of 3 instances)"


def test_where_one_may_be_away_it_is_done_in_place_without_room() -> None:
    rules = RolloutRules(surge=Share(), unavailable=Share(count=1), healthy_s=0.0)
    spec = replace(WEB, rollout=rules)
    given = world(
        host("a", stay("web.1"), stay("web.2"), instances_max=2),
        apps=app({"web": 2}, release=2, stable=1),
        releases=(release(spec), release(spec, number=2)),
    )
    assert of(step(given)) == {"a": [("web.1", 2, False), ("web.2", 1, False)]}


def test_what_needs_more_memory_than_is_left_beside_it_is_replaced_in_its_place() -> None:
    def sized(number: int) -> object:
        resources = replace(WEB.resources, memory_bytes=600 << 20)
        rules = RolloutRules(surge=Share(), unavailable=Share(count=1), healthy_s=0.0)
        return release(replace(WEB, resources=resources, rollout=rules), number=number)

    given = world(
        host("a", stay("web.1"), memory_bytes=1 << 30),
        apps=app({"web": 1}, release=2, stable=1),
        releases=(sized(1), sized(2)),  # type: ignore[arg-type]
    )
    assert of(step(given)) == {"a": [("web.1", 2, False)]}


# ---------------------------------------------------------------------- restarts


def test_a_restart_surges_like_a_change_and_has_nothing_to_go_back_to() -> None:
    apps = app({"web": 2}, web=1)
    given = world(host("a", stay("web.1")), host("b", stay("web.2")), apps=apps, releases=RELEASES)
    plan = step(given)
    assert of(plan) == {"a": [("web.1", 1, False), ("web.3", 1, True)]}
    extra = stay("web.3", stem="new", mark=1, surge=True)
    bad = world(
        host("a", stay("web.1"), extra, says=[seen(extra, InstanceState.FAILED)]),
        host("b", stay("web.2")),
        apps=apps,
        releases=RELEASES,
    )
    assert app_written(step(bad)) is None


def test_what_a_deleted_app_of_that_name_left_is_replaced_at_once() -> None:
    gone = replace(release(number=1), types=())
    given = world(
        host("a", stay("web.1"), stay("web.2")),
        apps=app({"web": 2}, release=2, stable=0),
        releases=(gone, release(WEB, number=2)),
    )
    assert of(step(given)) == {"a": [("web.1", 2, False), ("web.2", 2, False)]}


def test_who_builds_otherwise_is_replaced_but_not_for_another_time_limit() -> None:
    artifact = Artifact(digest="ab" * 32, size_bytes=1)
    one = replace(RELEASES[0], artifact=artifact, build=Build(command="make"))
    for build, same in ((Build(command="make", timeout_s=9), True), (Build(command="x"), False)):
        other = replace(one, number=2, build=build)
        given = World(releases={("shop", 1): one, ("shop", 2): other})
        assert same_definition(given, "shop", "web", 1, 2) == same
