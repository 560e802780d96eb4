"""The real agent and its certificate: none yet, joined meanwhile, revoked, renewed, run out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agent_program import AgentProgram
from certified import Authority, now_ms
from eventually import eventually
from running import RunningCoordinator, coordinator

from formation import credentials, pki
from formation.dialling import NotTrustedError
from formation.identity import JoinToken, Role, TokenText, token_text
from formation.v1 import control_pb2, types_pb2
from formation_agent.membership import Membership
from formation_coordinator.store.memory import MemoryStore

DAY_MS = 86_400_000


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def running(tmp_path: Path, authority: Authority) -> AsyncIterator[RunningCoordinator]:
    async with coordinator(MemoryStore(), tmp_path, authority=authority) as found:
        yield found


async def line_to_paste(running: RunningCoordinator, name: str = "") -> list[str]:
    """ADDRESS TOKEN, as formctl token create prints them."""
    secret = pki.new_secret()
    service = running.service
    public = pki.point(pki.token_key(secret).public_key())
    wanted = JoinToken(id="", public_key=public, role=Role.AGENT, name=name)
    await service.access.control.create_token(wanted, 60.0)
    assert service.notary is not None
    authority_key = pki.point(service.notary.signer().key.public_key())
    return [running.address, token_text(TokenText(authority_key=authority_key, secret=secret))]


async def join(agent: AgentProgram, *words: str) -> str:
    """What `formation-agent join` says, on both of its outputs."""
    program = agent.argv[0]
    process = await asyncio.create_subprocess_exec(
        program, "join", *words, "--state-dir", str(agent.state_dir),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    return f"{process.returncode} {said.decode().strip()}"


def hosts(running: RunningCoordinator) -> list[str]:
    return [entry.name for entry in running.service.live.world.hosts.values() if entry.connected]


async def test_an_agent_that_was_told_nothing_waits_until_it_is_joined(
    tmp_path: Path, running: RunningCoordinator
) -> None:
    """Also under another name than the machine's."""
    async with AgentProgram(tmp_path) as agent:
        await eventually(lambda: agent.text)
        assert "has joined cluster" in await join(
            agent, *await line_to_paste(running), "--name", "web-1"
        )
        await eventually(lambda: hosts(running) == ["web-1"], what=f"web-1\n{agent.text}")
        assert agent.process is not None
        assert agent.process.poll() is None


async def test_a_coordinator_on_tcp_is_not_obeyed_before_it_was_joined(
    tmp_path: Path, running: RunningCoordinator
) -> None:
    async with AgentProgram(tmp_path, "--coordinator", running.address, "--name", "b") as agent:
        await eventually(lambda: "formation-agent join ADDRESS TOKEN" in agent.text)
        assert not hosts(running)
        assert "has joined" in await join(agent, *await line_to_paste(running), "--name", "b")
        await eventually(lambda: hosts(running) == ["b"], what=f"b\n{agent.text}")


async def test_a_host_cannot_be_called_otherwise_than_it_has_joined(
    tmp_path: Path, running: RunningCoordinator, authority: Authority
) -> None:
    authority.agent(tmp_path / "state", "web-1")
    async with AgentProgram(tmp_path, "--name", "db-1") as agent:
        assert await agent.ended() == 2
        assert "this host has joined its cluster as web-1" in agent.text


async def test_an_agent_of_the_release_before_goes_on_as_it_was_until_it_has_joined(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    def dials(cluster_id: str) -> bool:
        member = Membership(
            tmp_path, ("10.0.0.1:7100",), insecure=False, cluster_id=cluster_id, now_ms=now_ms
        )
        try:
            member._dialler.channel("10.0.0.1:7100")
        except NotTrustedError:
            return False
        return True

    assert not dials("")
    assert not caplog.text
    assert dials("0123456789abcdef")
    assert "INSECURE, as before" in caplog.text
    authority.agent(tmp_path, "b")
    (tmp_path / "identity" / "identity.pem").unlink()  # lost: no reason to believe anybody
    assert not dials("0123456789abcdef")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "2 formation-agent: join: needs ADDRESS and TOKEN first"),
        (("10.0.0.1:7100",), "2 formation-agent: join: needs ADDRESS and TOKEN first"),
        (("10.0.0.1:7100", "FORM1abc"), "2 formation-agent: join: the token is damaged"),
        (("10.0.0.1:7100", "secret"), "2 formation-agent: join: this is no token"),
        (("10.0.0.1", "GOOD"), "2 formation-agent: join: '10.0.0.1' is not HOST:PORT"),
        (("127.0.0.1:1", "GOOD"), "1 formation-agent: no coordinator answers at 127.0.0.1:1"),
    ],
)
async def test_what_cannot_be_joined_is_told_in_one_line(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    good = token_text(
        TokenText(authority_key=pki.point(pki.new_key().public_key()), secret=pki.new_secret())
    )
    agent = AgentProgram(tmp_path)
    answer = await join(agent, *(good if word == "GOOD" else word for word in words))
    assert answer.startswith(said)
    assert len(answer.splitlines()) == 1
    assert good not in answer


async def test_a_revoked_host_is_cut_off_and_what_runs_there_runs_on(
    tmp_path: Path, running: RunningCoordinator, authority: Authority
) -> None:
    authority.agent(tmp_path / "state", "b")
    async with AgentProgram(tmp_path, "--coordinator", running.address) as agent:
        await eventually(lambda: hosts(running) == ["b"], what=f"b\n{agent.text}")
        await running.control.Apply(
            control_pb2.ApplyRequest(
                app="shop",
                types=[types_pb2.ProcessType(name="web", command="sleep 600")],
                formation={"web": 2},
                workdir=str(tmp_path),
            )
        )
        await eventually(lambda: len(agent.children()) == 2, what=f"two\n{agent.text}")
        before = sorted(process.pid for process in agent.children())
        await running.service.access.control.revoke(Role.AGENT, "b", "ann", "test")
        await eventually(lambda: not hosts(running))
        await eventually(lambda: "were revoked; it has to join again" in agent.text)
        assert sorted(process.pid for process in agent.children()) == before
        # With a token of its own it comes back, and again nothing was touched.
        assert "has joined" in await join(agent, *await line_to_paste(running, "b"))
        await eventually(lambda: hosts(running) == ["b"], deadline_s=20, what=f"b\n{agent.text}")
        assert sorted(process.pid for process in agent.children()) == before


async def test_a_certificate_is_renewed_in_time_with_a_new_key(
    tmp_path: Path, running: RunningCoordinator, authority: Authority
) -> None:
    directory = tmp_path / "state" / "identity"
    old = authority.issue(directory, Role.AGENT, "b", at_ms=now_ms() - 2 * DAY_MS)
    member = Membership(tmp_path / "state", (), insecure=False, now_ms=now_ms)
    told = asyncio.Event()
    renewing = asyncio.create_task(member.run(lambda: running.address, told.set))
    try:
        await asyncio.wait_for(told.wait(), 10)
        assert credentials.load(str(directory)).seen.key != old.seen.key
    finally:
        renewing.cancel()
    assert told.is_set()
    new = member.credential()
    assert new is not None
    assert new.seen.identity == old.seen.identity
    assert new.seen.expires_at_ms > old.seen.expires_at_ms
    assert new.coordinators == (running.address,)


@pytest.mark.parametrize(
    ("issued_days_ago", "clock_days", "said"),
    [
        (30, 0, "our certificate has run out, or the clock is wrong"),
        (0, -10, "the clock here is behind, or the coordinator's ahead"),
        (0, 10, "the clock here is ahead, or the coordinator's behind"),
    ],
)
async def test_why_there_is_no_connection_is_told_when_it_is_a_certificate_or_a_clock(
    tmp_path: Path,
    running: RunningCoordinator,
    authority: Authority,
    issued_days_ago: int,
    clock_days: int,
    said: str,
) -> None:
    directory = tmp_path / "state" / "identity"
    authority.issue(directory, Role.AGENT, "b", at_ms=now_ms() - issued_days_ago * DAY_MS)
    clock = lambda: now_ms() + clock_days * DAY_MS  # noqa: E731
    member = Membership(tmp_path / "state", (), insecure=False, now_ms=clock)
    assert (await member.explain(running.address)).startswith(said)


async def test_another_clusters_coordinator_is_named_as_that(
    tmp_path: Path, running: RunningCoordinator
) -> None:
    Authority().agent(tmp_path / "state", "b")
    async with AgentProgram(tmp_path, "--coordinator", running.address) as agent:
        await eventually(lambda: "is not of our cluster" in agent.text, what=agent.text)


async def test_a_key_that_others_can_read_is_refused(
    tmp_path: Path, running: RunningCoordinator, authority: Authority
) -> None:
    authority.agent(tmp_path / "state", "b")
    (tmp_path / "state" / "identity" / "identity.pem").chmod(0o644)
    async with AgentProgram(tmp_path, "--coordinator", running.address) as agent:
        assert await agent.ended() == 2
        assert "others may read this key: chmod 600" in agent.text
