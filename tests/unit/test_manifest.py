"""formation.toml → a description, or all of its problems with their key paths."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation import manifest
from formation.builds import Build
from formation.manifest import Manifest, ManifestError, duration_s
from formation.manifest_keys import TYPE, tables
from formation.model import ProcessType

FULL = """\
app = "shop"
workdir = "/srv/shop"

[env]
LOG_LEVEL = "info"
EMPTY = ""

[types.web]
command = "gunicorn shop:app"
quantity = 4
stop.signal = "SIGINT"
stop.grace = "5min"
ready.after = 2.5

[types.worker]
command = "./worker"

[types.worker.stop]
grace = "500ms"
"""


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ManifestError) as caught:
        manifest.parse(text)
    return caught.value.problems


def test_everything_that_can_be_said_is_read() -> None:
    web = ProcessType(
        name="web",
        command="gunicorn shop:app",
        initial_quantity=4,
        stop_signal="INT",
        stop_grace_s=300.0,
        ready_after_s=2.5,
    )
    worker = ProcessType(name="worker", command="./worker", stop_grace_s=0.5)
    assert manifest.parse(FULL) == Manifest(
        app="shop",
        workdir="/srv/shop",
        env={"LOG_LEVEL": "info", "EMPTY": ""},
        types=(web, worker),
    )


def test_what_is_left_out_has_defaults_and_web_starts_with_one() -> None:
    found = manifest.parse('[types.web]\ncommand = "a"\n[types.mail]\ncommand = "b"\n')
    assert found.types == (
        ProcessType(name="web", command="a", initial_quantity=1),
        ProcessType(name="mail", command="b", initial_quantity=0),
    )
    assert (found.app, found.workdir, found.env) == ("", "", {})


def test_a_byte_order_mark_and_crlf_are_no_content() -> None:
    assert manifest.parse("\ufeff" + FULL.replace("\n", "\r\n")) == manifest.parse(FULL)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("apq = 1", "apq: unknown key; did you mean app?"),
        ("[types.web]\ncomand = 'x'", "types.web.comand: unknown key; did you mean command?"),
        ("[types.web]\nstop.sginal = 'INT'", "types.web.stop.sginal: unknown key; did you mean"),
        ("[types.web]\nzzz = 1", "types.web.zzz: unknown key; known are command, quantity,"),
        ("[types.web]", "types.web.command: missing; formation.toml alone defines types"),
        ("[types.web]\ncommand = ' '", "types.web.command: ' ' is no command"),
        ("[types.web]\ncommand = 5", "types.web.command: must be a string, not an integer"),
        ("[types.web]\nquantity = -1", "types.web.quantity: must be a whole number from 0"),
        ("[types.web]\nquantity = true", "types.web.quantity: must be a whole number from 0"),
        ("[types.web]\nquantity = 1000001", "types.web.quantity: must be a whole number from 0"),
        ("[types.web]\nstop.signal = 'FOO'", "types.web.stop.signal: unknown signal 'FOO'"),
        ("[types.web]\nstop.signal = ''", "types.web.stop.signal: unknown signal ''"),
        ("[types.web]\nstop.grace = 'soon'", "types.web.stop.grace: must be seconds or text"),
        ("[types.web]\nstop.grace = -1", "types.web.stop.grace: must be seconds or text"),
        ("[types.web]\nstop.grace = inf", "types.web.stop.grace: must be seconds or text"),
        ("[types.web]\nstop.grace = '25h'", "types.web.stop.grace: must be seconds or text"),
        ("[types.web]\nready = 5", "types.web.ready: must be a table, not an integer"),
        ("[types]\nweb = 'x'", "types.web: must be a table, not a string"),
        ("[types.'my web']\ncommand = 'x'", "types.'my web': no name for a type"),
        ("app = 'Shop!'", "app: 'Shop!' is no app name"),
        ("app = ''", "app: '' is no app name"),
        ("app = 2020-01-01", "app: must be a string, not a date or time"),
        ("workdir = 'srv'", "workdir: 'srv' must be an absolute path"),
        ("env = 'x'", "env: must be a table, not a string"),
        ("[env]\nPORT = 5000", "env.PORT: must be a string, not an integer"),
        ("[env]\n'A=B' = 'x'", "env.'A=B': no name for an environment variable"),
        ("[env]\nA = 'x\\u0000'\n".replace("'", '"'), "env.A: holds a NUL character"),
        ("", "types: no process types"),
    ],
)
def test_a_mistake_is_told_with_its_key(text: str, expected: str) -> None:
    assert any(problem.startswith(f"formation.toml: {expected}") for problem in problems(text))


def test_all_mistakes_are_told_at_once() -> None:
    found = problems("apq = 1\n[types.web]\nquantity = -1\n[types.b]\nstop.grace = 'x'\n")
    assert [problem.split(": ")[1] for problem in found] == [
        "apq",
        "types.web.command",
        "types.web.quantity",
        "types.b.command",
        "types.b.stop.grace",
    ]


def test_broken_toml_is_told_with_its_line() -> None:
    (problem,) = problems('app = "shop"\nworkdir\n')
    assert problem.startswith("formation.toml:2: ")
    (problem,) = problems('app = "')
    assert problem.startswith("formation.toml")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, 0.0), (1.5, 1.5), ("30s", 30.0), ("5 min", 300.0), ("1h", 3600.0), ("250ms", 0.25)],
)
def test_durations_are_seconds_or_text_with_a_unit(value: object, expected: float) -> None:
    assert duration_s(value) == expected


@pytest.mark.parametrize("value", ["", "5", "5m", "-1s", "1e3s", True, None, [1]])
def test_other_durations_are_none(value: object) -> None:
    assert duration_s(value) is None


SCALARS = (
    st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([[1], [[]]])
)
KEYS = st.sampled_from(
    [
        "app",
        "env",
        "types",
        "web",
        "x y",
        *TYPE.keys,
        *(k for t in tables(TYPE).values() for k in t.keys),
    ]
)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{k}" = {_toml(v)}' for k, v in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'
    return repr(value)


TABLES = st.recursive(SCALARS, lambda i: st.dictionaries(KEYS, i, max_size=3), max_leaves=8)


@given(st.dictionaries(KEYS, TABLES, max_size=3))
def test_any_shape_of_a_file_is_read_or_refused(table: dict[str, object]) -> None:
    _read_or_refused("\n".join(f'"{key}" = {_toml(value)}' for key, value in table.items()))


@given(st.dictionaries(KEYS, TABLES, max_size=5))
def test_any_shape_of_a_type_is_read_or_refused(table: dict[str, object]) -> None:
    _read_or_refused(f"types.web = {_toml({'command': 'x', **table})}")


def _read_or_refused(text: str) -> None:
    with contextlib.suppress(ManifestError):
        assert manifest.parse(text).types


BUILT = 'build = "make"\n[types.web]\ncommand = "x"\nuser = "shop"\n'


def test_a_build_runs_as_the_user_that_all_types_have() -> None:
    assert manifest.parse(BUILT).build == Build(command="make", user="shop")
    timed = 'build_timeout = "30s"\n' + BUILT + 'group = "www"\n'
    assert manifest.parse(timed).build == Build(
        command="make", timeout_s=30.0, user="shop", group="www"
    )
    assert manifest.parse(FULL).build is None


def test_types_of_several_users_must_say_whom_the_build_runs_as() -> None:
    two = BUILT + '[types.worker]\ncommand = "y"\n'
    said = "the types run as shop, the agent's own: say whom it runs as with build_user"
    assert problems(two) == (f"formation.toml: build: {said}",)
    assert manifest.parse('build_user = "ci"\n' + two).build == Build(command="make", user="ci")


def test_what_belongs_to_a_build_means_nothing_without_one() -> None:
    (said,) = problems('build_timeout = "30s"\n[types.web]\ncommand = "x"\n')
    assert said.startswith("formation.toml: build_timeout: ")
    (said,) = problems(BUILT.replace("types.web", "types.build"))
    assert "types: build is what the build is called in logs" in said


def test_code_that_lies_on_the_hosts_is_not_built() -> None:
    (said,) = problems('workdir = "/srv"\n' + BUILT)
    assert said.startswith("formation.toml: build: means nothing with workdir")
