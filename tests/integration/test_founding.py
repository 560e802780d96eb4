"""`formation-coordinator init`, and how a coordinator starts with what it made."""

from __future__ import annotations

import asyncio
import stat
import tomllib
from pathlib import Path

import pytest
from certified import Authority, now_ms
from coordinator_program import program
from eventually import eventually
from running import coordinator, own_address

from formation import contexts, credentials, pki
from formation.identity import Identity, Role
from formation_coordinator import keyring
from formation_coordinator.config import CoordinatorConfig
from formation_coordinator.service import FatalError, Service
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Put
from formation_coordinator.store.memory import MemoryStore

DAY_MS = 86_400_000


def init(tmp_path: Path, *words: str) -> tuple[str, ...]:
    return ("init", "--identity-dir", str(tmp_path / "c1"), "--id", "c1", *words)


async def test_init_makes_a_coordinator_and_an_operator(tmp_path: Path) -> None:
    words = init(tmp_path, "--advertise", "10.0.0.1:7100", "--operator", "ann")
    code, said = await program(tmp_path, *words)
    assert code == 0, said
    assert f"start it: formation-coordinator --identity-dir {tmp_path / 'c1'} --listen" in said
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    ours = credentials.load(str(tmp_path / "c1"))
    theirs = credentials.load(contexts.identity_dir(environ, "default"))
    assert (ours.seen.identity.role, ours.seen.identity.name) == (Role.COORDINATOR, "c1")
    assert (theirs.seen.identity.role, theirs.seen.identity.name) == (Role.OPERATOR, "ann")
    assert ours.seen.identity.cluster == theirs.seen.identity.cluster
    assert keyring.load(str(tmp_path / "c1")).authorities[0].fingerprint == ours.seen.authority
    table = tomllib.loads(Path(contexts.context_path(environ)).read_text())
    assert table["current"] == "default"
    assert table["contexts"]["default"]["coordinator"] == ["10.0.0.1:7100"]
    private = [path for path in tmp_path.rglob("*") if path.suffix in (".pem", ".json")]
    assert private
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert stat.S_IMODE((tmp_path / "c1").stat().st_mode) == 0o700


async def test_init_changes_nothing_that_is_there(tmp_path: Path) -> None:
    assert (await program(tmp_path, *init(tmp_path)))[0] == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    code, said = await program(tmp_path, *init(tmp_path))
    assert code == 1
    assert said.endswith("there is an identity already; nothing was changed\n")
    code, said = await program(tmp_path, "init", "--identity-dir", str(tmp_path / "c2"))
    assert code == 1
    assert "give another --context" in said
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("init", "--advertise", "nowhere"), "--advertise: 'nowhere' is not HOST:PORT"),
        (("init", "--context", "a/b"), "--context: 'a/b' is no name of a context"),
        (("init", "--operator", "a b"), "--operator: 'a b' is no name"),
        (("init", "--lisen", "x"), "--lisen: unknown"),
        (("join", "10.0.0.1:7100"), "join: needs ADDRESS and TOKEN first"),
        (("join", "10.0.0.1:7100", "FORM1x"), "join: the token is damaged"),
    ],
)
async def test_what_makes_no_sense_is_told_in_one_line(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    code, told = await program(tmp_path, *words)
    assert code == 2
    assert told.startswith(f"formation-coordinator: {said}")
    assert len(told.splitlines()) == 1


async def test_a_store_of_another_cluster_is_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    async with coordinator(store, tmp_path, authority=Authority("0123456789abcdef")):
        pass
    other = Authority().coordinator(tmp_path / "other", "c9")
    config = CoordinatorConfig(listen=own_address(), identity_dir=str(other))
    service = Service(config, store)
    with pytest.raises(FatalError, match="this store is of cluster 0123456789abcdef"):
        await service.run(asyncio.Event().wait)


async def test_a_cluster_that_was_insecure_is_given_an_authority(tmp_path: Path) -> None:
    store = MemoryStore()
    async with coordinator(store, tmp_path) as plain:
        founded = plain.service.live.world.cluster
        assert founded is not None
    authority = Authority(founded.id)
    async with coordinator(store, tmp_path, "c2", authority=authority) as secure:
        trust = secure.service.live.world.trust
        assert trust is not None
        assert trust.signer == authority.signer.fingerprint


async def test_a_coordinator_that_was_off_for_weeks_renews_its_own_certificate(
    tmp_path: Path,
) -> None:
    authority = Authority()
    directory = authority.coordinator(tmp_path / "identity-c1", "c1")
    who = Identity(cluster=authority.cluster, role=Role.COORDINATOR, name="c1")
    key = pki.new_key()
    old = pki.issue(authority.signer, who, key.public_key(), now_ms() - 30 * DAY_MS)
    credentials.save_identity(str(directory), key, old.certificate)
    service = Service(CoordinatorConfig(listen=own_address(), identity_dir=str(directory)),
                      MemoryStore())  # fmt: skip
    assert service.notary is not None
    assert service.notary.credential.seen.expires_at_ms > now_ms()
    assert credentials.load(str(directory)).seen.expires_at_ms > now_ms()


async def test_another_roles_certificate_makes_no_coordinator(tmp_path: Path) -> None:
    authority = Authority()
    authority.issue(tmp_path / "x", Role.AGENT, "a")
    keyring.save(str(tmp_path / "x"), keyring.Keyring(authorities=(authority.signer,)))
    with pytest.raises(FatalError, match="a certificate of agent a, no coordinator"):
        Service(CoordinatorConfig(identity_dir=str(tmp_path / "x")), MemoryStore())


async def test_what_a_newer_version_wrote_of_whom_to_trust_is_left_alone(tmp_path: Path) -> None:
    """Then what the coordinator has on its disk counts."""
    authority, store = Authority(), MemoryStore()
    await store.commit([], [Put(keys.trust(), b"\xff\xff")])
    with pytest.raises(Exception, match="trust"):
        codec.decode(keys.trust(), b"\xff\xff")
    async with coordinator(store, tmp_path, authority=authority) as running:
        await eventually(lambda: running.service.election.leading)
        assert running.service.notary is not None
        assert running.service.notary.authorities() == (authority.signer.certificate,)
