"""Another authority for a running cluster: nothing is stopped, and the old one ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import grpc.aio
import pytest
from agent_program import AgentProgram
from certified import Authority
from eventually import eventually
from running import RunningCoordinator, coordinator

from formation import credentials
from formation.credentials import Credential
from formation.dialling import Dialler
from formation.enrolling import renew, saved_over
from formation.identity import Role
from formation.model import Coordinator
from formation.runtime import now_ms
from formation.v1 import access_pb2, access_pb2_grpc, control_pb2, control_pb2_grpc, types_pb2
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Delete, Put
from formation_coordinator.store.memory import MemoryStore

SecretsRequest = control_pb2.SetSecretsRequest
Step = access_pb2.RotateAuthorityRequest


class Cluster:
    """Two coordinators with certificates on one store, and ann, an operator."""

    def __init__(self, tmp_path: Path, authority: Authority, *running: RunningCoordinator) -> None:
        self.running, self.directory = running, tmp_path / "person"
        authority.issue(self.directory, Role.OPERATOR, "ann")

    def ann(self) -> Credential:
        return credentials.load(str(self.directory))

    def channel(self, number: int = 0) -> grpc.aio.Channel:
        return Dialler(self.ann).channel(self.running[number].address)

    async def rotate(
        self, step: access_pb2.RotateAuthorityRequest.Step.ValueType, *, force: bool = False
    ) -> access_pb2.RotateAuthorityResponse:
        async with self.channel() as channel:
            stub: access_pb2_grpc.AccessAsyncStub = access_pb2_grpc.AccessStub(channel)
            return await stub.RotateAuthority(
                access_pb2.RotateAuthorityRequest(step=step, force=force), timeout=5
            )

    async def names_behind(self) -> set[str]:
        return {issued.name for issued in (await self.rotate(Step.STEP_SHOW)).behind}

    async def renews(self) -> None:
        """As formctl does by itself on another day."""
        address = self.running[0].address
        saved_over(self.ann(), await renew(address, Dialler(self.ann), now_ms()))

    async def reaches(self, number: int) -> grpc.StatusCode:
        async with self.channel(number) as channel:
            stub: control_pb2_grpc.ControlAsyncStub = control_pb2_grpc.ControlStub(channel)
            try:
                await stub.ListHosts(control_pb2.ListHostsRequest(), timeout=5)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def cluster(tmp_path: Path, authority: Authority) -> AsyncIterator[Cluster]:
    store = MemoryStore()
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(coordinator(store, tmp_path, name, authority=authority))
            for name in ("c1", "c2")
        ]
        yield Cluster(tmp_path, authority, *running)


def signer_of(running: RunningCoordinator) -> str:
    assert running.service.notary is not None
    return running.service.notary.signer().fingerprint


async def test_another_authority_takes_over_and_nothing_is_stopped(
    tmp_path: Path, authority: Authority, cluster: Cluster
) -> None:
    authority.agent(tmp_path / "state", "b")
    addresses = ",".join(running.address for running in cluster.running)
    async with AgentProgram(tmp_path, "--coordinator", addresses) as agent:
        await cluster.running[0].control.Apply(
            control_pb2.ApplyRequest(
                app="shop",
                types=[types_pb2.ProcessType(name="web", command="sleep 600")],
                formation={"web": 2},
                workdir=str(tmp_path),
            )
        )
        await eventually(lambda: len(agent.children()) == 2, what=agent.text)
        pids = sorted(process.pid for process in agent.children())
        old = authority.signer.fingerprint
        begun = await cluster.rotate(Step.STEP_BEGIN)
        new = begun.trust.signer
        assert new != old
        # The other coordinator was given the key before it counted, and signs with it.
        notary = cluster.running[1].service.notary
        assert notary is not None
        assert new in notary.key_ids()
        await eventually(lambda: not notary.lacks_key())
        assert signer_of(cluster.running[1]) == new
        # The agent renews at once.
        state = str(tmp_path / "state" / "identity")
        await eventually(lambda: credentials.load(state).seen.authority == new, what=agent.text)
        assert len(credentials.load(state).authorities) == 2
        # A person who has not heard of it is known, and knows the coordinators, as before.
        assert await cluster.reaches(0) is await cluster.reaches(1) is grpc.StatusCode.OK
        assert "ann" in await cluster.names_behind()
        with pytest.raises(grpc.aio.AioRpcError, match="would be cut off"):
            await cluster.rotate(Step.STEP_FINISH)
        await cluster.renews()
        assert "ann" not in await cluster.names_behind()
        await cluster.rotate(Step.STEP_FINISH)
        # Everybody goes on with the new one alone.
        await eventually(lambda: _ok(cluster, 0))
        await eventually(lambda: _ok(cluster, 1))
        await eventually(lambda: len(credentials.load(state).authorities) == 1, what=agent.text)
        hosts = cluster.running[0].service.live.world.hosts
        await eventually(lambda: hosts["b"].connected, what=agent.text)
        assert sorted(process.pid for process in agent.children()) == pids


async def _ok(cluster: Cluster, number: int) -> bool:
    return await cluster.reaches(number) is grpc.StatusCode.OK


async def test_what_the_old_one_has_signed_ends_with_it(cluster: Cluster) -> None:
    """Of whoever did not renew: cut off, also where a connection was open."""
    old = cluster.ann()
    await cluster.rotate(Step.STEP_BEGIN)
    async with Dialler(lambda: old).channel(cluster.running[0].address) as channel:
        stub: control_pb2_grpc.ControlAsyncStub = control_pb2_grpc.ControlStub(channel)
        call = stub.WatchInstances(control_pb2.WatchInstancesRequest())
        await call.read()
        await cluster.rotate(Step.STEP_FINISH, force=True)
        with pytest.raises(grpc.aio.AioRpcError, match="counts no more"):
            await to_its_end(call)
        with pytest.raises(grpc.aio.AioRpcError, match="not of this cluster's authority"):
            await stub.ListHosts(control_pb2.ListHostsRequest(), timeout=5)
    await eventually(lambda: _unreached(cluster))


async def to_its_end(
    call: grpc.aio.UnaryStreamCall[control_pb2.WatchInstancesRequest, control_pb2.WatchUpdate],
) -> None:
    while await call.read():
        pass


async def _unreached(cluster: Cluster) -> bool:
    return await cluster.reaches(0) is grpc.StatusCode.UNAVAILABLE


async def test_one_rotation_at_a_time_and_none_to_finish_without_one(cluster: Cluster) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="no rotation is going on"):
        await cluster.rotate(Step.STEP_FINISH)
    await cluster.rotate(Step.STEP_BEGIN)
    with pytest.raises(grpc.aio.AioRpcError, match="finish it first"):
        await cluster.rotate(Step.STEP_BEGIN)


def who_is(credential: Credential) -> Callable[[], Credential]:
    return lambda: credential


async def test_the_keys_are_given_to_coordinators_alone(
    tmp_path: Path, authority: Authority, cluster: Cluster
) -> None:
    for role in (Role.OPERATOR, Role.AGENT):
        who = authority.issue(tmp_path / role, role, "x")
        dialler = Dialler(who_is(who))
        async with dialler.channel(cluster.running[0].address) as channel:
            stub: access_pb2_grpc.AccessAsyncStub = access_pb2_grpc.AccessStub(channel)
            with pytest.raises(grpc.aio.AioRpcError, match="may not GetKeyring"):
                await stub.GetKeyring(access_pb2.GetKeyringRequest(), timeout=5)
            with pytest.raises(grpc.aio.AioRpcError, match="may not TakeKeyring"):
                await stub.TakeKeyring(access_pb2.TakeKeyringRequest(), timeout=5)


async def test_a_key_that_not_all_can_take_does_not_count(tmp_path: Path, cluster: Cluster) -> None:
    """Else all that it has sealed would be lost with the one coordinator that has it."""
    service = cluster.running[0].service
    gone = Coordinator(id="c9", address=f"unix:{tmp_path}/nobody.sock")
    await service._store.commit([], [Put(keys.coordinator("c9"), codec.encode(gone))])
    await eventually(lambda: "c9" in service.live.world.coordinators)
    before = service.live.world.trust
    words = SecretsRequest(app="shop", set={"KEY": "k"})
    async with cluster.channel() as channel:
        control: control_pb2_grpc.ControlAsyncStub = control_pb2_grpc.ControlStub(channel)
        access: access_pb2_grpc.AccessAsyncStub = access_pb2_grpc.AccessStub(channel)
        said = "coordinator c9 has not taken the new key: .* nothing is changed"
        with pytest.raises(grpc.aio.AioRpcError, match=said):
            await control.SetSecrets(words, timeout=5)
        with pytest.raises(grpc.aio.AioRpcError, match=said):
            await access.RotateSealingKey(access_pb2.RotateSealingKeyRequest(), timeout=5)
        with pytest.raises(grpc.aio.AioRpcError, match=said):
            await cluster.rotate(Step.STEP_BEGIN)
        assert service.live.world.trust == before
        # It leaves: then there is nobody who lacks it.
        await service._store.commit([], [Delete(keys.coordinator("c9"))])
        await eventually(lambda: "c9" not in service.live.world.coordinators)
        await access.RotateSealingKey(access_pb2.RotateSealingKeyRequest(), timeout=5)
        other = cluster.running[1].service
        assert service.vault.sealer in (other.notary.key_ids() if other.notary else ())


async def test_rubbish_for_keys_is_refused(tmp_path: Path, authority: Authority) -> None:
    async with coordinator(MemoryStore(), tmp_path, "c1", authority=authority) as running:
        who = authority.issue(tmp_path / "c2", Role.COORDINATOR, "c2")
        async with Dialler(who_is(who)).channel(running.address) as channel:
            stub: access_pb2_grpc.AccessAsyncStub = access_pb2_grpc.AccessStub(channel)
            for rubbish in (b"", b"{}", b"\xff", b"[" * 100_000):
                request = access_pb2.TakeKeyringRequest(keyring=rubbish)
                with pytest.raises(grpc.aio.AioRpcError, match="keyring"):
                    await stub.TakeKeyring(request, timeout=5)
