"""Who runs beside an instance, in its cgroup: a real keeper and a brain led by the test."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from eventually import eventually
from keeper_rig import Brain, Event, KeeperRig, keeper_rig

from formation_agent import cgroups


async def contained_child(rig: KeeperRig, brain: Brain, key: str, *argv: str) -> Event:
    rig.spawn(brain, key, *argv)
    return await brain.event("Started", key)


async def test_who_joins_runs_in_the_cgroup_of_the_other_and_ends_alone() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        await rig.contain(brain)
        host = await contained_child(rig, brain, "a:1", "sleep", "1000")
        rig.spawn(brain, "probe:1", "sleep", "1000", options={"join": "a:1"})
        probe = await brain.event("Started", "probe:1")
        both = {host["pid"], probe["pid"]}
        await eventually(lambda: set(cgroups.members(host["cgroup"])) == both)
        assert probe["cgroup"] == ""
        brain.tell("signal", "probe:1", signum=signal.SIGKILL)
        assert (await brain.event("Exited", "probe:1"))["empty"]
        assert cgroups.members(host["cgroup"]) == [host["pid"]]


@pytest.mark.parametrize("options", [{}, {"nice": 1}], ids=["plainly", "the careful way"])
async def test_who_joins_never_ran_anywhere_else(options: dict[str, int]) -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        await rig.contain(brain)
        host = await contained_child(rig, brain, "a:1", "sleep", "1000")
        for number in range(20):
            key = f"probe:{number}"
            rig.spawn(brain, key, "cat", "/proc/self/cgroup", options={**options, "join": "a:1"})
            shown = cgroups.own_path(await brain.text(key))
            assert shown is not None
            assert host["cgroup"].endswith(shown), f"the {number + 1}th of them"


async def test_nobody_joins_what_is_frozen_and_the_keeper_does_not_wait_for_it() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        await rig.contain(brain)
        host = await contained_child(rig, brain, "a:1", "sleep", "1000")
        freezer = Path(host["cgroup"], "cgroup.freeze")
        freezer.write_text("1")
        for key, options in (("b:1", {}), ("c:1", {"nice": 1})):
            rig.spawn(brain, key, "true", options={**options, "join": "a:1"})
            failed = await brain.event("SpawnFailed", key)
            assert failed["reason"] == "what it would run beside is frozen"
        freezer.write_text("0")
        rig.spawn(brain, "d:1", "true", options={"join": "a:1"})
        assert (await brain.event("Exited", "d:1"))["code"] == 0


async def test_nobody_joins_what_does_not_run() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        rig.spawn(brain, "a:1", "true")
        await brain.event("Exited", "a:1")
        for key, host in (("b:1", "a:1"), ("c:1", "never")):
            rig.spawn(brain, key, "sleep", "1", options={"join": host})
            assert (await brain.event("SpawnFailed", key))["reason"] == f"{host} does not run"
