"""What users change about secrets. Each change is a release; values are seen by the vault alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from formation import secrets
from formation.identity import Trust
from formation.model import Release
from formation.secrets import Secret
from formation.seen import Rollout
from formation_coordinator.changing import (
    ATTEMPTS_MAX,
    Applied,
    Changing,
    Invalid,
    RaceLost,
    Refused,
    race_lost,
)
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import KeyValue, ModRevision, Put, Span
from formation_coordinator.vault import Vault


class SecretControl(Changing):
    """Raises what `Changing` does, and what `Vault` does."""

    async def set_secrets(
        self,
        name: str,
        values: Mapping[str, str],
        unset: Collection[str],
        who: str,
        vault: Vault,
        *,
        reason: str = "",
        canary: int = 0,
    ) -> Applied:
        _check(values, unset)
        for _ in range(ATTEMPTS_MAX):
            app, current, seen = await self.read(name, newest=True)
            _check_against(name, current, values, unset)
            number = app.latest_release + 1
            new = {
                secret: vault.seal(name, secret, number, value)
                for secret, value in values.items()
                if not vault.is_same(name, secret, current.secrets.get(secret), value)
            }
            if not new and not unset:
                return Applied(app=app, release=current, unchanged=True, revision=seen.revision)
            kept = {n: s for n, s in current.secrets.items() if n not in unset}
            release = replace(
                current,
                number=number,
                secrets=_bounded({**kept, **new}),
                created_at_ms=self.now_ms(),
                created_by=who,
                reason=reason or _reason(new, unset),
            )
            word = Rollout(canary=canary)
            applied = await self.make_release(app, seen, release, {}, word, "secret")
            if applied is not None:
                return applied
        raise race_lost(name)

    async def turn_to(self, key: str, before: str, who: str) -> int:
        """That key seals from now on, instead of the one before. Gives the revision."""
        item = await self.store.get(keys.trust())
        trust = codec.decode(keys.trust(), item.value) if item else None
        if item is None or not isinstance(trust, Trust):
            raise Refused("this cluster has no authority yet")
        if trust.sealer != before:
            raise RaceLost("others change the cluster's keys at the same time; look again")
        audit = self.audit(who, "seal with", "secrets", before=before, after=key)
        put = Put(item.key, codec.encode(replace(trust, sealer=key), item.value))
        revision = await self.commit([ModRevision(item.key, item.mod_revision)], [put], audit)
        if not revision:
            raise RaceLost("others change the cluster's keys at the same time; look again")
        return revision

    async def seal_all_anew(self, vault: Vault) -> tuple[int, int]:
        """How many secrets, of how many releases. What is written meanwhile is sealed anew, too;
        it may be called again after an interruption."""
        changed = releases = 0
        for item in (await self.store.ranges([Span.prefix("releases/")])).items:
            number = await self._seal_anew(item, vault)
            changed, releases = changed + number, releases + bool(number)
        return changed, releases

    async def _seal_anew(self, item: KeyValue, vault: Vault) -> int:
        release = codec.decode(item.key, item.value)
        assert isinstance(release, Release)
        new = vault.seal_anew(release.app, release.secrets)
        if not new:
            return 0
        # The same values: nothing that runs is touched by it.
        same = replace(release, secrets={**release.secrets, **new})
        compare = ModRevision(item.key, item.mod_revision)
        await self.store.commit([compare], [Put(item.key, codec.encode(same, item.value))])
        return len(new)


def _check(values: Mapping[str, str], unset: Collection[str]) -> None:
    if not values and not unset:
        raise Invalid("no secret is named")
    for name in (*values, *unset):
        if wrong := secrets.problem_with_name(name):
            raise Invalid(wrong)
    for name, value in values.items():
        if wrong := secrets.problem_with_value(name, value):
            raise Invalid(wrong)


def _check_against(
    app: str, current: Release, values: Mapping[str, str], unset: Collection[str]
) -> None:
    unknown = [name for name in unset if name not in current.secrets]
    if unknown:
        raise Invalid(f"app {app}: {', '.join(unknown)} is no secret of it; see formctl secret")
    both = [name for name in values if name in current.config]
    if both:
        raise Invalid(
            f"app {app}: {', '.join(both)} is set by formctl config, where its value is readable: "
            f"formctl config unset {' '.join(both)}, then try again"
        )


def _bounded(found: Mapping[str, Secret]) -> Mapping[str, Secret]:
    if sum(len(secret.sealed) for secret in found.values()) > secrets.ALL_MAX_BYTES:
        raise Invalid(f"the app's secrets are more than {secrets.ALL_MAX_BYTES // 1024} KiB in all")
    return found


def _reason(new: Collection[str], unset: Collection[str]) -> str:
    parts = [
        f"set secret {', '.join(sorted(new))}" if new else "",
        f"unset secret {', '.join(sorted(unset))}" if unset else "",
    ]
    return "; ".join(part for part in parts if part)
