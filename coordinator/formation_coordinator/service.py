"""One coordinator put together: store, mirror, lease, election, driver, sessions, API.

Order matters: it listens first, so that callers are told what it waits for; it serves once the
mirror has its first full view; it leads only after that.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

import grpc

import formation
from formation import credentials
from formation.credentials import CredentialError
from formation.dialling import Dialler
from formation.identity import Trust
from formation.model import Cluster, Coordinator
from formation.runtime import (
    monotonic_s,
    new_id,
    now_ms,
)
from formation.v1 import (
    access_pb2_grpc,
    agent_pb2_grpc,
    artifacts_pb2_grpc,
    control_pb2_grpc,
)
from formation_coordinator import views
from formation_coordinator.api import ControlService
from formation_coordinator.api_access import AccessService
from formation_coordinator.artifacts import artifact_service
from formation_coordinator.automating import Automation
from formation_coordinator.balancing import Balancing
from formation_coordinator.chronicle import Chronicle
from formation_coordinator.config import (
    CoordinatorConfig,
    default_id,
    page_url,
    problem_with_access,
    problem_with_page,
)
from formation_coordinator.control import Control
from formation_coordinator.control_access import AccessControl
from formation_coordinator.control_exec import ExecControl
from formation_coordinator.control_hosts import HostControl
from formation_coordinator.control_releases import ReleaseControl
from formation_coordinator.control_runs import RunControl
from formation_coordinator.control_secrets import SecretControl
from formation_coordinator.control_store import SCHEMA_VERSION, StoreControl
from formation_coordinator.driver import Driver
from formation_coordinator.election import Election, LeaseKeeper
from formation_coordinator.execroom import ExecRoom
from formation_coordinator.guard import Guard
from formation_coordinator.housekeeping import Housekeeping
from formation_coordinator.keysharing import KeySharing
from formation_coordinator.listening import ListenError, listen, new_server
from formation_coordinator.live import LiveWorld
from formation_coordinator.logfan import LogFan
from formation_coordinator.logrelay import LogRelay
from formation_coordinator.notary import Notary
from formation_coordinator.planning import Planning
from formation_coordinator.presence import Presence
from formation_coordinator.registration import Registrar
from formation_coordinator.servertls import ServerTls
from formation_coordinator.sessions import Sessions
from formation_coordinator.standard import Standard
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import ModRevision, Put, Store, StoreError
from formation_coordinator.store.mirror import Mirror
from formation_coordinator.strangers import asks_for_store, remember_strangers
from formation_coordinator.systemd import Manager
from formation_coordinator.usagefan import UsageDesk, UsageFan
from formation_coordinator.vault import Vault
from formation_coordinator.watching import InstanceWatch
from formation_coordinator.web.logins import Logins

if TYPE_CHECKING:
    from formation_coordinator.web.opening import OpenPage

log = logging.getLogger(__name__)

RETRY_S = 1.0
STOP_GRACE_S = 0.3


class FatalError(Exception):
    """The program cannot start; one line for people."""


HasStore = Callable[[Coordinator], Awaitable[bool]]


class Service:
    """`has_store`: does that other coordinator reach etcd? `manager`: who is told how it goes."""

    def __init__(
        self,
        config: CoordinatorConfig,
        store: Store,
        *,
        has_store: HasStore | None = None,
        manager: Manager | None = None,
    ) -> None:
        self.config, self._store = config, store
        self._manager = manager or Manager({})
        self.mirror = Mirror(store, keys.MIRRORED)
        self.live = LiveWorld(self.mirror, monotonic_s)
        self.notary = self._build_notary()
        address = config.advertise or config.listen
        self.me = Coordinator(
            id=self._chosen_id(address),
            address=address,
            version=formation.__version__,
            since_ms=now_ms(),
            insecure=config.insecure,
        )
        self.dialler = Dialler(
            lambda: self.notary.credential if self.notary else None, insecure=config.insecure
        )
        self._has_store = has_store or partial(asks_for_store, self.dialler, within_s=RETRY_S)
        self.lease = LeaseKeeper(store)
        self.driver = Driver(
            store=store,
            mirror=self.mirror,
            live=self.live,
            clock=monotonic_s,
            now_ms=now_ms,
            new_id=new_id,
            replace_after_s=config.replace_after_s,
        )
        self.api = self._build_rooms()
        self.standard = Standard(self._cut_off)
        self.election = Election(store, self.mirror, self.lease, self.me, self.automation.lead)
        self.logins = Logins(clock=monotonic_s, new_secret=token_urlsafe)
        self.access = AccessService(
            control=AccessControl(store=store, now_ms=now_ms, new_id=new_id),
            secrets=SecretControl(store=store, now_ms=now_ms, new_id=new_id),
            webhooks=self.automation.control,
            vault=self.vault,
            sharing=self.sharing,
            live=self.live,
            notary=self.notary,
            address=self.me.address,
            logins=self.logins,
            page_url=page_url(config),
        )
        self.tls = (
            ServerTls(self.notary, world=lambda: self.live.world, now_ms=now_ms)
            if self.notary
            else None
        )
        self.guard = Guard(
            world=lambda: self.live.world,
            authorities=self.notary.authorities if self.notary else tuple,
            now_ms=now_ms,
            clock=monotonic_s,
            insecure=self.notary is None,
        )
        self._server: grpc.aio.Server | None = None
        self._page: OpenPage | None = None

    def _build_rooms(self) -> ControlService:
        relay, self.desk = LogRelay(new_id), UsageDesk(new_id)
        here: dict[str, Any] = {"live": self.live, "me": self.me, "dialler": self.dialler}
        self.sharing = KeySharing(
            notary=self.notary,
            came=lambda: self.sessions.send_anew(),  # noqa: PLW0108  they are made later
            **here,
        )
        self.vault = Vault(self.notary, lambda: self.live.world.trust, self.sharing.give)
        self.registrar = Registrar(
            store=self._store,
            mirror=self.mirror,
            live=self.live,
            lease=self.lease,
            me=self.me,
            now_ms=now_ms,
        )
        self.sessions = Sessions(
            mirror=self.mirror,
            live=self.live,
            relay=relay,
            desk=self.desk,
            registrar=self.registrar,
            vault=self.vault,
            me=self.me,
            clock=monotonic_s,
            now_ms=now_ms,
            new_id=new_id,
        )
        self.housekeeping = Housekeeping(
            self._store,
            leads=self.leads,
            compact_every_s=self.config.compact_every_s,
            clock=monotonic_s,
        )
        self.balancing = Balancing(
            live=self.live,
            me=self.me,
            held=self.sessions.held,
            is_busy=lambda host: relay.follows(host) or self.sessions.execs.follows(host),
            may=lambda: self.lease.remaining_s() > 0,
            clock=monotonic_s,
        )
        self.artifacts = artifact_service(
            self.config, live=self.live, me=self.me, dialler=self.dialler, cut_off=self._cut_off
        )
        shell: dict[str, Any] = {"store": self._store, "now_ms": now_ms, "new_id": new_id}
        chronicle = Chronicle(self.live, now_ms)
        usage = UsageFan(held=self.sessions.held.values, desk=self.desk, **here)
        self.automation = Automation(self, self._store, chronicle, usage)
        return ControlService(
            store=self._store,
            mirror=self.mirror,
            live=self.live,
            apps=Control(**shell),
            releases=ReleaseControl(**shell),
            hosts=HostControl(**shell),
            runs=RunControl(**shell),
            secrets=SecretControl(**shell),
            vault=self.vault,
            whole=StoreControl(**shell),
            plans=Planning(
                self.live,
                clock=monotonic_s,
                now_ms=now_ms,
                replace_after_s=self.config.replace_after_s,
            ),
            logs=LogFan(sessions=self.sessions, relay=relay, **here),
            execs=ExecRoom(sessions=self.sessions, control=ExecControl(**shell), **here),
            usage=usage,
            automation=self.automation,
            dialler=self.dialler,
            chronicle=chronicle,
            watch=InstanceWatch(self.live, self.driver.plan, self._outdated),
            outdated=self._outdated,
            cut_off=self._cut_off,
            have=self.artifacts.ensure,
            me=self.me,
            clock=monotonic_s,
            replace_after_s=self.config.replace_after_s,
        )

    def _build_notary(self) -> Notary | None:
        """None without certificates."""
        if not credentials.exists(self.config.identity_dir):
            return None
        try:
            notary = Notary(
                self.config.identity_dir,
                trust=lambda: self.live.world.trust,
                now_ms=now_ms,
                sealing_file=self.config.sealing_key_file,
            )
            notary.refresh()
        except CredentialError as error:
            raise FatalError(str(error)) from error
        return notary

    def _chosen_id(self, address: str) -> str:
        """As the certificate says. Raises `FatalError`."""
        if self.notary is None:
            return self.config.id or default_id(socket.gethostname(), address)
        name = self.notary.identity.name
        if self.config.id not in ("", name):
            raise FatalError(
                f"--id {self.config.id}: our certificate is that of coordinator {name}; leave "
                "--id out"
            )
        return name

    async def _listen(self) -> None:
        certified = self.notary is not None
        wrong = problem_with_access(self.config, certified=certified)
        if wrong := wrong or problem_with_page(self.config, certified=certified):
            raise FatalError(wrong)
        server = self._server = new_server(self.guard, self.config.ping_every_s)
        agent_pb2_grpc.add_AgentServicer_to_server(self.sessions, server)
        control_pb2_grpc.add_ControlServicer_to_server(self.api, server)
        access_pb2_grpc.add_AccessServicer_to_server(self.access, server)
        artifacts_pb2_grpc.add_ArtifactsServicer_to_server(self.artifacts, server)
        self.standard.add_to(server)
        await self.standard.begin()
        try:
            await listen(server, self.config.listen, self.tls)
            await self._open_page()
        except ListenError as error:
            raise FatalError(str(error)) from error
        log.info("coordinator %s listens on %s", self.me.id, self.config.listen)

    async def _open_page(self) -> None:
        """Raises `ListenError`."""
        if not self.config.http:
            return
        # Late: only who has a page pays for its library.
        from formation_coordinator.metrics import Metrics, look_at
        from formation_coordinator.web.opening import OpenPage

        metrics = Metrics(lambda: look_at(self))
        self.guard.told = metrics.count
        self._page = OpenPage(self, metrics)
        await self._page.begin()

    def about(self) -> dict[str, object]:
        return {
            "coordinator": self.me.id,
            "version": formation.__version__,
            "warning": views.insecurity(self.live.world, self.me),
        }

    def _cut_off(self) -> str:
        """Why we cannot know how things are, for people; or ""."""
        if self.lease.remaining_s() > 0:
            return ""
        return "cannot reach etcd" + (f" ({self.mirror.failure})" if self.mirror.failure else "")

    def _outdated(self) -> str:
        why = self._cut_off()
        if not why:
            return self.housekeeping.trouble
        return f"coordinator {self.me.id} {why} and shows what it knew last"

    def leads(self) -> bool:
        leader = self.live.world.leader
        return leader is not None and leader.id == self.me.id

    async def run(self, stop: Callable[[], Coroutine[None, None, object]]) -> None:
        """Serve until `stop` returns. Raises `FatalError` when it cannot."""
        await self._listen()
        # Not later: without etcd it answers too, and says what it waits for.
        self._manager.ready(f"listens on {self.config.listen}")
        stopping = asyncio.create_task(stop())
        work = asyncio.create_task(self.work())
        beats = asyncio.create_task(self._manager.beat())
        try:
            await asyncio.wait([stopping, work], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                _raise_first(work)
        finally:
            self._manager.stopping()
            for task in (stopping, work, beats):
                task.cancel()
            await asyncio.gather(stopping, work, beats, return_exceptions=True)
            await self.close()

    async def work(self) -> None:
        """All but to listen, for ever. Raises `FatalError` in a group."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.mirror.run())
            await self.mirror.ready.wait()
            await self._found_cluster()
            tasks.create_task(self.lease.run())
            tasks.create_task(self.standard.run())
            tasks.create_task(self._keep_registered())
            tasks.create_task(self.registrar.sweep())
            tasks.create_task(self.artifacts.run())
            tasks.create_task(self.sessions.watch())
            tasks.create_task(self._send_agents_on_when_cut_off())
            tasks.create_task(self._tell_of_coordinators())
            tasks.create_task(self.balancing.run())
            tasks.create_task(self.housekeeping.run())
            if self._page:
                tasks.create_task(self._page.run())
            if self.config.otlp:
                from formation_coordinator.exporting import opened  # late: as for the page

                tasks.create_task(opened(self).run())
            tasks.create_task(self.election.run())
            if self.notary and self.tls:
                tasks.create_task(self.notary.run())
                tasks.create_task(self.tls.watch(self.live.subscribe()))
                tasks.create_task(self.guard.watch(self.live.subscribe()))
                tasks.create_task(
                    remember_strangers(self.notary, self.guard, self.access.control, self.live)
                )
                tasks.create_task(self._follow_trust(self.notary))
            log.info("ready: cluster %s", self.live.world.cluster and self.live.world.cluster.id)

    async def _found_cluster(self) -> None:
        """The first coordinator ever names the cluster; a newer schema is not ours to touch."""
        while self.live.world.cluster is None:
            made = Cluster(
                id=self._own_cluster() or new_id(),
                schema_version=SCHEMA_VERSION,
                created_at_ms=now_ms(),
            )
            try:
                put = Put(keys.cluster(), codec.encode(made))
                outcome = await self._store.commit([ModRevision(keys.cluster(), 0)], [put])
                await self.mirror.wait_for(outcome.revision, RETRY_S)
            except (StoreError, TimeoutError) as error:
                log.warning("the cluster is not founded yet: %s", error)
                await asyncio.sleep(RETRY_S)
        await self._agree_on_trust(self.live.world.cluster)
        schema = self.live.world.cluster.schema_version
        if schema > SCHEMA_VERSION:
            raise FatalError(
                f"the store has schema {schema}, this coordinator knows {SCHEMA_VERSION}; "
                "upgrade it"
            )

    def _own_cluster(self) -> str:
        return self.notary.identity.cluster if self.notary else ""

    async def _agree_on_trust(self, cluster: Cluster) -> None:
        """The first coordinator with certificates says whose signatures count. What only a newer
        version can read stays; then what we were given counts for us."""
        mine = self._own_cluster()
        if mine and mine != cluster.id:
            raise FatalError(
                f"this store is of cluster {cluster.id}, our certificate of cluster {mine}: give "
                "another --etcd or --etcd-prefix, or another --identity-dir"
            )
        unreadable = ("trust", ()) in self.live.world.unreadable
        while self.notary and self.live.world.trust is None and not unreadable:
            try:
                put = Put(keys.trust(), codec.encode(self.notary.first_trust()))
                outcome = await self._store.commit([ModRevision(keys.trust(), 0)], [put])
                await self.mirror.wait_for(outcome.revision, RETRY_S)
            except (StoreError, TimeoutError) as error:
                log.warning("the cluster's authority is not written yet: %s", error)
                await asyncio.sleep(RETRY_S)

    async def _keep_registered(self) -> None:
        raise FatalError(await Presence(self._store, self.mirror, self.lease, self.me).keep())

    async def _follow_trust(self, notary: Notary) -> None:
        """Level: our keys, our certificate and what agents know are as the store says."""
        told: Trust | None = None
        while True:
            trust = self.live.world.trust
            try:
                if notary.lacks_key():
                    await self.sharing.fetch_lacking()
                if trust is not told and trust is not None:
                    notary.refresh()
                    self.sessions.tell_trust()
                    told = trust
            except (CredentialError, ValueError) as error:
                log.warning("the cluster's authorities: %s", error)
            await asyncio.sleep(RETRY_S)

    async def _tell_of_coordinators(self) -> None:
        """Agents that are here for long hear of those that came later. One that went is told of
        with the next change: where it was, nobody answers."""
        told = self.sessions.addresses()
        while True:
            await asyncio.sleep(RETRY_S)
            now = self.sessions.addresses()
            if not set(now) <= set(told):
                self.sessions.tell_coordinators()
            told = now

    async def _send_agents_on_when_cut_off(self) -> None:
        """Cut off from etcd while another coordinator is not: our agents are better off there.

        When nobody has etcd they stay: they lose nothing, and are registered again at once.
        """
        while True:
            await asyncio.sleep(RETRY_S)
            if self.lease.remaining_s() > 0 or not self.sessions.held:
                continue
            others = [c for c in self.live.world.coordinators.values() if c.id != self.me.id]
            for other in others:
                if await self._has_store(other):
                    reason = f"coordinator {self.me.id} is cut off from etcd, {other.id} is not"
                    log.warning("%s: sending our agents there", reason)
                    self.sessions.end_all(reason)
                    break

    async def close(self) -> None:
        """Hand over at once: leadership and registrations go with the lease."""
        await self.election.close()
        await self.automation.close()
        self.sessions.end_all(f"coordinator {self.me.id} is stopping")
        if self._page is not None:
            await self._page.close()
        if self._server is not None:
            await self._server.stop(STOP_GRACE_S)
        await self.api.execs.close()
        await self.lease.close()


def _raise_first(work: asyncio.Task[None]) -> None:
    """A task group wraps what went wrong; people want the one thing."""
    error = work.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error
