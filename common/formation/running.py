"""What an assignment runs: a type as its release says it, or one command to its end. Pure."""

from __future__ import annotations

from dataclasses import replace

from formation.model import Assignment, ProcessType, Release, RestartPolicy


def spec_of(release: Release | None, item: Assignment) -> ProcessType | None:
    """None: the release is not known, or does not define it.

    A run with a command of its own has the settings of the type `like`, or plain ones. It is
    started once, and nothing is asked of it but to end.
    """
    if release is None:
        return None
    name = item.slot.type
    if not item.command:
        return release.type_named(name)
    plain = ProcessType(name=name, command=item.command)
    like = release.type_named(item.like) if item.like else plain
    if like is None:
        return None
    return replace(
        like,
        name=name,
        command=item.command,
        restart=RestartPolicy.NEVER,
        port=plain.port,
        readiness=plain.readiness,
        liveness=plain.liveness,
        notify=plain.notify,
        watchdog_s=plain.watchdog_s,
        ready_after_s=plain.ready_after_s,
        stop_drain_s=plain.stop_drain_s,
        exclusive=plain.exclusive,
        per_host=plain.per_host,
        schedule=plain.schedule,
    )
