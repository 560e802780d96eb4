"""[types.NAME] of formation.toml → a process type. Pure; a part of `formation.manifest`.

What each value may be is in `manifest_keys`. Here is refused what cannot mean anything together:
two ways to be ready, a timeout that is longer than the time to the next run. The tables about
where, when and how many are in `manifest_rules`.
"""

from __future__ import annotations

from collections.abc import Collection

from formation.manifest_keys import (
    DEFAULTS,
    PROBE_DEFAULTS,
    PROBE_KINDS,
    RLIMITS,
    TYPE,
    tables,
)
from formation.manifest_rules import (
    check_rules,
    host_loss,
    placement,
    reserved,
    rollout,
    schedule,
)
from formation.manifest_values import Section
from formation.model import (
    Ability,
    Limits,
    Probe,
    ProbeKind,
    ProcessType,
    RestartPolicy,
    StopTo,
)
from formation.quantities import initial_quantity
from formation.rules import rollout_defaults

_RLIMIT_NAMES = {"cpu_time": "cpu"}


def read_type(spec: Section, name: str, others: Collection[str], app: str) -> ProcessType:
    """Notes every problem; what comes back is complete only when there was none.

    `others`: the names of all types of the file, whose app is `app` ("": it does not say).
    """
    inner = {table: spec.section(table) for table in tables(TYPE)}
    ready, live, stop, limits = (inner[table] for table in ("ready", "live", "stop", "limits"))
    scheduled = isinstance(spec.table.get("schedule"), dict)
    port, exclusive = spec.whole("port"), spec.switch("exclusive")
    per_host = spec.switch("per_host")
    found = ProcessType(
        name=name,
        command=spec.text("command"),
        initial_quantity=spec.whole(
            "quantity", 1 if scheduled or per_host else initial_quantity(name)
        ),
        restart=_restart(spec, scheduled),
        env=spec.variables("env"),
        port=port,
        user=spec.text("user"),
        group=spec.text("group"),
        workdir=spec.text("workdir"),
        umask=_umask(spec),
        nice=spec.whole("nice"),
        requires=spec.words("requires", Ability),
        ready_after_s=ready.duration("after"),
        readiness=_probe(ready),
        notify=ready.switch("notify"),
        start_grace_s=ready.duration("grace"),
        liveness=_probe(live),
        watchdog_s=live.duration("watchdog"),
        stop_signal=stop.signal("signal"),
        stop_grace_s=stop.duration("grace"),
        stop_to=stop.word("to", StopTo),
        stop_drain_s=stop.duration("drain"),
        limits=_limits(limits),
        resources=reserved(inner["resources"]),
        where=placement(inner["placement"]),
        rollout=rollout(
            inner["rollout"],
            rollout_defaults(port=port, exclusive=exclusive, per_host=per_host),
        ),
        exclusive=exclusive,
        per_host=per_host,
        schedule=schedule(inner["schedule"], given=scheduled),
        on_host_loss=host_loss(inner["on_host_loss"]),
        secrets=spec.texts("secrets") if "secrets" in spec else None,
        secret_files=spec.texts("secret_files"),
    )
    _check_ready(ready, live, found)
    _check_requires(spec, limits, found)
    check_rules(spec, inner, found, others, app)
    return found


def _restart(spec: Section, scheduled: bool) -> RestartPolicy:
    if not scheduled:
        return spec.word("restart", RestartPolicy)
    found = spec.word("restart", RestartPolicy, RestartPolicy.NEVER)
    if found is RestartPolicy.ALWAYS:
        spec.problem("restart", '"always" with a schedule: its runs would never be over')
    return found


def _umask(spec: Section) -> int:
    digits = spec.text("umask")
    return int(digits, 8) if digits else DEFAULTS.umask


# -- probes ----------------------------------------------------------------------------------------


def _probe(section: Section) -> Probe | None:
    given = [kind for kind in PROBE_KINDS if kind in section]
    targets = {kind: _target(section, kind) for kind in given}
    return _timed(section, ProbeKind(given[0]), targets[given[0]]) if given else None


def _target(section: Section, kind: str) -> str:
    if kind == "tcp":
        section.switch(kind)
        return ""
    return section.true_or_text(kind) if kind == "grpc" else section.text(kind)


def _timed(section: Section, kind: ProbeKind, target: str) -> Probe:
    every_s = section.duration("every")
    # A short `every` alone is no contradiction.
    timeout_s = section.duration("timeout", min(PROBE_DEFAULTS.timeout_s, every_s))
    if timeout_s > every_s:
        section.problem("timeout", f"{timeout_s:g} s is longer than every, {every_s:g} s")
    return Probe(
        kind=kind,
        target=target,
        port=section.whole("port"),
        period_s=every_s,
        timeout_s=timeout_s,
        failures=section.whole("failures"),
        successes=section.whole("successes"),
    )


def _check_ready(ready: Section, live: Section, found: ProcessType) -> None:
    if "grace" not in ready:
        return
    if not (live.table or found.readiness or found.notify):
        ready.problem("grace", "needs something to wait for: a probe, or notify")
    elif found.notify and found.start_grace_s == 0:
        ready.problem("grace", "0 leaves no time to say READY=1")


def _check_requires(spec: Section, limits: Section, found: ProcessType) -> None:
    for ability, (section, keys) in {
        Ability.CPU: (limits, ("cpus",)),
        Ability.MEMORY: (limits, ("memory",)),
        Ability.PIDS: (limits, ("pids",)),
        Ability.USER: (spec, ("user", "group")),
    }.items():
        if ability in found.requires and not any(key in section for key in keys):
            what = " or ".join(f"limits.{key}" if section is limits else key for key in keys)
            spec.problem("requires", f'"{ability.value}" without {what}: nothing to enforce')


def _limits(limits: Section) -> Limits:
    return Limits(
        cpus=limits.number("cpus"),
        memory_bytes=limits.bytes("memory"),
        pids=limits.whole("pids"),
        rlimits={
            _RLIMIT_NAMES.get(key, key): limits.rlimit(key) for key in RLIMITS if key in limits
        },
    )
