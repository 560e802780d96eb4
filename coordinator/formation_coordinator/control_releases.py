"""What users change about which release runs: config, rollback, and a change under way."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from enum import Enum, auto

from formation.model import App, Release
from formation.seen import Rollout
from formation_coordinator import candidates
from formation_coordinator.changing import (
    ATTEMPTS_MAX,
    Applied,
    Changing,
    Invalid,
    Refused,
    Unknown,
    not_there_yet,
    race_lost,
)
from formation_coordinator.store import codec, keys

_OURS = ("PORT", "PS")
_PREFIX = "FORMATION_"


class Steering(Enum):
    PAUSE = auto()
    RESUME = auto()
    ABORT = auto()
    PROMOTE = auto()


class ReleaseControl(Changing):
    async def set_config(
        self,
        name: str,
        values: Mapping[str, str],
        unset: Collection[str],
        who: str,
        *,
        reason: str = "",
        canary: int = 0,
    ) -> Applied:
        """A release with a changed config. Raises `Unknown`, `Invalid`, `RaceLost`."""
        _check_names([*values, *unset])
        for _ in range(ATTEMPTS_MAX):
            app, current, seen = await self.read(name, newest=True)
            missing = [variable for variable in unset if variable not in current.config]
            if missing:
                raise Invalid(_not_set(name, missing, current))
            hidden = [variable for variable in values if variable in current.secrets]
            if hidden:
                raise Invalid(_is_secret(name, hidden))
            config = {n: v for n, v in current.config.items() if n not in unset} | dict(values)
            if config == dict(current.config):
                return Applied(app=app, release=current, unchanged=True, revision=seen.revision)
            release = replace(
                current,
                number=app.latest_release + 1,
                config=config,
                created_at_ms=self.now_ms(),
                created_by=who,
                reason=reason or _reason(values, unset),
            )
            word = Rollout(canary=canary)
            applied = await self.make_release(app, seen, release, {}, word, "config")
            if applied is not None:
                return applied
        raise race_lost(name)

    async def rollback(self, name: str, number: int, who: str, why: str = "") -> Applied:
        """Back to a release; 0: to the one before, which with a candidate is the current one.
        Raises `Unknown`, `Refused`, `RaceLost`."""
        for _ in range(ATTEMPTS_MAX):
            app, current, seen = await self.read(name)
            target = await self._target(app, number)
            if target.number == app.release and app.candidate is None:
                return Applied(app=app, release=current, unchanged=True, revision=seen.revision)
            changed = _gone_back(app, target.number, who)
            audit = self.audit(
                who, "rollback", name, before=f"v{app.newest}", after=f"v{target.number}", why=why
            )
            revision = await self.put_app(changed, seen, audit)
            if revision:
                return Applied(app=changed, release=target, unchanged=False, revision=revision)
        raise race_lost(name)

    async def _target(self, app: App, number: int) -> Release:
        found = await self._releases(app.name)
        if number:
            if number not in found:
                known = ", ".join(f"v{n}" for n in sorted(found))
                raise Unknown(f"app {app.name} has no release v{number}; there is {known}")
            _check_passed(app, found[number])
            return found[number]
        if app.candidate is not None:
            return found[app.release]
        if app.stable_release not in (0, app.release) and app.stable_release in found:
            return found[app.stable_release]
        earlier = [n for n in found if n < app.release and _has_passed(found[n])]
        if not earlier:
            raise Refused(f"app {app.name}: there is no release before v{app.release}")
        return found[max(earlier)]

    async def _releases(self, name: str) -> dict[int, Release]:
        items = (await self.store.ranges([keys.releases(name)])).items
        records = [codec.decode(item.key, item.value) for item in items]
        return {r.number: r for r in records if isinstance(r, Release) and r.types}

    async def steer(self, name: str, how: Steering, who: str, why: str = "") -> tuple[App, int]:
        """Pause, go on with, take back or widen the change that is under way."""
        for _ in range(ATTEMPTS_MAX):
            app, seen = await self.read_app(name)
            if app is None:
                raise Unknown(await self.no_such_app(name))
            changed = _steered(app, how, who)
            audit = self.audit(
                who,
                how.name.lower(),
                name,
                before=f"v{app.newest if how is Steering.ABORT else app.release}",
                after=f"v{changed.release}",
                why=why,
            )
            revision = await self.put_app(changed, seen, audit)
            if revision:
                return changed, revision
        raise race_lost(name)


def _has_passed(release: Release) -> bool:
    end = release.command_end
    return release.command is None or (end is not None and end.passed)


def _check_passed(app: App, release: Release) -> None:
    """Raises `Refused`: nothing of a release starts before its command has passed."""
    if app.candidate is not None and app.candidate.release == release.number:
        raise Refused(f"app {app.name}: v{release.number} waits for its release command already")
    if not _has_passed(release):
        how = f": it {release.command_end.how}" if release.command_end else ""
        raise Refused(
            f"app {app.name}: the release command of v{release.number} has not passed{how}; "
            "formctl apply or deploy makes a new release of the same"
        )


def _gone_back(app: App, release: int, who: str) -> App:
    if app.candidate is not None:
        app = candidates.taken_back(app, f"rolled back by {who}")
        if release == app.release:
            return app
    return replace(app, release=release, rollout=Rollout())


def _steered(app: App, how: Steering, who: str) -> App:
    word = app.rollout
    if how is Steering.ABORT and app.candidate is not None:
        return candidates.taken_back(app, f"aborted by {who}")
    if not app.release:
        raise Refused(not_there_yet(app))
    if how is Steering.RESUME:
        if not word.paused:
            raise Refused(f"app {app.name}: its change is not paused")
        return replace(app, rollout=replace(word, paused=False))
    if app.release == app.stable_release:
        raise Refused(_nothing_to_steer(app))
    if how is Steering.PAUSE:
        return replace(app, rollout=replace(word, paused=True))
    if how is Steering.PROMOTE:
        if not word.canary:
            raise Refused(f"app {app.name}: v{app.release} is no canary")
        return replace(app, rollout=replace(word, canary=0, paused=False))
    if not app.stable_release:
        raise Refused(f"app {app.name}: v{app.release} is its first release, there is none before")
    undone = Rollout(undone_release=app.release, reason=f"aborted by {who}")
    return replace(app, release=app.stable_release, rollout=undone)


def _nothing_to_steer(app: App) -> str:
    said = f"app {app.name}: v{app.release} runs everywhere, no change is under way"
    if app.candidate is None:
        return said
    return f"{said}; v{app.candidate.release} waits for its release command, which abort ends"


def _check_names(names: Collection[str]) -> None:
    if not names:
        raise Invalid("no variable is named")
    for name in names:
        if not name or "=" in name or "\0" in name:
            raise Invalid(f"bad environment variable {name!r}")
        if name in _OURS or name.startswith(_PREFIX):
            raise Invalid(f"{name} is set by Formation for each instance")


def _not_set(app: str, missing: list[str], current: Release) -> str:
    of_project = [name for name in missing if name in current.env]
    said = f"app {app}: {', '.join(missing)} is not set by formctl config"
    return said + (", the project's files say it" if of_project else "")


def _is_secret(app: str, hidden: list[str]) -> str:
    names = " ".join(hidden)
    return f"app {app}: {names} is a secret: formctl secret set {names}, or unset it there first"


def _reason(values: Mapping[str, str], unset: Collection[str]) -> str:
    parts = [
        f"set {', '.join(sorted(values))}" if values else "",
        f"unset {', '.join(sorted(unset))}" if unset else "",
    ]
    return "; ".join(part for part in parts if part)
