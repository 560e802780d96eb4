"""Who may take part: tokens, certificates given for them, certificates that count no more."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from formation import pki
from formation.identity import (
    PEOPLE,
    Identity,
    IssuedIdentity,
    JoinToken,
    Role,
    Trust,
    problem_with_apps,
    problem_with_name,
)
from formation.runtime import utc
from formation_coordinator.changing import (
    ATTEMPTS_MAX,
    Changing,
    Invalid,
    RaceLost,
    Refused,
    Unknown,
)
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Delete, KeyValue, ModRevision, Operation, Put, Span

TTL_MIN_S, TTL_MAX_S = 1.0, 30 * 86_400.0
USES_MAX = 10_000
TOKENS_MAX = 100
# Signs a certificate for this holder and key, of this moment.
Sign = Callable[[Identity, pki.PublicKey, int], pki.Signed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a joiner asks for: a certificate for `key`, as one of `roles`. `name`: what it insists
    on, or ""."""

    key: pki.PublicKey
    roles: Collection[Role]
    name: str = ""
    default_name: str = ""


class AccessControl(Changing):
    """Raises what `Changing` does."""

    async def create_token(self, wanted: JoinToken, ttl_s: float) -> JoinToken:
        """`wanted` without id and times. Expired ones are swept on this occasion."""
        _check_token(wanted, ttl_s)
        now_ms = self.now_ms()
        token = replace(
            wanted,
            id=pki.fingerprint(_key(wanted.public_key)),
            created_at_ms=now_ms,
            expires_at_ms=now_ms + int(ttl_s * 1000),
        )
        old, kept = await self._tokens(now_ms)
        if len(kept) >= TOKENS_MAX:
            raise Refused(f"{TOKENS_MAX} tokens wait to be used; revoke some: formctl token list")
        operations: list[Operation] = [
            Put(keys.token(token.id), codec.encode(token)),
            *(Delete(keys.token(item.id)) for item in old),
        ]
        audit = self.audit(token.who, "create token", token.id, _described(token))
        if not await self.commit([ModRevision(keys.token(token.id), 0)], operations, audit):
            raise Invalid("this token exists already")
        return token

    async def _tokens(self, now_ms: int) -> tuple[list[JoinToken], list[JoinToken]]:
        """Those that nobody can use any more, and the others."""
        items = (await self.store.ranges([Span.prefix("tokens/")])).items
        found = [codec.decode(item.key, item.value) for item in items]
        tokens = [token for token in found if isinstance(token, JoinToken)]
        old = [token for token in tokens if token.expires_at_ms <= now_ms]
        return old, [token for token in tokens if token.expires_at_ms > now_ms]

    async def revoke_token(self, token_id: str, who: str) -> None:
        key = keys.token(token_id)
        item = await self.store.get(key)
        if item is None:
            raise Unknown(f"no token {token_id!r}; see formctl token list")
        audit = self.audit(who, "revoke token", token_id)
        if not await self.commit([ModRevision(key, item.mod_revision)], [Delete(key)], audit):
            raise RaceLost(f"token {token_id} was used at this moment; look again")

    async def enrol(self, token_id: str, wish: Wish, sign: Sign) -> pki.Signed:
        """The holder of that token becomes somebody. The same key may ask again."""
        for _ in range(ATTEMPTS_MAX):
            item = await self.store.get(keys.token(token_id))
            token = codec.decode(item.key, item.value) if item else None
            if item is None or not isinstance(token, JoinToken):
                raise Refused("this token was revoked, or has run out")
            used = pki.fingerprint(wish.key)
            _check_use(token, used, self.now_ms())
            if token.role not in wish.roles:
                raise Refused(f"this token is for a role of {token.role}: not for this program")
            who = _identity(token, wish)
            record = await self._record(who.role, who.name)
            _check_name(token, record, used, self.now_ms())
            signed, issued = _issued(sign, who, wish.key, record, self.now_ms())
            done = replace(
                token,
                uses_left=token.uses_left - (used not in token.used_by),
                used_by=tuple(dict.fromkeys((*token.used_by, used))),
            )
            compares = [ModRevision(item.key, item.mod_revision), self._as_read(who, record)]
            puts = [
                Put(item.key, codec.encode(done, item.value)),
                _put(issued, record),
            ]
            audit = self.audit(token.who, "join", who.name, f"as {who.role} by token {token.id}")
            if await self.commit(compares, puts, audit):
                return signed
        raise RaceLost("others use this token at the same time; try again")

    async def renew(self, who: Identity, key: pki.PublicKey, sign: Sign) -> pki.Signed:
        for _ in range(ATTEMPTS_MAX):
            record = await self._record(who.role, who.name)
            signed, issued = _issued(sign, who, key, record, self.now_ms())
            outcome = await self.store.commit([self._as_read(who, record)], [_put(issued, record)])
            if outcome.succeeded:
                return signed
        raise RaceLost(f"{who}: asked for several certificates at the same time; try again")

    async def revoke(self, role: Role, name: str, who: str, why: str) -> IssuedIdentity:
        """Whatever was issued for this name until now counts no more, whether or not we know of
        it: a store may have been put back."""
        if wrong := problem_with_name(name):
            raise Invalid(wrong)
        for _ in range(ATTEMPTS_MAX):
            record = await self._record(role, name)
            before = codec.decode(record.key, record.value) if record else None
            known = before if isinstance(before, IssuedIdentity) else None
            changed = replace(
                known or IssuedIdentity(role=role, name=name),
                # Certificates tell whole seconds.
                void_before_ms=(self.now_ms() // 1000 + 1) * 1000,
            )
            compare = self._as_read(changed, record)
            audit = self.audit(who, "revoke", name, f"as {role}", why=why)
            if await self.commit([compare], [_put(changed, record)], audit):
                return changed
        raise RaceLost(f"{role} {name}: others are changing it at the same time; try again")

    async def begin_rotation(self, trust: Trust, who: str) -> None:
        """`trust`: with one authority more than now, which signs. Nobody has two begun at once."""
        key, item = keys.trust(), await self.store.get(keys.trust())
        before = codec.decode(key, item.value) if item else None
        if item is None or not isinstance(before, Trust):
            raise Refused("this cluster has no authority yet")
        if len(before.authorities) > 1:
            raise Refused("a rotation is going on: finish it first, with --finish")
        audit = self.audit(who, "begin rotation", trust.signer)
        both = replace(trust, sealer=before.sealer)
        put = Put(key, codec.encode(both, item.value))
        if not await self.commit([ModRevision(key, item.mod_revision)], [put], audit):
            raise RaceLost("others rotate the authority at the same time; look again")

    async def finish_rotation(self, who: str, *, force: bool) -> Trust:
        """Only the signer counts from now on."""
        key, item = keys.trust(), await self.store.get(keys.trust())
        trust = codec.decode(key, item.value) if item else None
        if item is None or not isinstance(trust, Trust) or len(trust.authorities) < len("ab"):
            raise Refused("no rotation is going on")
        behind = [str(i.name) for i in await self.behind(trust) if i.role is not Role.COORDINATOR]
        if behind and not force:
            shown = ", ".join(behind[:5]) + (", …" if len(behind) > len("abcde") else "")
            raise Refused(
                f"{len(behind)} would be cut off, with nothing of the new authority yet: {shown}; "
                "they renew within a day when they are connected. --force cuts them off"
            )
        last = replace(trust, authorities=trust.authorities[-1:])
        audit = self.audit(who, "finish rotation", trust.signer, f"{len(behind)} cut off")
        put = Put(key, codec.encode(last, item.value))
        if not await self.commit([ModRevision(key, item.mod_revision)], [put], audit):
            raise RaceLost("others rotate the authority at the same time; look again")
        return last

    async def behind(self, trust: Trust) -> list[IssuedIdentity]:
        """Whose certificate counts and is not the signer's."""
        items = (await self.store.ranges([Span.prefix("identities/")])).items
        found = [codec.decode(item.key, item.value) for item in items]
        now_ms = self.now_ms()
        return [
            one
            for one in found
            if isinstance(one, IssuedIdentity)
            and one.authority != trust.signer
            and one.expires_at_ms > now_ms
            and one.issued_at_ms >= one.void_before_ms
        ]

    async def remember(self, seen: pki.Seen) -> None:
        """Somebody with a good certificate of whom nothing is written: so that it can be seen."""
        record = _record_of(seen)
        key = keys.identity(record.role, record.name)
        await self.store.commit([ModRevision(key, 0)], [Put(key, codec.encode(record))])

    async def _record(self, role: Role, name: str) -> KeyValue | None:
        return await self.store.get(keys.identity(role, name))

    def _as_read(self, who: Identity | IssuedIdentity, record: KeyValue | None) -> ModRevision:
        key = keys.identity(who.role, who.name)
        return ModRevision(key, record.mod_revision if record else 0)


def _key(encoded: bytes) -> pki.PublicKey:
    try:
        return pki.key_of(encoded)
    except pki.CertificateError as error:
        raise Invalid(f"public_key: {error}") from error


def _check_token(token: JoinToken, ttl_s: float) -> None:
    if not TTL_MIN_S <= ttl_s <= TTL_MAX_S:
        raise Invalid(f"ttl: must be from {TTL_MIN_S:g} s to 30 days")
    if not 1 <= token.uses_left <= USES_MAX:
        raise Invalid(f"uses: must be from 1 to {USES_MAX}")
    if token.name and token.uses_left > 1:
        raise Invalid("name: one name is for one use")
    if token.role in PEOPLE and not token.name:
        raise Invalid(f"name: say who shall be this {token.role}")
    wrong = problem_with_name(token.name) if token.name else ""
    if wrong := wrong or problem_with_apps(token.role, token.apps):
        raise Invalid(wrong)


def _described(token: JoinToken) -> str:
    apps = f" of {','.join(token.apps)}" if token.apps else ""
    return f"{token.role}{apps} {token.name or 'any name'}, {token.uses_left} use(s)"


def _check_use(token: JoinToken, used: str, now_ms: int) -> None:
    if now_ms >= token.expires_at_ms:
        raise Refused(f"this token ran out at {utc(token.expires_at_ms)}; ask for another")
    if token.uses_left < 1 and used not in token.used_by:
        raise Refused("this token was used already; ask for another")


def _identity(token: JoinToken, wish: Wish) -> Identity:
    """The cluster is filled in by who signs."""
    if token.name and wish.name and token.name != wish.name:
        raise Refused(f"this token is for {token.role} {token.name}, not for {wish.name}")
    chosen = token.name or wish.name or wish.default_name
    if wrong := problem_with_name(chosen):
        raise Invalid(wrong)
    return Identity(cluster="", role=token.role, name=chosen, apps=token.apps)


def _check_name(token: JoinToken, record: KeyValue | None, used: str, now_ms: int) -> None:
    """A token for any name is none for a name that somebody has."""
    if record is None or token.name:
        return
    has = codec.decode(record.key, record.value)
    assert isinstance(has, IssuedIdentity)
    counts = has.expires_at_ms > now_ms and has.issued_at_ms >= has.void_before_ms
    if counts and has.key != used:
        raise Refused(
            f"{has.role} {has.name} exists, with a certificate until {utc(has.expires_at_ms)}: "
            f"choose another --name, or ask for a token for just this one: "
            f"formctl token create --role {has.role} --name {has.name}"
        )


def _issued(
    sign: Sign, who: Identity, key: pki.PublicKey, record: KeyValue | None, now_ms: int
) -> tuple[pki.Signed, IssuedIdentity]:
    before = codec.decode(record.key, record.value) if record else None
    void_before_ms = before.void_before_ms if isinstance(before, IssuedIdentity) else 0
    signed = sign(who, key, max(now_ms, void_before_ms))
    return signed, replace(_record_of(signed.seen), void_before_ms=void_before_ms)


def _record_of(seen: pki.Seen) -> IssuedIdentity:
    return IssuedIdentity(
        role=seen.identity.role,
        name=seen.identity.name,
        apps=seen.identity.apps,
        issued_at_ms=seen.issued_at_ms,
        expires_at_ms=seen.expires_at_ms,
        key=seen.key,
        authority=seen.authority,
    )


def _put(issued: IssuedIdentity, record: KeyValue | None) -> Put:
    key = keys.identity(issued.role, issued.name)
    return Put(key, codec.encode(issued, record.value if record else b""))
