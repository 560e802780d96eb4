"""Secrets as their users see them: each change a release, values nowhere but in the vault."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from certified import Authority
from desk_of_control import ControlDesk
from worlds import process_type

from formation import secrets
from formation.credentials import CredentialError, read_private
from formation.identity import Trust
from formation.model import ProcessType, Release
from formation.runtime import now_ms
from formation.secrets import Secret
from formation_coordinator import keyring
from formation_coordinator.changing import Invalid, RaceLost, Refused, Unknown
from formation_coordinator.control_secrets import SecretControl
from formation_coordinator.notary import Notary
from formation_coordinator.sealing import CannotOpenError, key_id, key_text
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Put, StoreError
from formation_coordinator.vault import Vault
from formation_coordinator.world import World, same_definition

CANARY = "c4nary-5ecret"
WEB = process_type("web", initial_quantity=1)


class Desk(ControlDesk):
    """With a vault, whose notary is that of coordinator c1."""

    def __init__(self, directory: Path, sealing_file: str = "") -> None:
        super().__init__()
        self.trust: Trust | None = None
        identity_dir = Authority().coordinator(directory / "c1", "c1")
        self.notary = Notary(
            str(identity_dir),
            trust=lambda: self.trust,
            now_ms=now_ms,
            sealing_file=sealing_file,
        )
        self.given: list[str] = []
        self.vault = Vault(self.notary, lambda: self.trust, self.give)
        self.control = SecretControl(
            store=self.store, now_ms=lambda: next(self.times), new_id=self.releases.new_id
        )

    async def begin(self) -> None:
        """As a running cluster is, with an app shop."""
        self.trust = self.notary.first_trust()
        await self.store.commit([], [Put(keys.trust(), codec.encode(self.trust))])
        await self.turn()
        await self.apply()

    async def give(self, key: str) -> None:
        assert key in self.notary.key_ids()  # it is ours first
        self.given.append(key)

    async def turn(self) -> str:
        before = self.vault.sealer
        key = await self.vault.another_key()
        assert self.given[-1] == key
        await self.control.turn_to(key, before, "ann")
        item = await self.store.get(keys.trust())
        assert item is not None
        trust = codec.decode(item.key, item.value)
        assert isinstance(trust, Trust)
        self.trust = trust
        return key

    async def set(self, **values: str) -> Release:
        return (await self.control.set_secrets("shop", values, (), "ann", self.vault)).release

    async def unset(self, *names: str) -> Release:
        return (await self.control.set_secrets("shop", {}, names, "ann", self.vault)).release


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    await made.begin()
    return made


async def test_a_secret_is_a_release_and_is_handed_on_by_the_next(desk: Desk) -> None:
    release = await desk.set(DB_URL=CANARY)
    assert (release.number, release.reason) == (2, "set secret DB_URL")
    assert desk.vault.unseal("shop", "DB_URL", release.secrets["DB_URL"]) == CANARY
    app = await desk.apply(env={"LEVEL": "debug"})
    third = await desk.releases.read_release(app, app.release)
    assert third is not None
    assert third.number == 3
    assert third.secrets == release.secrets
    assert (await desk.unset("DB_URL")).secrets == {}


async def test_the_store_the_history_and_reprs_never_have_the_value(desk: Desk) -> None:
    release = await desk.set(DB_URL=CANARY)
    items = (await desk.store.ranges([keys.AUDIT, keys.releases("shop")])).items
    assert all(CANARY.encode() not in item.value for item in items)
    assert CANARY not in repr(release) + repr(replace(release.secrets["DB_URL"], value=CANARY))
    last = (await desk.history())[-1]
    assert (last.action, last.why, last.after) == ("secret", "set secret DB_URL", "v2")


async def test_what_says_so_already_is_no_release(desk: Desk) -> None:
    await desk.set(DB_URL=CANARY)
    again = await desk.control.set_secrets("shop", {"DB_URL": CANARY}, (), "ann", desk.vault)
    assert (again.unchanged, again.release.number) == (True, 2)
    both = await desk.set(DB_URL=CANARY, OTHER="x")
    assert {name: secret.version for name, secret in both.secrets.items()} == {
        "DB_URL": 2,
        "OTHER": 3,
    }


@pytest.mark.parametrize(
    ("values", "unset", "said"),
    [
        ({}, (), "no secret is named"),
        ({"A B": "x"}, (), "'A B' is no name"),
        ({"PORT": "x"}, (), "PORT is set by Formation"),
        ({"FORMATION_APP": "x"}, (), "FORMATION_APP is set by Formation"),
        ({"A": ""}, (), "A: the value is empty"),
        ({"A": "x\0y"}, (), "A: the value has a NUL"),
        ({"A": "x" * (64 * 1024 + 1)}, (), "A: the value has more than 64 KiB"),
        ({}, ("GONE",), "GONE is no secret of it"),
        ({"LEVEL": "x"}, (), "LEVEL is set by formctl config"),
    ],
)
async def test_what_cannot_be_is_refused(
    desk: Desk, values: dict[str, str], unset: tuple[str, ...], said: str
) -> None:
    await desk.releases.set_config("shop", {"LEVEL": "debug"}, (), "ann")
    with pytest.raises(Invalid, match=said):
        await desk.control.set_secrets("shop", values, unset, "ann", desk.vault)
    assert (await desk.app()).release == 2


async def test_a_secret_is_no_config_at_the_same_time(desk: Desk) -> None:
    await desk.set(DB_URL=CANARY)
    with pytest.raises(Invalid, match="DB_URL is a secret: formctl secret set DB_URL"):
        await desk.releases.set_config("shop", {"DB_URL": "x"}, (), "ann")


async def test_all_of_an_app_are_bounded_and_an_app_must_be_there(desk: Desk) -> None:
    for number in range(7):
        await desk.set(**{f"S{number}": "x" * 64 * 1024})
    with pytest.raises(Invalid, match="more than 512 KiB in all"):
        await desk.set(LAST="x" * 64 * 1024, MORE="x" * 64 * 1024)
    with pytest.raises(Unknown, match="no app 'blog'"):
        await desk.control.set_secrets("blog", {"A": "x"}, (), "ann", desk.vault)


async def test_a_rollback_brings_the_values_of_that_release_back(desk: Desk) -> None:
    await desk.set(DB_URL="one")
    await desk.set(DB_URL="two")
    back = await desk.releases.rollback("shop", 2, "ann")
    assert desk.vault.unseal("shop", "DB_URL", back.release.secrets["DB_URL"]) == "one"


# -- keys ------------------------------------------------------------------------------------------


async def test_another_key_seals_all_anew_and_changes_nothing_that_runs(desk: Desk) -> None:
    await desk.set(DB_URL="one", KEY="k")
    before = await desk.set(DB_URL="two")
    old = desk.vault.sealer
    new = await desk.turn()
    assert new != old
    assert await desk.control.seal_all_anew(desk.vault) == (4, 2)
    assert await desk.control.seal_all_anew(desk.vault) == (0, 0)
    app = await desk.app()
    after = await desk.releases.read_release(app, app.release)
    assert after is not None
    assert {secret.key for secret in after.secrets.values()} == {new}
    assert desk.vault.unseal("shop", "DB_URL", after.secrets["DB_URL"]) == "two"
    world = World(releases={("shop", 3): before, ("shop", 4): replace(after, number=4)})
    assert same_definition(world, "shop", "web", 3, 4)


async def test_of_two_that_rotate_at_once_one_is_refused(desk: Desk) -> None:
    sealer = desk.vault.sealer
    await desk.control.turn_to("a" * 16, sealer, "ann")
    with pytest.raises(RaceLost):
        await desk.control.turn_to("b" * 16, sealer, "bob")


async def test_a_coordinator_without_the_key_sends_callers_on(desk: Desk, tmp_path: Path) -> None:
    release = await desk.set(DB_URL=CANARY)
    other = Desk(tmp_path / "other")
    other.trust = desk.trust
    assert other.notary.lacks_key()
    with pytest.raises(StoreError, match="is not here"):
        other.vault.seal("shop", "A", 2, "x")
    assert other.vault.value_for_agent("shop", "DB_URL", release.secrets["DB_URL"]) == ""
    other.notary.adopt(desk.notary.keyring())
    assert other.vault.value_for_agent("shop", "DB_URL", release.secrets["DB_URL"]) == CANARY


async def test_what_cannot_be_opened_is_not_sealed_anew_but_named(desk: Desk) -> None:
    release = await desk.set(DB_URL=CANARY)
    strange = replace(release.secrets["DB_URL"], key="f" * 16)
    with pytest.raises(Refused, match=r"secret DB_URL of shop: its key, f+, is not here"):
        desk.vault.seal_anew("shop", {"DB_URL": strange})


async def test_without_certificates_there_is_no_key(desk: Desk) -> None:
    with pytest.raises(Refused, match="formation-coordinator init"):
        await Vault(None, lambda: None, desk.give).another_key()


def test_a_keyring_keeps_keys_that_seal_and_one_from_before_has_none() -> None:
    signer = Authority().signer
    ring = keyring.Keyring(authorities=(signer,), sealing=(b"k" * 32, b"l" * 32))
    assert keyring.decode(keyring.encode(ring)).sealing == ring.sealing
    old = keyring.encode(ring).replace(b'"sealing"', b'"unknown"')
    assert keyring.decode(old).sealing == ()
    assert "kkkk" not in repr(ring)


async def test_keys_of_a_file_seal_and_are_given_to_nobody(tmp_path: Path) -> None:
    file = tmp_path / "sealing-key"
    file.touch(mode=0o600)
    file.write_text(key_text(b"f" * 32))
    desk = Desk(tmp_path, str(file))
    await desk.begin()
    assert desk.vault.sealer == key_id(b"f" * 32)
    assert key_text(b"f" * 32).encode() not in desk.notary.keyring()
    with pytest.raises(Refused, match="put another one before it, on every coordinator"):
        await desk.vault.another_key()


@pytest.mark.parametrize(
    ("mode", "text", "said"), [(0o644, "", "chmod 600"), (0o600, "x", "no key")]
)
def test_a_file_of_keys_that_is_no_good_is_told(
    tmp_path: Path, mode: int, text: str, said: str
) -> None:
    file = tmp_path / "sealing-key"
    file.touch(mode=mode)
    file.write_text(text)
    with pytest.raises(CredentialError, match=said):
        Desk(tmp_path, str(file))


# -- who gets what ---------------------------------------------------------------------------------

ALL = ProcessType(name="all", command="x")
ONE = ProcessType(name="one", command="x", secrets=("A",))
FILES = ProcessType(name="files", command="x", secrets=(), secret_files=("B",))
NONE = ProcessType(name="none", command="x", secrets=())
RELEASE = Release(
    app="shop",
    number=4,
    types=(ALL, ONE, FILES, NONE),
    secrets={name: Secret(version=4, value=name.lower()) for name in "AB"},
)


@pytest.mark.parametrize(
    ("types", "names"),
    [
        ({"all"}, "AB"),
        ({"one"}, "A"),
        ({"files"}, "B"),
        ({"none"}, ""),
        ({"none", "one"}, "A"),
        ({"one", "files"}, "AB"),
        ({"a run of its own"}, "AB"),
    ],
)
def test_a_host_gets_what_its_types_need(types: set[str], names: str) -> None:
    assert secrets.needed_by(RELEASE, types) == set(names)
    assert set(secrets.for_agent(RELEASE, types, None).secrets) == set(names)


def test_a_value_that_no_coordinator_could_open_does_not_take_the_known_one_away() -> None:
    empty = replace(RELEASE, secrets={"A": Secret(version=4)})
    assert secrets.for_agent(empty, {"one"}, RELEASE).secrets["A"].value == "a"
    assert secrets.for_agent(empty, {"one"}, None).secrets["A"].value == ""


def test_another_version_of_what_a_type_needs_is_another_definition() -> None:
    other = replace(RELEASE, number=5, secrets={**RELEASE.secrets, "B": Secret(version=5)})
    world = World(releases={("shop", 4): RELEASE, ("shop", 5): other})
    changed = [t.name for t in RELEASE.types if not same_definition(world, "shop", t.name, 4, 5)]
    assert changed == ["all", "files"]


def test_what_a_type_names_and_nobody_has_set() -> None:
    spec = ProcessType(name="x", command="x", secrets=("A", "C"), secret_files=("C", "D"))
    assert secrets.missing(spec, RELEASE.secrets) == ["C", "D"]


async def test_a_sealed_one_that_was_moved_in_the_store_is_not_opened(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.trust = replace(desk.notary.first_trust(), sealer=await desk.vault.another_key())
    sealed = desk.vault.seal("shop", "DB_URL", 2, CANARY)
    with pytest.raises(CannotOpenError):
        desk.vault.unseal("evil", "DB_URL", sealed)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of root's")
@pytest.mark.parametrize(
    ("mode", "gid", "read"),
    [(0o400, 0, True), (0o440, 0, True), (0o444, 0, False), (0o460, 0, False), (0o440, 1, False)],
)
def test_a_credential_of_systemd_is_private(
    tmp_path: Path, mode: int, gid: int, *, read: bool
) -> None:
    file = tmp_path / "sealing-key"
    file.write_text("x")
    os.chown(file, 0, gid)
    file.chmod(mode)
    if read:
        assert read_private(str(file)) == b"x"
        return
    with pytest.raises(CredentialError, match="others may read"):
        read_private(str(file))
