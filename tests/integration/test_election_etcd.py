"""Who leads on real etcds, in real time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from candidates import TTL_S, Stage, candidate
from etcd_server import EtcdServer, Relay
from eventually import eventually
from store_backends import ETCDS, require_etcd

from formation.runtime import monotonic_s
from formation_coordinator.store import keys
from formation_coordinator.store.base import CreateRevision, Put
from formation_coordinator.store.etcd import EtcdStore


@pytest.fixture(params=ETCDS)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[EtcdServer]:
    with EtcdServer(require_etcd(request.param)) as started:
        yield started


async def test_on_etcd_a_clean_close_hands_over_in_well_under_the_ttl(server: EtcdServer) -> None:
    stage, stores = Stage(), [EtcdStore(server.endpoint) for _ in range(2)]
    one = candidate("a", stores[0], stage, clock=monotonic_s)
    await eventually(lambda: stage.now == ["a"])
    two = candidate("b", stores[1], stage, clock=monotonic_s)
    await two.keeper.held()
    await two.mirror.ready.wait()
    began_s = monotonic_s()
    await one.close()
    await eventually(lambda: stage.now == ["b"])
    assert monotonic_s() - began_s < TTL_S / 2
    await two.close()
    assert await stores[1].get(keys.LEADER) is None
    for store in stores:
        await store.close()


async def test_on_etcd_a_leader_cut_off_is_followed_and_its_late_write_fails(
    server: EtcdServer,
) -> None:
    relay = await Relay(server.socket).start()
    stage, stores = Stage(), [EtcdStore(relay.endpoint), EtcdStore(server.endpoint)]
    one = candidate("a", stores[0], stage, clock=monotonic_s)
    await eventually(lambda: stage.now == ["a"])
    old_epoch = one.election.epoch
    two = candidate("b", stores[1], stage, clock=monotonic_s)
    await two.mirror.ready.wait()
    relay.freeze()
    await eventually(lambda: stage.now == ["b"], deadline_s=15)
    relay.thaw()
    fence = CreateRevision(keys.LEADER, old_epoch)
    late = await stores[1].commit([fence], [Put("assignments/h", b"stale")])
    assert not late.succeeded
    await eventually(lambda: one.mirror.connected, deadline_s=15)
    assert [name for name, _ in stage.terms] == ["a", "b"]
    for one_of_them in (one, two):
        await one_of_them.close()
    for store in stores:
        await store.close()
    await relay.cut()


async def test_on_etcd_a_restart_costs_the_leader_neither_lease_nor_epoch() -> None:
    with EtcdServer(require_etcd("debian")) as server:
        stage, store = Stage(), EtcdStore(server.endpoint)
        one = candidate("a", store, stage, clock=monotonic_s)
        await eventually(lambda: stage.now == ["a"])
        lease = one.keeper.lease_id
        server.kill()
        await eventually(lambda: not stage.now)
        server.start()
        await eventually(lambda: stage.now == ["a"], deadline_s=20)
        assert one.keeper.lease_id == lease
        assert stage.terms == [stage.terms[0]] * 2
        await one.close()
        await store.close()
