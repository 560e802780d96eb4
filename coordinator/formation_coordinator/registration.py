"""etcd's side of agent sessions: the session key on our lease, the status document, the last word.

Level: every round looks at what is. The key must exist, be ours and sit on our present lease; the
document must say what the agent last said. The key's mod_revision fences the status writes, so a
newer session anywhere makes an older one's writes fail. What a lost reply or an outage leaves
behind is swept: a key of ours without a stream would keep a dead host alive for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import grpc

from formation.model import (
    AssignmentDocument,
    Coordinator,
    Host,
    HostStatus,
    InstanceStatus,
    Session,
)
from formation.v1 import agent_pb2
from formation_coordinator.election import LeaseKeeper
from formation_coordinator.live import LiveWorld
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import (
    Delete,
    ModRevision,
    OutcomeUnknown,
    Put,
    Store,
    StoreError,
    TooLarge,
)
from formation_coordinator.store.mirror import Mirror

log = logging.getLogger(__name__)

STATUS_WRITE_GAP_S = 0.5
RETRY_S = 1.0
LEASE_WAIT_S = 3.0
OUTGOING_MAX = 1024


class Refused(Exception):
    """This agent is not taken; `code` tells it whether trying again can help."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(slots=True, eq=False)
class AgentSession:
    """One agent's stream. `fence` is the session key's mod_revision, 0 while not registered.

    `owed`: the generation of the first document that it was sent, 0 before. `waiting`: the last
    heartbeat that was not acknowledged yet. `over`: assigned instances that have ended for good,
    also when an agent that ends forgets them.
    """

    id: str
    status: HostStatus
    since_ms: int
    fence: int = 0
    lease: int = 0
    sent: AssignmentDocument | None = None
    owed: int = 0
    waiting: int = 0
    complete_wanted: bool = True
    over: dict[str, InstanceStatus] = field(default_factory=dict)
    last_heard_s: float = 0.0
    dirty: asyncio.Event = field(default_factory=asyncio.Event)
    outgoing: asyncio.Queue[agent_pb2.CoordinatorMessage] = field(
        default_factory=lambda: asyncio.Queue(OUTGOING_MAX)
    )
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    end_reason: str = ""

    @property
    def host(self) -> str:
        return self.status.host

    def end(self, reason: str) -> None:
        self.end_reason = self.end_reason or reason
        self.ended.set()

    def send(self, message: agent_pb2.CoordinatorMessage) -> None:
        """An agent that reads nothing for a thousand messages is cut off, and starts afresh."""
        try:
            self.outgoing.put_nowait(message)
        except asyncio.QueueFull:
            self.end("the agent does not read its messages")


class Registrar:
    def __init__(
        self,
        *,
        store: Store,
        mirror: Mirror,
        live: LiveWorld,
        lease: LeaseKeeper,
        me: Coordinator,
        now_ms: Callable[[], int],
    ) -> None:
        self._store, self._mirror, self._live = store, mirror, live
        self._lease, self._me, self._now_ms = lease, me, now_ms
        # Session ids from before their key is written until after it is taken away.
        self.alive: set[str] = set()

    async def register(self, session: AgentSession) -> None:
        """Put the session key, unless a living agent of another identity has the name.

        Raises `Refused`; the agent tries again later, here or elsewhere, when that can help.
        """
        try:
            async with asyncio.timeout(LEASE_WAIT_S):
                lease = await self._lease.held()  # a key without a lease would outlive us
            await self._put_key(session, lease)
        except TimeoutError as error:
            why = self._mirror.failure or "etcd has not given it a lease"
            raise Refused(grpc.StatusCode.UNAVAILABLE, f"{self._me.id}: {why}") from error
        except OutcomeUnknown as error:
            raise Refused(grpc.StatusCode.UNAVAILABLE, f"try again: {error}") from error
        except TooLarge as error:
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from error
        except StoreError as error:
            raise Refused(grpc.StatusCode.UNAVAILABLE, str(error)) from error

    async def _put_key(self, session: AgentSession, lease: int) -> None:
        host, key = session.host, keys.session(session.host)
        seen = await self._store.get(key)
        if seen is not None:
            _check_holder(session, codec.decode(key, seen.value))
        record = Session(
            session_id=session.id,
            coordinator_id=self._me.id,
            agent_id=session.status.agent_id,
            since_ms=session.since_ms,
        )
        puts = [
            Put(key, codec.encode(record), lease=lease),
            Put(keys.status(host), codec.encode(session.status)),
        ]
        entry = self._live.world.hosts.get(host)
        if entry is None or entry.host is None:
            joined = Host(name=host, joined_at_ms=self._now_ms())
            puts.append(Put(keys.host(host), codec.encode(joined)))
        compare = ModRevision(key, seen.mod_revision if seen else 0)
        outcome = await self._store.commit([compare], puts)
        if not outcome.succeeded:
            raise Refused(grpc.StatusCode.UNAVAILABLE, f"another session of {host} came first")
        session.fence, session.lease = outcome.revision, lease

    def surely_holds(self, session: AgentSession) -> bool:
        """The key is in etcd, on our present lease, and we have seen all that was before it."""
        return (
            session.fence > 0
            and session.lease == self._lease.lease_id
            and self._lease.remaining_s() > 0
            and self._mirror.revision >= session.fence
        )

    async def keep_right(self, session: AgentSession) -> None:
        """Until cancelled, or until the session is another's."""
        while True:
            try:
                await self._round(session)
            except Refused as refused:
                if refused.code is not grpc.StatusCode.UNAVAILABLE:
                    session.end(str(refused))
                    return
                await asyncio.sleep(RETRY_S)
            except StoreError as error:
                session.dirty.set()
                log.warning("host %s: its status was not written: %s", session.host, error)
                await asyncio.sleep(RETRY_S)

    async def _round(self, session: AgentSession) -> None:
        lease = self._lease.lease_id
        if lease and session.lease != lease:
            await self.register(session)
        elif session.dirty.is_set():
            session.dirty.clear()
            await self._write_status(session)
            await asyncio.sleep(STATUS_WRITE_GAP_S)
        else:
            with suppress(TimeoutError):  # then look whether key and lease are still right
                async with asyncio.timeout(RETRY_S):
                    await session.dirty.wait()
            if self._live.revision_of(keys.session(session.host)) != session.fence:
                await self._look_at_key(session)

    async def _write_status(self, session: AgentSession) -> None:
        outcome = await self._store.commit(
            [ModRevision(keys.session(session.host), session.fence)],
            [Put(keys.status(session.host), codec.encode(session.status))],
        )
        if not outcome.succeeded:
            await self._look_at_key(session)

    async def _look_at_key(self, session: AgentSession) -> None:
        """Whose it is, by etcd itself: a mirror may lag, an etcd may have been restored."""
        seen = await self._store.get(keys.session(session.host))
        if seen is None or seen.mod_revision != session.fence:
            session.lease = 0  # not as we left it: register again, or learn that it is another's
            session.dirty.set()

    async def leave(self, session: AgentSession) -> None:
        """Take the key away at once, unless a newer session has it already."""
        if session.fence:
            key = keys.session(session.host)
            last_word = Put(keys.status(session.host), codec.encode(session.status))
            with suppress(StoreError):  # then `sweep` does it
                await self._store.commit(
                    [ModRevision(key, session.fence)], [Delete(key), last_word]
                )

    async def sweep(self) -> None:
        """For ever: delete keys of ours whose stream is no more."""
        while True:
            await asyncio.sleep(RETRY_S)
            for entry in tuple(self._live.world.hosts.values()):
                held = entry.session
                if (
                    held
                    and held.coordinator_id == self._me.id
                    and held.session_id not in self.alive
                ):
                    await self._delete(keys.session(entry.name))

    async def _delete(self, key: str) -> None:
        record = self._mirror.records.get(key)
        if record is not None and record.lease == self._lease.lease_id:
            with suppress(StoreError):
                await self._store.commit([ModRevision(key, record.mod_revision)], [Delete(key)])


def _check_holder(session: AgentSession, holder: object) -> None:
    """Raises `Refused` when the key is rightly another's."""
    assert isinstance(holder, Session)
    if session.fence and holder.session_id != session.id:
        raise Refused(grpc.StatusCode.ABORTED, "a newer session of this host took over")
    if holder.agent_id != session.status.agent_id:
        raise Refused(
            grpc.StatusCode.ALREADY_EXISTS,
            f"host name {session.host!r} is taken by a living agent "
            f"(session held by {holder.coordinator_id}); give this one another --name",
        )
