"""One coordinator put together: store, mirror, lease, election, driver, sessions, API.

Order matters: it listens first, so that callers are told what it waits for; it serves once the
mirror has its first full view; it leads only after that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine

import grpc

import formation
from formation.model import Cluster, Coordinator, Slot
from formation.runtime import monotonic_s, new_id, now_ms, server_channel_options
from formation.v1 import agent_pb2_grpc, control_pb2_grpc
from formation_coordinator.api import ControlService
from formation_coordinator.config import CoordinatorConfig, is_local
from formation_coordinator.control import Control
from formation_coordinator.driver import Driver
from formation_coordinator.election import Election, LeaseKeeper
from formation_coordinator.live import LiveWorld
from formation_coordinator.logfan import LogFan
from formation_coordinator.logrelay import LogRelay
from formation_coordinator.registration import Registrar
from formation_coordinator.sessions import Sessions
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import ModRevision, Put, Store, StoreError
from formation_coordinator.store.mirror import Mirror
from formation_coordinator.watching import InstanceWatch

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
RETRY_S = 1.0
STOP_GRACE_S = 0.3


class FatalError(Exception):
    """The program cannot start; one line for people."""


class Service:
    def __init__(self, config: CoordinatorConfig, store: Store) -> None:
        address = config.advertise or config.listen
        self.me = Coordinator(
            id=config.id or f"{socket.gethostname()}-{address.rpartition(':')[2] or address}",
            address=address,
            version=formation.__version__,
            since_ms=now_ms(),
        )
        self._config, self._store = config, store
        self.mirror = Mirror(store, keys.MIRRORED)
        self.live = LiveWorld(self.mirror, monotonic_s)
        self.lease = LeaseKeeper(store)
        self.driver = Driver(
            store=store,
            mirror=self.mirror,
            live=self.live,
            clock=monotonic_s,
            new_uid=_new_uid,
            replace_after_s=config.replace_after_s,
        )
        self.election = Election(store, self.mirror, self.lease, self.me, self.driver.lead)
        self.server = self._build_server()

    def _build_server(self) -> grpc.aio.Server:
        relay = LogRelay(new_id)
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
            registrar=self.registrar,
            me=self.me,
            clock=monotonic_s,
            now_ms=now_ms,
            new_id=new_id,
        )
        api = ControlService(
            store=self._store,
            mirror=self.mirror,
            live=self.live,
            changes=Control(store=self._store, now_ms=now_ms, new_id=new_id),
            logs=LogFan(sessions=self.sessions, relay=relay, live=self.live, me=self.me),
            watch=InstanceWatch(self.live, lambda: self.driver.plan(epoch=0)),
            me=self.me,
            clock=monotonic_s,
            replace_after_s=self._config.replace_after_s,
        )
        server = grpc.aio.server(options=server_channel_options())
        agent_pb2_grpc.add_AgentServicer_to_server(self.sessions, server)
        control_pb2_grpc.add_ControlServicer_to_server(api, server)
        return server

    async def run(self, stop: Callable[[], Coroutine[None, None, object]]) -> None:
        """Serve until `stop` returns. Raises `FatalError` when it cannot."""
        await self._listen()
        stopping = asyncio.create_task(stop())
        work = asyncio.create_task(self._work())
        try:
            await asyncio.wait([stopping, work], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                _raise_first(work)
        finally:
            stopping.cancel()
            work.cancel()
            await asyncio.gather(stopping, work, return_exceptions=True)
            await self._close()

    async def _listen(self) -> None:
        listen = self._config.listen
        self._claim_socket(listen)
        try:
            self.server.add_insecure_port(listen)
            await self.server.start()
        except RuntimeError as error:
            raise FatalError(
                f"cannot listen on {listen}: the address is in use or not of this machine; "
                "give another --listen"
            ) from error
        if listen.startswith("unix:"):
            os.chmod(listen.removeprefix("unix:"), 0o600)
        if not is_local(listen):
            log.warning("INSECURE: whoever reaches %s can run commands on every host", listen)
        log.info("coordinator %s listens on %s", self.me.id, listen)

    def _claim_socket(self, listen: str) -> None:
        """A dead coordinator's socket file is removed; a living one's is left alone."""
        if not listen.startswith("unix:"):
            return
        path = listen.removeprefix("unix:")
        if not os.path.exists(path):
            return
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                raise FatalError(f"cannot listen on {listen}: another program serves there")
        os.unlink(path)

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.mirror.run())
            await self.mirror.ready.wait()
            await self._found_cluster()
            tasks.create_task(self.lease.run())
            tasks.create_task(self._keep_registered())
            tasks.create_task(self.registrar.sweep())
            tasks.create_task(self.election.run())
            log.info("ready: cluster %s", self.live.world.cluster and self.live.world.cluster.id)

    async def _found_cluster(self) -> None:
        """The first coordinator ever names the cluster; a newer schema is not ours to touch."""
        while self.live.world.cluster is None:
            made = Cluster(id=new_id(), schema_version=SCHEMA_VERSION, created_at_ms=now_ms())
            try:
                put = Put(keys.cluster(), codec.encode(made))
                outcome = await self._store.commit([ModRevision(keys.cluster(), 0)], [put])
                await self.mirror.wait_for(outcome.revision, RETRY_S)
            except (StoreError, TimeoutError) as error:
                log.warning("the cluster is not founded yet: %s", error)
                await asyncio.sleep(RETRY_S)
        schema = self.live.world.cluster.schema_version
        if schema > SCHEMA_VERSION:
            raise FatalError(
                f"the store has schema {schema}, this coordinator knows {SCHEMA_VERSION}; "
                "upgrade it"
            )

    async def _keep_registered(self) -> None:
        """coordinators/<id> on our present lease, whatever happened to the last one."""
        on_lease = 0
        while True:
            lease = self.lease.lease_id
            if lease and lease != on_lease:
                try:
                    put = Put(keys.coordinator(self.me.id), codec.encode(self.me), lease=lease)
                    await self._store.commit([], [put])
                    on_lease = lease
                except StoreError as error:
                    log.warning("this coordinator is not registered: %s", error)
            await asyncio.sleep(RETRY_S)

    async def _close(self) -> None:
        """Hand over at once: leadership and registrations go with the lease."""
        await self.election.close()
        self.sessions.end_all(f"coordinator {self.me.id} is stopping")
        await self.server.stop(STOP_GRACE_S)
        await self.lease.close()


def _new_uid(slot: Slot) -> str:
    return new_id()


def _raise_first(work: asyncio.Task[None]) -> None:
    """A task group wraps what went wrong; people want the one thing."""
    error = work.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        raise error
