"""`formctl dev`, its parts without a cluster: what is started, and what is said of it."""

from __future__ import annotations

import asyncio
import errno
import io
from dataclasses import replace

import pytest
from msgspec import structs

from formation.model import InstanceState, InstanceStatus, ProcessType, RestartPolicy, Slot
from formctl.dev import answers, plan
from formctl.dev.console import Console
from formctl.dev.daemons import restart_delay_s
from formctl.dev.narrator import Exit, Narrator
from formctl.loglines import Line, Painter, clock
from formctl.spec import AppSpec
from formctl.views import Instance, Update

NOW_MS = 1_000_000
BACKOFF, STARTING, HEALTHY = InstanceState.BACKOFF, InstanceState.STARTING, InstanceState.HEALTHY
UNREADY = InstanceState.UNREADY


def dev_plan(**changes: object) -> plan.Plan:
    types = (ProcessType(name="web", command="a"), ProcessType(name="mail", command="b"))
    spec = AppSpec(source="Procfile", directory="/shop", types=types)
    wanted = plan.Plan(spec=spec, app="shop", quantities={"web": 12, "mail": 0})
    return replace(wanted, **changes)  # type: ignore[arg-type]


class Story:
    """One instance, web.1, as its agent reports it."""

    def __init__(self) -> None:
        self.narrator = Narrator("shop", dev_plan().foreman_port, {"web": 7.0})
        status = InstanceStatus(
            uid="u1", slot=Slot("shop", "web", 1), release=1, state=STARTING, port=5000
        )
        self.seen = Instance(status=status, host="a")
        self.exits: list[Exit] = []

    def report(self, state: InstanceState, **changes: object) -> list[str]:
        status = structs.replace(self.seen.status, state=state, **changes)  # type: ignore[arg-type]
        self.seen = replace(self.seen, status=status)
        return self.feed(Update(changed=(self.seen,)))

    def feed(self, update: Update, *, after_ms: int = 0) -> list[str]:
        told = self.narrator.feed(update, now_ms=NOW_MS + after_ms)
        self.exits += told.exits
        return list(told.lines)


def test_a_start_is_told_once_with_its_pid() -> None:
    story = Story()
    assert story.report(STARTING, attempt=1) == []
    assert story.report(STARTING, pid=42) == ["web.1 started with pid 42"]
    assert story.report(HEALTHY) == []
    assert story.feed(Update(complete=True, changed=(story.seen,))) == []


def test_a_moved_port_is_told_with_the_one_that_was_taken() -> None:
    story = Story()
    lines = story.report(STARTING, attempt=1, pid=42, port=20001)
    assert lines == ["web.1 started with pid 42 on port 20001, since 5000 is taken"]


def test_an_exit_and_the_wait_for_the_next_try_are_told() -> None:
    story = Story()
    story.report(HEALTHY, attempt=1, pid=42)
    lines = story.report(
        BACKOFF, pid=0, reason="exit 3 after 2 s", last_exit="exit 3", retry_at_ms=NOW_MS + 1_500
    )
    assert lines == ["web.1 exited with code 3", "web.1 restarting in 2s…"]
    assert story.report(BACKOFF, retry_at_ms=NOW_MS + 1_000) == []
    assert story.exits == [Exit("web.1", 3)]


def test_a_restart_between_two_reports_is_told_whole() -> None:
    story = Story()
    story.report(HEALTHY, attempt=1, pid=42)
    lines = story.report(STARTING, attempt=2, pid=43, last_exit="signal KILL")
    assert lines == [
        "web.1 killed by signal KILL",
        "web.1 restarting…",
        "web.1 started with pid 43",
    ]
    assert story.exits == [Exit("web.1", 137)]


def test_what_cannot_start_is_told_with_its_reason() -> None:
    story = Story()
    lines = story.report(BACKOFF, attempt=1, reason="command not found: x")
    assert lines == ["web.1 cannot start: command not found: x", "web.1 restarting…"]
    assert story.exits == [Exit("web.1", 127)]
    lines = story.report(STARTING, attempt=3)
    assert lines[0] == "web.1 cannot start: command not found: x"


@pytest.mark.parametrize(
    ("state", "last_exit", "code"),
    [
        (InstanceState.FINISHED, "exit 0", 0),
        (InstanceState.FAILED, "exit 3", 3),
        (InstanceState.FAILED, "out of memory (signal KILL)", 137),
    ],
)
def test_an_end_for_good_is_an_exit_and_no_restart(
    state: InstanceState, last_exit: str, code: int
) -> None:
    story = Story()
    story.report(HEALTHY, attempt=1, pid=42)
    reason = f"{last_exit} after 2 s"
    lines = story.report(state, pid=0, reason=reason, last_exit=last_exit)
    assert len(lines) == 1
    assert story.report(state) == []
    assert story.exits == [Exit("web.1", code)]
    assert story.report(STARTING, attempt=2, pid=43) == ["web.1 started with pid 43"]


def test_what_had_ended_before_does_not_stop_now() -> None:
    story = Story()
    story.report(HEALTHY, attempt=1, pid=42)
    story.report(InstanceState.FINISHED, pid=0, reason="exit 0 after 2 s", last_exit="exit 0")
    assert story.feed(Update(gone_uids=("u1",))) == []
    running = Story()
    running.report(HEALTHY, attempt=1, pid=42)
    running.report(InstanceState.STOPPING, pid=0)  # its descendants are still there
    assert running.feed(Update(gone_uids=("u1",))) == ["web.1 stopped"]


def test_a_crash_loop_is_called_one() -> None:
    story = Story()
    lines = story.report(
        BACKOFF,
        attempt=6,
        reason="exit 3 after 0.1 s (6th time in a row)",
        last_exit="exit 3",
        retry_at_ms=NOW_MS + 15_500,
        crash_looping=True,
    )
    assert lines == ["web.1 exited with code 3", "web.1 restarting in 16s… (crash loop)"]


def test_what_probes_say_is_told_when_it_changes() -> None:
    story = Story()
    story.report(HEALTHY, attempt=1, pid=42)
    failing = {"reason": "not ready: HTTP 500 from /health"}
    assert story.report(UNREADY, **failing) == ["web.1 not ready: HTTP 500 from /health"]
    assert story.report(UNREADY, told="busy") == []
    assert story.report(HEALTHY, reason="") == ["web.1 is ready again"]
    dead = "not alive: connection refused on port 5000"
    said = f"web.1 is stopped and started again: {dead}"
    assert story.report(InstanceState.RESTARTING, reason=dead) == [said]
    assert story.report(InstanceState.RESTARTING, reason=f"{dead}; still there: pid 42") == []
    ended = {"reason": f"{dead}; signal TERM after 3 s", "last_exit": "signal TERM", "pid": 0}
    lines = story.report(BACKOFF, **ended)
    assert lines == ["web.1 killed by signal TERM", "web.1 restarting…"]


def test_an_end_with_its_agent_is_no_exit_of_its_own() -> None:
    story = Story()
    story.report(HEALTHY, attempt=1, pid=42)
    lines = story.report(STARTING, attempt=2, pid=0)
    assert lines == ["web.1 ended with its agent", "web.1 restarting…"]
    assert story.exits == []


def test_a_wanted_stop_is_no_exit() -> None:
    story = Story()
    story.report(HEALTHY, attempt=1, pid=42)
    assert story.report(InstanceState.STOPPING) == []
    assert story.narrator.running() == ["web.1 (pid 42)"]
    assert story.report(InstanceState.STOPPED, pid=0, last_exit="exit 1") == ["web.1 stopped"]
    assert story.feed(Update(gone_uids=("u1",))) == []
    assert story.exits == []


def test_what_had_to_be_killed_is_told_and_the_deadline_before() -> None:
    story = Story()
    story.report(HEALTHY, attempt=1, pid=42)
    story.report(InstanceState.STOPPING)
    assert story.narrator.running(5.2) == ["web.1 (pid 42, killed in 2s)"]
    assert story.narrator.running(9.0) == ["web.1 (pid 42, killed in 0s)"]
    said = "web.1 was killed: it had not stopped after 7 s"
    assert story.feed(Update(gone_uids=("u1",)), after_ms=6_900) == [said]


def test_what_stops_within_its_grace_was_not_killed() -> None:
    story = Story()
    story.report(HEALTHY, attempt=1, pid=42)
    story.report(InstanceState.STOPPING)
    assert story.feed(Update(gone_uids=("u1",)), after_ms=3_000) == ["web.1 stopped"]


def test_the_last_ones_have_a_line_too_although_nobody_reported_their_end() -> None:
    story = Story()
    story.report(HEALTHY, attempt=1, pid=42)
    assert story.narrator.end(now_ms=NOW_MS) == ["web.1 stopped"]
    assert story.narrator.end(now_ms=NOW_MS) == []
    never = Story()
    never.report(InstanceState.WAITING, attempt=0)
    assert never.narrator.end(now_ms=NOW_MS) == []


def test_the_exit_of_what_is_no_longer_wanted_is_not_news() -> None:
    story = Story()
    story.report(HEALTHY, attempt=1, pid=42)
    story.seen = replace(story.seen, surplus=True)
    assert story.report(BACKOFF, pid=0, reason="exit 3", last_exit="exit 3") == []
    assert story.exits == []


def test_what_is_gone_without_a_word_has_stopped() -> None:
    story = Story()
    story.report(HEALTHY, attempt=1, pid=42)
    assert story.feed(Update(complete=True)) == ["web.1 stopped"]


def test_a_slot_without_a_place_gives_its_reason_once() -> None:
    story = Story()
    pending = InstanceStatus(
        uid="shop/web.2",
        slot=Slot("shop", "web", 2),
        release=1,
        state=InstanceState.PENDING,
        reason="no room",
    )
    waits = Update(changed=(Instance(status=pending),))
    assert story.feed(waits) == ["web.2 waits for a place: no room"]
    assert story.feed(waits) == []
    assert story.feed(Update(gone_uids=("shop/web.2",))) == []


def test_at_the_end_nothing_waits_for_a_place() -> None:
    story = Story()
    story.report(HEALTHY, attempt=1, pid=42)
    story.narrator.stops()
    slot = Slot("shop", "web", 1)
    pending = InstanceStatus(
        uid="shop/web.1", slot=slot, release=1, state=InstanceState.PENDING, reason="no host"
    )
    assert story.feed(Update(changed=(Instance(status=pending),))) == []


def test_other_apps_are_not_spoken_of() -> None:
    story = Story()
    status = structs.replace(story.seen.status, slot=Slot("other", "web", 1), pid=1, attempt=1)
    assert story.feed(Update(changed=(Instance(status=status),))) == []


def test_agents_have_names_and_disjoint_ports_of_their_own() -> None:
    programs = plan.agents("py", "/run/x", dev_plan(agents=3))
    assert [program.name for program in programs] == ["agent a", "agent b", "agent c"]
    words = [program.argv for program in programs]
    ranges = [argv[argv.index("--port-range") + 1] for argv in words]
    assert ranges == ["20000-20999", "21000-21999", "22000-22999"]
    assert len({argv[argv.index("--state-dir") + 1] for argv in words}) == 3
    assert all("--inherit-env" in argv for argv in words)
    assert all(argv[argv.index("--foreman-ports") + 1] == "5000" for argv in words)
    assert "--foreman-ports" not in plan.agents("py", "/run/x", dev_plan(port_base=0))[0].argv


def test_the_coordinator_listens_where_the_agents_call() -> None:
    argv = plan.coordinator("py", "/run/x").argv
    agent = plan.agents("py", "/run/x", dev_plan())[0].argv
    assert argv[argv.index("--listen") + 1] == agent[agent.index("--coordinator") + 1]
    assert argv[argv.index("--etcd") + 1] == "embedded"


def test_daemons_get_the_users_environment_without_settings_for_other_daemons() -> None:
    environ = {"PATH": "/bin", "FORMATION_AGENT_NAME": "x", "FORMATION_COORDINATOR": "y"}
    assert plan.environment(environ) == {"PATH": "/bin"}
    assert plan.environment({"GRPC_VERBOSITY": "NONE"}) == {}
    assert plan.environment({"GRPC_VERBOSITY": "DEBUG"}) == {"GRPC_VERBOSITY": "DEBUG"}


@pytest.mark.parametrize(
    ("type_name", "ordinal", "port"),
    [("web", 1, 5000), ("web", 100, 5099), ("web", 101, 0), ("mail", 2, 5101), ("later", 1, 0)],
)
def test_foreman_ports_are_counted_by_type_and_instance(
    type_name: str, ordinal: int, port: int
) -> None:
    assert dev_plan().foreman_port(type_name, ordinal) == port
    assert dev_plan(port_base=0).foreman_port(type_name, ordinal) == 0


def test_a_grace_that_is_given_holds_for_every_type() -> None:
    types = dev_plan().spec.types
    adapted = plan.adapted(types, grace_s=2.0, exit_on="")
    assert [spec.stop_grace_s for spec in adapted] == [2.0, 2.0]
    assert plan.adapted(types, grace_s=None, exit_on="") == types


@pytest.mark.parametrize("exit_on", ["any", "failure"])
def test_what_ends_everything_with_its_end_is_never_started_once_more(exit_on: str) -> None:
    adapted = plan.adapted(dev_plan().spec.types, grace_s=None, exit_on=exit_on)
    assert {spec.restart for spec in adapted} == {RestartPolicy.NEVER}


def test_a_daemon_that_dies_again_and_again_is_started_ever_more_slowly() -> None:
    assert [restart_delay_s(deaths) for deaths in (1, 2, 3, 5, 6, 1000)] == [
        0.5, 1.0, 2.0, 8.0, 10.0, 10.0,
    ]  # fmt: skip


def test_the_hint_is_about_a_type_of_which_something_runs() -> None:
    assert dev_plan(quantities={"web": 0, "mail": 2}).suggestions[1:] == (
        "formctl scale mail+1",
        "formctl logs -f mail",
    )
    assert dev_plan(quantities={"web": 0}).suggestions == ("formctl ps", "formctl scale web=1")


def test_types_that_are_stopped_by_kill_have_no_grace() -> None:
    types = (ProcessType(name="web", command="a", stop_signal="KILL"), *dev_plan().spec.types[1:])
    spec = replace(dev_plan().spec, types=types)
    assert dev_plan(spec=spec).graces == {"mail": types[1].stop_grace_s}


async def test_an_address_is_told_only_when_something_listens_there() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        said = await answers.sentence("web.1", port)
        assert said == f"web.1 answers at http://127.0.0.1:{port}"
    said = await answers.sentence("web.1", port, deadline_s=0.0)
    assert said == f"web.1 has port {port} (nothing listens there yet)"


class GonePipe(io.BytesIO):
    def write(self, raw: object) -> int:
        raise BrokenPipeError


def test_output_has_foremans_form_and_counts_lines() -> None:
    out = io.BytesIO()
    painter = Painter(colour=False, terminal=False, names=dev_plan().slots)
    console = Console(out, painter, now_us=lambda: 0)
    console.system("a\nb")
    console.lines([Line(at_us=0, sequence=0, name="web.1", text=b"\xff")])
    time = clock(0).encode()
    assert out.getvalue() == (
        time + b" system | a\n" + time + b" system | b\n" + time + b" web.1  | \xff\n"
    )
    assert console.lines_written == 1


class ClosedWindow(io.BytesIO):
    def write(self, data: object) -> int:
        raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("out", [GonePipe(), ClosedWindow()])
def test_a_reader_that_has_gone_ends_the_session_once(out: io.BytesIO) -> None:
    gone: list[str] = []
    painter = Painter(colour=False, terminal=False)
    console = Console(out, painter, now_us=lambda: 0, on_gone=lambda: gone.append("gone"))
    console.system("a")
    console.system("b")
    assert gone == ["gone"]
