"""`formctl top` on a terminal of 80 columns and 24 rows, looked at as a person would."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from eventually import eventually
from fake_control import FakeControl, log_line
from formctl_program import Formctl
from screen import Terminal, terminal

from formation import runtime
from formation.v1 import control_pb2, types_pb2

Context = grpc.aio.ServicerContext[Any, Any]


class TopControl(FakeControl):
    """Plans and explains, and tells one event; `refused`: what is said to every change."""

    refused = ""

    async def Plan(  # noqa: N802
        self, request: control_pb2.PlanRequest, context: Context
    ) -> control_pb2.PlanResponse:
        self.requests.append(request)
        step = control_pb2.PlannedStep(kind="start", type="web", ordinal=9, to_host="a")
        return control_pb2.PlanResponse(revision=41, steps=[step], totals={"start": 1})

    async def Explain(  # noqa: N802
        self, request: control_pb2.ExplainRequest, context: Context
    ) -> control_pb2.ExplainResponse:
        view = next(iter(self.instances.values()))
        return control_pb2.ExplainResponse(instance=view, reason="the only one with room")

    async def WatchEvents(  # noqa: N802
        self, request: control_pb2.WatchEventsRequest, context: Context
    ) -> AsyncIterator[control_pb2.EventsResponse]:
        event = control_pb2.Event(
            number=1, at_ms=runtime.now_ms(), what="host.silent", subject="a", host="a",
            text="no word \x1b[2J for 5 s",
        )  # fmt: skip
        yield control_pb2.EventsResponse(events=[event])
        if request.follow:
            await asyncio.Event().wait()

    async def Scale(  # noqa: N802
        self, request: control_pb2.ScaleRequest, context: Context
    ) -> control_pb2.ScaleResponse:
        if self.refused:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, self.refused)
        return await super().Scale(request, context)


@pytest.fixture
def fake() -> TopControl:
    return TopControl()


@asynccontextmanager
async def top(formctl: Formctl, *words: str, **size: int) -> AsyncIterator[Terminal]:
    program = (sys.executable, "-m", "formctl", "top", *words)
    async with terminal(program, formctl.environ, str(formctl.project), **size) as screen:
        await screen.shows("? help")
        yield screen


async def lines_shown(screen: Terminal, count: int) -> None:
    try:
        await eventually(lambda: len(names(screen)) == count)
    except AssertionError:
        raise AssertionError(f"not {count} lines:\n{screen.text}") from None


def names(screen: Terminal) -> list[str]:
    """Of the instances in sight, from above."""
    return re.findall(r"^shop/(\S+)", screen.text, re.MULTILINE)


async def test_it_shows_what_runs_where_and_changes_with_it(
    formctl: Formctl, fake: TopControl
) -> None:
    fake.put("shop", {"web": 2, "worker": 1})
    async with top(formctl) as screen:
        await screen.shows("3 instances: 3 healthy", "2 hosts")
        assert names(screen) == ["web.1", "web.2", "worker.1"]
        assert "INSTANCE" in screen.lines[2]
        fake.report("web.2", lambda view: setattr(view.status, "told", "queue \x1b[31mfull\x07"))
        await screen.shows(r"queue \x1b")
        fake.put("shop", {"web": 4, "worker": 1})
        await screen.shows("5 instances: 5 healthy")
        screen.press("q")
        assert await screen.ended() == 0


async def test_each_key_shows_its_view(formctl: Formctl, fake: TopControl) -> None:
    fake.put("shop", {"web": 2, "worker": 0})
    async with top(formctl) as screen:
        screen.press("2")
        await screen.shows("HOST", "ADDRESS", "127.0.0.1")
        screen.press("3")
        await screen.shows("FORMATION", "web=2 worker=0", "ROLLOUT")
        screen.press("4")
        await screen.shows("host.silent", r"no word \x1b[2J for 5 s")
        screen.press("?")
        await screen.shows("this", "Ctrl-Z")
        screen.press("q", "1")
        await screen.shows("shop/web.1")


async def test_lines_are_sorted_by_any_column_in_both_directions(
    formctl: Formctl, fake: TopControl
) -> None:
    fake.put("shop", {"web": 3, "worker": 0})
    for number, view in enumerate(fake.instances.values()):
        uid, share = view.status.uid, (0.1, 0.9, 0.5)[number]
        fake.usage[uid] = types_pb2.InstanceUsage(uid=uid, cpu_share=share)
    async with top(formctl, "--sort", "cpu") as screen:
        await screen.shows("CPU▼", "90%")
        await eventually(lambda: names(screen) == ["web.2", "web.3", "web.1"])
        screen.press("i")
        await eventually(lambda: names(screen) == ["web.1", "web.3", "web.2"])
        screen.press("<")
        await screen.shows("PORT▲")


async def test_a_filter_is_typed_kept_and_taken_away(formctl: Formctl, fake: TopControl) -> None:
    fake.put("shop", {"web": 3, "worker": 2})
    async with top(formctl) as screen:
        screen.press("/", "work")
        await eventually(lambda: names(screen) == ["worker.1", "worker.2"])
        screen.press("enter")
        await screen.shows("2 of 5", "filter: work")
        screen.press("/", "er host:b", "enter")
        await eventually(lambda: all(" b " in screen.line(n) for n in names(screen)))
        assert names(screen)
        screen.press("escape")
        await lines_shown(screen, 5)
        screen.press("/", "nowhere", "enter")
        await screen.shows("nothing has all of these words")


async def test_details_tell_everything_and_why(formctl: Formctl, fake: TopControl) -> None:
    fake.put("shop", {"web": 2, "worker": 0})
    async with top(formctl) as screen:
        screen.press("down", "enter")
        await screen.shows("shop/web.2", "port", "the only one with room", "command    ./web")
        screen.press("escape")
        await screen.shows("INSTANCE")
        # Its line is still the chosen one.
        screen.press("r")
        await screen.shows("restart shop/web.2? y/n")


async def test_logs_of_the_chosen_one_are_followed(formctl: Formctl, fake: TopControl) -> None:
    fake.put("shop", {"web": 1, "worker": 0})
    fake.history = [log_line("web.1", b"before", 1)]
    async with top(formctl) as screen:
        screen.press("l")
        await screen.shows("logs of shop/web.1", "before")
        await eventually(lambda: fake.log_readers == 1)
        for number in range(40):
            fake.log(log_line("web.1", b"line %d \x1b]0;title\x07" % number, 2 + number))
        await screen.shows(r"line 39 \x1b]0;title")
        assert "before" not in screen.text
        screen.press("g")
        await screen.shows("before")
        screen.press("q")
        await eventually(lambda: fake.log_readers == 0)


async def test_a_restart_is_asked_for_and_a_no_changes_nothing(
    formctl: Formctl, fake: TopControl
) -> None:
    fake.put("shop", {"web": 2, "worker": 0})
    before = set(fake.instances)
    async with top(formctl) as screen:
        screen.press("r")
        await screen.shows("restart shop/web.1? y/n")
        screen.press("n")
        await screen.shows("nothing was changed")
        assert set(fake.instances) == before
        screen.press("r", "y")
        await screen.shows("restarting web.1")
        assert len(before - set(fake.instances)) == 1


async def test_scale_shows_what_would_happen_before_it_does_it(
    formctl: Formctl, fake: TopControl
) -> None:
    fake.put("shop", {"web": 2, "worker": 0})
    async with top(formctl) as screen:
        screen.press("s")
        await screen.shows("scale shop: web=")
        screen.press("x", "enter")
        await screen.shows("web=x")
        screen.press("\x7f", "9", "enter")
        await screen.shows("plan of shop: web=9", "start   web.9  a", "scale shop web=9? y/n")
        assert fake.apps["shop"].app.formation["web"] == 2
        screen.press("y")
        await screen.shows("shop: web=9", "9 instances: 9 healthy")
        (asked,) = [r for r in fake.requests if isinstance(r, control_pb2.ScaleRequest)]
        assert asked.if_revision == 41


async def test_who_may_not_is_told_so(formctl: Formctl, fake: TopControl) -> None:
    fake.put("shop", {"web": 2, "worker": 0})
    fake.refused = "viewer ann may not scale"
    async with top(formctl) as screen:
        screen.press("s", "5", "enter")
        await screen.shows("y/n")
        screen.press("y")
        await screen.shows("viewer ann may not scale")
        assert fake.apps["shop"].app.formation["web"] == 2


async def test_it_fits_what_the_terminal_becomes(formctl: Formctl, fake: TopControl) -> None:
    fake.put("shop", {"web": 30, "worker": 0})
    async with top(formctl) as screen:
        await lines_shown(screen, 19)
        assert max(map(len, screen.lines)) <= 80
        screen.resize(40, 10)
        await lines_shown(screen, 5)
        assert "q" in screen.lines[-1] or "help" in screen.lines[-1]
        screen.press("G")
        await screen.shows("shop/web.30")
        screen.resize(120, 40)
        await lines_shown(screen, 30)
        screen.resize(12, 3)
        screen.resize(80, 24)
        await lines_shown(screen, 19)


async def test_a_coordinator_that_goes_is_told_of_and_comes_back(
    formctl: Formctl, fake: TopControl, home: Any
) -> None:
    socket = f"unix:{home}/c.sock"
    formctl.environ["FORMATION_COORDINATOR"] = socket
    fake.put("shop", {"web": 2, "worker": 0})
    async with _lost_and_found(formctl, fake, socket) as screen:
        await screen.hides("not live")
        fake.put("shop", {"web": 3, "worker": 0})
        await screen.shows("3 instances: 3 healthy")


@asynccontextmanager
async def _lost_and_found(
    formctl: Formctl, fake: TopControl, socket: str
) -> AsyncIterator[Terminal]:
    first = fake.serving(socket)
    await first.__aenter__()
    async with top(formctl) as screen:
        await first.__aexit__(None, None, None)
        await screen.shows("not live, trying again", "shop/web.1")
        async with fake.serving(socket):
            yield screen


@pytest.mark.parametrize(
    ("ending", "code"),
    [("ctrl-c", 130), (signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
)
async def test_the_terminal_is_put_back_whatever_ends_it(
    formctl: Formctl, fake: TopControl, ending: str | signal.Signals, code: int
) -> None:
    fake.put("shop", {"web": 1, "worker": 0})
    async with top(formctl) as screen:
        await screen.shows("shop/web.1")
        if isinstance(ending, str):
            screen.press(ending)
        else:
            screen.process.send_signal(ending)
        assert await screen.ended() == code


async def test_a_defect_of_ours_puts_the_terminal_back_too(
    formctl: Formctl, fake: TopControl
) -> None:
    fake.put("shop", {"web": 1, "worker": 0})
    code = (
        "import formctl.top.draw as d; from formctl.__main__ import run; "
        "d._KEYS = {k: v for k, v in d._KEYS.items() if k.name != 'ASK'}; "
        "raise SystemExit(run(['top']))"
    )
    program = (sys.executable, "-c", code)
    async with terminal(program, formctl.environ, str(formctl.project)) as screen:
        await screen.shows("shop/web.1")
        screen.press("r")
        assert await screen.ended() == 1
        await screen.shows("KeyError")


async def test_names_that_are_too_long_or_wide_stay_in_their_columns(
    formctl: Formctl, fake: TopControl
) -> None:
    fake.put("shop", {"web": 1, "worker": 0})

    def hostile(view: control_pb2.InstanceView) -> None:
        view.host = "h" * 50 + "\x1b[5;5H"
        view.status.told = "漢字" * 40 + "\n\rtwo"

    fake.report("web.1", hostile)
    async with top(formctl) as screen:
        await screen.shows("漢字", "hhh")
        assert all(len(line) <= 80 for line in screen.lines)
        assert len([line for line in screen.lines if "shop/web.1" in line]) == 1
        assert "two" not in screen.text


async def test_without_a_terminal_it_prints_what_there_is_once(
    formctl: Formctl, fake: TopControl
) -> None:
    fake.put("shop", {"web": 2, "worker": 1})
    done = await formctl("top", "--filter", "web")
    assert done.code == 0
    assert "\x1b" not in done.out
    head, titles, *lines = done.out.splitlines()
    assert head == "2 hosts, 3 instances: 3 healthy"
    assert titles.split()[:3] == ["INSTANCE", "STATE", "HOST"]
    assert [line.split()[0] for line in lines] == ["shop/web.1", "shop/web.2"]
    done = await formctl("top", "--view", "events")
    assert "host.silent" in done.out
    done = await formctl("top", "--sort", "colour")
    assert (done.code, done.out) == (2, "")
    assert "there is instance, state" in done.err


async def test_no_colour_where_none_is_wanted(formctl: Formctl, fake: TopControl) -> None:
    fake.put("shop", {"web": 1, "worker": 0})
    formctl.environ["NO_COLOR"] = "1"
    async with top(formctl) as screen:
        await screen.shows("healthy")
        assert not re.search(rb"\x1b\[[0-9;]*3[0-9]m", bytes(screen.raw))
