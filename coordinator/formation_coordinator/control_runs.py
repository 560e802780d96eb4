"""Runs that people ask for: commands that are started once and come to an end."""

from __future__ import annotations

from dataclasses import replace

from formation.model import App, Release, Slot
from formation.names import ONE_OFF
from formation.requests import Run, RunState
from formation_coordinator.changing import (
    ATTEMPTS_MAX,
    Changing,
    Invalid,
    RaceLost,
    Refused,
    Unknown,
    race_lost,
)
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import ModRevision, Put


class RunControl(Changing):
    async def start(self, name: str, like: str, command: str, who: str) -> tuple[Run, int]:
        """`command` "": that of the type `like`. Raises `Unknown`, `Invalid`, `RaceLost`."""
        for _ in range(ATTEMPTS_MAX):
            app, release, seen = await self.read(name)
            _check(app, release, like, command)
            number = app.runs_made + 1
            type_name = ONE_OFF if command else like
            run = Run(
                id=f"{type_name}.{number}",
                slot=Slot(name, type_name, number),
                release=app.release,
                command=command,
                like=like if command else "",
                who=who,
                created_at_ms=self.now_ms(),
            )
            key = keys.run(name, run.id)
            compares = [ModRevision(keys.app(name), seen.mod_revision), ModRevision(key, 0)]
            puts = [
                Put(keys.app(name), codec.encode(replace(app, runs_made=number), seen.value)),
                Put(key, codec.encode(run)),
            ]
            audit = self.audit(who, "run", name, f"{run.id} {command}".strip())
            revision = await self.commit(compares, puts, audit)
            if revision:
                return run, revision
        raise race_lost(name)

    async def cancel(self, name: str, run_id: str, who: str) -> int:
        """Raises `Unknown`, `Refused` for one that is over, `RaceLost`."""
        key = keys.run(name, run_id)
        for _ in range(ATTEMPTS_MAX):
            item = await self.store.get(key)
            if item is None:
                raise Unknown(f"app {name} has no run {run_id}; see formctl runs")
            run = codec.decode(key, item.value)
            assert isinstance(run, Run)
            if run.state not in (RunState.PENDING, RunState.PLACED):
                raise Refused(f"run {run_id} is over already: {run.state.name.lower()}")
            cancelled = replace(
                run,
                state=RunState.CANCELLED,
                reason=f"cancelled by {who}",
                ended_at_ms=self.now_ms(),
            )
            audit = self.audit(who, "cancel", name, run_id)
            compares = [ModRevision(key, item.mod_revision)]
            revision = await self.commit(
                compares, [Put(key, codec.encode(cancelled, item.value))], audit
            )
            if revision:
                return revision
        raise RaceLost(f"run {run_id}: others are changing it at the same time; try again")


def _check(app: App, release: Release, like: str, command: str) -> None:
    known = [spec.name for spec in release.types]
    if like and like not in known:
        raise Unknown(f"app {app.name} has no type {like!r}; it has {', '.join(known)}")
    if command and ONE_OFF in known:
        raise Refused(
            f"app {app.name} has a type called {ONE_OFF}: one-off instances need that name"
        )
    if not command.strip() and not like:
        raise Invalid("nothing to run: give a command, or the type to run now")
    spec = release.type_named(like) if like else None
    if not command and spec is not None and spec.schedule is None:
        raise Invalid(f"{like} has no schedule: formctl scale {like}+1 starts one more")
