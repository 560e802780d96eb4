"""What tools of every gRPC server's users ask: is it well (`grpc.health.v1`), what does it speak
(`grpc.reflection`). By the same table of roles as everything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import OVERALL_HEALTH, SERVICE_NAME, aio
from grpc_reflection.v1alpha import reflection

from formation.v1 import access_pb2, agent_pb2, artifacts_pb2, control_pb2

_MODULES = (access_pb2, agent_pb2, artifacts_pb2, control_pb2)
SERVICES = tuple(
    sorted(
        service.full_name
        for module in _MODULES
        for service in module.DESCRIPTOR.services_by_name.values()
    )
)
_LOOKS_EVERY_S = 0.5
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Standard:
    """`cut_off`: why we cannot take sessions and changes, or ""."""

    def __init__(self, cut_off: Callable[[], str]) -> None:
        self._cut_off = cut_off
        self._health = aio.HealthServicer()

    def add_to(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*SERVICES, SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)

    async def begin(self) -> None:
        """Nothing is served until `run` has looked."""
        await self._say(_NOT_SERVING)

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._say(_NOT_SERVING if self._cut_off() else _SERVING)
            await asyncio.sleep(_LOOKS_EVERY_S)

    async def _say(self, status: Any) -> None:  # an enum of generated code, whose types differ
        for name in (OVERALL_HEALTH, *SERVICES):
            await self._health.set(name, status)
