"""Others that we meet: holders of certificates whom the store does not know, other coordinators."""

from __future__ import annotations

import asyncio
import contextlib

import grpc.aio

from formation.dialling import Dialler, NotTrustedError
from formation.model import Coordinator
from formation.v1 import control_pb2, control_pb2_grpc
from formation_coordinator.control_access import AccessControl
from formation_coordinator.guard import Guard
from formation_coordinator.live import LiveWorld
from formation_coordinator.notary import Notary
from formation_coordinator.store.base import StoreError

PAUSE_S = 1.0


async def remember_strangers(
    notary: Notary, guard: Guard, control: AccessControl, live: LiveWorld
) -> None:
    """For ever. So that `formctl access` shows everybody, us and those whom `init` made too."""
    known, mine = guard.strangers, notary.identity
    known[mine.role, mine.name] = notary.credential.seen
    while True:
        for key, seen in tuple(known.items()):
            if key not in live.world.identities:
                with contextlib.suppress(StoreError):
                    await control.remember(seen)
            known.pop(key, None)
        await asyncio.sleep(PAUSE_S)


async def asks_for_store(dialler: Dialler, other: Coordinator, *, within_s: float) -> bool:
    """Does that other coordinator reach etcd?"""
    try:
        async with dialler.channel(other.address) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            answer = await stub.GetCluster(control_pb2.GetClusterRequest(), timeout=within_s)
            return answer.store_connected
    except (grpc.aio.AioRpcError, NotTrustedError):
        return False
