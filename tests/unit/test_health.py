"""What is reported of processes: by their probes in virtual time, by what they say in real time."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from eventually import eventually
from virtual_time import run_in_virtual_time

from formation.model import Probe, ProbeKind, ProcessType
from formation_agent.health import Health
from formation_agent.machine import (
    Event,
    Extended,
    NotAlive,
    NotReady,
    Ready,
    StoppingItself,
    Told,
)
from formation_agent.probes import PASSED, Outcome, Target
from formation_agent.probing import COMMANDS_MAX, CONNECTIONS_MAX

HTTP = Probe(kind=ProbeKind.HTTP, target="/health", period_s=5.0, failures=3)
EXEC = Probe(kind=ProbeKind.EXEC, target="true", period_s=5.0, failures=3)
NO_PID = 1 << 30
FAILED = Outcome(passed=False, reason="HTTP 503 from /health")
UNKNOWN = Outcome(passed=None, reason="the agent cannot ask: no files")


class Rig:
    """Health over probes that answer what the test says, and what was reported when."""

    def __init__(self, jitter: float = 0.5) -> None:
        self.now_s = asyncio.get_running_loop().time
        self.answer: Callable[[str, Probe], Outcome] = lambda key, probe: PASSED
        self.takes_s = 0.0
        self.asked: list[tuple[float, str]] = []
        self.running: Counter[ProbeKind] = Counter()
        self.most: Counter[ProbeKind] = Counter()
        self.reports: list[tuple[float, str, int, Event]] = []
        self.on_report: Callable[[Event], None] = lambda event: None
        self.health = Health(report=self._report, ask=self._ask, jitter=lambda: jitter)

    def _report(self, uid: str, attempt: int, event: Event) -> None:
        self.reports.append((self.now_s(), uid, attempt, event))
        self.on_report(event)

    async def _ask(self, probe: Probe, target: Target) -> Outcome:
        self.asked.append((self.now_s(), target.key))
        self.running[probe.kind] += 1
        self.most |= self.running
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.running[probe.kind] -= 1
        return self.answer(target.key, probe)

    def watch(
        self, uid: str = "u1", *, attempt: int = 1, ready: bool = False, fd: int = -1, **spec: Any
    ) -> None:
        fields = {"name": "web", "command": "x", "start_grace_s": 30.0, **spec}
        pid = os.getpid() if fd >= 0 else NO_PID
        self.health.watch(uid, attempt, ProcessType(**fields), None, pid, 5000, fd, ready)

    @property
    def events(self) -> list[Event]:
        return [event for _, _, _, event in self.reports]

    def when(self, kind: type[Event]) -> list[float]:
        return [at_s for at_s, _, _, event in self.reports if isinstance(event, kind)]


def in_virtual_time(story: Callable[[Rig], Coroutine[Any, Any, None]], jitter: float = 0.5) -> Rig:
    async def run() -> Rig:
        rig = Rig(jitter)
        async with running(rig):
            await story(rig)
        return rig

    return run_in_virtual_time(run())


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[None]:
    task = asyncio.create_task(rig.health.run())
    try:
        yield
    finally:
        rig.health.close()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# -- readiness -------------------------------------------------------------------------------------


def test_the_first_pass_makes_ready_and_is_seen_soon() -> None:
    async def story(rig: Rig) -> None:
        rig.answer = lambda key, probe: PASSED if rig.now_s() >= 4.0 else FAILED
        rig.watch(readiness=HTTP)
        await asyncio.sleep(20.0)

    rig = in_virtual_time(story)
    assert rig.events == [NotReady(reason="HTTP 503 from /health"), Ready()]
    assert 4.0 <= rig.when(Ready)[0] < 4.0 * 9 / 8 + 0.2
    # Often at first, then every period.
    after = [at_s for at_s, _ in rig.asked if at_s > 10.0]
    assert len([at_s for at_s, _ in rig.asked if at_s < 1.0]) > 4
    assert len(after) == 2


def test_readiness_is_lost_after_failures_in_a_row_and_comes_back() -> None:
    async def story(rig: Rig) -> None:
        rig.answer = lambda key, probe: FAILED if 10.0 < rig.now_s() < 40.0 else PASSED
        rig.watch(readiness=HTTP)
        await asyncio.sleep(60.0)

    rig = in_virtual_time(story)
    assert rig.events == [Ready(), NotReady(reason="HTTP 503 from /health"), Ready()]
    lost_s, back_s = rig.when(NotReady)[0], rig.when(Ready)[1]
    assert 20.0 < lost_s <= 26.0
    assert 40.0 < back_s <= 46.0


def test_two_failures_between_passes_are_not_reported() -> None:
    async def story(rig: Rig) -> None:
        results = iter([True, False, False] * 100)
        rig.answer = lambda key, probe: PASSED if next(results) else FAILED
        rig.watch(readiness=HTTP)
        await asyncio.sleep(200.0)

    assert in_virtual_time(story).events == [Ready()]


def test_why_it_is_not_ready_is_told_again_when_it_changes() -> None:
    async def story(rig: Rig) -> None:
        refused = Outcome(passed=False, reason="connection refused on port 5000")
        rig.answer = lambda key, probe: refused if rig.now_s() < 60.0 else FAILED
        rig.watch(readiness=HTTP)
        await asyncio.sleep(120.0)

    assert in_virtual_time(story).events == [
        NotReady(reason="connection refused on port 5000"),
        NotReady(reason="HTTP 503 from /health"),
    ]


def test_who_was_ready_under_an_earlier_brain_is_not_reported_until_it_fails() -> None:
    async def story(rig: Rig) -> None:
        rig.watch(readiness=HTTP, ready=True)
        await asyncio.sleep(30.0)
        assert rig.events == []
        rig.answer = lambda key, probe: FAILED
        await asyncio.sleep(30.0)

    assert in_virtual_time(story).events == [NotReady(reason="HTTP 503 from /health")]


# -- liveness --------------------------------------------------------------------------------------


def test_liveness_counts_from_the_end_of_the_grace_and_is_told_while_it_fails() -> None:
    async def story(rig: Rig) -> None:
        rig.answer = lambda key, probe: FAILED
        rig.watch(liveness=HTTP)
        await asyncio.sleep(60.0)

    rig = in_virtual_time(story)
    assert set(rig.events) == {NotAlive(reason="HTTP 503 from /health")}
    times_s = rig.when(NotAlive)
    assert 40.0 <= times_s[0] < 46.0
    assert len(times_s) >= 3


def test_who_was_ready_once_has_no_grace_left() -> None:
    async def story(rig: Rig) -> None:
        rig.answer = lambda key, probe: PASSED if probe is HTTP or rig.now_s() < 2.0 else FAILED
        rig.watch(readiness=HTTP, liveness=EXEC)
        await asyncio.sleep(20.0)

    rig = in_virtual_time(story)
    assert rig.events[0] == Ready()
    assert 10.0 <= rig.when(NotAlive)[0] < 20.0


def test_what_cannot_be_asked_says_nothing_about_the_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story(rig: Rig) -> None:
        rig.answer = lambda key, probe: UNKNOWN
        rig.watch("new", readiness=HTTP, liveness=HTTP)
        rig.watch("old", readiness=HTTP, liveness=HTTP, ready=True)
        await asyncio.sleep(300.0)

    rig = in_virtual_time(story)
    assert [(uid, event) for _, uid, _, event in rig.reports] == [
        ("new", NotReady(reason=UNKNOWN.reason))
    ]
    assert len(caplog.records) == 4  # once for each probe
    assert "new: its liveness probe says nothing: the agent cannot ask" in caplog.text


def test_an_error_of_ours_ends_no_other_probe(caplog: pytest.LogCaptureFixture) -> None:
    async def story(rig: Rig) -> None:
        def answer(key: str, probe: Probe) -> Outcome:
            if key.startswith("bad"):
                raise RuntimeError("a bug")
            return PASSED

        rig.answer = answer
        rig.watch("bad", liveness=HTTP)
        rig.watch("good", liveness=HTTP)
        await asyncio.sleep(21.0)
        assert Counter(key for _, key in rig.asked) == {"bad:1": 4, "good:1": 4}

    assert in_virtual_time(story).events == []
    assert "a bug" in caplog.text


# -- no longer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["relax", "unwatch"])
def test_who_is_being_ended_is_not_asked_and_not_judged(how: str) -> None:
    async def story(rig: Rig) -> None:
        rig.answer = lambda key, probe: FAILED
        rig.takes_s = 0.5
        rig.watch(readiness=HTTP, liveness=HTTP, ready=True)
        await eventually(lambda: rig.running[ProbeKind.HTTP])
        getattr(rig.health, how)("u1")
        await asyncio.sleep(0.1)
        assert rig.running[ProbeKind.HTTP] == 0
        asked = len(rig.asked)
        await asyncio.sleep(60.0)
        assert len(rig.asked) == asked
        getattr(rig.health, how)("u1")
        getattr(rig.health, how)("never heard of")

    assert in_virtual_time(story).events == []


def test_a_report_may_end_the_watch_and_the_next_attempt_begins_anew() -> None:
    async def story(rig: Rig) -> None:
        rig.answer = lambda key, probe: FAILED
        rig.on_report = lambda event: rig.health.unwatch("u1")
        rig.watch(liveness=HTTP, readiness=HTTP, ready=True)
        await asyncio.sleep(60.0)
        assert len(rig.reports) == 1
        rig.watch(attempt=2, liveness=HTTP, ready=True)
        await asyncio.sleep(60.0)

    rig = in_virtual_time(story)
    assert [attempt for _, _, attempt, _ in rig.reports] == [1, 2]
    assert {key for _, key in rig.asked} == {"u1:1", "u1:2"}


# -- a thousand ------------------------------------------------------------------------------------


def test_a_thousand_probes_are_spread_and_each_keeps_its_pace() -> None:
    async def story(rig: Rig) -> None:
        draws = iter((n * 0.618) % 1.0 for n in range(1 << 30))
        rig.health._probing._jitter = lambda: next(draws)
        for number in range(1000):
            rig.watch(f"u{number}", readiness=HTTP, ready=True)
        await asyncio.sleep(50.0)

    rig = in_virtual_time(story)
    by_second = Counter(int(at_s) for at_s, _ in rig.asked)
    assert all(150 <= by_second[second] <= 250 for second in range(49))
    assert set(Counter(key for _, key in rig.asked).values()) <= {9, 10, 11}


def test_slow_answers_hold_up_neither_commands_nor_each_other_beyond_the_limit() -> None:
    async def story(rig: Rig) -> None:
        rig.takes_s = 1.0
        for number in range(400):
            rig.watch(f"u{number}", readiness=HTTP, liveness=EXEC, ready=True)
        await asyncio.sleep(100.0)
        assert len({key for _, key in rig.asked}) == 400

    rig = in_virtual_time(story)
    assert rig.most == {ProbeKind.HTTP: CONNECTIONS_MAX, ProbeKind.EXEC: COMMANDS_MAX}


def test_probes_wait_until_the_room_runs() -> None:
    async def story() -> None:
        rig = Rig()
        rig.watch(readiness=HTTP)
        await asyncio.sleep(10.0)
        assert rig.asked == []
        async with running(rig):
            await asyncio.sleep(0.0)
            await eventually(lambda: rig.events == [Ready()])

    run_in_virtual_time(story())


# -- sd_notify -------------------------------------------------------------------------------------


class Voice:
    """The socket of an instance whose main process is this test."""

    def __init__(self) -> None:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        address = f"\0formation-test/{os.urandom(16).hex()}"
        end.bind(address)
        self.fd = end.detach()
        self._client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._client.connect(address)

    def say(self, text: str) -> None:
        self._client.send(text.encode())

    def close(self) -> None:
        self._client.close()


@asynccontextmanager
async def talking(**spec: Any) -> AsyncIterator[tuple[Rig, Voice]]:
    rig, voice = Rig(), Voice()
    async with running(rig):
        rig.watch(fd=voice.fd, **spec)
        yield rig, voice
    voice.close()


async def heard(rig: Rig, *events: Event) -> None:
    await eventually(lambda: rig.events == list(events), what=f"{events}, not {rig.events}")


async def test_ready_reloading_stopping_and_extended_are_reported_as_they_are_said() -> None:
    async with talking(notify=True) as (rig, voice):
        voice.say("EXTEND_TIMEOUT_USEC=60000000")
        voice.say("READY=1\nMAINPID=1")
        voice.say("READY=1")
        voice.say("RELOADING=1")
        voice.say("READY=1")
        voice.say("STOPPING=1")
        await heard(
            rig,
            Extended(by_s=60.0),
            Ready(),
            NotReady(reason="it is reloading"),
            Ready(),
            StoppingItself(),
        )


async def test_ready_means_nothing_of_a_type_that_does_not_promise_it() -> None:
    async with talking(watchdog_s=60.0) as (rig, voice):
        voice.say("READY=1")
        voice.say("STATUS=x")
        await heard(rig, Told(text="x"))


async def test_what_it_tells_often_is_reported_at_most_five_times_a_second_and_last() -> None:
    async with talking(notify=True) as (rig, voice):
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for number in range(200):
            await asyncio.to_thread(voice.say, f"STATUS={number} of 200")
        await eventually(lambda: Told(text="199 of 200") in rig.events)
        assert len(rig.events) <= (loop.time() - began_s) / 0.2 + 2
        assert rig.events[0] == Told(text="0 of 200")


async def test_a_readiness_probe_of_a_type_with_notify_counts_from_its_word_on() -> None:
    quick = Probe(kind=ProbeKind.HTTP, period_s=0.02, failures=2)
    async with talking(notify=True, readiness=quick) as (rig, voice):
        rig.answer = lambda key, probe: FAILED
        voice.say("STATUS=warming up")
        await heard(rig, Told(text="warming up"))
        assert rig.asked == []
        voice.say("READY=1")
        await heard(rig, Told(text="warming up"), Ready(), NotReady(reason=FAILED.reason))
        rig.answer = lambda key, probe: PASSED
        await eventually(lambda: rig.events[-1] == Ready())


# -- watchdog --------------------------------------------------------------------------------------


async def test_a_watchdog_that_is_not_fed_is_reported_again_and_again() -> None:
    async with talking(watchdog_s=0.1, start_grace_s=0.0) as (rig, _):
        said = NotAlive(reason="said no WATCHDOG=1 for 0.1 s")
        await eventually(lambda: rig.events == [said, said])


async def test_a_watchdog_that_is_fed_in_time_is_content() -> None:
    async with talking(watchdog_s=1.0, start_grace_s=0.0) as (rig, voice):
        longest_s = 0.0  # that this machine let nothing run here
        for _ in range(60):
            voice.say("WATCHDOG=1")
            before_s = rig.now_s()
            await asyncio.sleep(0.02)
            longest_s = max(longest_s, rig.now_s() - before_s)
        assert rig.events == [] or longest_s > 0.5


async def test_a_watchdog_sleeps_within_the_grace_and_wakes_when_it_is_ready() -> None:
    async with talking(notify=True, watchdog_s=0.05, start_grace_s=3600.0) as (rig, voice):
        await asyncio.sleep(0.2)
        assert rig.events == []
        voice.say("READY=1")
        await eventually(lambda: len(rig.events) >= 2)
        assert isinstance(rig.events[1], NotAlive)


async def test_food_that_lay_unread_while_we_were_held_up_counts() -> None:
    async with talking(watchdog_s=0.2, start_grace_s=0.0) as (rig, voice):
        voice.say("WATCHDOG=1")
        hold_up(0.5)
        voice.say("WATCHDOG=1")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert rig.events == []


def hold_up(for_s: float) -> None:
    """As a busy loop or a suspended machine would."""
    time.sleep(for_s)


async def test_a_process_may_trigger_its_watchdog_and_change_its_time() -> None:
    async with talking(watchdog_s=60.0, start_grace_s=0.0) as (rig, voice):
        voice.say("WATCHDOG=trigger")
        await heard(rig, NotAlive(reason="it said WATCHDOG=trigger"))
        voice.say("WATCHDOG_USEC=50000")
        await eventually(lambda: NotAlive(reason="said no WATCHDOG=1 for 0.1 s") in rig.events)


async def test_while_it_is_ended_its_words_are_heard_and_its_watchdog_is_not() -> None:
    async with talking(notify=True, watchdog_s=0.05, start_grace_s=0.0) as (rig, voice):
        rig.health.relax("u1")
        await asyncio.sleep(0.2)
        voice.say("STATUS=3 requests left")
        voice.say("EXTEND_TIMEOUT_USEC=5000000")
        voice.say("READY=1")
        voice.say("WATCHDOG=trigger")
        voice.say("STOPPING=1")
        await heard(rig, Told(text="3 requests left"), Extended(by_s=5.0), StoppingItself())


async def test_a_socket_is_closed_with_its_watch() -> None:
    before = len(os.listdir("/proc/self/fd"))
    voice = Voice()
    rig = Rig()
    rig.watch(fd=voice.fd, notify=True)
    rig.health.unwatch("u1")
    with pytest.raises(ConnectionRefusedError):
        voice.say("READY=1")
    voice.close()
    assert len(os.listdir("/proc/self/fd")) == before
