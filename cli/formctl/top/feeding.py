"""Keeps what is known up to date, for as long as it runs: instances and events as they come, hosts
and apps and usage by asking at a gentle rate. A coordinator that goes away is told of and waited
for; nothing here ends because of one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from formation.discovery import Target
from formation.v1 import control_pb2 as pb
from formctl.client import Client, Stream
from formctl.errors import CommandError
from formctl.top.seen import EventLine, Seen, View

# The view that is looked at is asked for so often, what only the headline needs more seldom.
_LOOKED_AT_S, _ASIDE_S = 2.0, 10.0
# Of usage: longer, the more of them there are, and the longer the last answer took.
_USAGE_S, _USAGE_PER_INSTANCE_S, _USAGE_TIMES = 2.0, 0.002, 5
_AGAIN_S = 1.0
_EVENTS_AT_FIRST = 200


class Feed:
    """`view` and `app` are what is looked at, set from outside. `changed`: there is news."""

    def __init__(self, target: Target, seen: Seen) -> None:
        self._target = target
        self._seen = seen
        self.changed = asyncio.Event()
        self.turned = asyncio.Event()
        self.view = View.INSTANCES
        self.app = ""

    def news(self) -> None:
        self._seen.version += 1
        self.changed.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for work in (self._instances, self._events, self._lists, self._usage):
                group.create_task(self._kept_up(work))

    async def _kept_up(self, work: Callable[[Client], Awaitable[None]]) -> None:
        """With a client of its own, since a client has one connection and moves it."""
        watches = work == self._instances
        while True:
            try:
                notice = self._lost if watches else _ignore
                async with Client(self._target, notice=notice) as client:
                    await work(client)
            except CommandError as error:
                if watches:
                    self._lost(str(error))
            await asyncio.sleep(_AGAIN_S)

    def _lost(self, said: str) -> None:
        self._seen.trouble = said.removeprefix("formctl: ").split("\n")[0]
        self.news()

    # -- what comes --------------------------------------------------------------------------------

    async def _instances(self, client: Client) -> None:
        async with contextlib.aclosing(client.watch("")) as updates:
            async for update in updates:
                self._seen.table.apply(update)
                self._seen.trouble = ""
                self._seen.address = client.address
                self.news()

    async def _events(self, client: Client) -> None:
        events, known_ms = self._seen.events, 0

        def opened() -> Stream[pb.EventsResponse]:
            # Another coordinator tells the past again, with numbers of its own.
            nonlocal known_ms
            known_ms = events[-1].at_ms if events else 0
            request = pb.WatchEventsRequest(tail=_EVENTS_AT_FIRST, follow=True)
            return client.stub.WatchEvents(request)

        async with contextlib.aclosing(client.stream(opened)) as responses:
            async for response in responses:
                for event in (e for e in response.events if e.at_ms > known_ms):
                    number = events[-1].number + 1 if events else 1
                    events.append(_event(event, number))
                known_ms = 0
                self.news()

    # -- what is asked for -------------------------------------------------------------------------

    async def _lists(self, client: Client) -> None:
        while True:
            await ask_lists(client, self._seen)
            self.news()
            looked_at = self.view in (View.HOSTS, View.APPS)
            await self._pause(_LOOKED_AT_S if looked_at else _ASIDE_S)

    async def _usage(self, client: Client) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            if self.view is View.INSTANCES:
                self._seen.usage = (await client.usage(self.app)).of_uid
                self.news()
            took_s = loop.time() - began_s
            known = len(self._seen.table.instances)
            await self._pause(max(_USAGE_S, known * _USAGE_PER_INSTANCE_S, took_s * _USAGE_TIMES))

    async def _pause(self, seconds: float) -> None:
        """Shorter when another view is turned to, but never short."""
        await asyncio.sleep(min(seconds, _LOOKED_AT_S) / 4)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds * 3 / 4):
                await self.turned.wait()


async def first_picture(client: Client, seen: Seen) -> None:
    """All but events and usage. What fails here fails for the caller."""
    seen.table.apply(await client.instances(""))
    await ask_lists(client, seen)
    seen.address = client.address


async def whole_picture(client: Client, seen: Seen, app: str) -> None:
    """Once, for where there is no terminal."""
    await first_picture(client, seen)
    seen.usage = (await client.usage(app)).of_uid
    request = pb.WatchEventsRequest(tail=_EVENTS_AT_FIRST)
    responses = client.stream(lambda: client.stub.WatchEvents(request), endless=False)
    async with contextlib.aclosing(responses):
        async for response in responses:
            first = len(seen.events) + 1
            seen.events.extend(_event(event, n) for n, event in enumerate(response.events, first))


async def ask_lists(client: Client, seen: Seen) -> None:
    hosts, seen.warning = await client.hosts()
    seen.hosts = tuple(hosts)
    seen.apps = tuple(await client.apps())


def _event(event: pb.Event, number: int) -> EventLine:
    return EventLine(
        number=number,
        at_ms=event.at_ms,
        what=event.what,
        subject=event.subject,
        app=event.app,
        host=event.host,
        text=event.text,
    )


def _ignore(_: str) -> None:
    """The watching one tells that the coordinator has gone."""
