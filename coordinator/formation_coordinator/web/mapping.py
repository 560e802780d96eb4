"""The page's map, kept up to date: one picture and one stream of changes for all browsers.

What changed is gathered, encoded once, and kept for a while. A browser has no queue: it stands
somewhere in what is kept, and when it has fallen behind that, it is told to look anew.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from formation_coordinator.live import LiveWorld
from formation_coordinator.plan import BRAKE, Plan
from formation_coordinator.web.album import Album
from formation_coordinator.web.atlas import Atlas, left_alone_record
from formation_coordinator.world import World

log = logging.getLogger(__name__)

# At most so often something is told; and no more than a fifth of the time goes into finding out
# what, unless that would be seldom.
TELLS_EVERY_S, RESTS, TELLS_AT_LEAST_EVERY_S = 0.2, 4.0, 1.0
# Hosts become lost, and views old, without a word.
LOOKS_EVERY_S = 1.0
PLANS_EVERY_S, PLAN_RESTS = 1.0, 10.0
BEATS_EVERY_S = 5.0
# A picture serves whoever comes soon after; they are told what changed since, too.
PICTURE_GOOD_S = 2.0
_DIGITS_MAX = 15
BEAT = b"event: beat\ndata: {}\n\n"
ANEW = b"event: anew\ndata: {}\n\n"


class Mapping:
    """`pending`: the plan that says why something has no host. `said`: what is wrong as a whole.
    `new_id`: names this coordinator's numbers, which mean nothing to another."""

    def __init__(
        self,
        *,
        live: LiveWorld,
        pending: Callable[[World], Awaitable[Plan]],
        said: Callable[[], dict[str, Any]],
        clock: Callable[[], float],
        now_ms: Callable[[], int],
        new_id: Callable[[], str],
        replace_after_s: float,
    ) -> None:
        self._live, self._pending, self._said = live, pending, said
        self._clock, self._now_ms, self._new_id = clock, now_ms, new_id
        self._replace_after_s = replace_after_s
        self._plan, self._plan_after_s = Plan(), 0.0
        self._news: set[asyncio.Event] = set()
        self._drawing = asyncio.Lock()  # the atlas is looked at, or changed
        self._begin()

    def _begin(self) -> None:
        self._id, self._atlas, self.album = self._new_id(), Atlas(), Album()
        self._picture: tuple[int, float, bytes] | None = None

    async def run(self) -> None:
        """For ever."""
        hint = self._live.subscribe()
        while True:
            hint.clear()
            began_s = self._clock()
            await self._look()
            took_s = self._clock() - began_s
            await asyncio.sleep(max(TELLS_EVERY_S, min(TELLS_AT_LEAST_EVERY_S, RESTS * took_s)))
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOKS_EVERY_S):
                    await hint.wait()

    async def _look(self) -> None:
        world = self._live.world
        plan = await self._planned(world)
        if self._atlas.worn_out:
            self._begin()
        at_ms = self._now_ms()
        # In a thread: the first look at a hundred thousand takes a second.
        async with self._drawing:
            step = await asyncio.to_thread(
                self._atlas.step,
                world,
                plan,
                said={"w": self._warnings(plan)},
                now_s=self._clock(),
                wall_ms=at_ms,
                replace_after_s=self._replace_after_s,
            )
            if step:
                number = self.album.number + 1
                self.album.add(at_ms, _json({"n": number, "t": at_ms, **step.record()}))
        if step:
            for news in self._news:
                news.set()
        if self.album.wants_picture(at_ms):
            number, _, whole = await self._drawn(fresh=True)
            if number == self.album.number:
                self.album.begin(at_ms, whole)

    async def _planned(self, world: World) -> Plan:
        """Not for every change: the first look at a hundred thousand takes a second."""
        began_s = self._clock()
        if began_s >= self._plan_after_s:
            self._plan = await self._pending(world)
            rest_s = max(PLANS_EVERY_S, PLAN_RESTS * (self._clock() - began_s))
            self._plan_after_s = self._clock() + rest_s
        return self._plan

    def _warnings(self, plan: Plan) -> dict[str, Any]:
        brake = BRAKE if plan.brake and not plan.held else ""
        alone = left_alone_record(plan)
        found = {**self._said(), "held": plan.held, "brake": brake, "alone": alone}
        return {name: value for name, value in found.items() if value}

    # ------------------------------------------------------------------ what browsers get

    async def whole(self) -> bytes:
        """Everything, packed with gzip: a length, JSON of that length, then the columns."""
        return (await self._drawn(fresh=False))[2]

    async def _drawn(self, *, fresh: bool) -> tuple[int, float, bytes]:
        """With its number and when it was drawn. In a thread; one at a time."""
        async with self._drawing:
            made, now_s = self._picture, self._clock()
            number, album = self.album.number, self.album
            good_s = 0.0 if fresh else PICTURE_GOOD_S
            if made and (made[0] == number or (made[1] + good_s > now_s and album.after(made[0]))):
                return made
            head = {
                "id": self._id, "n": number, "t": self._now_ms(),
                "since_ms": album.since_ms or self._now_ms(), **self._atlas.head(),
            }  # fmt: skip
            columns = self._atlas.columns()
            whole = await asyncio.to_thread(_packed, head, columns)
            made = number, now_s, whole
            if album is self.album:
                self._picture = made
            return made

    async def changes(self, after: str) -> AsyncIterator[bytes]:
        """Server-sent events from that id on; until one has to look anew."""
        name, _, number = after.rpartition("-")
        seen = int(number) if number.isdecimal() and len(number) <= _DIGITS_MAX else -1
        news = asyncio.Event()
        self._news.add(news)
        try:
            yield BEAT
            while True:
                news.clear()
                found = self.album.after(seen) if name == self._id else None
                if found is None:
                    yield ANEW
                    return
                if found:
                    seen = found[-1].number
                    yield b"".join(_event(name, item.number, item.data) for item in found)
                    continue
                try:
                    async with asyncio.timeout(BEATS_EVERY_S):
                        await news.wait()
                except TimeoutError:
                    yield BEAT
        finally:
            self._news.discard(news)

    async def past(self, at_ms: int) -> bytes | None:
        """A picture as in `whole`, then as JSON what changed after it and until when."""
        found = self.album.past(at_ms)
        if found is None:
            return None
        part, until_ms = found
        said = {"since_ms": self.album.since_ms, "until_ms": until_ms or 0}
        changes = [change.data for change in part.changes]
        return await asyncio.to_thread(_repacked, part.whole, said, changes)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _event(name: str, number: int, data: bytes) -> bytes:
    """JSON has no line breaks outside of its texts, so it is one line."""
    return b"id: %s-%d\nevent: change\ndata: %s\n\n" % (name.encode(), number, data)


def _packed(head: dict[str, Any], columns: list[bytes]) -> bytes:
    said = _json(head)
    said += b" " * (-len(said) % 4)  # numbers begin where numbers may
    return _gzip(b"".join((struct.pack("<I", len(said)), said, *columns)))


def _repacked(whole: bytes, said: dict[str, Any], changes: list[bytes]) -> bytes:
    later = _json(said)[:-1] + b',"changes":[' + b",".join(changes) + b"]}"
    return _gzip(zlib.decompress(whole, wbits=31) + later)


def _gzip(data: bytes) -> bytes:
    packer = zlib.compressobj(level=1, wbits=31)
    return packer.compress(data) + packer.flush()
