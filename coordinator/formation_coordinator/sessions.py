"""The agents whose streams are held here: registration, assignments out, statuses in. A thin shell.

Per host there is one `AgentSession`. Two level-triggered loops serve it: one keeps etcd right (the
session key exists on our lease, the status document says what the agent last said), one keeps the
agent right (it has been sent the assignment document as it is now). Both look at what is, so a lost
event costs time, never truth. The session key's mod_revision fences the status writes: a newer
session anywhere makes the older one's writes fail, and its stream is closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import grpc

from formation import wire
from formation.model import (
    HOST_NAME,
    AssignmentDocument,
    Assignments,
    Coordinator,
    Host,
    HostStatus,
    Release,
    Session,
)
from formation.v1 import agent_pb2, agent_pb2_grpc, control_pb2
from formation_coordinator.live import LiveWorld
from formation_coordinator.logrelay import Delivery, LogRelay
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

HELLO_TIMEOUT_S = 10.0
HEARTBEAT_PERIOD_S = 5.0
HEARTBEATS_MISSED_MAX = 3
STATUS_WRITE_GAP_S = 0.5
RETRY_S = 1.0

Stream = grpc.aio.ServicerContext[agent_pb2.AgentMessage, agent_pb2.CoordinatorMessage]


class Refused(Exception):
    """This agent is not taken; `code` tells it whether trying again can help."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(slots=True, eq=False)
class AgentSession:
    """One agent's stream. `fence` is the session key's mod_revision, 0 while not registered."""

    id: str
    status: HostStatus
    since_ms: int
    fence: int = 0
    lease: int = 0
    sent_generation: int | None = None
    sent: AssignmentDocument | None = None
    last_heard_s: float = 0.0
    dirty: asyncio.Event = field(default_factory=asyncio.Event)
    complete_wanted: bool = True
    outgoing: asyncio.Queue[agent_pb2.CoordinatorMessage] = field(
        default_factory=lambda: asyncio.Queue(1024)
    )
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    end_reason: str = ""

    @property
    def host(self) -> str:
        return self.status.host

    def end(self, reason: str) -> None:
        self.end_reason = self.end_reason or reason
        self.ended.set()
        self.dirty.set()


class Sessions(agent_pb2_grpc.AgentServicer):
    """Serves `formation.v1.Agent`."""

    def __init__(
        self,
        *,
        store: Store,
        mirror: Mirror,
        live: LiveWorld,
        relay: LogRelay,
        me: Callable[[], Coordinator],
        lease: Callable[[], int],
        clock: Callable[[], float],
        now_ms: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._store, self._mirror, self._live, self._relay = store, mirror, live, relay
        self._me, self._lease = me, lease
        self._clock, self._now_ms, self._new_id = clock, now_ms, new_id
        self.held: dict[str, AgentSession] = {}
        self._joined: set[asyncio.Queue[AgentSession]] = set()

    # ------------------------------------------------------------------ the stream

    async def Session(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[agent_pb2.AgentMessage], context: Stream
    ) -> None:
        try:
            session = await self._welcome(request_iterator)
        except Refused as refused:
            await context.abort(refused.code, str(refused))
        await context.write(self._welcome_message(session))
        log.info("host %s: session %s opened", session.host, session.id)
        try:
            await self._serve(session, request_iterator, context)
        finally:
            await self._leave(session)
        if session.end_reason:
            await context.abort(grpc.StatusCode.ABORTED, session.end_reason)

    async def _welcome(self, requests: AsyncIterator[agent_pb2.AgentMessage]) -> AgentSession:
        """Read Hello, refuse or register."""
        if not self._mirror.ready.is_set():
            reason = self._mirror.failure or "the store is not read yet"
            raise Refused(grpc.StatusCode.UNAVAILABLE, f"this coordinator is not ready: {reason}")
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                first = await anext(aiter(requests), None)
        except TimeoutError as error:
            raise Refused(grpc.StatusCode.DEADLINE_EXCEEDED, "no Hello came") from error
        if first is None or first.WhichOneof("message") != "hello":
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "the first message must be Hello")
        session = AgentSession(
            id=self._new_id(),
            status=self._checked(first.hello),
            since_ms=self._now_ms(),
            last_heard_s=self._clock(),
        )
        session.dirty.set()
        earlier = self.held.get(session.host)
        if earlier is not None and earlier.status.agent_id == session.status.agent_id:
            earlier.end("a newer session of this host took over")
        await self._register(session)
        self.held[session.host] = session
        self._live.hold(session.host)
        self._live.publish(session.status)
        for queue in self._joined:
            queue.put_nowait(session)
        return session

    def _checked(self, hello: agent_pb2.Hello) -> HostStatus:
        world = self._live.world
        cluster_id = world.cluster.id if world.cluster else ""
        if hello.cluster_id and hello.cluster_id != cluster_id:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"host {hello.host.host} belongs to cluster {hello.cluster_id}, "
                f"this is cluster {cluster_id}; use a fresh --state-dir to let it join",
            )
        try:
            status = wire.host_status_from_pb(hello.host)
        except wire.WireError as error:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"bad Hello: {error}") from error
        if not HOST_NAME.fullmatch(status.host):
            reason = f"bad host name {status.host!r}: letters, digits, '.', '_' and '-' only"
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, reason)
        return replace(status, departed=False)

    def _welcome_message(self, session: AgentSession) -> agent_pb2.CoordinatorMessage:
        world = self._live.world
        others = [c.address for c in world.coordinators.values() if c.id != self._me().id]
        return agent_pb2.CoordinatorMessage(
            welcome=agent_pb2.Welcome(
                session_id=session.id,
                cluster_id=world.cluster.id if world.cluster else "",
                coordinator_id=self._me().id,
                heartbeat_period_s=HEARTBEAT_PERIOD_S,
                coordinator_addresses=[self._me().address, *sorted(others)],
            )
        )

    async def _serve(
        self,
        session: AgentSession,
        requests: AsyncIterator[agent_pb2.AgentMessage],
        context: Stream,
    ) -> None:
        """Until the stream breaks, the agent says goodbye, or the session is ended from here."""
        tasks = [
            asyncio.create_task(self._read(session, requests)),
            asyncio.create_task(self._send(session, context)),
            asyncio.create_task(self._keep_agent_right(session)),
            asyncio.create_task(self._keep_store_right(session)),
            asyncio.create_task(self._watch_heartbeat(session)),
            asyncio.create_task(session.ended.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, grpc.RpcError):
                raise error

    async def _read(
        self, session: AgentSession, requests: AsyncIterator[agent_pb2.AgentMessage]
    ) -> None:
        async for message in requests:
            session.last_heard_s = self._clock()
            match message.WhichOneof("message"):
                case "status":
                    self._take_status(session, message.status)
                case "resend":
                    session.complete_wanted = True
                    self._send_assignments(session)
                case "goodbye":
                    session.status = replace(session.status, instances=(), departed=True)
                    self._live.publish(session.status)
                    return
                case _:
                    pass  # a heartbeat, or a newer agent's message: being heard is all it says

    def _take_status(self, session: AgentSession, batch: agent_pb2.StatusBatch) -> None:
        table = {item.uid: item for item in session.status.instances}
        for message in batch.changed:
            try:
                table[message.uid] = wire.instance_status_from_pb(message)
            except wire.WireError as error:  # a newer agent's word: its other news are good
                log.warning("host %s: %s", session.host, error)
        for uid in batch.gone_uids:
            table.pop(uid, None)
        session.status = replace(
            session.status, instances=tuple(table.values()), complaint=batch.complaint
        )
        self._live.publish(session.status)
        session.dirty.set()
        self._queue(
            session,
            agent_pb2.CoordinatorMessage(ack=agent_pb2.Ack(sequence=batch.sequence)),
        )

    async def _send(self, session: AgentSession, context: Stream) -> None:
        while True:
            await context.write(await session.outgoing.get())

    def _queue(self, session: AgentSession, message: agent_pb2.CoordinatorMessage) -> None:
        """An agent that reads nothing for a thousand messages is cut off, and starts afresh."""
        try:
            session.outgoing.put_nowait(message)
        except asyncio.QueueFull:
            session.end("the agent does not read its messages")

    async def _watch_heartbeat(self, session: AgentSession) -> None:
        limit_s = HEARTBEAT_PERIOD_S * HEARTBEATS_MISSED_MAX
        while True:
            quiet_s = self._clock() - session.last_heard_s
            if quiet_s > limit_s:
                session.end(f"no heartbeat for {quiet_s:.0f} s")
                return
            await asyncio.sleep(limit_s - quiet_s + 0.01)

    async def _leave(self, session: AgentSession) -> None:
        """Take the session key away at once, unless a newer session has it already."""
        log.info("host %s: session %s closed %s", session.host, session.id, session.end_reason)
        if self.held.get(session.host) is session:
            del self.held[session.host]
            self._live.let_go(session.host)
        if not session.fence:
            return
        last_words = [Put(keys.status(session.host), codec.encode(session.status))]
        with suppress(StoreError):  # etcd away: the key goes with our lease
            await self._store.commit(
                [ModRevision(keys.session(session.host), session.fence)],
                [Delete(keys.session(session.host)), *last_words],
            )

    def end_all(self, reason: str) -> None:
        """Send every agent on to another coordinator."""
        for session in self.held.values():
            session.end(reason)

    # ------------------------------------------------------------------ etcd's side

    async def _register(self, session: AgentSession) -> None:
        """Put the session key, unless a living agent of another identity has the name.

        Raises `Refused`; the agent tries again later, here or elsewhere, when that can help.
        """
        host, lease = session.host, self._lease()
        key = keys.session(host)
        try:
            seen = await self._store.get(key)
            if seen is not None:
                other = codec.decode(key, seen.value)
                assert isinstance(other, Session)
                if other.agent_id != session.status.agent_id:
                    raise Refused(
                        grpc.StatusCode.ALREADY_EXISTS,
                        f"host name {host!r} is taken by a living agent "
                        f"(session held by {other.coordinator_id}); give this one another --name",
                    )
            record = Session(
                session_id=session.id,
                coordinator_id=self._me().id,
                agent_id=session.status.agent_id,
                since_ms=session.since_ms,
            )
            puts = [
                Put(key, codec.encode(record), lease=lease),
                Put(keys.status(host), codec.encode(session.status)),
            ]
            if host not in self._live.world.hosts or self._live.world.hosts[host].host is None:
                joined = Host(name=host, joined_at_ms=self._now_ms())
                puts.append(Put(keys.host(host), codec.encode(joined)))
            compare = ModRevision(key, seen.mod_revision if seen else 0)
            outcome = await self._store.commit([compare], puts)
        except OutcomeUnknown as error:
            raise Refused(grpc.StatusCode.UNAVAILABLE, f"try again: {error}") from error
        except TooLarge as error:
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from error
        except StoreError as error:
            raise Refused(grpc.StatusCode.UNAVAILABLE, str(error)) from error
        if not outcome.succeeded:
            raise Refused(grpc.StatusCode.UNAVAILABLE, f"another session of {host} came first")
        session.fence, session.lease = outcome.revision, lease

    async def _keep_store_right(self, session: AgentSession) -> None:
        """Level: our key on our present lease, the status document as last heard."""
        while True:
            try:
                if session.lease != self._lease():
                    await self._register(session)
                elif session.dirty.is_set():
                    session.dirty.clear()
                    await self._write_status(session)
                    await asyncio.sleep(STATUS_WRITE_GAP_S)
                else:
                    with suppress(TimeoutError):  # then look whether our lease is a new one
                        async with asyncio.timeout(RETRY_S):
                            await session.dirty.wait()
            except Refused as refused:
                if refused.code is grpc.StatusCode.ALREADY_EXISTS:
                    session.end(str(refused))
                await asyncio.sleep(RETRY_S)
            except StoreError as error:
                session.dirty.set()
                log.warning("host %s: its status was not written: %s", session.host, error)
                await asyncio.sleep(RETRY_S)

    async def _write_status(self, session: AgentSession) -> None:
        outcome = await self._store.commit(
            [ModRevision(keys.session(session.host), session.fence)],
            [Put(keys.status(session.host), codec.encode(session.status))],
        )
        if outcome.succeeded:
            return
        seen = await self._store.get(keys.session(session.host))
        if seen is not None and seen.mod_revision != session.fence:
            session.end("a newer session of this host took over")
        session.lease = 0  # our key is gone: register again
        session.dirty.set()

    # ------------------------------------------------------------------ the agent's side

    async def _keep_agent_right(self, session: AgentSession) -> None:
        hint = self._live.subscribe()
        try:
            while True:
                hint.clear()
                self._send_assignments(session)
                await hint.wait()
        finally:
            self._live.unsubscribe(hint)

    def _send_assignments(self, session: AgentSession) -> None:
        """Queue what the agent lacks. No document is not an empty one: nothing is sent then."""
        entry = self._live.world.hosts.get(session.host)
        document = entry.document if entry else None
        if document is None or (document is session.sent and not session.complete_wanted):
            return
        releases = self._releases(document)
        if releases is None:
            return  # its release is not in our mirror yet; the next change brings it
        base = None if session.complete_wanted else session.sent
        session.complete_wanted = False
        session.sent = document
        self._queue(session, assignments_message(document, base, releases))

    def _releases(self, document: AssignmentDocument) -> list[Release] | None:
        wanted = sorted({(item.slot.app, item.release) for item in document.instances})
        found = [self._live.world.releases.get(key) for key in wanted]
        if any(release is None for release in found):
            return None
        return [release for release in found if release is not None]

    # ------------------------------------------------------------------ logs

    def watch_joins(self) -> asyncio.Queue[AgentSession]:
        """Every session that opens from now on."""
        queue: asyncio.Queue[AgentSession] = asyncio.Queue()
        self._joined.add(queue)
        return queue

    def unwatch_joins(self, queue: asyncio.Queue[AgentSession]) -> None:
        self._joined.discard(queue)

    def ask(self, session: AgentSession, message: agent_pb2.CoordinatorMessage) -> None:
        self._queue(session, message)

    async def PushLogs(  # noqa: N802
        self,
        request_iterator: AsyncIterator[agent_pb2.LogPush],
        context: grpc.aio.ServicerContext[agent_pb2.LogPush, agent_pb2.LogPushed],
    ) -> agent_pb2.LogPushed:
        """Hand an agent's lines to the request that asked for them; end when nobody listens."""
        token = ""
        try:
            async for push in request_iterator:
                token = push.request_id
                found = self._relay.find(token)
                if found is None:
                    break
                request, host = found
                lines = control_pb2.LogsResponse(lines=push.lines) if push.lines else None
                delivery = Delivery(source=host, lines=lines, done=push.history_done)
                await request.queue.put(delivery)
        finally:
            found = self._relay.find(token)
            if found is not None:
                await found[0].queue.put(Delivery(source=found[1], done=True, ended=True))
        return agent_pb2.LogPushed()


def assignments_message(
    document: AssignmentDocument, base: AssignmentDocument | None, releases: list[Release]
) -> agent_pb2.CoordinatorMessage:
    """COMPLETE when there is no base, else the difference from it."""
    instances = document.instances
    removed: tuple[str, ...] = ()
    if base is not None:
        known = set(base.instances)
        uids = {item.uid for item in document.instances}
        instances = tuple(item for item in document.instances if item not in known)
        removed = tuple(item.uid for item in base.instances if item.uid not in uids)
    needed = {(item.slot.app, item.release) for item in instances}
    order = Assignments(
        complete=base is None,
        epoch=document.epoch,
        applies_to=base.generation if base else 0,
        results_in=document.generation,
        instances=instances,
        removed_uids=removed,
        releases=tuple(r for r in releases if (r.app, r.number) in needed),
    )
    return agent_pb2.CoordinatorMessage(assignments=wire.assignments_to_pb(order))
