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
from formation.policy import HEARTBEAT_PERIOD_S
from formation.v1 import agent_pb2
from formation_coordinator.election import LeaseKeeper
from formation_coordinator.live import LiveWorld
from formation_coordinator.outbox import Outbox
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import (
    Delete,
    KeyValue,
    ModRevision,
    NoSpace,
    OutcomeUnknown,
    Put,
    Store,
    StoreError,
    TooLarge,
)
from formation_coordinator.store.gathering import Gathering
from formation_coordinator.store.mirror import Mirror

log = logging.getLogger(__name__)

STATUS_WRITE_GAP_S = 0.5
RETRY_S, RETRY_FULL_S = 1.0, 5.0
LEASE_WAIT_S = 3.0
OUTGOING_MAX = 1024
# Whoever is asked to go to another coordinator begins with it within the first, and may be between
# the two for the second.
MOVES_AFTER_S, MOVE_WITHIN_S, MOVE_LOOK_S = 5.0, 3.0, 0.1


class Refused(Exception):
    """This agent is not taken; `code` tells it whether trying again can help."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class AgentSession:
    """One agent's stream. `fence` is the session key's mod_revision, 0 while not registered.

    `owed`: the generation of the first document that it was sent, 0 before. `waiting`: the last
    heartbeat that was not acknowledged yet. `over`: assigned instances that have ended for good,
    also when an agent that ends forgets them. `dirty`: its status is not in etcd as it is;
    `doubted`: its key may not be as we left it; `wake` is set with both. `pace_s`: how often it was
    told to beat. `written`: the status's mod_revision, as we left it; `strayed`: at the last look
    it was another. `moves_until_s`: by the loop's clock, so long an end may be that
    it goes on at another coordinator, as it was asked to.
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
    takes_bundles: bool = False
    over: dict[str, InstanceStatus] = field(default_factory=dict)
    last_heard_s: float = 0.0
    pace_s: float = HEARTBEAT_PERIOD_S
    dirty: bool = False
    doubted: bool = False
    written: int = 0
    strayed: bool = False
    moves_until_s: float = 0.0
    encoder: codec.StatusEncoder = field(default_factory=codec.StatusEncoder)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    outgoing: Outbox = field(default_factory=lambda: Outbox(OUTGOING_MAX))
    ended: asyncio.Future[None] = field(default_factory=_future)
    end_reason: str = ""

    @property
    def host(self) -> str:
        return self.status.host

    def touch(self) -> None:
        """Its status has changed."""
        self.dirty = True
        self.wake.set()

    def move(self, address: str) -> None:
        self.moves_until_s = asyncio.get_running_loop().time() + MOVES_AFTER_S
        self.send(agent_pb2.CoordinatorMessage(redirect=agent_pb2.Redirect(address=address)))

    def end(self, reason: str) -> None:
        self.end_reason = self.end_reason or reason
        if not self.ended.done():
            self.ended.set_result(None)

    def send(self, message: agent_pb2.CoordinatorMessage) -> None:
        """An agent that reads nothing for a thousand messages is cut off, and starts afresh."""
        try:
            self.outgoing.put(message)
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
        self._gathering = Gathering(store)
        self._lease, self._me, self._now_ms = lease, me, now_ms
        # Session ids from before their key is written until after it is taken away.
        self.alive: set[str] = set()
        self._kept: dict[AgentSession, None] = {}
        self._unwritten = ""
        # The revision and the lease at which every key was as we left it; None: some were not.
        self._sure: tuple[int, int] | None = None

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
        """After what the mirror has; where that is too old, or would refuse it, what etcd has."""
        key = keys.session(session.host)
        seen = self._mirror.records.get(key)
        if not _refusal(session, seen) and await self._put_after(session, lease, seen):
            return
        seen = await self._store.get(key)
        if refused := _refusal(session, seen):
            raise refused
        if not await self._put_after(session, lease, seen):
            reason = f"another session of {session.host} came first"
            raise Refused(grpc.StatusCode.UNAVAILABLE, reason)

    async def _put_after(self, session: AgentSession, lease: int, seen: KeyValue | None) -> bool:
        host, key, status = session.host, keys.session(session.host), session.status
        record = Session(
            session_id=session.id,
            coordinator_id=self._me.id,
            agent_id=session.status.agent_id,
            since_ms=session.since_ms,
        )
        puts = [
            Put(key, codec.encode(record), lease=lease),
            Put(keys.status(host), session.encoder.encode(status)),
        ]
        entry = self._live.world.hosts.get(host)
        if entry is None or entry.host is None:
            joined = Host(name=host, joined_at_ms=self._now_ms())
            puts.append(Put(keys.host(host), codec.encode(joined)))
        compare = ModRevision(key, seen.mod_revision if seen else 0)
        outcome = await self._gathering.commit([compare], puts)
        if outcome.succeeded:
            session.fence, session.lease = outcome.revision, lease
            session.written = outcome.revision
            session.dirty = session.status is not status
        return outcome.succeeded

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
        self._kept[session] = None
        try:
            await self._keep_right(session)
        finally:
            self._kept.pop(session, None)

    async def _keep_right(self, session: AgentSession) -> None:
        while True:
            try:
                await self._round(session)
            except Refused as refused:
                if refused.code is not grpc.StatusCode.UNAVAILABLE:
                    session.end(str(refused))
                    return
                await asyncio.sleep(RETRY_S)
            except StoreError as error:
                session.touch()
                self._note(f"statuses are not written: {error}", session.host)
                await asyncio.sleep(RETRY_FULL_S if isinstance(error, NoSpace) else RETRY_S)

    async def _round(self, session: AgentSession) -> None:
        session.wake.clear()
        lease = self._lease.lease_id
        if lease and session.lease != lease:
            await self.register(session)
        elif session.doubted:
            session.doubted = False
            await self._look_at_key(session)
        elif session.dirty:
            session.dirty = False
            await self._write_status(session)
            await asyncio.sleep(STATUS_WRITE_GAP_S)
        else:
            await session.wake.wait()

    def _note(self, unwritten: str, host: str = "") -> None:
        """Once for all hosts; "": it is over."""
        before, self._unwritten = self._unwritten, unwritten
        if unwritten and unwritten != before:
            log.warning("host %s and perhaps others: %s", host, unwritten)
        elif before and not unwritten:
            log.info("statuses are written again")

    def _doubt(self) -> None:
        """One look at all, instead of a timer of each: there are thousands. When all was well at
        the last look and etcd is as it was, nothing is new."""
        lease = self._lease.lease_id
        if self._sure == (self._mirror.revision, lease):
            return
        self._sure = self._mirror.revision, lease
        for session in self._kept:
            fence = self._live.revision_of(keys.session(session.host))
            if fence != session.fence or (lease and session.lease != lease):
                session.doubted = True
                session.wake.set()
                self._sure = None
            # Nobody else writes it, but an etcd that was put back has it as it was then. A mirror
            # that only lags has caught up by the next look.
            strays = self._live.revision_of(keys.status(session.host)) != session.written
            if strays and session.strayed and not session.dirty:
                session.touch()
            session.strayed = strays
            if strays:
                self._sure = None

    async def _write_status(self, session: AgentSession) -> None:
        outcome = await self._gathering.commit(
            [ModRevision(keys.session(session.host), session.fence)],
            [Put(keys.status(session.host), session.encoder.encode(session.status))],
        )
        self._note("")
        if outcome.succeeded:
            session.written = outcome.revision
        else:
            await self._look_at_key(session)

    async def _look_at_key(self, session: AgentSession) -> None:
        """Whose it is, by etcd itself: a mirror may lag, an etcd may have been restored."""
        seen = await self._store.get(keys.session(session.host))
        if seen is None or seen.mod_revision != session.fence:
            session.lease = 0  # not as we left it: register again, or learn that it is another's
            session.touch()

    async def leave(self, session: AgentSession) -> None:
        """Take the key away at once, unless a newer session has it already. One that moves has
        some time for that: its host is not silent."""
        if asyncio.get_running_loop().time() < session.moves_until_s:
            await self._until_taken(session)
        if session.fence:
            key = keys.session(session.host)
            last_word = Put(keys.status(session.host), session.encoder.encode(session.status))
            with suppress(StoreError):  # then `sweep` does it
                await self._gathering.commit(
                    [ModRevision(key, session.fence)], [Delete(key), last_word]
                )

    async def _until_taken(self, session: AgentSession) -> None:
        key, waited_s = keys.session(session.host), 0.0
        while waited_s < MOVE_WITHIN_S and self._live.revision_of(key) == session.fence:
            await asyncio.sleep(MOVE_LOOK_S)
            waited_s += MOVE_LOOK_S

    async def sweep(self) -> None:
        """For ever: doubt keys that are not as we left them, delete those without a stream."""
        while True:
            await asyncio.sleep(RETRY_S)
            self._doubt()
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


def _refusal(session: AgentSession, seen: KeyValue | None) -> Refused | None:
    """Why the key is rightly another's."""
    if seen is None:
        return None
    holder = codec.decode(seen.key, seen.value)
    assert isinstance(holder, Session)
    if session.fence and holder.session_id != session.id:
        return Refused(grpc.StatusCode.ABORTED, "a newer session of this host took over")
    if holder.agent_id != session.status.agent_id:
        return Refused(
            grpc.StatusCode.ALREADY_EXISTS,
            f"host name {session.host!r} is taken by a living agent "
            f"(session held by {holder.coordinator_id}); give this one another --name",
        )
    return None
