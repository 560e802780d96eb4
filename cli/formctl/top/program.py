"""The terminal: prompt_toolkit reads keys, knows the size, sends only what differs from what is on
the screen, and puts the terminal back. What is shown and what keys do is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import deque
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from prompt_toolkit.application import Application
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import FormattedTextControl, Layout, Window
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.styles import Style

from formation import runtime
from formation.discovery import Target
from formctl.client import Client
from formctl.errors import INTERRUPTED, CommandError
from formctl.top import doing, draw, texts
from formctl.top.feeding import Feed, first_picture
from formctl.top.keys import Before, closed, pressed
from formctl.top.look import (
    Listing,
    Look,
    Mode,
    Question,
    What,
    Wish,
    app_of,
    listing,
    settled,
    slot_wish,
)
from formctl.top.seen import Item, Seen, key_of
from formctl.views import Instance

# Ages and countdowns go on although nothing changed; a burst of news is drawn once.
_TICK_S, _SETTLE_S = 1.0, 0.2
# An Esc alone is told from the keys that begin with it by waiting so long; ssh may be slow.
_ESCAPE_S = 0.1
_LOG_LINES_MAX = 2000
_TERMINATED = 128 + signal.SIGTERM
_ENDED_BY = {signal.SIGTERM: _TERMINATED, signal.SIGHUP: 128 + signal.SIGHUP}

_STYLE = Style.from_dict(
    {
        "head": "bold",
        "tab": "",
        "tab.on": "reverse",
        "column": "bold underline",
        "chosen": "reverse",
        "good": "ansigreen",
        "warn": "ansiyellow",
        "bad": "ansired bold",
        "info": "ansicyan",
        "dim": "ansibrightblack",
        "note": "",
        "keys": "reverse",
        "ask": "bold",
        "message": "ansigreen",
        "message.bad": "ansired bold",
    }
)


class Program:
    def __init__(self, target: Target, seen: Seen, look: Look, *, colour: bool) -> None:
        self._target = target
        self._seen = seen
        self._look = look
        self._listing = Listing()
        self._feed = Feed(target, seen)
        self._group: asyncio.TaskGroup | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._log: deque[str] = deque(maxlen=_LOG_LINES_MAX)
        self._asked_for: tuple[str, ...] = ()
        self._app = self._application(colour=colour)

    def _application(self, *, colour: bool) -> Application[int]:
        keys = KeyBindings()
        keys.add(Keys.Any, eager=True)(self._press)
        control = FormattedTextControl(self._text, focusable=True, show_cursor=False)
        app: Application[int] = Application(
            layout=Layout(Window(control, always_hide_cursor=True)),
            key_bindings=keys,
            style=_STYLE,
            full_screen=True,
            color_depth=None if colour else ColorDepth.DEPTH_1_BIT,
        )
        app.ttimeoutlen = _ESCAPE_S
        app.timeoutlen = _ESCAPE_S
        return app

    async def run(self, client: Client) -> int:
        """Until it is left; the exit code. The terminal is as before, whatever ends it."""
        await first_picture(client, self._seen)
        await client.close()
        self._feed.news()
        self._relist()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._broken)
        async with asyncio.TaskGroup() as group:
            self._group = group
            others = [group.create_task(self._feed.run()), group.create_task(self._redraw())]
            try:
                return await self._app.run_async(
                    pre_run=self._heed_signals, set_exception_handler=False
                )
            finally:
                for task in [*others, self._fetching]:
                    if task is not None:
                        task.cancel()

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number, code in _ENDED_BY.items():
            loop.add_signal_handler(number, self._end, code)

    def _end(self, code: int) -> None:
        if self._app.future is not None and not self._app.future.done():
            self._app.exit(result=code)

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A defect of ours in a key or in drawing: told when the terminal is as it was."""
        error = context.get("exception")
        if error is None:
            return
        if self._app.future is not None and not self._app.future.done():
            self._app.exit(exception=error)

    # -- drawing -----------------------------------------------------------------------------------

    def _size(self) -> draw.Size:
        size = self._app.output.get_size()
        return draw.Size(max(1, size.columns), max(1, size.rows))

    def _relist(self) -> None:
        self._listing = listing(self._look, self._seen, self._listing)
        self._look = settled(self._look, self._listing, self._size().body)
        self._feed.app = app_of(self._look)
        if self._feed.view is not self._look.view:
            self._feed.view = self._look.view
            self._feed.turned.set()
            self._feed.turned.clear()

    def _text(self) -> StyleAndTextTuples:
        self._relist()
        size, now_ms = self._size(), runtime.now_ms()
        self._fill_panel(size, now_ms)
        found: StyleAndTextTuples = []
        for line in draw.screen(self._look, self._seen, self._listing, size, now_ms):
            if found:
                found.append(("", "\n"))
            found += [(f"class:{kind}" if kind else "", text) for kind, text in line]
        return found

    async def _redraw(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await self._feed.changed.wait()
            self._feed.changed.clear()
            self._app.invalidate()
            await asyncio.sleep(_SETTLE_S)

    def _fill_panel(self, size: draw.Size, now_ms: int) -> None:
        """What is live of it is made anew each time."""
        panel = self._look.panel
        if panel is None or panel.key in ("", "plan"):
            return
        if panel.key == "logs":
            lines = list(self._log)
        else:
            item = self._item(panel.key)
            if item is None:
                head: tuple[str, ...] = ("it has gone",)
            else:
                head = texts.about(item, self._seen, now_ms, size.columns)
                panel = replace(panel, title=texts.title(item))
            lines = [*head, *self._asked_for]
        wrapped = [part for line in lines for part in draw.wrapped(line, size.columns)]
        self._look = replace(self._look, panel=replace(panel, lines=tuple(wrapped)))

    def _item(self, key: str) -> Item | None:
        place = self._listing.places.get(key)
        if place is not None:
            return self._listing.items[place]
        found = (item for item in self._seen.items(self._look.view) if key_of(item) == key)
        return next(found, None)

    # -- keys --------------------------------------------------------------------------------------

    def _press(self, event: KeyPressEvent) -> None:
        (press,) = event.key_sequence
        key = press.key.value if isinstance(press.key, Keys) else press.key
        in_panel = self._look.panel is not None
        rows = self._size().panel if in_panel else self._size().body
        at = Before(shown=self._listing, rows=rows)
        self._look, wish = pressed(self._look, key, at, data=press.data)
        if wish is not None:
            self._do(wish)

    def _do(self, wish: Wish) -> None:
        if wish.what is What.QUIT:
            self._end(INTERRUPTED if wish.words else 0)
        elif wish.what is What.SUSPEND:
            self._app.suspend_to_background()
        elif wish.what is What.CLOSE:
            self._fetch(None)
        else:
            work = {
                What.DETAILS: self._details,
                What.LOGS: self._logs,
                What.PLAN: self._plan,
                What.RESTART: self._restart,
                What.SCALE: self._scale,
            }[wish.what]
            self._fetch(work(wish))

    def _fetch(self, work: Coroutine[Any, Any, None] | None) -> None:
        """One at a time: what was asked for before is not wanted any more."""
        assert self._group is not None, "it runs"
        if self._fetching is not None:
            self._fetching.cancel()
        self._fetching = self._group.create_task(self._told(work)) if work else None

    async def _told(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except CommandError as error:
            self._look = self._look.saying(" ".join(str(error).split()), bad=True)
        self._feed.changed.set()

    # -- what keys ask for -------------------------------------------------------------------------

    async def _details(self, wish: Wish) -> None:
        self._asked_for = ()
        item = self._item(wish.key)
        if not isinstance(item, Instance):
            return
        slot = slot_wish(wish.what, item)
        found = await doing.settings_of(self._target, slot, item.status.release)
        self._asked_for = tuple(found)
        self._feed.changed.set()
        self._asked_for = (*found, "", *await doing.why(self._target, slot))

    async def _logs(self, wish: Wish) -> None:
        self._log.clear()

        def write(lines: list[str]) -> None:
            self._log.extend(lines)
            self._feed.changed.set()

        await doing.logs(self._target, wish, write)

    async def _plan(self, wish: Wish) -> None:
        try:
            lines, revision = await doing.plan(self._target, wish)
        except CommandError:
            self._look = closed(self._look)
            raise
        panel = self._look.panel
        if panel is None or panel.key != "plan":
            return  # it was left meanwhile
        columns = self._size().columns
        wrapped = tuple(part for line in lines for part in draw.wrapped(line, columns))
        question = Question(
            text=f"scale {wish.app} {wish.words}?",
            wish=replace(wish, what=What.SCALE, revision=revision),
        )
        panel = replace(panel, lines=wrapped)
        self._look = replace(self._look, mode=Mode.ASK, panel=panel, question=question)

    async def _scale(self, wish: Wish) -> None:
        self._look = self._look.saying(await doing.scale(self._target, wish))

    async def _restart(self, wish: Wish) -> None:
        self._look = self._look.saying(await doing.restart(self._target, wish))
