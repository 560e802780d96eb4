"""The agents whose streams are held here: welcome, assignments out, statuses in. A thin shell.

Per host there is one `AgentSession`. Two level-triggered loops serve it: `registration` keeps etcd
right, `_keep_agent_right` keeps the agent right (it has been sent the assignment document as it is
now). Both look at what is, so a lost event costs time, never truth.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import suppress

import grpc
from google.protobuf.message import DecodeError
from msgspec import structs

from formation import wire, wire_access
from formation.model import (
    AssignmentDocument,
    Coordinator,
    HostStatus,
    InstanceState,
    InstanceStatus,
)
from formation.names import HOST_NAME
from formation.policy import AGENT_LEASE_S, HEARTBEAT_PERIOD_S, relaxed_heartbeat_s
from formation.secrets import needed_by
from formation.v1 import agent_pb2, agent_pb2_grpc, control_pb2, types_pb2
from formation_coordinator import orders
from formation_coordinator.allowance import Allowance
from formation_coordinator.execdesk import ExecDesk
from formation_coordinator.execdesk import Stream as ExecStream
from formation_coordinator.guard import caller
from formation_coordinator.live import LiveWorld
from formation_coordinator.logrelay import Delivery, LogRelay, clock_notice
from formation_coordinator.registration import AgentSession, Refused, Registrar
from formation_coordinator.store import keys
from formation_coordinator.store.mirror import Mirror
from formation_coordinator.turns import Turns
from formation_coordinator.usagefan import UsageDesk
from formation_coordinator.vault import Vault
from formation_coordinator.world import OVER, is_over

log = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 10.0
HEARTBEATS_MISSED_MAX = 3
LOOKS_EVERY_S = 1.0
# Agents are told another pace when it is so many times longer or shorter.
PACE_FACTOR = 2.0
# An agent of ours gathers what it has to say, and sends ten a second at most.
MESSAGES_PER_S, MESSAGES_BURST = 50.0, 500.0
# A long one counts as several.
BYTES_EACH = 16 * 1024
# A sentence or two for people; everybody who lists hosts is sent it.
COMPLAINT_MAX = 1_000

Stream = grpc.aio.ServicerContext[agent_pb2.AgentMessage, agent_pb2.CoordinatorMessage]


class Sessions(agent_pb2_grpc.AgentServicer):
    """Serves `formation.v1.Agent`."""

    def __init__(
        self,
        *,
        mirror: Mirror,
        live: LiveWorld,
        relay: LogRelay,
        desk: UsageDesk,
        registrar: Registrar,
        vault: Vault,
        me: Coordinator,
        clock: Callable[[], float],
        now_ms: Callable[[], int],
        new_id: Callable[[], str],
    ) -> None:
        self._mirror, self._live, self._registrar = mirror, live, registrar
        self._relay, self._desk, self._vault = relay, desk, vault
        self._me, self._clock, self._now_ms, self._new_id = me, clock, now_ms, new_id
        self.held: dict[str, AgentSession] = {}
        self._turns = Turns(clock)
        self.execs = ExecDesk(new_id, clock)
        self._joined: set[asyncio.Queue[AgentSession]] = set()

    # ------------------------------------------------------------------ the stream

    async def Session(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[agent_pb2.AgentMessage], context: Stream
    ) -> None:
        session_id = self._new_id()
        self._registrar.alive.add(session_id)
        try:
            session = await self._welcome(session_id, request_iterator)
            try:
                await context.write(self._welcome_message(session))
                session.send(self._trust_message())
                log.info("host %s: session %s opened", session.host, session.id)
                await self._serve(session, request_iterator, context)
            finally:
                await self._leave(session)
        except Refused as refused:
            await context.abort(refused.code, str(refused))
        finally:
            self._registrar.alive.discard(session_id)
        if session.end_reason:
            await context.abort(grpc.StatusCode.ABORTED, session.end_reason)

    async def _welcome(
        self, session_id: str, requests: AsyncIterator[agent_pb2.AgentMessage]
    ) -> AgentSession:
        """Read Hello, refuse or register."""
        if not self._mirror.ready.is_set() or self._live.world.cluster is None:
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
            id=session_id,
            status=self._checked(first.hello),
            since_ms=self._now_ms(),
            last_heard_s=self._clock(),
            pace_s=relaxed_heartbeat_s(len(self.held)),
            takes_bundles=first.hello.takes_bundles,
        )
        session.encoder.take(session.status.instances, first.hello.host.instances)
        session.over = {item.uid: item for item in session.status.instances if is_over(item)}
        earlier = self.held.get(session.host)
        if earlier is not None and earlier.status.agent_id == session.status.agent_id:
            earlier.end("a newer session of this host took over")
        await self._registrar.register(session)
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
        if not caller().speaks_for(status.host):
            who = caller().identity
            reason = f"the certificate of {who} does not speak for host {status.host}"
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, reason)
        generation = status.generation or hello.generation
        return structs.replace(
            status,
            departed=False,
            generation=generation,
            complaint=status.complaint[:COMPLAINT_MAX],
        )

    def addresses(self) -> tuple[str, ...]:
        """Of all coordinators, ours first."""
        known = self._live.world.coordinators.values()
        return self._me.address, *sorted(c.address for c in known if c.id != self._me.id)

    def tell_coordinators(self) -> None:
        told = agent_pb2.Coordinators(addresses=self.addresses())
        for session in self.held.values():
            session.send(agent_pb2.CoordinatorMessage(coordinators=told))

    def _welcome_message(self, session: AgentSession) -> agent_pb2.CoordinatorMessage:
        world = self._live.world
        return agent_pb2.CoordinatorMessage(
            welcome=agent_pb2.Welcome(
                session_id=session.id,
                cluster_id=world.cluster.id if world.cluster else "",
                coordinator_id=self._me.id,
                heartbeat_period_s=HEARTBEAT_PERIOD_S,
                relaxed_period_s=session.pace_s,
                lease_s=AGENT_LEASE_S,
                coordinator_addresses=self.addresses(),
            )
        )

    def tell_trust(self) -> None:
        """Whose signatures count has changed."""
        for session in self.held.values():
            session.send(self._trust_message())

    def _trust_message(self) -> agent_pb2.CoordinatorMessage:
        """Empty in a cluster without certificates."""
        trust = self._live.world.trust
        return agent_pb2.CoordinatorMessage(
            trust=wire_access.trust_to_pb(trust) if trust else types_pb2.Trust()
        )

    async def _serve(
        self,
        session: AgentSession,
        requests: AsyncIterator[agent_pb2.AgentMessage],
        context: Stream,
    ) -> None:
        """Until the stream breaks, the agent says goodbye, or the session is ended from here."""
        tasks: list[asyncio.Future[None]] = [
            asyncio.create_task(self._read(session, requests)),
            asyncio.create_task(self._send(session, context)),
            asyncio.create_task(self._keep_agent_right(session)),
            asyncio.create_task(self._registrar.keep_right(session)),
            session.ended,
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
        allowance = Allowance.full(per_s=MESSAGES_PER_S, burst=MESSAGES_BURST, at_s=self._clock())
        async for message in requests:
            session.last_heard_s = self._clock()
            cost = 1.0 + message.ByteSize() / BYTES_EACH
            allowance, wait_s = allowance.spent(session.last_heard_s, cost)
            if wait_s:
                # What it sends meanwhile waits with it, and with nobody else.
                await asyncio.sleep(wait_s)
            match message.WhichOneof("message"):
                case "status":
                    await self._turns.turn()
                    self._take_status(session, message.status)
                case "heartbeat":
                    session.waiting = message.heartbeat.sequence
                    self._extend_lease(session)
                case "resend":
                    session.complete_wanted = True
                    self._send_assignments(session)
                case "usage":
                    self._desk.take(session.host, message.usage)
                case "goodbye":
                    # Nothing runs there. What is over stays known, or it would run again elsewhere.
                    over = tuple(session.over.values())
                    session.status = structs.replace(session.status, instances=over, departed=True)
                    self._live.publish(session.status)
                    return
                case _:
                    pass  # a newer agent's message: being heard is all it says

    def _extend_lease(self, session: AgentSession) -> None:
        """Only while this host's session is surely ours, and when the agent follows its document as
        it was when the session began, or a later one: what was taken from it before it must not
        start again, also when it cannot write down what it is told."""
        entry = self._live.world.hosts.get(session.host)
        nothing = entry is None or entry.document is None
        follows = nothing or 0 < session.owed <= session.status.generation
        if session.waiting and follows and self._registrar.surely_holds(session):
            ack = agent_pb2.Ack(heartbeat=session.waiting)
            session.waiting = 0
            session.send(agent_pb2.CoordinatorMessage(ack=ack))

    def _take_status(self, session: AgentSession, batch: agent_pb2.StatusBatch) -> None:
        table = {item.uid: item for item in session.status.instances}
        for message in batch.changed:
            try:
                item = table[message.uid] = wire.instance_status_from_pb(message)
            except wire.WireError as error:  # a newer agent's word: its other news are good
                log.warning("host %s: %s", session.host, error)
                continue
            session.encoder.take((item,), (message,))
        for uid in batch.gone_uids:
            table.pop(uid, None)
        self._remember_over(session, table)
        session.status = structs.replace(
            session.status,
            instances=tuple(table.values()),
            complaint=batch.complaint[:COMPLAINT_MAX],
            generation=batch.generation,
            cluster_epoch=batch.cluster_epoch,
            ahead=batch.ahead,
        )
        self._live.publish(session.status)
        session.touch()
        self._extend_lease(session)

    def _remember_over(self, session: AgentSession, table: Mapping[str, InstanceStatus]) -> None:
        """An agent that ends stops all it has, what is over too, though it is wanted as it is."""
        entry = self._live.world.hosts.get(session.host)
        assigned = {item.uid for item in entry.assigned} if entry and session.over else ()
        for uid in [*session.over]:
            status = table.get(uid)
            still = status is None or status.state is InstanceState.STOPPED or is_over(status)
            if uid not in assigned or not still:
                del session.over[uid]
        session.over |= {uid: status for uid, status in table.items() if status.state in OVER}

    async def _send(self, session: AgentSession, context: Stream) -> None:
        while True:
            await context.write(await session.outgoing.get())

    async def watch(self) -> None:
        """For ever, all agents at one look: ends the sessions of those that say nothing, and tells
        the others how often they have to."""
        while True:
            await asyncio.sleep(LOOKS_EVERY_S)
            now_s, pace_s = self._clock(), relaxed_heartbeat_s(len(self.held))
            pace = agent_pb2.CoordinatorMessage(pace=agent_pb2.Pace(relaxed_period_s=pace_s))
            for session in tuple(self.held.values()):
                quiet_s = now_s - session.last_heard_s
                if quiet_s > max(session.pace_s, HEARTBEAT_PERIOD_S) * HEARTBEATS_MISSED_MAX:
                    session.end(f"no heartbeat for {quiet_s:.0f} s")
                elif not 1 / PACE_FACTOR < pace_s / session.pace_s < PACE_FACTOR:
                    session.pace_s = pace_s
                    session.last_heard_s = now_s  # a shorter one counts from here on
                    session.send(pace)

    async def _leave(self, session: AgentSession) -> None:
        log.info("host %s: session %s closed %s", session.host, session.id, session.end_reason)
        if self.held.get(session.host) is session:
            del self.held[session.host]
            self._live.let_go(session.host)
        await self._registrar.leave(session)

    def end_all(self, reason: str) -> None:
        """Send every agent on to another coordinator."""
        for session in self.held.values():
            session.end(reason)

    # ------------------------------------------------------------------ the agent's side

    async def _keep_agent_right(self, session: AgentSession) -> None:
        hint = self._live.subscribe_document(session.host)
        try:
            while True:
                hint.clear()
                await self._turns.turn()
                self._send_assignments(session)
                await hint.wait()
        finally:
            self._live.unsubscribe_document(session.host, hint)

    def _send_assignments(self, session: AgentSession) -> None:
        """Queue what the agent lacks. No document is not an empty one: nothing is sent then."""
        entry = self._live.world.hosts.get(session.host)
        document = entry.document if entry else None
        if document is None or (document is session.sent and not session.complete_wanted):
            return
        releases = self._releases(document)
        if releases is None:
            return  # its release is not in our mirror yet; the next change brings it
        before = session.sent
        # In a new epoch of the cluster what went before says nothing of what the agent runs.
        same_epoch = before is not None and before.cluster_epoch == document.cluster_epoch
        base = before if same_epoch and not session.complete_wanted else None
        session.complete_wanted = False
        session.sent = document
        session.owed = session.owed or document.generation
        order = orders.message(document, base, releases, bundles=session.takes_bundles)
        session.send(agent_pb2.CoordinatorMessage(assignments=order))

    def _releases(self, document: AssignmentDocument) -> list[types_pb2.Release] | None:
        wanted: dict[tuple[str, int], set[str]] = {}
        for bundle in document.bundles:
            terms = bundle.terms
            wanted.setdefault((terms.app, terms.release), set()).add(terms.like or terms.type)
        found = [self._release(*key, types) for key, types in sorted(wanted.items())]
        if any(release is None for release in found):
            return None
        return [release for release in found if release is not None]

    def _release(self, app: str, number: int, types: Collection[str]) -> types_pb2.Release | None:
        """As it was written: what only newer versions know is passed on to the agent. Of secrets
        it gets the values that one of `types` needs, and nothing of the others."""
        record = self._mirror.records.get(keys.release(app, number))
        message = None
        if record is not None:
            with suppress(DecodeError):
                message = types_pb2.Release.FromString(record.value)
        if message is None and (known := self._live.world.releases.get((app, number))):
            message = wire.release_to_pb(known)
        if message is not None and message.secrets:
            self._open_secrets(message, types)
        return message

    def _open_secrets(self, message: types_pb2.Release, types: Collection[str]) -> None:
        """Also in a release that only newer versions can read whole."""
        release = wire.as_far_as_secrets(message)
        message.ClearField("secrets")
        for name in needed_by(release, types):
            secret = release.secrets[name]
            value = self._vault.value_for_agent(release.app, name, secret)
            message.secrets[name].CopyFrom(types_pb2.Secret(version=secret.version, value=value))

    def send_anew(self) -> None:
        """Keys have come: what could not be opened for agents may be now."""
        for session in self.held.values():
            session.complete_wanted = True
            self._send_assignments(session)

    # ------------------------------------------------------------------ logs

    def watch_joins(self) -> asyncio.Queue[AgentSession]:
        """Every session that opens from now on."""
        queue: asyncio.Queue[AgentSession] = asyncio.Queue()
        self._joined.add(queue)
        return queue

    def unwatch_joins(self, queue: asyncio.Queue[AgentSession]) -> None:
        self._joined.discard(queue)

    async def PushLogs(  # noqa: N802
        self,
        request_iterator: AsyncIterator[agent_pb2.LogPush],
        context: grpc.aio.ServicerContext[agent_pb2.LogPush, agent_pb2.LogPushed],
    ) -> agent_pb2.LogPushed:
        """Hand an agent's lines to the request that asked for them; end when nobody listens."""
        token, whole = "", False
        try:
            async for push in request_iterator:
                token = push.request_id
                found = self._relay.find(token)
                if found is None:
                    break
                request, host = found
                if not caller().speaks_for(host):
                    break
                for line in push.lines:
                    if line.host != host:
                        line.host = host
                lines = control_pb2.LogsResponse(lines=push.lines) if push.lines else None
                delivery = Delivery(source=host, lines=lines, done=push.history_done)
                await request.take(delivery, push.at_us, push.ends)
                if (told := clock_notice(host, push.at_us, self._now_ms() * 1000)) is not None:
                    await request.queue.put(Delivery(source=host, lines=told))
                whole = push.whole
        finally:
            found = self._relay.find(token)
            if found is not None and caller().speaks_for(found[1]):
                over = Delivery(source=found[1], done=True, ended=True, whole=whole)
                await found[0].queue.put(over)
        return agent_pb2.LogPushed()

    # ------------------------------------------------------------------ commands beside instances

    async def Exec(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[agent_pb2.ExecPush], context: ExecStream
    ) -> None:
        await self.execs.meet(request_iterator, context)
