"""When is a change done, and what is said on the way? Updates in, lines out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from formation.model import App, InstanceState, InstanceStatus, Slot
from formation.releasecommand import Candidate
from formation.seen import Rollout
from formctl.progress import Step
from formctl.views import Instance, Update
from formctl.watching import Goal, Progress

HEALTHY, STARTING = InstanceState.HEALTHY, InstanceState.STARTING
FINISHED, FAILED, UNREADY = InstanceState.FINISHED, InstanceState.FAILED, InstanceState.UNREADY
BACKOFF, PENDING, STOPPING = InstanceState.BACKOFF, InstanceState.PENDING, InstanceState.STOPPING
NOW_MS = 1_000_000


def instance(
    name: str,
    state: InstanceState = HEALTHY,
    *,
    uid: str = "",
    host: str = "a",
    app: str = "shop",
    reason: str = "",
    retry_in_ms: int = 0,
    surplus: bool = False,
    current: bool = True,
    host_silent: bool = False,
    attempt: int = 1,
) -> Instance:
    type_name, _, ordinal = name.partition(".")
    slot = Slot(app, type_name, int(ordinal))
    status = InstanceStatus(
        uid=uid or f"u-{name}",
        slot=slot,
        release=1,
        state=state,
        port=20_000 + int(ordinal),
        attempt=attempt,
        reason=reason,
        retry_at_ms=NOW_MS + retry_in_ms if retry_in_ms else 0,
    )
    return Instance(
        status=status, host=host, surplus=surplus, current=current, host_silent=host_silent
    )


def pending(name: str, reason: str = "") -> Instance:
    return instance(name, PENDING, uid=f"shop/{name}", host="", reason=reason, current=False)


def app(**formation: int) -> App:
    return App(name="shop", formation=formation, release=1, latest_release=1)


class Story:
    """Feeds updates at times of its own and keeps what was said."""

    def __init__(self, goal: Goal, *baseline: Instance) -> None:
        self.progress = Progress(goal, started_s=100.0, baseline=baseline)
        self.now_s = 100.0

    def first(self, *found: Instance, note: str = "", apps: tuple[App, ...] = ()) -> list[str]:
        return self.feed(Update(complete=True, changed=found, apps=apps or None, note=note))

    def then(self, *changed: Instance, gone: tuple[str, ...] = (), note: str = "") -> list[str]:
        return self.feed(Update(changed=changed, gone_uids=gone, note=note))

    def feed(self, update: Update) -> list[str]:
        self.now_s += 0.5
        return self.progress.feed(update, now_s=self.now_s, now_ms=NOW_MS)

    def is_done(self) -> bool:
        return self.progress.is_done

    def has_failed(self) -> bool:
        return self.progress.has_failed

    def summary(self) -> str:
        return self.progress.summary(now_s=self.now_s)

    def missing(self) -> list[str]:
        return self.progress.missing(now_ms=NOW_MS)


def goal(**wanted: int) -> Goal:
    return Goal(app="shop", wanted=wanted)


def test_a_scale_up_tells_each_new_instance_once_and_ends_with_a_summary() -> None:
    story = Story(goal(web=2), instance("web.1"))
    assert story.first(instance("web.1"), pending("web.2")) == []
    assert not story.is_done()
    assert story.then(instance("web.2", STARTING, host="b"), gone=("shop/web.2",)) == []
    assert story.then(instance("web.2", host="b")) == ["web.2 healthy on b (port 20002) 1.5s"]
    assert story.then(instance("web.2", host="b")) == []
    assert story.is_done()
    assert story.summary() == "web=2: 2 healthy in 2.0 s"


def test_what_was_fast_enough_to_be_in_the_first_update_is_told_too() -> None:
    story = Story(goal(web=1))
    assert story.first(instance("web.1")) == ["web.1 healthy on a (port 20001) 0.5s"]
    assert story.is_done()


def test_a_scale_down_is_done_only_when_the_surplus_has_gone() -> None:
    story = Story(goal(web=1), instance("web.1"), instance("web.2"))
    # The leader has not planned yet: two healthy ones and no surplus.
    assert story.first(instance("web.1"), instance("web.2")) == []
    assert not story.is_done()
    leaving = instance("web.2", STOPPING, surplus=True)
    assert story.then(leaving) == []
    assert not story.is_done()
    assert story.then(gone=("u-web.2",)) == ["web.2 stopped on a"]
    assert story.is_done()


def test_what_stopped_before_the_first_update_is_told() -> None:
    story = Story(goal(web=0), instance("web.1", host="b"))
    assert story.first() == ["web.1 stopped on b"]
    assert story.summary() == "web=0: none left in 0.5 s"


def test_nothing_is_done_before_the_first_update() -> None:
    story = Story(goal(web=0))
    assert not story.is_done()
    assert story.missing() == ["the coordinator has not shown the change yet"]


def test_other_types_and_other_apps_neither_matter_nor_speak() -> None:
    story = Story(goal(web=1))
    lines = story.first(
        instance("web.1"), instance("mail.1", BACKOFF, reason="x"), instance("web.2", app="other")
    )
    assert lines == ["web.1 healthy on a (port 20001) 0.5s"]
    assert story.is_done()


def test_a_whole_app_is_done_when_types_that_are_not_wanted_have_gone() -> None:
    story = Story(Goal(app="shop", wanted={"web": 1}, whole=True))
    story.first(instance("web.1"), instance("old.1"))
    assert not story.is_done()
    assert story.then(gone=("u-old.1",)) == ["old.1 stopped on a"]
    assert story.is_done()


def test_an_old_release_is_not_what_was_asked_for() -> None:
    story = Story(goal(web=1), instance("web.1", uid="u1"))
    story.first(instance("web.1", uid="u1", current=False))
    assert not story.is_done()
    story.then(
        instance("web.1", STOPPING, uid="u1", surplus=True),
        instance("web.1", InstanceState.WAITING, uid="u2"),
    )
    assert story.then(instance("web.1", STARTING, uid="u2"), gone=("u1",)) == ["web.1 stopped on a"]
    assert story.then(instance("web.1", uid="u2")) == ["web.1 healthy on a (port 20001) 2.0s"]
    assert story.is_done()


def test_one_slot_is_waited_for_alone() -> None:
    story = Story(Goal(app="shop", wanted={"web": 3}, slots=frozenset({Slot("shop", "web", 2)})))
    story.first(instance("web.1", BACKOFF), instance("web.2", STARTING), instance("web.3", BACKOFF))
    assert not story.is_done()
    story.then(instance("web.2"))
    assert story.is_done()
    assert story.summary() == "web.2: 1 healthy in 1.0 s"


def test_a_failing_instance_is_told_with_reason_and_countdown_once_per_attempt() -> None:
    story = Story(goal(web=1))
    failing = instance("web.1", BACKOFF, reason="exit 1 after 3 s", retry_in_ms=6_500)
    line = "web.1 failing on a: exit 1 after 3 s, retry in 7s"
    assert story.first(failing) == [line]
    assert story.then(failing) == []
    again = replace(failing, status=structs.replace(failing.status, attempt=2))
    assert story.then(again) == [line]
    assert story.missing() == ["web.1 backoff on a: exit 1 after 3 s, retry in 7s"]


def test_an_instance_that_recovers_is_told_again() -> None:
    story = Story(goal(web=1))
    story.first(instance("web.1"))
    story.then(instance("web.1", BACKOFF, reason="exit 1"))
    assert not story.is_done()
    assert story.then(instance("web.1")) == ["web.1 healthy on a (port 20001) 1.5s"]


def test_what_cannot_be_placed_gives_its_reason_once() -> None:
    story = Story(goal(web=3))
    reason = "no host has room: a 1/1"
    lines = story.first(pending("web.2", reason), pending("web.3", reason), note="b is lost")
    assert lines == [f"web.2 waits for a place: {reason}", "b is lost"]
    assert story.then(note="b is lost") == []
    assert story.missing() == [
        f"web.2 pending: {reason}",
        f"web.3 pending: {reason}",
        "web: 2 where 3 are wanted",
        "b is lost",
    ]


def test_a_sentence_that_is_one_of_the_reasons_is_not_told_twice() -> None:
    story = Story(goal(web=2))
    lines = story.first(pending("web.2", "no host has joined"), note="no host has joined")
    assert lines == ["web.2 waits for a place: no host has joined"]
    assert story.missing()[-1] != "no host has joined"


def test_failures_of_what_is_on_its_way_out_are_no_news() -> None:
    failing = [instance(f"web.{n}", BACKOFF, reason="exit 1") for n in (1, 2, 3)]
    story = Story(goal(web=1))
    # The leader has not said yet which two of the three have to go.
    assert story.first(*failing) == []
    leaving = [replace(item, surplus=True) for item in failing[1:]]
    assert story.then(*leaving) == []
    assert story.then(failing[0]) == ["web.1 failing on a: exit 1"]


def test_failures_of_an_earlier_release_are_no_news() -> None:
    story = Story(goal(web=1))
    assert story.first(instance("web.1", BACKOFF, reason="exit 1", current=False)) == []


def test_what_leaves_is_missing_only_when_it_is_stuck_or_alone_in_the_way() -> None:
    story = Story(goal(web=1))
    leaving = instance("web.2", STOPPING, surplus=True)
    story.first(instance("web.1", STARTING), leaving)
    assert "web.2" not in "".join(story.missing())
    late = story.progress.missing(now_ms=NOW_MS + 10_000)
    assert late[:2] == ["web.1 starting on a", "web.2 leaving on a"]
    story.then(instance("web.1"))
    assert story.missing()[0] == "web.2 leaving on a"


def test_the_leaders_sentence_is_kept_for_those_who_have_to_wait_for_it() -> None:
    story = Story(goal(web=1))
    assert story.first(instance("web.1", STARTING), note="3 placed") == []


def test_a_surplus_on_a_silent_host_is_mentioned_and_not_waited_for() -> None:
    story = Story(goal(web=1))
    story.first(instance("web.1"), instance("web.2", surplus=True, host_silent=True))
    assert story.is_done()
    assert story.summary().endswith("; 1 on silent hosts, stopped when they return")


def test_a_wanted_instance_on_a_silent_host_is_not_healthy() -> None:
    story = Story(goal(web=1))
    story.first(instance("web.1", host_silent=True))
    assert not story.is_done()
    assert story.missing() == ["web.1 host silent on a: last seen healthy"]


def test_what_others_scale_meanwhile_is_followed() -> None:
    story = Story(goal(web=3))
    story.first(instance("web.1"), pending("web.2"), pending("web.3"), apps=(app(web=3),))
    story.feed(Update(gone_uids=("shop/web.2", "shop/web.3"), apps=(app(web=1, mail=2),)))
    assert story.is_done()
    assert story.summary() == "web=1: 1 healthy in 1.0 s"


def test_a_complete_update_after_a_reconnect_replaces_what_was_known() -> None:
    story = Story(goal(web=2))
    story.first(instance("web.1"), instance("web.2"), instance("web.3", surplus=True))
    assert not story.is_done()
    assert story.first(instance("web.1"), instance("web.2")) == ["web.3 stopped on a"]
    assert story.is_done()


def test_an_instance_that_comes_and_goes_in_one_update_leaves_no_trace() -> None:
    story = Story(goal(web=1))
    story.first(instance("web.1"), instance("web.2"))
    story.then(instance("web.2", STOPPING, surplus=True), gone=("u-web.2",))
    assert story.is_done()


@pytest.mark.parametrize("number", [19, 20, 50])
def test_what_is_missing_is_not_listed_without_end(number: int) -> None:
    story = Story(goal(web=number))
    story.first(*(instance(f"web.{n}", BACKOFF) for n in range(1, number + 1)))
    lines = story.missing()
    assert len(lines) == min(number, 21)
    assert (lines[-1] == f"and {number - 20} more") is (number > 20)


def test_what_has_finished_its_work_has_arrived() -> None:
    story = Story(goal(job=2))
    story.first(instance("job.1", STARTING), instance("job.2"))
    assert story.then(instance("job.1", FINISHED)) == ["job.1 finished on a 1.0s"]
    assert story.then(instance("job.1", FINISHED)) == []
    assert story.is_done()
    assert story.summary() == "job=2: 1 healthy, 1 finished in 1.5 s"
    story.then(instance("job.2", FINISHED))
    assert story.summary() == "job=2: 2 finished in 2.0 s"


def test_when_only_what_has_failed_for_good_is_missing_waiting_is_of_no_use() -> None:
    story = Story(goal(job=2))
    failed = instance("job.1", FAILED, reason="exit 3 after 2 s")
    assert story.first(failed, instance("job.2", STARTING)) == [
        "job.1 failed on a: exit 3 after 2 s"
    ]
    assert not story.has_failed()
    story.then(instance("job.2"))
    assert story.has_failed()
    assert not story.is_done()
    assert story.missing() == ["job.1 failed on a: exit 3 after 2 s"]


def test_the_failure_of_an_earlier_release_does_not_end_the_wait() -> None:
    story = Story(goal(job=1))
    story.first(instance("job.1", FAILED, current=False))
    assert not story.has_failed()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (UNREADY, "web.1 not ready on a: HTTP 503"),
        (InstanceState.RESTARTING, "web.1 restarting on a: HTTP 503"),
        (BACKOFF, "web.1 failing on a: HTTP 503"),
    ],
)
def test_what_runs_and_is_not_well_is_told_once_and_waited_for(
    state: InstanceState, said: str
) -> None:
    story = Story(goal(web=1))
    assert story.first(instance("web.1", state, reason="HTTP 503")) == [said]
    assert story.then(instance("web.1", state, reason="HTTP 503")) == []
    assert not story.is_done()
    assert not story.has_failed()


def retry_of(*tried: Instance) -> Goal:
    return Goal(
        app="shop",
        wanted={item.slot.type: 9 for item in tried},
        slots=frozenset(item.slot for item in tried),
        tried={item.uid: item.status.attempt for item in tried},
    )


@pytest.mark.parametrize("before", [BACKOFF, FINISHED, FAILED])
def test_a_retry_is_over_when_a_later_try_has_arrived_and_not_before(
    before: InstanceState,
) -> None:
    old = instance("web.3", before, attempt=4, reason="exit 1")
    story = Story(retry_of(old), old)
    assert story.first(old) == []
    assert not story.is_done()
    assert not story.has_failed()
    assert story.then(instance("web.3", STARTING, attempt=5)) == []
    assert story.then(instance("web.3", attempt=5)) == ["web.3 healthy on a (port 20003) 1.5s"]
    assert story.is_done()
    assert story.summary() == "web.3: 1 healthy in 1.5 s"


@pytest.mark.parametrize(("after", "word"), [(BACKOFF, "failing"), (FAILED, "failed")])
def test_a_retry_ends_when_its_try_fails(after: InstanceState, word: str) -> None:
    old = instance("web.3", BACKOFF, attempt=4, reason="exit 1")
    story = Story(retry_of(old), old)
    story.first(old)
    again = instance("web.3", after, attempt=5, reason="exit 2")
    assert story.then(again) == [f"web.3 {word} on a: exit 2"]
    assert story.has_failed()
    assert story.progress.failing() == [again]


def test_the_output_of_one_failing_instance_of_each_type_may_tell_why() -> None:
    story = Story(goal(web=3, mail=1, job=1))
    story.first(
        instance("web.3", BACKOFF),
        instance("web.2", FAILED),
        instance("web.1"),
        instance("mail.1", UNREADY),
        instance("job.1", BACKOFF, surplus=True),
    )
    assert [item.slot.short for item in story.progress.failing()] == ["mail.1", "web.2"]


def test_a_scale_counts_what_it_was_short_of_and_not_what_was_there() -> None:
    story = Story(Goal(app="shop", wanted={"web": 4}), instance("web.1"))
    assert story.progress.step() == Step(what="waiting for the leader to see the change")
    story.first(instance("web.1"), instance("web.2", STARTING), pending("web.3"), pending("web.4"))
    step = story.progress.step()
    assert (step.done, step.total) == (0, 3)
    assert step.what == "web.2 starting, web.3 pending, web.4 pending"
    story.then(instance("web.2"))
    assert (story.progress.step().done, story.progress.step().total) == (1, 3)


def test_a_scale_down_counts_what_is_to_go() -> None:
    story = Story(Goal(app="shop", wanted={"web": 1}))
    story.first(instance("web.1"), instance("web.2", surplus=True), instance("web.3", surplus=True))
    assert story.progress.step() == Step(done=0, total=2, what="web.2 leaving, web.3 leaving")
    story.then(gone=("u-web.2",))
    assert story.progress.step() == Step(done=1, total=2, what="web.3 leaving")


def test_a_restart_counts_old_ones_as_still_to_do() -> None:
    story = Story(Goal(app="shop", wanted={"web": 2}))
    story.first(instance("web.1", current=False), instance("web.2", BACKOFF))
    step = story.progress.step()
    assert (step.done, step.total) == (0, 2)
    assert step.what == "web.2 backoff, web.1 to be replaced"


# ---------------------------------------------------------------------- release commands


def command(state: InstanceState, *, pid: int = 0, reason: str = "") -> Instance:
    found = instance("release.2", state, reason=reason, host="" if state is PENDING else "a")
    return replace(found, run="release.2", status=structs.replace(found.status, pid=pid))


def waiting(candidate: int = 2, **formation: int) -> App:
    return replace(app(**formation), candidate=Candidate(release=candidate))


def of_release(apps: tuple[App, ...], *found: Instance, complete: bool = False) -> Update:
    return Update(complete=complete, changed=found, apps=apps)


def test_until_its_command_has_passed_a_release_has_not_arrived() -> None:
    story = Story(replace(goal(web=1), release=2, whole=True))
    story.feed(of_release((waiting(web=1),), instance("web.1"), complete=True))
    assert story.progress.command == "release.2"
    assert not story.is_done()
    assert story.then(command(PENDING, reason="no host")) == [
        "release.2 waits for a place: no host"
    ]
    assert story.then(command(STARTING, pid=7)) == ["release.2 runs on a"]
    assert story.progress.step().what == "release.2 starting on a"
    assert story.then(command(HEALTHY, pid=7)) == []
    arrived = replace(app(web=1), release=2)
    story.feed(of_release((arrived,), command(FINISHED)))
    assert story.progress.command == ""
    assert story.is_done()


def test_a_command_that_failed_ends_the_waiting_with_its_reason() -> None:
    story = Story(replace(goal(web=1), release=2))
    story.feed(of_release((waiting(web=1),), instance("web.1"), complete=True))
    undone = Rollout(undone_release=2, reason="release.2 failed on a: exit 3")
    story.feed(of_release((replace(app(web=1), rollout=undone),)))
    assert story.progress.undone == "v2 was taken back: release.2 failed on a: exit 3"
    assert story.missing() == []


def test_whose_place_is_taken_by_another_waits_in_vain() -> None:
    story = Story(replace(goal(web=1), release=2))
    story.feed(of_release((waiting(web=1),), instance("web.1"), complete=True))
    story.feed(of_release((waiting(3, web=1),)))
    assert story.progress.undone == "v2 was not rolled out: v3 has taken its place"
