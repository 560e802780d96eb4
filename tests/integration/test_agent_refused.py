"""The real agent where it must not start: one line why, and nothing touched."""

from __future__ import annotations

from pathlib import Path

import grpc
from agent_program import AgentProgram
from eventually import eventually
from fake_coordinator import FakeCoordinator


async def test_a_taken_name_ends_a_new_agent_with_the_reason(tmp_path: Path) -> None:
    coordinator = FakeCoordinator(f"unix:{tmp_path / 'c.sock'}")
    coordinator.refusal = (grpc.StatusCode.ALREADY_EXISTS, "host name 'b' is taken")
    async with (
        coordinator,
        AgentProgram(tmp_path, "--name", "b", "--coordinator", coordinator.address) as agent,
    ):
        assert await agent.ended() == 2
        assert "formation-agent: host name 'b' is taken" in agent.text.splitlines()


async def test_wrong_settings_end_it_with_one_line_each(tmp_path: Path) -> None:
    async with AgentProgram(tmp_path, "--naem", "b", "--max-instances", "many") as agent:
        assert await agent.ended() == 2
        assert agent.text.splitlines() == [
            "formation-agent: --naem: unknown; did you mean --name?",
            "formation-agent: --max-instances: 'many' is not a whole number from 0",
        ]


async def test_a_second_agent_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    coordinator = FakeCoordinator(f"unix:{tmp_path / 'c.sock'}")
    flags = ("--name", "b", "--coordinator", coordinator.address)
    async with coordinator, AgentProgram(tmp_path, *flags) as agent:
        await eventually(lambda: coordinator.hellos)
        second = AgentProgram(tmp_path, *flags)
        second.output = tmp_path / "second.log"
        async with second:
            assert await second.ended() == 2
            (line,) = second.text.splitlines()
        assert line.startswith(f"formation-agent: already running on {agent.state_dir} (process ")


async def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    (state / "precious").touch()
    async with AgentProgram(tmp_path, "--name", "b") as agent:
        assert await agent.ended() == 2
        assert "is used for something else" in agent.text
    assert (state.stat().st_mode & 0o777) == 0o755
