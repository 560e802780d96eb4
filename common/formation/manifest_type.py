"""[types.NAME] of formation.toml → a process type. Pure; a part of `formation.manifest`.

Refuses what cannot mean anything: two ways to be ready, settings of a probe that is not there, a
timeout that is longer than the time to the next run.
"""

from __future__ import annotations

import math
import re

from formation.manifest_rules import (
    LOSS_KEYS,
    PLACEMENT_KEYS,
    RESOURCE_KEYS,
    ROLLOUT_KEYS,
    SCHEDULE_KEYS,
    read_loss,
    read_resources,
    read_rollout,
    read_schedule,
    read_where,
)
from formation.manifest_values import Section, env_of
from formation.model import (
    QUANTITY_MAX,
    TYPE_NAME,
    Ability,
    Limits,
    Probe,
    ProbeKind,
    ProcessType,
    RestartPolicy,
)
from formation.quantities import initial_quantity

STOP_SIGNALS = ("ABRT", "ALRM", "HUP", "INT", "KILL", "QUIT", "TERM", "USR1", "USR2", "WINCH")
PROBE_KINDS = ("http", "tcp", "exec", "grpc")
PROBE_KEYS = ("port", "every", "timeout", "failures", "successes")
TYPE_KEYS = (
    "command", "quantity", "restart", "port", "user", "group", "workdir", "umask", "nice",
    "requires", "ready", "live", "stop", "limits", "env", "resources", "placement", "rollout",
    "exclusive", "per_host", "schedule", "on_host_loss",
)  # fmt: skip
READY_KEYS = ("after", *PROBE_KINDS, "notify", *PROBE_KEYS, "grace")
LIVE_KEYS = (*PROBE_KINDS, *PROBE_KEYS, "watchdog")
STOP_KEYS = ("signal", "grace", "to")
# setrlimit's names with the least that lets a process start at all: sizes in bytes, and counts.
# Linux ignores `rss`.
SIZE_RLIMITS = {
    "as": 2**20, "core": 0, "data": 2**16, "fsize": 0, "memlock": 0, "msgqueue": 0, "stack": 2**16,
}  # fmt: skip
COUNT_RLIMITS = {"nofile": 8, "nproc": 1, "sigpending": 0, "rtprio": 0, "nice": 0}
# Times, with setrlimit's units per second. Who means `cpus` and writes `cpu` would have killed what
# was to be slowed down, so that one has a name of its own.
TIME_RLIMITS = {"cpu_time": 1, "rttime": 1_000_000}
_RLIMIT_NAMES = {"cpu_time": "cpu"}
RLIMIT_KEYS = (*SIZE_RLIMITS, *COUNT_RLIMITS, *TIME_RLIMITS)
LIMIT_KEYS = ("cpus", "memory", "pids", *RLIMIT_KEYS)
ELSEWHERE = tuple(
    f"{table}.{key}"
    for table, keys in {
        "ready": READY_KEYS, "live": LIVE_KEYS, "stop": STOP_KEYS, "limits": LIMIT_KEYS,
        "resources": RESOURCE_KEYS, "placement": PLACEMENT_KEYS, "rollout": ROLLOUT_KEYS,
        "schedule": SCHEDULE_KEYS, "on_host_loss": LOSS_KEYS,
    }.items()
    for key in keys
)  # fmt: skip

UNLIMITED = -1
MEMORY_MIN_BYTES = 2**20
CPUS_MIN, CPUS_MAX = 0.01, 10_000.0
COUNT_MAX = 2**31 - 1
PORT_MAX = 65_535
PERIOD_MIN_S = 0.1
TIMEOUT_MIN_S = 0.01
ROW_MAX = 1000
NICE_MIN, NICE_MAX = -20, 19
DEFAULTS = ProcessType(name="default", command="true")
PROBE_DEFAULTS = Probe(kind=ProbeKind.TCP)
_HTTP_PATH = re.compile(r"/[!-~]*")
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,255}\$?")
_SERVICE = re.compile(r"[!-~]+")
_UMASK = re.compile(r"[0-7]{1,4}")
_UMASK_MAX = 0o777


def read_type(types: Section, name: str) -> ProcessType:
    """Notes every problem; what comes back is complete only when there was none."""
    if not TYPE_NAME.fullmatch(name):
        types.problem(name, "no name for a type: up to 63 letters, digits, _ and -")
    spec = types.section(name)
    if not isinstance(types.table[name], dict):
        return ProcessType(name=name, command="")
    spec.known_only(TYPE_KEYS, ELSEWHERE)
    ready, live = _table(spec, "ready", READY_KEYS), _table(spec, "live", LIVE_KEYS)
    stop, limits = _table(spec, "stop", STOP_KEYS), _table(spec, "limits", LIMIT_KEYS)
    resources = _table(spec, "resources", RESOURCE_KEYS)
    scheduled = "schedule" in spec
    exclusive, per_host = spec.switch("exclusive"), spec.switch("per_host")
    found = ProcessType(
        name=name,
        command=_command(spec),
        initial_quantity=spec.whole(
            "quantity",
            1 if scheduled or per_host else initial_quantity(name),
            0,
            QUANTITY_MAX,
        ),
        restart=spec.word("restart", RestartPolicy.NEVER if scheduled else DEFAULTS.restart),
        port=spec.whole("port", DEFAULTS.port, 1, PORT_MAX),
        user=_account(spec, "user"),
        group=_account(spec, "group"),
        workdir=_workdir(spec),
        umask=_umask(spec),
        nice=spec.whole("nice", DEFAULTS.nice, NICE_MIN, NICE_MAX),
        requires=spec.words("requires", Ability),
        ready_after_s=ready.duration("after", DEFAULTS.ready_after_s),
        readiness=_probe(ready),
        notify=ready.switch("notify"),
        start_grace_s=ready.duration("grace", DEFAULTS.start_grace_s),
        liveness=_probe(live),
        watchdog_s=live.duration("watchdog", DEFAULTS.watchdog_s, PERIOD_MIN_S),
        stop_signal=_signal(stop),
        stop_grace_s=stop.duration("grace", DEFAULTS.stop_grace_s),
        stop_to=stop.word("to", DEFAULTS.stop_to),
        limits=_limits(limits),
        env=env_of(spec.section("env")),
        resources=read_resources(resources),
        where=read_where(_table(spec, "placement", PLACEMENT_KEYS), name, [*types.table]),
        rollout=read_rollout(
            _table(spec, "rollout", ROLLOUT_KEYS),
            in_place="port" in spec or exclusive or per_host,
            alone=exclusive or per_host,
        ),
        exclusive=exclusive,
        per_host=per_host,
        schedule=read_schedule(_table(spec, "schedule", SCHEDULE_KEYS)),
        on_host_loss=read_loss(_table(spec, "on_host_loss", LOSS_KEYS)),
    )
    _check_kinds(spec, found)
    if 0 < found.limits.memory_bytes < found.resources.memory_bytes:
        resources.problem("memory", "is more than limits.memory lets it have")
    _check_ready(ready, live, found)
    _check_requires(spec, limits, found)
    return found


def _table(spec: Section, key: str, known: tuple[str, ...]) -> Section:
    section = spec.section(key)
    section.known_only(known)
    return section


def _command(spec: Section) -> str:
    command = spec.text("command")
    if "command" not in spec:
        spec.problem(
            "command",
            "missing; formation.toml alone defines types, a Procfile beside it is not read",
        )
    elif isinstance(spec.table["command"], str) and not command.strip():
        spec.problem("command", "is empty")
    return command


def _account(spec: Section, key: str) -> str:
    return spec.matching(key, _ACCOUNT.fullmatch, f"is no name or number of a {key}")


def _workdir(spec: Section) -> str:
    return spec.matching(
        "workdir",
        lambda path: path and ".." not in path.split("/"),
        "must be an absolute path, or one below the app's workdir (without ..)",
    )


def _umask(spec: Section) -> int:
    if "umask" not in spec:
        return DEFAULTS.umask
    value = spec.table["umask"]
    if isinstance(value, str) and _UMASK.fullmatch(value) and int(value, 8) <= _UMASK_MAX:
        return int(value, 8)
    spec.problem("umask", 'must be octal digits as text, such as "027", at most "777"')
    return DEFAULTS.umask


def _signal(stop: Section) -> str:
    text = stop.text("signal")
    name = text.upper().removeprefix("SIG")
    if name in STOP_SIGNALS:
        return name
    if isinstance(stop.table.get("signal"), str):
        known = ", ".join(STOP_SIGNALS)
        stop.problem("signal", f"unknown signal {text!r}; known are {known}")
    return DEFAULTS.stop_signal


# -- probes ----------------------------------------------------------------------------------------


def _probe(section: Section) -> Probe | None:
    given = [kind for kind in PROBE_KINDS if kind in section]
    if len(given) > 1:
        section.problem("", f"{' and '.join(given)} exclude each other: take one")
    targets = {kind: _TARGETS[kind](section) for kind in given}
    if not given:
        for key in PROBE_KEYS:
            if key in section:
                section.problem(key, "needs a probe beside it: http, tcp, exec or grpc")
        return None
    if given == ["exec"] and "port" in section:
        section.problem("port", "has no meaning for exec: the command gets PORT")
    return _timed(section, ProbeKind(given[0]), targets[given[0]])


def _timed(section: Section, kind: ProbeKind, target: str) -> Probe:
    every_s = section.duration("every", PROBE_DEFAULTS.period_s, PERIOD_MIN_S)
    # A short `every` alone is no contradiction.
    timeout_s = min(PROBE_DEFAULTS.timeout_s, every_s)
    timeout_s = section.duration("timeout", timeout_s, TIMEOUT_MIN_S)
    if timeout_s > every_s:
        section.problem("timeout", f"{timeout_s:g} s is longer than every, {every_s:g} s")
    return Probe(
        kind=kind,
        target=target,
        port=section.whole("port", PROBE_DEFAULTS.port, 1, PORT_MAX),
        period_s=every_s,
        timeout_s=timeout_s,
        failures=section.whole("failures", PROBE_DEFAULTS.failures, 1, ROW_MAX),
        successes=section.whole("successes", PROBE_DEFAULTS.successes, 1, ROW_MAX),
    )


def _http(section: Section) -> str:
    return section.matching("http", _HTTP_PATH.fullmatch, 'is no path such as "/health"')


def _tcp(section: Section) -> str:
    section.switch("tcp")
    return ""


def _exec(section: Section) -> str:
    return section.matching("exec", str.strip, "is no command")


def _grpc(section: Section) -> str:
    value = section.table["grpc"]
    if value is True:
        return ""
    if isinstance(value, str) and _SERVICE.fullmatch(value):
        return value
    section.problem("grpc", "must be true for the whole server, or the name of a service")
    return ""


_TARGETS = {"http": _http, "tcp": _tcp, "exec": _exec, "grpc": _grpc}


def _check_ready(ready: Section, live: Section, found: ProcessType) -> None:
    ways = [key for key in ("after", *PROBE_KINDS, "notify") if key in ready]
    if len(ways) > 1 and not set(ways) <= set(PROBE_KINDS):
        ready.problem("", f"{' and '.join(ways)} exclude each other: take one")
    if "grace" not in ready:
        return
    if not (live.table or set(ways) - {"after"}):
        ready.problem("grace", "needs something to wait for: a probe, or notify")
    elif found.notify and found.start_grace_s == 0:
        ready.problem("grace", "0 leaves no time to say READY=1")


# What has no meaning beside a key that says when or where it runs.
_WITHOUT = {
    "schedule": ("per_host", "exclusive", "ready", "rollout", "on_host_loss"),
    "per_host": ("exclusive", "on_host_loss"),
}


def _check_kinds(spec: Section, found: ProcessType) -> None:
    for key, others in _WITHOUT.items():
        for other in others:
            if key in spec and other in spec:
                spec.problem(other, f"has no meaning beside {key}: leave it out")
    if found.schedule is not None and found.restart is RestartPolicy.ALWAYS:
        spec.problem("restart", '"always" would never end a run: take "never" or "on-failure"')
    if found.per_host and found.where.max_per_host:
        spec.problem("placement.max_per_host", "has no meaning beside per_host: use quantity")


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


# -- limits ----------------------------------------------------------------------------------------


def _limits(limits: Section) -> Limits:
    return Limits(
        cpus=limits.number("cpus", DEFAULTS.limits.cpus, CPUS_MIN, CPUS_MAX),
        memory_bytes=limits.bytes("memory", DEFAULTS.limits.memory_bytes, MEMORY_MIN_BYTES),
        pids=limits.whole("pids", DEFAULTS.limits.pids, 1, COUNT_MAX),
        rlimits={
            _RLIMIT_NAMES.get(key, key): _rlimit(limits, key)
            for key in RLIMIT_KEYS
            if key in limits
        },
    )


def _rlimit(limits: Section, key: str) -> int:
    if limits.table[key] == "unlimited":
        return UNLIMITED
    if key in SIZE_RLIMITS:
        return limits.bytes(key, 0, SIZE_RLIMITS[key])
    if key in COUNT_RLIMITS:
        return limits.whole(key, 0, COUNT_RLIMITS[key], COUNT_MAX)
    per_second = TIME_RLIMITS[key]
    return math.ceil(limits.duration(key, 0.0, 1 / per_second) * per_second)
