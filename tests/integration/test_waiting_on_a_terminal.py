"""Where people wait, the last line says how far it is; programs and dumb terminals get lines."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Mapping

from eventually import eventually
from fake_control import FakeControl
from formctl_program import Formctl
from screen import terminal

ERASE = b"\x1b[K"


def program(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "formctl", *words)


async def test_a_bar_grows_below_the_lines_and_is_gone_at_the_end(
    formctl: Formctl, fake: FakeControl
) -> None:
    fake.put("shop", {"web": 1})
    fake.hold = True
    words = program("scale", "web=3")
    async with terminal(words, formctl.environ, str(formctl.project)) as screen:
        await screen.shows("[--------------------] 0/2", "web.2 starting, web.3 starting")
        first = next(view for view in fake.instances.values() if view.status.ordinal == 2)
        fake.advance(first)
        await screen.shows("web.2 healthy", "[##########----------] 1/2")
        lines = screen.lines
        assert lines.index(screen.line("web.2 healthy")) < lines.index(screen.line("1/2"))
        fake.release_held()
        assert await screen.ended() == 0
        await screen.shows("web=3: 3 healthy in ")
        assert "[####" not in screen.text


async def test_it_fits_a_narrow_terminal(formctl: Formctl, fake: FakeControl) -> None:
    fake.put("shop", {"web": 1})
    fake.hold = True
    words = program("scale", "web=30")
    async with terminal(words, formctl.environ, str(formctl.project), columns=30) as screen:
        await screen.shows("0/29")
        await screen.shows("1s")
        assert sum("0/29" in line for line in screen.lines) == 1
        screen.process.send_signal(signal.SIGINT)
        assert await screen.ended() == 130
        await screen.shows("interrupted: the change itself")


async def raw_output(formctl: Formctl, fake: FakeControl, more: Mapping[str, str]) -> bytes:
    fake.put("shop", {"web": 1})
    fake.hold = True
    words = program("scale", "web=2")
    environ = {**formctl.environ, **more}
    async with terminal(words, environ, str(formctl.project)) as screen:
        await eventually(lambda: len(fake.instances) == 2)
        fake.release_held()
        await screen.shows("web=2: 2 healthy in ")
        return bytes(screen.raw)


async def test_a_dumb_terminal_gets_lines_alone(formctl: Formctl, fake: FakeControl) -> None:
    assert b"\x1b" not in await raw_output(formctl, fake, {"TERM": "dumb"})


async def test_the_bar_has_no_colours(formctl: Formctl, fake: FakeControl) -> None:
    assert not re.search(rb"\x1b\[[0-9;]*m", await raw_output(formctl, fake, {"NO_COLOR": "1"}))


async def test_a_pipe_gets_lines_alone(formctl: Formctl, fake: FakeControl) -> None:
    fake.put("shop", {"web": 1})
    done = await formctl("scale", "web=3")
    assert "\x1b" not in done.out + done.err
    assert "\r" not in done.out + done.err
    assert done.out.splitlines()[-1].startswith("web=3: 3 healthy in ")


async def test_a_deletion_says_how_far_it_is(formctl: Formctl, fake: FakeControl) -> None:
    fake.put("shop", {"web": 4})
    fake.hold = True
    words = program("delete", "shop", "--yes")
    async with terminal(words, formctl.environ, str(formctl.project)) as screen:
        await screen.shows("shop deleted", "0/4", "web.1 leaving")
        fake.release_held()
        assert await screen.ended() == 0
        await screen.shows("none left")


async def test_colours_are_chosen_before_the_command_and_after_it(
    formctl: Formctl, fake: FakeControl
) -> None:
    fake.put("shop", {"web": 1})
    green = "\x1b[32m"
    assert green not in (await formctl("ps")).out
    assert green in (await formctl("--color", "always", "ps")).out
    assert green in (await formctl("ps", "--color", "always")).out
    assert green in (await formctl("ps", FORCE_COLOR="1")).out
    assert green not in (await formctl("--color", "never", "ps", FORCE_COLOR="1")).out
    assert (await formctl("--color", "pink", "ps")).code == 2


async def test_ps_watch_redraws_in_place_and_says_what_changed(
    formctl: Formctl, fake: FakeControl
) -> None:
    fake.put("shop", {"web": 40})
    words = program("ps", "--watch")
    async with terminal(words, formctl.environ, str(formctl.project)) as screen:
        # Of what does not fit, how much there is.
        await screen.shows("INSTANCE", "web.1 ", "and 19 more; formctl top scrolls")
        assert len([line for line in screen.lines if line.startswith("web.")]) == 21
        assert b"\x1b[2J" not in screen.raw
        fake.report("web.3", lambda view: setattr(view.status, "told", "hello"))
        await screen.shows("hello", "web.3 healthy on b: hello")
        screen.resize(60, 10)
        await screen.shows("and 35 more")
        screen.process.send_signal(signal.SIGINT)
        assert await screen.ended() == 130


async def test_a_rollout_is_waited_for(formctl: Formctl, fake: FakeControl) -> None:
    fake.put("shop", {"web": 2})
    done = await formctl("rollout", "--wait")
    assert done.code == 0
    assert done.out.startswith("web=2: 2 healthy in ")
    fake.report("web.2", lambda view: setattr(view, "current", False))
    done = await formctl("rollout", "--wait", "--timeout", "0.2")
    assert done.code == 1
    assert "web.2 healthy on" in done.err
    assert (await formctl("rollout", "--wait", "-o", "json")).code == 2
    assert (await formctl("rollout", "--wait", "pause")).code == 2
