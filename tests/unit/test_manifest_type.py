"""[types.NAME] of formation.toml: each setting, each combination that means nothing."""

from __future__ import annotations

import math
import resource
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation import manifest
from formation.manifest import ManifestError
from formation.manifest_keys import RLIMITS
from formation.manifest_values import show_bytes, size_bytes
from formation.model import (
    Ability,
    Limits,
    Probe,
    ProbeKind,
    ProcessType,
    RestartPolicy,
    StopTo,
)
from formation.rules import RolloutRules, Share

# What cannot be there twice is replaced in its place.
IN_PLACE = RolloutRules(surge=Share(), unavailable=Share(count=1))
FULL = """\
[types.web]
command = "gunicorn shop:app"
restart = "on-failure"
port = 8080
user = "www-data"
group = "33"
workdir = "web"
umask = "027"
nice = -5
requires = ["memory", "user"]
ready.http = "/health?full=1"
ready.port = 9000
ready.every = "2s"
ready.timeout = "500ms"
ready.failures = 4
ready.successes = 2
ready.grace = "2min"
live.grpc = "shop.Cart"
live.every = 10
live.watchdog = "30s"
stop.signal = "INT"
stop.drain = "5s"
stop.to = "main"
limits.cpus = 0.5
limits.memory = "512MiB"
limits.pids = 100
limits.nofile = 65536
limits.core = 0
limits.memlock = "unlimited"
limits.cpu_time = "1h"
limits.rttime = "200ms"
"""
WEB = ProcessType(
    name="web",
    command="gunicorn shop:app",
    initial_quantity=1,
    restart=RestartPolicy.ON_FAILURE,
    port=8080,
    user="www-data",
    group="33",
    workdir="web",
    umask=0o027,
    nice=-5,
    requires=(Ability.MEMORY, Ability.USER),
    readiness=Probe(
        kind=ProbeKind.HTTP,
        target="/health?full=1",
        port=9000,
        period_s=2.0,
        timeout_s=0.5,
        failures=4,
        successes=2,
    ),
    start_grace_s=120.0,
    liveness=Probe(kind=ProbeKind.GRPC, target="shop.Cart", period_s=10.0),
    watchdog_s=30.0,
    stop_signal="INT",
    stop_to=StopTo.MAIN,
    stop_drain_s=5.0,
    limits=Limits(
        cpus=0.5,
        memory_bytes=512 * 2**20,
        pids=100,
        rlimits={
            "core": 0, "memlock": -1, "nofile": 65536, "cpu": 3600, "rttime": 200_000,
        },
    ),
    rollout=IN_PLACE,
)  # fmt: skip


def read(lines: str, name: str = "web") -> ProcessType:
    return manifest.parse(f"[types.{name}]\ncommand = 'x'\n{lines}").types[0]


def problems(lines: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        read(lines)
    return [problem.removeprefix("formation.toml: types.web.") for problem in caught.value.problems]


def test_everything_that_can_be_said_of_a_type_is_read() -> None:
    assert manifest.parse(FULL).types == (WEB,)


@pytest.mark.parametrize(
    ("lines", "kind", "target"),
    [
        ("http = '/'", ProbeKind.HTTP, "/"),
        ("tcp = true", ProbeKind.TCP, ""),
        ("exec = 'pg_isready -q'", ProbeKind.EXEC, "pg_isready -q"),
        ("grpc = true", ProbeKind.GRPC, ""),
        ("grpc = 'a.B'", ProbeKind.GRPC, "a.B"),
    ],
)
def test_there_are_four_kinds_of_probes_for_two_questions(
    lines: str, kind: ProbeKind, target: str
) -> None:
    expected = Probe(kind=kind, target=target)
    assert read(f"ready.{lines}").readiness == expected
    assert read(f"live.{lines}").liveness == expected


def test_a_type_may_say_itself_that_it_is_ready_and_that_it_lives() -> None:
    assert read("ready.notify = true\nready.grace = 5").notify
    found = read("live.watchdog = '10s'")
    assert (found.watchdog_s, found.notify) == (10.0, False)


def test_a_probe_more_often_than_a_second_has_a_shorter_timeout_by_itself() -> None:
    probe = read("ready.tcp = true\nready.every = '250ms'").readiness
    assert probe is not None
    assert (probe.period_s, probe.timeout_s) == (0.25, 0.25)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # A key in the wrong place, or with a slip.
        (
            "memory = '1GiB'",
            "memory: unknown key; did you mean limits.memory or resources.memory?",
        ),
        ("grace = 5", "grace: unknown key; did you mean ready.grace or stop.grace?"),
        ("limits.cpu = 2", "limits.cpu: unknown key; did you mean cpus?"),
        ("limits.nofiles = 9", "limits.nofiles: unknown key; did you mean nofile?"),
        ("live.htpp = '/'", "live.htpp: unknown key; did you mean http?"),
        ("ready.wathcdog = 1", "ready.wathcdog: unknown key; known are after, http, tcp,"),
        # Values.
        ("restart = 'allways'", 'restart: must be one of "always", "on-failure", "never"'),
        ("restart = true", 'restart: must be one of "always", "on-failure", "never"'),
        ("stop.to = 'all'", 'stop.to: must be one of "group", "main"'),
        ("port = 0", "port: must be a whole number from 1 to 65535"),
        ("port = 65536", "port: must be a whole number from 1 to 65535"),
        ("port = '80'", "port: must be a whole number from 1 to 65535"),
        ("user = ''", "user: '' is no name or number of a user"),
        ("user = 'a b'", "user: 'a b' is no name or number of a user"),
        ("user = 33", "user: must be a string, not an integer"),
        ("group = '../x'", "group: '../x' is no name or number of a group"),
        ("workdir = ''", "workdir: '' must be an absolute path, or one below"),
        ("workdir = 'a/../..'", "workdir: 'a/../..' must be an absolute path, or one below"),
        ("umask = 27", 'umask: must be a string such as "027", not an integer'),
        ("umask = '028'", "umask: '028' must be octal digits such as"),
        ("umask = '1777'", "umask: '1777' must be octal digits such as"),
        ("nice = 20", "nice: must be a whole number from -20 to 19"),
        ("nice = false", "nice: must be a whole number from -20 to 19"),
        ("requires = 'cpu'", 'requires: must be an array of some of "cgroup", "cpu",'),
        ("requires = ['cpux']", 'requires: must be an array of some of "cgroup", "cpu",'),
        ("requires = [{}]", 'requires: must be an array of some of "cgroup", "cpu",'),
        ("requires = ['cgroup', 'cgroup']", "requires: names something twice"),
        # Probes.
        ("ready.http = 'health'", "ready.http: 'health' is no path such as"),
        ("ready.http = '/a b'", "ready.http: '/a b' is no path such as"),
        ("ready.http = '/a\\r\\n'".replace("'", '"'), "ready.http: '/a\\r\\n' is no path"),
        ("ready.tcp = 80", "ready.tcp: must be true, or left out"),
        ("ready.tcp = false", "ready.tcp: must be true, or left out"),
        ("live.exec = ' '", "live.exec: ' ' is no command"),
        ("live.grpc = ''", "live.grpc: must be true for the whole server, or the name"),
        ("live.grpc = false", "live.grpc: must be true for the whole server, or the name"),
        ("ready.notify = 'yes'", "ready.notify: must be true, or left out"),
        ("ready.tcp = true\nready.every = 0", "ready.every: must be seconds or text such as"),
        ("ready.tcp = true\nready.timeout = 0", "ready.timeout: must be seconds or text"),
        ("ready.tcp = true\nready.every = 1e999", "ready.every: must be seconds or text"),
        ("ready.tcp = true\nready.port = 70000", "ready.port: must be a whole number from 1"),
        ("ready.tcp = true\nready.failures = 0", "ready.failures: must be a whole number"),
        ("ready.tcp = true\nready.successes = 1.5", "ready.successes: must be a whole number"),
        ("ready.tcp = true\nready.grace = '25h'", "ready.grace: must be seconds or text"),
        ("live.watchdog = 0", "live.watchdog: must be seconds or text"),
        # Limits.
        ("limits.cpus = 0", "limits.cpus: must be a number from 0.01 to 10000"),
        ("limits.cpus = nan", "limits.cpus: must be a number from 0.01 to 10000"),
        ("limits.cpus = true", "limits.cpus: must be a number from 0.01 to 10000"),
        ("limits.memory = 0", "limits.memory: must be bytes or text such as"),
        ("limits.memory = '1000kB'", "limits.memory: must be bytes or text such as"),
        ("limits.memory = '512 megs'", "limits.memory: must be bytes or text such as"),
        ("limits.pids = 0", "limits.pids: must be a whole number from 1"),
        ("limits.nofile = 0", "limits.nofile: must be a whole number from 8"),
        ("limits.nofile = -1", "limits.nofile: must be a whole number from 8"),
        ("limits.core = -1", "limits.core: must be bytes or text such as"),
        ("limits.stack = 'endless'", "limits.stack: must be bytes or text such as"),
        ("limits.cpu_time = 0", "limits.cpu_time: must be seconds or text"),
        ("limits.cpu_time = '1m'", "limits.cpu_time: must be seconds or text"),
        ("limits.memory = 'unlimited'", "limits.memory: must be bytes or text such as"),
    ],
)  # fmt: skip
def test_a_bad_setting_is_told_with_its_key(lines: str, expected: str) -> None:
    (problem,) = problems(lines)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "ready.http = '/'\nready.tcp = true",
            ["ready: http and tcp exclude each other: take one"],
        ),
        ("live.exec = 'a'\nlive.grpc = true", ["live: exec and grpc exclude each other: take one"]),
        (
            "ready.after = 1\nready.tcp = true",
            ["ready: after and tcp exclude each other: take one"],
        ),
        (
            "ready.after = 1\nready.notify = true",
            ["ready: after and notify exclude each other: take one"],
        ),
        (
            "ready.http = '/'\nready.notify = true",
            ["ready: http and notify exclude each other: take one"],
        ),
        (
            "ready.every = 1\nready.port = 80",
            [
                "ready.port: needs a probe beside it: http, tcp, exec or grpc",
                "ready.every: needs a probe beside it: http, tcp, exec or grpc",
            ],
        ),
        (
            "live.watchdog = 5\nlive.failures = 2",
            ["live.failures: needs a probe beside it: http, tcp, exec or grpc"],
        ),
        (
            "ready.exec = 'a'\nready.port = 80",
            ["ready.port: has no meaning for exec: the command gets PORT"],
        ),
        (
            "ready.tcp = true\nready.timeout = 6",
            ["ready.timeout: 6 s is longer than every, 5 s"],
        ),
        ("ready.grace = 5", ["ready.grace: needs something to wait for: a probe, or notify"]),
        (
            "ready.after = 5\nready.grace = 5",
            ["ready.grace: needs something to wait for: a probe, or notify"],
        ),
        (
            "ready.notify = true\nready.grace = 0",
            ["ready.grace: 0 leaves no time to say READY=1"],
        ),
        (
            "requires = ['user', 'memory']",
            [
                'requires: "memory" without limits.memory: nothing to enforce',
                'requires: "user" without user or group: nothing to enforce',
            ],
        ),
    ],
)
def test_what_cannot_mean_anything_together_is_refused(lines: str, expected: list[str]) -> None:
    assert problems(lines) == expected


@pytest.mark.parametrize(
    "lines",
    [
        "ready.grace = 5\nlive.tcp = true",
        "ready.after = 5\nready.grace = 9\nlive.watchdog = 3",
        "ready.grpc = true\nready.grace = 0",
        "requires = ['cgroup']",
        "requires = ['user']\ngroup = 'daemon'",
        "user = 'svc$'\nworkdir = '/srv'",
        "ready.tcp = true\nready.every = '1s'\nready.timeout = '1s'",
        "limits.core = 'unlimited'\nlimits.nproc = 50",
    ],
)
def test_what_means_something_together_is_read(lines: str) -> None:
    assert read(lines).command == "x"


def test_every_limit_of_setrlimit_can_be_set_but_the_one_that_linux_ignores() -> None:
    known = {
        name.removeprefix("RLIMIT_").lower() for name in dir(resource) if name.startswith("RLIMIT_")
    }
    lines = "\n".join(f"limits.{key} = 'unlimited'" for key in RLIMITS)
    rlimits = read(lines).limits.rlimits
    assert set(rlimits) == known - {"rss", "ofile"}
    assert set(rlimits.values()) == {resource.RLIM_INFINITY}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0), (5, 5), ("5B", 5), ("20kB", 20_000), ("1 MB", 10**6), ("512MiB", 512 * 2**20),
        ("1.5GiB", 3 * 2**29),
    ],
)  # fmt: skip
def test_sizes_are_bytes_or_text_with_a_unit(value: object, expected: int) -> None:
    assert size_bytes(value) == expected


@pytest.mark.parametrize(
    "value", ["", "5", "5mb", "-1MB", "5M", 1.5, -1, True, None, "9" * 999 + "B"]
)
def test_other_sizes_are_none(value: object) -> None:
    assert size_bytes(value) is None


@given(st.integers(min_value=0, max_value=2**50))
def test_a_size_that_is_shown_can_be_read_again(size: int) -> None:
    assert size_bytes(show_bytes(size)) == size


# -- every type that can be said comes back as it was said -----------------------------------------

WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=9).map(
    lambda text: f"x{text}"
)
SECONDS = st.integers(0, 86_400_000).map(lambda number: number / 1000)
PORTS = st.just(0) | st.integers(1, 65_535)


@st.composite
def probes(draw: st.DrawFn) -> Probe:
    kind = draw(st.sampled_from(ProbeKind))
    period_s = draw(st.integers(100, 3_600_000)) / 1000
    targets = {ProbeKind.HTTP: "/h", ProbeKind.TCP: "", ProbeKind.EXEC: draw(WORDS)}
    return Probe(
        kind=kind,
        target=targets.get(kind, draw(st.sampled_from(["", "a.B"]))),
        port=0 if kind is ProbeKind.EXEC else draw(PORTS),
        period_s=period_s,
        timeout_s=period_s * draw(st.sampled_from([1.0, 0.5, 0.1])),
        failures=draw(st.integers(1, 1000)),
        successes=draw(st.integers(1, 1000)),
    )


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    numbers = st.just(-1) | st.integers(2**20, 2**31 - 1)
    names = ["as", "core", "nofile", "nproc", "cpu", "stack", "nice"]
    return Limits(
        cpus=draw(st.just(0.0) | st.floats(0.01, 10_000)),
        memory_bytes=draw(st.just(0) | st.integers(2**20, 2**60)),
        pids=draw(st.integers(0, 2**31 - 1)),
        rlimits=draw(
            st.dictionaries(st.sampled_from(names), numbers).map(
                lambda found: {k: min(v, 86_400) if k == "cpu" else v for k, v in found.items()}
            )
        ),
    )


@st.composite
def process_types(draw: st.DrawFn) -> ProcessType:
    spec = ProcessType(
        name="web",
        command=draw(WORDS),
        initial_quantity=draw(st.integers(0, 1_000_000)),
        restart=draw(st.sampled_from(RestartPolicy)),
        stop_signal=draw(st.sampled_from(manifest.STOP_SIGNALS)),
        stop_grace_s=draw(SECONDS),
        stop_to=draw(st.sampled_from(StopTo)),
        stop_drain_s=draw(SECONDS),
        readiness=draw(st.none() | probes()),
        liveness=draw(st.none() | probes()),
        watchdog_s=draw(st.just(0.0) | SECONDS.filter(lambda s: s >= 0.1)),
        port=draw(PORTS),
        limits=draw(limits()),
        nice=draw(st.integers(-20, 19)),
        user=draw(st.sampled_from(["", "www-data", "33"])),
        group=draw(st.sampled_from(["", "daemon"])),
        workdir=draw(st.sampled_from(["", "/srv", "a/b"])),
        umask=draw(st.integers(-1, 0o777)),
    )
    if spec.port:
        spec = replace(spec, rollout=IN_PLACE)
    if spec.readiness is None and draw(st.booleans()):
        spec = replace(spec, notify=True)
    elif spec.readiness is None:
        spec = replace(spec, ready_after_s=draw(SECONDS))
    if spec.readiness or spec.notify or spec.liveness or spec.watchdog_s:
        spec = replace(spec, start_grace_s=draw(SECONDS.filter(bool)))
    asked = {
        Ability.CGROUP: True,
        Ability.CPU: spec.limits.cpus,
        Ability.MEMORY: spec.limits.memory_bytes,
        Ability.PIDS: spec.limits.pids,
        Ability.USER: spec.user or spec.group,
    }
    able = [ability for ability in Ability if asked[ability] and draw(st.booleans())]
    return replace(spec, requires=tuple(able))


@given(process_types())
def test_any_type_that_is_written_down_is_read_as_it_was(spec: ProcessType) -> None:
    assert manifest.parse(written(spec)).types == (spec,)


def written(spec: ProcessType) -> str:
    plain: dict[str, object] = {
        "command": spec.command,
        "quantity": spec.initial_quantity,
        "restart": spec.restart.value,
        "port": spec.port or None,
        "user": spec.user or None,
        "group": spec.group or None,
        "workdir": spec.workdir or None,
        "umask": f"{spec.umask:03o}" if spec.umask >= 0 else None,
        "nice": spec.nice,
        "requires": [ability.value for ability in spec.requires],
        "ready.after": spec.ready_after_s if spec.ready_after_s != 1.0 else None,
        "ready.notify": spec.notify or None,
        "ready.grace": spec.start_grace_s if spec.start_grace_s != 30.0 else None,
        "live.watchdog": spec.watchdog_s or None,
        "stop.signal": spec.stop_signal,
        "stop.grace": spec.stop_grace_s,
        "stop.to": spec.stop_to.value,
        "stop.drain": spec.stop_drain_s,
        "limits.cpus": spec.limits.cpus or None,
        "limits.memory": spec.limits.memory_bytes or None,
        "limits.pids": spec.limits.pids or None,
        **asked_of("ready", spec.readiness),
        **asked_of("live", spec.liveness),
    }
    for name, number in spec.limits.rlimits.items():
        key = {"cpu": "cpu_time"}.get(name, name)
        plain[f"limits.{key}"] = "unlimited" if number == -1 else number
    lines = [f"{key} = {toml(value)}" for key, value in plain.items() if value is not None]
    return "\n".join(["[types.web]", *lines])


def asked_of(table: str, probe: Probe | None) -> Mapping[str, object]:
    if probe is None:
        return {}
    return {
        f"{table}.{probe.kind.value}": probe.target or True,
        f"{table}.port": probe.port or None,
        f"{table}.every": probe.period_s,
        f"{table}.timeout": probe.timeout_s,
        f"{table}.failures": probe.failures,
        f"{table}.successes": probe.successes,
    }


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    assert not isinstance(value, float) or math.isfinite(value)
    return repr(value)
