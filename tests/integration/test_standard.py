"""What every gRPC user's tools ask of a coordinator, over the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from certified import Authority
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from running import coordinator
from store_link import StoreLink

from formation.dialling import Dialler
from formation.identity import Role
from formation_coordinator.standard import SERVICES
from formation_coordinator.store.memory import MemoryStore

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    made = MemoryStore()
    yield made
    await made.close()


async def statuses(channel: grpc.aio.Channel, service: str) -> AsyncIterator[int]:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    async for answer in stub.Watch(health_pb2.HealthCheckRequest(service=service)):
        yield answer.status


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_a_coordinator_that_can_serve_says_so(
    store: MemoryStore, tmp_path: Path, service: str
) -> None:
    async with (
        coordinator(store, tmp_path) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        async for status in statuses(channel, service):
            if status == SERVING:
                break


async def test_one_that_is_cut_off_from_the_store_says_so(
    store: MemoryStore, tmp_path: Path
) -> None:
    link = StoreLink(store)
    async with (
        coordinator(link, tmp_path) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        seen = []
        async for status in statuses(channel, "formation.v1.Control"):
            seen.append(status)
            if status == SERVING:
                link.cut = True
            if seen[-2:] == [SERVING, NOT_SERVING]:
                break
        link.cut = False


async def ask(
    channel: grpc.aio.Channel, requests: Iterable[reflection_pb2.ServerReflectionRequest]
) -> list[reflection_pb2.ServerReflectionResponse]:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
    return [answer async for answer in stub.ServerReflectionInfo(iter(requests))]


async def test_it_tells_what_it_speaks(store: MemoryStore, tmp_path: Path) -> None:
    async with (
        coordinator(store, tmp_path) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        listed, told = await ask(
            channel,
            [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(
                    file_containing_symbol="formation.v1.Control"
                ),
            ],
        )
    names = {service.name for service in listed.list_services_response.service}
    assert names == {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(file)
        for file in told.file_descriptor_response.file_descriptor_proto
    ]
    methods = {m.name for file in files for service in file.service for m in service.method}
    assert {"Scale", "ListApps"} <= methods


@pytest.mark.parametrize("role", [Role.AGENT, Role.VIEWER])
async def test_who_asks_is_looked_at(store: MemoryStore, tmp_path: Path, role: Role) -> None:
    authority = Authority()
    async with coordinator(store, tmp_path, authority=authority) as running:
        somebody = authority.issue(tmp_path / "x", role, "x")
        async with Dialler(lambda: somebody).channel(running.address) as channel:
            async for status in statuses(channel, ""):
                if status == SERVING:
                    break
            asking = ask(channel, [reflection_pb2.ServerReflectionRequest(list_services="")])
            if role is Role.VIEWER:
                assert len(await asking) == 1
            else:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await asking
                assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
