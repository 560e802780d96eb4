"""formation.toml for editors: the schema takes what the reader takes, and refuses with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from formation import manifest, manifest_schema
from formation.manifest import ManifestError
from formation.manifest_keys import FILE, TYPE, tables
from formation.manifest_kinds import Keys

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = manifest_schema.schema()
VALIDATOR = Draft202012Validator(SCHEMA)
PAGES = [ROOT / "README.md", ROOT / "docs" / "manifest.md", ROOT / "docs" / "cli.md"]
EXAMPLES = [
    *(path.read_text() for path in sorted(ROOT.glob("examples/*/formation.toml"))),
    *(
        text
        for page in PAGES
        for text in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
        if "[types." in text
    ),
]
# What each key needs around it to mean anything.
PROBES = {"port", "every", "timeout", "failures", "successes"}
COMMAND = {"command": "x"}


def takes(text: str) -> bool:
    return VALIDATOR.is_valid(tomllib.loads(text))


def is_read(text: str) -> bool:
    try:
        return bool(manifest.parse(text).types)
    except ManifestError:
        return False


def test_the_schema_is_one_of_draft_2020_12() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == Draft202012Validator.META_SCHEMA["$id"]


def test_the_published_schema_is_the_one_that_is_made_now() -> None:
    published = json.loads((ROOT / "docs" / "formation.schema.json").read_text())
    assert published == json.loads(json.dumps(SCHEMA))
    tool = [sys.executable, str(ROOT / "tools" / "genschema.py"), "--check"]
    subprocess.run(tool, check=True, timeout=60)


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_is_taken(text: str) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(tomllib.loads(text))] == []


def test_every_key_is_there_with_its_meaning() -> None:
    def described(found: object, keys: Keys) -> None:
        assert isinstance(found, dict)
        assert list(found["properties"]) == list(keys.keys)
        for name, key in keys.keys.items():
            assert found["properties"][name]["description"] == key.meaning
        for name, inner in tables(keys).items():
            described(found["properties"][name], inner)

    described(SCHEMA, FILE)
    properties = SCHEMA["properties"]
    assert isinstance(properties, dict)
    described(properties["types"]["additionalProperties"], TYPE)


@pytest.mark.parametrize(
    "lines",
    [
        "quantity = -1",
        "quantity = 1000001",
        "quantity = 'two'",
        "restart = 'allways'",
        "port = 0",
        "user = 'a b'",
        "workdir = 'a/../..'",
        "umask = 27",
        "umask = '1777'",
        "nice = 20",
        "requires = ['cpux']",
        "requires = ['cgroup', 'cgroup']",
        "exclusive = false",
        "env.A = 1",
        "env = {'A=B' = 'x'}",
        "ready.http = 'health'",
        "ready.grpc = false",
        "ready.tcp = true\nready.every = 0",
        "ready.tcp = true\nready.grace = 86401",
        "ready.tcp = true\nready.grace = '5m'",
        "ready.http = '/'\nready.tcp = true",
        "ready.after = 1\nready.notify = true",
        "live.exec = 'a'\nlive.grpc = true",
        "ready.every = 1",
        "live.port = 80",
        "ready.exec = 'a'\nready.port = 80",
        "stop.signal = 'FOO'",
        "stop.to = 'all'",
        "limits.cpus = 0",
        "limits.memory = 1000",
        "limits.memory = '512 megs'",
        "limits.memory = 'unlimited'",
        "limits.nofile = 0",
        "limits.core = -1",
        "limits.cpu_time = 0",
        "resources.disk = 5",
        "placement.require = 'ssd'",
        "placement.require = ['a b']",
        "placement.prefer = ['zone==a']",
        "placement.spread = true",
        "placement.max_per_host = 0",
        "placement.apart_from = ['Shop/web']",
        "rollout.surge = 1.5",
        "rollout.surge = '101%'",
        "rollout.rollback = 'no'",
        "rollout.unavailble = 1",
        "schedule.zone = 'UTC'",
        "schedule.cron = '@daily'",
        "schedule.cron = '* * * * *'\nschedule.keep = 1001",
        "schedule.cron = '* * * * *'\nschedule.overlap = 'queue'",
        "schedule.cron = '* * * * *'\nper_host = true",
        "schedule.cron = '* * * * *'\nrollout.surge = 1",
        "per_host = true\non_host_loss.after = 60",
        "on_host_loss.action = 'die'",
        "comand = 'x'",
        "stop = 5",
    ],
)
def test_what_a_schema_can_refuse_is_refused_by_both(lines: str) -> None:
    text = f"[types.web]\ncommand = 'x'\n{lines}\n"
    assert not is_read(text)
    assert not takes(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "app = 'shop'",
        "[types]",
        "[types.web]",
        "[types.web]\ncommand = ' '",
        "[types.'my web']\ncommand = 'x'",
        "types.web = 'x'",
        "app = 'Shop!'\n[types.web]\ncommand = 'x'",
        "workdir = 'srv'\n[types.web]\ncommand = 'x'",
        "apq = 1\n[types.web]\ncommand = 'x'",
        "env = 'x'\n[types.web]\ncommand = 'x'",
    ],
)
def test_a_bad_file_is_refused_by_both(text: str) -> None:
    assert not is_read(text)
    assert not takes(text)


# -- each key with each kind of value --------------------------------------------------------------

VALUES = [
    "true", "false", "0", "1", "2", "-1", "9", "80", "70000", "10000001", "0.5", "-0.5", "inf",
    "'x'", "' '", "''", "'a b'", "'5'", "'5s'", "'5 min'", "'1h'", "'5d'", "'1GiB'", "'20 kB'",
    "'25%'", "'200%'", "'unlimited'", "'always'", "'never'", "'wait'", "'best'", "'once'",
    "'group'", "'sigint'", "'SigUsr1'", "'int9'", "'/x'", "'/'", "'a/b'", "'../x'", "'027'",
    "'* * * * *'", "'UTC'", "'zone=eu-*'", "'!ssd'", "[]", "['x']", "['x', 'x']", "['cgroup']",
    "['zone=eu-*', 'disk in (a,b)']", "['!x y']", "[1]", "{}", "{A = '1'}", "{A = 1}", "2020-01-01",
    "'skip'", "{cron = '* * * * *'}",
]  # fmt: skip


def places(keys: Keys, prefix: str = "") -> Iterator[str]:
    for name in keys.keys:
        yield f"{prefix}{name}"
    for table, inner in tables(keys).items():
        yield from places(inner, f"{prefix}{table}.")


def with_what_it_needs(key: str, value: str) -> str:
    table, _, name = key.rpartition(".")
    lines = [f"{key} = {value}"]
    if key != "command":
        lines.append("command = 'x'")
    if table in {"ready", "live"} and name in PROBES:
        lines.append(f"{table}.tcp = true")
    if key == "ready.grace":
        lines.append("live.tcp = true")
    if table == "schedule" and name != "cron":
        lines.append("schedule.cron = '* * * * *'")
    return "\n".join(["[types.x]", *lines])


# Here the reader alone refuses more: what depends on other keys, on the machine's time zones, or
# on the number in a text.
BEYOND = {
    "ready.timeout", "live.timeout", "rollout.surge", "rollout.healthy", "rollout.deadline",
    "placement.apart_from", "schedule.zone",
    "limits.memory", "limits.as", "limits.data", "limits.stack", "resources.memory",
}  # fmt: skip


@pytest.mark.parametrize("key", [*places(TYPE)])
def test_the_schema_takes_what_the_reader_takes_and_mostly_nothing_else(key: str) -> None:
    texts = [with_what_it_needs(key, value) for value in VALUES]
    read, taken = [*filter(is_read, texts)], [*filter(takes, texts)]
    assert read, "no value is right: add one to VALUES"
    assert set(read) <= set(taken)
    assert len(taken) < len(texts)
    assert (taken != read) is (key in BEYOND)
