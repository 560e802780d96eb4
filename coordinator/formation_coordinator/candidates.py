"""Candidates: releases that nothing runs yet, because their release command is not over. Pure.

What becomes of one depends on its run alone, which `runs` places and follows as any other: ended
with 0, the release is the app's; over in any other way, it is taken back, and what runs was never
touched. docs/design/release-command.md tells why each rule is as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from formation.model import App, Assignment, Release, Slot
from formation.releasecommand import RELEASE, Candidate, CommandEnd
from formation.requests import OVER, Run, RunState
from formation.seen import Rollout
from formation_coordinator.plan import Decision
from formation_coordinator.world import HostEntry, World

_MS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How the app goes on."""

    app: App
    decision: Decision


def is_release_run(run: Run | Assignment) -> bool:
    """A type may have that name, but then it has its own command."""
    return run.slot.type == RELEASE and bool(run.command)


# -- made by people, as they ask for a release -----------------------------------------------------


def entered(app: App, release: Release, formation: Mapping[str, int], word: Rollout) -> App:
    """With this release as its candidate, in the place of an earlier one. `formation`: as it is to
    be; what the app has met already is none of a release's business."""
    new = {name: number for name, number in formation.items() if name not in app.formation}
    candidate = Candidate(release=release.number, canary=word.canary, formation=new)
    return replace(app, latest_release=release.number, candidate=candidate)


def run_of(release: Release, candidate: Candidate) -> Run:
    """That of its command, yet to be placed."""
    assert release.command is not None
    return Run(
        id=candidate.run,
        slot=Slot(release.app, RELEASE, release.number),
        release=release.number,
        command=release.command.command,
        like=release.command.like,
        who=release.created_by,
        created_at_ms=release.created_at_ms,
    )


def taken_back(app: App, why: str) -> App:
    """Without its candidate; whatever else is on its way goes on."""
    assert app.candidate is not None
    word = replace(app.rollout, undone_release=app.candidate.release, reason=why)
    return replace(app, candidate=None, rollout=word)


# -- judged by the leader, pass by pass ------------------------------------------------------------


def judge(world: World, app: App) -> Verdict | None:
    """None: it has no candidate, or goes on waiting."""
    candidate = app.candidate
    if candidate is None:
        return None
    run = world.runs.get((app.name, candidate.run))
    if run is not None and run.state not in OVER:
        return None
    key = (app.name, candidate.release)
    unreadable = (
        ("apps", (app.name,)),
        ("runs", (app.name, candidate.run)),
        ("releases", (app.name, str(candidate.release))),
    )
    if any(one in world.unreadable for one in unreadable):
        return None  # a newer leader can tell
    release = world.releases.get(key)
    if release is not None and run is not None and run.state is RunState.FINISHED:
        return _passed(app, candidate)
    return _failed(app, candidate, how_it_ended(run) if run else "nobody knows of its run")


def _passed(app: App, candidate: Candidate) -> Verdict:
    after = replace(
        app,
        release=candidate.release,
        rollout=Rollout(canary=candidate.canary),
        formation={**candidate.formation, **app.formation},
        candidate=None,
    )
    why = f"{candidate.run} has passed"
    decision = _decision("release", app.name, app.release, candidate.release, why)
    return Verdict(app=after, decision=decision)


def _failed(app: App, candidate: Candidate, why: str) -> Verdict:
    why = f"{candidate.run} {why}"
    decision = _decision("undo", app.name, candidate.release, app.release, why)
    return Verdict(app=taken_back(app, why), decision=decision)


def _decision(action: str, app: str, before: int, after: int, why: str) -> Decision:
    return Decision(action=action, app=app, before=_v(before), after=_v(after), why=why)


def _v(release: int) -> str:
    return f"v{release}" if release else "nothing"


def how_it_ended(run: Run) -> str:
    where = f" on {run.host}" if run.host else ""
    match run.state:
        case RunState.FINISHED:
            return f"ended with {run.last_exit or 'exit 0'}{where}"
        case RunState.FAILED:
            return f"failed{where}: {run.last_exit or run.reason}"
        case RunState.LOST:
            return f"was lost, nobody knows how it ended: {run.reason}"
        case _:
            return f"was stopped: {run.reason}"


# -- its run ---------------------------------------------------------------------------------------


def unwanted(world: World, run: Run, wall_ms: int) -> str:
    """Why one that is not over is to end now; "" when it may go on."""
    app = world.apps.get(run.slot.app)
    if app is None or app.candidate is None:
        return f"v{run.release} is not wanted any more"
    if app.candidate.run != run.id:
        return f"v{app.candidate.release} has taken its place"
    due_ms = due_at_ms(world, run)
    if due_ms is None or wall_ms < due_ms:
        return ""
    return f"not over within {(due_ms - run.created_at_ms) / _MS:g} s"


def due_at_ms(world: World, run: Run) -> int | None:
    """When it must be over; None: its release cannot be read."""
    release = world.releases.get((run.slot.app, run.release))
    if release is None or release.command is None:
        return None
    return run.created_at_ms + int(release.command.timeout_s * _MS)


def with_its_end(world: World, run: Run) -> Release | None:
    """The release as it is to be written now that its run is over; None: it has been."""
    release = world.releases.get((run.slot.app, run.release))
    if release is None or release.command is None or release.command_end is not None:
        return None
    passed = run.state is RunState.FINISHED
    end = CommandEnd(passed=passed, how=how_it_ended(run), at_ms=run.ended_at_ms)
    return replace(release, command_end=end)


def why_it_waits(earlier: str, entry: HostEntry) -> str:
    """For another one of the app, which `entry` lists."""
    said = f"{earlier} may still run on {entry.name}"
    if entry.connected:
        return f"{said}, and there are never two at once"
    return (
        f"{said}, which does not answer: formctl hosts forget {entry.name} if it is gone for good"
    )
