"""`formctl check` and `formctl init`: what is right, what is wrong, what is hardly meant."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation import manifest, manifest_schema
from formation.model import ProcessType
from formation.releasecommand import ReleaseCommand
from formation.rules import Schedule
from formctl import checking, starter
from formctl.__main__ import run
from formctl.spec import AppSpec

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
SHOP = """\
app = "shop"
workdir = "/srv/shop"
[env]
TOKEN = "hunter2"
[types.web]
command = "gunicorn shop"
quantity = 2
ready.http = "/health"
placement.spread = "rack"
[types.backup]
command = "./backup"
schedule.cron = "30 2 * * MON"
schedule.zone = "Europe/Berlin"
"""


@pytest.fixture(autouse=True)
def _no_app_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORMATION_APP", raising=False)


def described(text: str) -> AppSpec:
    found = manifest.parse(text)
    return AppSpec(
        source="formation.toml",
        directory="/x/shop",
        types=found.types,
        app=found.app,
        workdir=found.workdir,
        env=found.env,
        build=found.build,
    )


def write(directory: Path, name: str, text: str) -> str:
    (directory / name).write_text(text)
    return str(directory)


# -- what would be applied -------------------------------------------------------------------------


def test_the_summary_shows_types_quantities_and_what_is_special() -> None:
    assert checking.summary("shop", described(SHOP), NOW).splitlines() == [
        "formation.toml: app shop, 2 types, in /srv/shop",
        "env  TOKEN",
        "",
        "web=2  gunicorn shop",
        "  ready      http /health every 5 s, timeout 1 s, 3 failures, grace 30 s",
        "  placement  spread over rack",
        "backup=1  ./backup",
        "  restart    never",
        "  schedule   30 2 * * MON Europe/Berlin",
        "  next run   Mon 2026-11-30 02:30 CET",
    ]


def test_what_came_from_standard_input_is_called_so() -> None:
    found = replace(described(SHOP), source="-")
    assert checking.summary("shop", found, NOW).startswith("standard input: app shop, 2 types")


def test_a_plain_type_has_nothing_special() -> None:
    assert checking.special(ProcessType(name="web", command="x"), NOW) == []


def test_a_zone_that_this_machine_lacks_is_taken_for_utc() -> None:
    comes = checking.next_run(Schedule(cron="0 3 * * *", zone="Mars/Olympus"), NOW)
    assert comes == datetime(2026, 11, 26, 3, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("schedule.cron = '0 3 29 2 *'",
         "schedule.cron: '0 3 29 2 *' comes on 2028-02-29, not within a year"),
        ("schedule.cron = '0 0 */31 * MON#5'", "schedule.cron: '0 0 */31 * MON#5' never comes"),
        ("schedule.cron = '0 3 1 1 *'", None),
        ("quantity = 2\nready.tcp = true\nrollout.unavailable = 2",
         "rollout.unavailable: 2 of quantity 2: a change may stop all of them at once"),
        ("quantity = 4\nready.tcp = true\nrollout.unavailable = '100%'",
         "rollout.unavailable: 100% of quantity 4: a change may stop all of them at once"),
        ("quantity = 4\nready.tcp = true\nrollout.unavailable = '50%'", None),
        ("quantity = 0\nready.tcp = true\nrollout.unavailable = 1", None),
        ("port = 80", None),
        ("exclusive = true", None),
        ("resources.memory = '1GiB'",
         "resources.memory: without limits.memory it may use more than is kept for it"),
        ("resources.memory = '1GiB'\nlimits.memory = '2GiB'", None),
        ("resources.cpus = 1", None),
        ("rollout.surge = 2",
         "rollout: without ready.… an instance is taken for healthy when up 1 s"),
        ("rollout.surge = 2\nready.after = 5", None),
        ("rollout.surge = 2\nready.notify = true", None),
        ("", None),
    ],
)  # fmt: skip
def test_what_is_hardly_meant_is_told_and_else_nothing(lines: str, told: str | None) -> None:
    found = described(f"[types.web]\ncommand = 'x'\n{lines}")
    expected = [f"formation.toml: types.web.{told}"] if told else []
    assert checking.warnings(found, NOW) == expected


# -- the command -----------------------------------------------------------------------------------


def test_check_says_what_would_be_applied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "formation.toml", SHOP)
    assert run(["check", path]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].endswith("formation.toml: app shop, 2 types, in /srv/shop")
    assert "hunter2" not in out
    assert err == ""


def test_check_tells_all_problems_and_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "formation.toml", "[types.web]\nquantity = -1\n")
    write(tmp_path, ".env", "A\n")
    assert run(["check", path]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(": ")[-1] for line in err.splitlines()] == [
        "missing; formation.toml alone defines types, a Procfile beside it is not read",
        "must be a whole number from 0 to 1000000",
        "write A= for an empty one",
    ]


def test_check_reads_a_procfile_and_its_env_like_apply(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "Procfile", "web: a\nclock: b\n")
    write(tmp_path, "prod.env", "TOKEN=hunter2\nPORT=1\n")
    assert run(["check", path, "--env", "prod.env", "--app", "shop"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1:] == ["env  PORT TOKEN", "", "web=1  a", "clock=0  b"]
    assert "PORT is set by Formation" in err


def test_strict_makes_a_warning_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "app = 'shop'\n[types.web]\ncommand = 'x'\nresources.memory = '1GiB'\n"
    path = write(tmp_path, "formation.toml", text)
    assert run(["check", path]) == 0
    assert "warning: " in capsys.readouterr().err
    assert run(["check", path, "--strict"]) == 2
    assert "types.web.resources.memory: without limits.memory" in capsys.readouterr().err


def test_check_in_json_has_the_same_keys_for_right_and_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "formation.toml", SHOP)
    assert run(["check", path, "-o", "json"]) == 0
    text = capsys.readouterr().out
    right = json.loads(text)
    assert "hunter2" not in text
    assert (right["app"], right["problems"], right["warnings"]) == ("shop", [], [])
    assert [(spec["type"], spec["quantity"]) for spec in right["types"]] == [
        ("web", 2), ("backup", 1),
    ]  # fmt: skip
    write(tmp_path, "formation.toml", "[types.web]\nquantity = -1\n")
    assert run(["check", path, "-o", "json"]) == 2
    out, err = capsys.readouterr()
    wrong = json.loads(out)
    assert list(wrong) == list(right)
    assert len(wrong["problems"]) == len(err.splitlines()) == 2


def test_an_app_that_cannot_be_named_is_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "日本").mkdir()
    path = write(tmp_path / "日本", "Procfile", "web: a\n")
    assert run(["check", path]) == 2
    assert "give --app NAME" in capsys.readouterr().err
    assert run(["check", path, "--app", "Shop"]) == 2
    assert "'Shop' is no app name" in capsys.readouterr().err


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--schema"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(manifest_schema.schema()))


# -- init ------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,9}", fullmatch=True)
COMMANDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\0"), min_size=1, max_size=30
).filter(lambda text: text.strip())


def uncommented(text: str) -> str:
    """With all that it teaches turned on."""
    return re.sub(r"^# (?=\[|[A-Za-z._]+ = )", "", text, flags=re.MULTILINE)


@given(st.dictionaries(NAMES, COMMANDS, min_size=1, max_size=4))
def test_any_procfile_s_types_come_back_from_the_file_that_is_begun(
    commands: dict[str, str],
) -> None:
    types = tuple(
        ProcessType(name=name, command=command, initial_quantity=len(name))
        for name, command in commands.items()
    )
    found = manifest.parse(starter.manifest("shop", types))
    assert (found.app, found.types) == ("shop", types)


@pytest.mark.parametrize("names", [("web", "worker"), ("clock", "web"), ("backup",), ("a",)])
def test_every_key_that_the_file_teaches_can_be_turned_on(names: tuple[str, ...]) -> None:
    types = tuple(ProcessType(name=name, command="x", initial_quantity=1) for name in names)
    text = uncommented(starter.manifest("", types))
    assert "\n# [" not in text
    found = manifest.parse(text)
    taught = next(spec for spec in found.types if spec.name in {"web", names[0]})
    assert found.app == "shop"
    assert [spec.name for spec in found.types][:-1] == list(names)
    assert found.types[-1].schedule
    assert any(spec.readiness for spec in found.types), taught
    assert len(tomllib.loads(text)["env"]) == 1


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("./web", '"./web"'),
        ("it's", '"it\'s"'),
        ('sh -c "echo $A"', "'sh -c \"echo $A\"'"),
        (r"grep '\d' \"x\"", '"grep \'\\\\d\' \\\\\\"x\\\\\\""'),
        ("a\x1bb\x7f", '"a\\U0000001bb\\U0000007f"'),
    ],
)
def test_a_command_is_written_as_plainly_as_it_can_be(text: str, written: str) -> None:
    assert starter.toml_text(text) == written
    assert tomllib.loads(f"x = {written}") == {"x": text}


def test_init_writes_what_check_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "Procfile", 'web: sh -c "exec x"\nclock: ./clock\n+stray\n')
    assert run(["init", path, "--app", "shop"]) == 0
    out, err = capsys.readouterr()
    assert "web clock, as in" in out
    assert "not a process" in err
    found = manifest.parse((tmp_path / "formation.toml").read_text())
    assert found.app == "shop"
    assert [(spec.name, spec.command, spec.initial_quantity) for spec in found.types] == [
        ("web", 'sh -c "exec x"', 1),
        ("clock", "./clock", 0),
    ]
    assert run(["check", path, "--strict"]) == 0


def test_init_overwrites_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "formation.toml", "mine")
    assert run(["init", path, "--app", "shop"]) == 2
    assert "is there already; --force overwrites it" in capsys.readouterr().err
    assert (tmp_path / "formation.toml").read_text() == "mine"
    assert run(["init", path, "--app", "shop", "--force"]) == 0
    found = manifest.parse((tmp_path / "formation.toml").read_text())
    assert [spec.name for spec in found.types] == ["web"]


def test_init_tells_what_is_wrong_with_a_procfile_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "Procfile", "web: a\nweb: b\n")
    assert run(["init", path]) == 2
    assert "web is defined twice" in capsys.readouterr().err
    write(tmp_path, "Procfile", "web: a\0\n")
    assert run(["init", path]) == 2
    assert "holds a NUL character" in capsys.readouterr().err
    assert not (tmp_path / "formation.toml").exists()


def test_a_build_is_shown_before_the_types() -> None:
    found = described('build = "make all"\n[types.web]\ncommand = "x"\nuser = "shop"\n')
    assert checking.summary("shop", found, NOW).splitlines()[1] == "build  make all"
    shown = checking.as_json("shop", found, [])["build"]
    assert shown == {"command": "make all", "timeout_s": 600.0, "user": "shop", "group": None}


def test_a_release_command_is_told_and_goes_into_a_first_formation_toml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "Procfile", "release: ./migrate --all\nweb: a\n")
    assert run(["check", str(tmp_path)]) == 0
    assert "release  ./migrate --all  (once for each release" in capsys.readouterr().out
    assert run(["check", str(tmp_path), "-o", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["release_command"]["command"] == "./migrate --all"
    assert [spec["type"] for spec in said["types"]] == ["web"]
    assert run(["init", str(tmp_path)]) == 0
    begun = manifest.parse((tmp_path / "formation.toml").read_text())
    assert begun.command == ReleaseCommand(command="./migrate --all")


def test_a_release_command_without_the_user_of_the_types_is_hardly_meant(tmp_path: Path) -> None:
    web = ProcessType(name="web", command="a", user="shop")
    found = AppSpec(
        source="f.toml", directory="", types=(web,), command=ReleaseCommand(command="x")
    )
    now = datetime.now(UTC)
    told = 'f.toml: release: it does not run as shop, as web does: type = "web"'
    assert told in checking.warnings(found, now)
    like = replace(found, command=ReleaseCommand(command="x", like="web"))
    assert told not in checking.warnings(like, now)
