"""Tokens, certificates given for them, and taken back: what is written, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace

import pytest

from formation import pki
from formation.identity import Identity, IssuedIdentity, JoinToken, Role
from formation_coordinator.changing import Invalid, Refused, Unknown
from formation_coordinator.control_access import TOKENS_MAX, AccessControl, Wish
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Span
from formation_coordinator.store.memory import MemoryStore

NOW_MS = 1_800_000_000_000
HOUR_S = 3600.0


@dataclass
class Desk:
    authority: pki.Authority = field(default_factory=lambda: pki.new_authority(NOW_MS))
    store: MemoryStore = field(default_factory=lambda: MemoryStore(clock=lambda: 0.0))
    now_ms: int = NOW_MS
    made: int = 0

    def __post_init__(self) -> None:
        self.control = AccessControl(
            store=self.store, now_ms=lambda: self.now_ms, new_id=self._new_id
        )

    def _new_id(self) -> str:
        self.made += 1
        return f"{self.made:016x}"

    def sign(self, who: Identity, key: pki.PublicKey, now_ms: int) -> pki.Signed:
        return pki.issue(self.authority, replace(who, cluster="c1"), key, now_ms)

    async def token(
        self,
        role: Role = Role.AGENT,
        *,
        name: str = "",
        apps: tuple[str, ...] = (),
        uses: int = 1,
        ttl_s: float = HOUR_S,
    ) -> JoinToken:
        public = pki.point(pki.new_key().public_key())
        wanted = JoinToken(
            id="", public_key=public, role=role, name=name, apps=apps, uses_left=uses, who="ann"
        )
        return await self.control.create_token(wanted, ttl_s)

    def enrol(
        self, token: JoinToken, name: str, key: pki.PublicKey | None = None
    ) -> Awaitable[pki.Signed]:
        key = key or pki.new_key().public_key()
        wish = Wish(key=key, roles=[token.role], name=name, default_name="vm")
        return self.control.enrol(token.id, wish, self.sign)

    async def record(self, role: Role, name: str) -> IssuedIdentity:
        item = await self.store.get(keys.identity(role, name))
        assert item is not None
        found = codec.decode(item.key, item.value)
        assert isinstance(found, IssuedIdentity)
        return found

    async def left(self) -> list[str]:
        return [item.key for item in (await self.store.ranges([Span.prefix("tokens/")])).items]


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_a_token_makes_one_host_and_then_no_other(desk: Desk) -> None:
    token = await desk.token()
    seen = (await desk.enrol(token, "web-1")).seen
    assert (seen.identity.role, seen.identity.name) == (Role.AGENT, "web-1")
    record = await desk.record(Role.AGENT, "web-1")
    assert (record.key, record.issued_at_ms) == (seen.key, seen.issued_at_ms)
    with pytest.raises(Refused, match="used already"):
        await desk.enrol(token, "web-2")


async def test_who_lost_the_answer_may_ask_again_with_the_same_key(desk: Desk) -> None:
    token, key = await desk.token(), pki.new_key().public_key()
    first = await desk.enrol(token, "web-1", key)
    again = await desk.enrol(token, "web-1", key)
    assert first.seen == again.seen
    with pytest.raises(Refused, match="used already"):
        await desk.enrol(token, "web-1")


async def test_of_two_that_race_with_one_token_one_joins(desk: Desk) -> None:
    token = await desk.token()
    results = await asyncio.gather(
        *(desk.enrol(token, f"web-{n}") for n in range(5)), return_exceptions=True
    )
    assert sum(isinstance(result, pki.Signed) for result in results) == 1
    assert sum(isinstance(result, Refused) for result in results) == 4


async def test_a_token_for_many_counts_down(desk: Desk) -> None:
    token = await desk.token(uses=3)
    for n in range(3):
        await desk.enrol(token, f"web-{n}")
    with pytest.raises(Refused, match="used already"):
        await desk.enrol(token, "web-3")


async def test_a_token_that_has_run_out_is_refused_and_swept_by_the_next(desk: Desk) -> None:
    token = await desk.token(ttl_s=60.0)
    desk.now_ms += 60_000
    with pytest.raises(Refused, match="ran out at"):
        await desk.enrol(token, "web-1")
    fresh = await desk.token()
    assert await desk.left() == [keys.token(fresh.id)]


async def test_a_revoked_token_is_none(desk: Desk) -> None:
    token = await desk.token()
    await desk.control.revoke_token(token.id, "ann")
    with pytest.raises(Refused, match="was revoked"):
        await desk.enrol(token, "web-1")
    with pytest.raises(Unknown):
        await desk.control.revoke_token(token.id, "ann")


async def test_a_token_for_any_name_takes_nobodys(desk: Desk) -> None:
    """A leaked one would let somebody take the place of a host that runs."""
    await desk.enrol(await desk.token(), "web-1")
    with pytest.raises(Refused, match="formctl token create --role agent --name web-1"):
        await desk.enrol(await desk.token(), "web-1")
    bound = await desk.token(name="web-1")
    assert (await desk.enrol(bound, "web-1")).seen.identity.name == "web-1"


async def test_a_name_is_free_again_when_its_certificate_counts_no_more(desk: Desk) -> None:
    await desk.enrol(await desk.token(), "web-1")
    await desk.control.revoke(Role.AGENT, "web-1", "ann", "stolen")
    await desk.enrol(await desk.token(), "web-1")
    desk.now_ms += pki.MACHINE_LIFE_MS + 1000  # issued in the second after it was revoked
    await desk.enrol(await desk.token(), "web-1")


async def test_a_token_with_a_name_is_for_that_one(desk: Desk) -> None:
    token = await desk.token(name="web-1")
    with pytest.raises(Refused, match="for agent web-1, not for web-2"):
        await desk.enrol(token, "web-2")
    assert (await desk.enrol(token, "")).seen.identity.name == "web-1"


@pytest.mark.parametrize("name", ["../x", "a b", "a/b", "x" * 300, "a\n"])
async def test_a_joiner_needs_a_name_that_is_one(desk: Desk, name: str) -> None:
    with pytest.raises(Invalid):
        await desk.enrol(await desk.token(), name)


async def test_who_insists_on_no_name_is_called_as_its_machine(desk: Desk) -> None:
    assert (await desk.enrol(await desk.token(), "")).seen.identity.name == "vm"


async def test_a_token_is_for_one_role(desk: Desk) -> None:
    token = await desk.token(Role.COORDINATOR)
    key = pki.new_key().public_key()
    with pytest.raises(Refused, match="a role of coordinator"):
        await desk.control.enrol(token.id, Wish(key=key, roles=[Role.AGENT]), desk.sign)


async def test_a_deployer_has_the_apps_of_its_token_also_when_it_renews(desk: Desk) -> None:
    token = await desk.token(Role.DEPLOYER, name="ci", apps=("shop-*",))
    seen = (await desk.enrol(token, "")).seen
    assert seen.identity.apps == ("shop-*",)
    renewed = await desk.control.renew(seen.identity, pki.new_key().public_key(), desk.sign)
    assert renewed.seen.identity == seen.identity


async def test_revoked_is_what_was_issued_before_and_nothing_after(desk: Desk) -> None:
    old = (await desk.enrol(await desk.token(), "web-1")).seen
    desk.now_ms += 500
    voided = await desk.control.revoke(Role.AGENT, "web-1", "ann", "why not")
    assert old.issued_at_ms < voided.void_before_ms
    # At once, within the same second.
    new = (await desk.enrol(await desk.token(), "web-1")).seen
    assert new.issued_at_ms >= voided.void_before_ms
    assert (await desk.record(Role.AGENT, "web-1")).void_before_ms == voided.void_before_ms


async def test_who_was_never_heard_of_can_be_revoked_too(desk: Desk) -> None:
    """The store may have been put back to before it joined."""
    voided = await desk.control.revoke(Role.OPERATOR, "bob", "ann", "has left")
    assert voided.void_before_ms > desk.now_ms
    assert (await desk.record(Role.OPERATOR, "bob")) == voided


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ttl_s": 0.5}, "ttl"),
        ({"ttl_s": 31 * 86_400.0}, "ttl"),
        ({"ttl_s": float("nan")}, "ttl"),
        ({"uses": 0}, "uses"),
        ({"uses": 20_000}, "uses"),
        ({"name": "a", "uses": 2}, "one name is for one use"),
        ({"name": "../a"}, "no name"),
        ({"role": Role.OPERATOR}, "say who"),
        ({"role": Role.DEPLOYER, "name": "ci"}, "needs the apps"),
        ({"apps": ("shop",)}, "no apps of its own"),
    ],
)
async def test_a_token_that_makes_no_sense_is_refused(
    desk: Desk, change: dict[str, object], said: str
) -> None:
    with pytest.raises(Invalid, match=said):
        await desk.token(**change)  # type: ignore[arg-type]
    assert not await desk.left()


async def test_tokens_that_wait_are_bounded(desk: Desk) -> None:
    for _ in range(TOKENS_MAX):
        await desk.token()
    with pytest.raises(Refused, match="wait to be used"):
        await desk.token()


async def test_all_of_it_but_renewals_is_in_the_audit(desk: Desk) -> None:
    token = await desk.token()
    seen = (await desk.enrol(token, "web-1")).seen
    await desk.control.renew(seen.identity, pki.new_key().public_key(), desk.sign)
    await desk.control.revoke(Role.AGENT, "web-1", "bob", "stolen")
    items = (await desk.store.ranges([keys.AUDIT])).items
    records = [codec.decode(item.key, item.value) for item in items]
    said = [(r.who, r.action, r.subject) for r in records]  # type: ignore[union-attr]
    assert said == [
        ("ann", "create token", token.id),
        ("ann", "join", "web-1"),
        ("bob", "revoke", "web-1"),
    ]
