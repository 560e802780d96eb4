"""What a process type is told to do, in a few words: for `formctl show` and for a release's news.
Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from formation.model import Limits, Probe, ProbeKind, ProcessType, RestartPolicy, StopTo
from formation.rules import (
    Constraint,
    HostLoss,
    Keep,
    LossAction,
    Resources,
    Schedule,
    Where,
    rollout_defaults,
)
from formctl import wording

_UNLIMITED = -1
_SIZES = ("as", "core", "data", "fsize", "memlock", "msgqueue", "rss", "stack")
_SECONDS, _MICROSECONDS = "cpu", "rttime"


def described(spec: ProcessType) -> list[tuple[str, str]]:
    """(what, how) in the words of formation.toml; what is left to its default is left out.

    Of the environment only names are shown.
    """
    found = [
        ("command", spec.command),
        ("ready", _ready(spec)),
        ("live", _live(spec)),
        ("restart", "" if spec.restart is RestartPolicy.ALWAYS else spec.restart.value),
        ("stop", _stop(spec)),
        ("limits", _limits(spec.limits)),
        ("runs", _runs(spec)),
        ("env", " ".join(spec.env)),
        ("secrets", _secrets(spec)),
        ("requires", " ".join(ability.value for ability in spec.requires)),
        ("resources", _resources(spec.resources)),
        ("placement", _placement(spec.where)),
        ("rollout", _rollout(spec)),
        ("exclusive", "never two copies of one slot at once" if spec.exclusive else ""),
        ("per host", "the quantity is that of every host that fits" if spec.per_host else ""),
        ("schedule", _schedule(spec.schedule) if spec.schedule else ""),
        ("host loss", _host_loss(spec.on_host_loss)),
    ]
    return [(what, how) for what, how in found if how]


# What belongs to one key of a type in formation.toml.
_PARTS: dict[str, Callable[[ProcessType], object]] = {
    "restart": lambda spec: spec.restart,
    "ready": lambda s: (s.ready_after_s, s.readiness, s.notify, s.start_grace_s),
    "live": lambda spec: (spec.liveness, spec.watchdog_s),
    "stop": lambda s: (s.stop_signal, s.stop_grace_s, s.stop_to, s.stop_drain_s),
    "port": lambda spec: spec.port,
    "limits": lambda spec: spec.limits,
    "nice": lambda spec: spec.nice,
    "user": lambda spec: spec.user,
    "group": lambda spec: spec.group,
    "workdir": lambda spec: spec.workdir,
    "umask": lambda spec: spec.umask,
    "requires": lambda spec: spec.requires,
    "env": lambda spec: spec.env,
    "secrets": lambda spec: spec.secrets,
    "secret_files": lambda spec: spec.secret_files,
    "resources": lambda spec: spec.resources,
    "placement": lambda spec: spec.where,
    "rollout": lambda spec: spec.rollout,
    "exclusive": lambda spec: spec.exclusive,
    "per_host": lambda spec: spec.per_host,
    "schedule": lambda spec: spec.schedule,
    "on_host_loss": lambda spec: spec.on_host_loss,
}


def changed(before: ProcessType, after: ProcessType) -> list[str]:
    """The keys of formation.toml that mean something else now; without command and quantity."""
    return [key for key, part in _PARTS.items() if part(before) != part(after)]


def _secrets(spec: ProcessType) -> str:
    in_files = [f"{name} as a file" for name in spec.secret_files]
    if spec.secrets is None:
        return ", ".join(("all of the app's", *in_files)) if in_files else ""
    in_env = [name for name in spec.secrets if name not in spec.secret_files]
    return ", ".join((*in_env, *in_files)) or "none"


def _ready(spec: ProcessType) -> str:
    if spec.readiness is not None:
        return f"{_probe(spec.readiness)}, grace {spec.start_grace_s:g} s"
    if spec.notify:
        return f"says READY=1 within {spec.start_grace_s:g} s"
    return f"when up {spec.ready_after_s:g} s"


def _live(spec: ProcessType) -> str:
    watchdog = f"says WATCHDOG=1 every {spec.watchdog_s:g} s" if spec.watchdog_s else ""
    probe = _probe(spec.liveness) if spec.liveness else ""
    return "; ".join(part for part in (probe, watchdog) if part)


def _probe(probe: Probe) -> str:
    whole_server = probe.kind is ProbeKind.GRPC and not probe.target
    asked = " ".join(part for part in (probe.kind.value, probe.target) if part)
    port = f" on port {probe.port}" if probe.port else ""
    often = f"every {probe.period_s:g} s, timeout {probe.timeout_s:g} s"
    row = f"{probe.failures} failures" if probe.failures > 1 else "1 failure"
    passes = f", {probe.successes} successes" if probe.successes > 1 else ""
    return f"{asked}{' health' if whole_server else ''}{port} {often}, {row}{passes}"


def _stop(spec: ProcessType) -> str:
    to = " to the main process" if spec.stop_to is StopTo.MAIN else ""
    drain = f"drained for {spec.stop_drain_s:g} s, then " if spec.stop_drain_s else ""
    if spec.stop_signal == "KILL":
        return f"{drain}KILL"
    return f"{drain}{spec.stop_signal}{to}, KILL after {spec.stop_grace_s:g} s"


def _limits(limits: Limits) -> str:
    found = [
        f"{limits.cpus:g} cpus" if limits.cpus else "",
        f"memory {wording.amount(limits.memory_bytes)}" if limits.memory_bytes else "",
        f"{limits.pids} pids" if limits.pids else "",
        *(f"{name} {_rlimit(name, value)}" for name, value in sorted(limits.rlimits.items())),
    ]
    return ", ".join(part for part in found if part)


def _rlimit(name: str, value: int) -> str:
    if value == _UNLIMITED:
        return "unlimited"
    if name in _SIZES:
        return wording.amount(value)
    return f"{value}{' s' if name == _SECONDS else ' µs' if name == _MICROSECONDS else ''}"


def _runs(spec: ProcessType) -> str:
    account = ":".join((spec.user, spec.group)) if spec.group else spec.user
    found: Sequence[str] = (
        f"as {account}" if account else "",
        f"in {spec.workdir}" if spec.workdir else "",
        f"umask {spec.umask:03o}" if spec.umask >= 0 else "",
        f"nice {spec.nice}" if spec.nice else "",
        f"on port {spec.port} only" if spec.port else "",
    )
    return ", ".join(part for part in found if part)


# -- where, how many at once, when -----------------------------------------------------------------


def _resources(kept: Resources) -> str:
    found = [
        f"{kept.cpus:g} cpus" if kept.cpus else "",
        f"memory {wording.amount(kept.memory_bytes)}" if kept.memory_bytes else "",
    ]
    what = ", ".join(part for part in found if part)
    return f"{what} for each" if what else ""


def _placement(where: Where) -> str:
    spread = f"spread over {', '.join(where.spread) or 'hosts only'}"
    found = [
        f"require {_listed(where.require)}" if where.require else "",
        f"prefer {_listed(where.prefer)}" if where.prefer else "",
        "" if where.spread == Where().spread else spread,
        f"at most {where.max_per_host} on a host" if where.max_per_host else "",
        f"apart from {', '.join(where.apart_from)}" if where.apart_from else "",
    ]
    return "; ".join(part for part in found if part)


def _listed(constraints: Sequence[Constraint]) -> str:
    """One may hold commas itself."""
    return " and ".join(str(item) for item in constraints)


def _rollout(spec: ProcessType) -> str:
    usual = rollout_defaults(port=spec.port, exclusive=spec.exclusive, per_host=spec.per_host)
    rules = spec.rollout
    if rules == usual or spec.schedule:
        return ""
    counts = f"surge {rules.surge}, unavailable {rules.unavailable}"
    times = f"healthy {rules.healthy_s:g} s, deadline {rules.deadline_s:g} s"
    return f"{counts}, {times}{'' if rules.rollback else ', no rollback'}"


def _schedule(schedule: Schedule) -> str:
    usual = Schedule(cron=schedule.cron)
    found = [
        f"{schedule.cron} {schedule.zone}",
        "" if schedule.overlap is usual.overlap else f"overlap {schedule.overlap.value}",
        "" if schedule.missed is usual.missed else f"missed {schedule.missed.value}",
        "" if schedule.keep == usual.keep else f"keep {schedule.keep}",
    ]
    return ", ".join(part for part in found if part)


def _host_loss(loss: HostLoss) -> str:
    if loss.action is LossAction.WAIT:
        return "waits for its host"
    found = [
        f"replaced after {loss.after_s:g} s" if loss.after_s else "",
        "" if loss.keep is Keep.BEST else f"keeps the {loss.keep.value}",
    ]
    return ", ".join(part for part in found if part)
