"""What docs/migrate/foreman.md says is the same as with foreman, and what of formctl differs: all
of its table, row by row."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from dev import Dev

from formation.procfile import ProcfileError, parse
from formation.quantities import QuantityError, parse_dev
from formctl import envfile
from formctl.__main__ import run

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "migrate" / "foreman.md"
PROCFILE = """\
# what is run
web: echo "PORT=$PORT PS=$PS A=$A S=$S" && exec sleep 1000
worker: echo "PORT=$PORT" | cat; exec sleep 1000
idle: sleep 1000
"""
ENV = "A=dotenv\nPORT=9999\n"


@dataclass(frozen=True, slots=True)
class World:
    """A `formctl dev` of all that, where the port of web.2 is somebody else's."""

    dev: Dev
    base: int
    path: Path

    def said(self, name: str) -> str:
        return self.dev.wait_line(f" {name:<8} | PORT=")


Check = Callable[[World], None]
CHECKS: dict[str, Check] = {}


def row(label: str) -> Callable[[Check], Check]:
    def keep(check: Check) -> Check:
        CHECKS[label] = check
        return check

    return keep


def held_in(label: str, file: str, *names: str) -> None:
    """Held by tests elsewhere, that have to be there."""

    def check(_: World) -> None:
        text = (ROOT / "tests" / file).read_text()
        assert all(f"def {name}(" in text for name in names)

    CHECKS[label] = check


def refused(world: World, name: str, text: str, *words: str) -> None:
    """`formctl dev` with this file says no before anything starts."""
    path = world.path / name
    path.mkdir()
    (path / "Procfile").write_text(text)
    assert run(["dev", str(path), *words]) == 2


@row("a line of the Procfile")
def _(_: World) -> None:
    (entry,) = parse("we-b_1:  ./run --now # not a comment\n").types
    assert (entry.name, entry.command) == ("we-b_1", "./run --now # not a comment")


@row("a command")
def _(world: World) -> None:
    assert " S=shell" in world.said("web.1")
    assert world.said("worker.1")


@row("other lines")
def _(_: World) -> None:
    text = "# web: old\n\nweb: a\n<<<<<<< HEAD\n"
    (warning,) = parse(text).warnings
    assert warning.startswith("Procfile:4: ")
    with pytest.raises(ProcfileError):
        parse(text, strict=True)


@row("a name twice")
def _(_: World) -> None:
    with pytest.raises(ProcfileError, match="Procfile:2: web is defined twice, first on line 1"):
        parse("web: a\nweb: b\n")


@row("a Procfile without processes")
def _(world: World) -> None:
    refused(world, "empty", "# nothing yet\n")


@row("another Procfile")
def _(world: World) -> None:
    path = world.path / "other"
    path.mkdir()
    (path / "Procfile.dev").write_text("css: ./watch\n")
    assert run(["check", str(path), "-f", "Procfile.dev"]) == 0


@row("`.env`")
def _(world: World) -> None:
    assert " A=dotenv " in world.said("web.1")


@row("another `.env`")
def _(world: World) -> None:
    path = world.path / "env"
    path.mkdir()
    (path / "Procfile").write_text("web: a\n")
    (path / "test.env").write_text("B=1\n")
    assert run(["check", str(path), "--env", str(path / "test.env")]) == 0


@row("what `.env` may say")
def _(_: World) -> None:
    text = "# a comment\nexport A='a b'\nB=\"${A}c\"\nC=$(echo d)\nHOME_IS=${HOME}\n"
    assert envfile.parse(text).values == {
        "A": "a b", "B": "a bc", "C": "$(echo d)", "HOME_IS": "",
    }  # fmt: skip
    with pytest.raises(envfile.EnvFileError, match=r"\.env:2: "):
        envfile.parse("A=1\nB='open\n")


@row("the shell's own variables")
def _(world: World) -> None:
    # A is also in the shell, as something else.
    assert " A=dotenv S=shell" in world.said("web.1")


@row("`PORT` in `.env` or in the shell")
def _(world: World) -> None:
    assert f" PORT={world.base} " in world.said("web.1")
    (warning,) = envfile.reserved_names({"PORT": "9999"})
    assert warning.startswith("PORT is set by Formation")


@row("no `-m`")
def _(_: World) -> None:
    # What is used when nothing else is said, in foreman's words.
    assert parse_dev("all=1", ["web", "worker"]) == {"web": 1, "worker": 1}


@row("`-m all=1,web=2`")
def _(world: World) -> None:
    assert "ready: web=2 worker=1 idle=0" in world.dev.text()
    assert parse_dev("web=2", ["web", "worker"]) == {"web": 2, "worker": 0}


@row("`-m web=x`")
def _(world: World) -> None:
    refused(world, "formation", "web: a\n", "-m", "web=x")
    with pytest.raises(QuantityError):
        parse_dev("web=x", ["web"])


@row("`start web`")
def _(_: World) -> None:
    assert parse_dev("web=1", ["web", "worker"]) == {"web": 1, "worker": 0}


@row("`PS`")
def _(world: World) -> None:
    assert " PS=web.1 " in world.said("web.1")


@row("`PORT`")
def _(world: World) -> None:
    assert f"PORT={world.base}" in world.said("web.1")
    assert f"PORT={world.base + 100}" in world.said("worker.1")
    moved = world.dev.wait_line("web.2 started with pid")
    assert moved.endswith(f", since {world.base + 1} is taken")


@row("another first port")
def _(world: World) -> None:
    assert f"PORT={world.base} " in world.said("web.1")


@row("a line of output")
def _(world: World) -> None:
    assert re.match(r"\d\d:\d\d:\d\d web\.1    \| PORT=", world.said("web.1"))


@row("`run COMMAND`")
def _(world: World) -> None:
    done = world.dev.formctl("run", "--", "echo $A; exit 3", check=False)
    assert (done.returncode, done.stdout) == (3, "dotenv\n")


@row("`check`")
def _(world: World) -> None:
    path = world.path / "bad"
    path.mkdir()
    (path / "Procfile").write_text("web: a\nweb: b\nworker: c\nworker: d\n")
    assert run(["check", str(path)]) == 2


@row("`.foreman`")
def _(world: World) -> None:
    # One lies there, and wants port 7000.
    assert f"PORT={world.base} " in world.said("web.1")


held_in(
    "one ends", "e2e/test_dev.py",
    "test_a_crash_is_restarted_and_said", "test_exit_on_ends_everything_with_the_code",
)  # fmt: skip
held_in("a line `release:`", "e2e/test_release_command.py", "test_formctl_dev_leaves_it_to_people")
held_in("Ctrl-C", "e2e/test_dev.py", "test_ctrl_c_stops_everything_and_removes_the_run_directory")
held_in(
    "`export`", "integration/test_export.py",
    "test_supervisord_runs_what_is_written", "test_honcho_runs_what_is_written",
)  # fmt: skip


def rows() -> list[tuple[str, str]]:
    """(what, what `formctl dev` does) of the table."""
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 3 and cells[0] and not cells[0].startswith("-"):
            found.append((cells[0], cells[2]))
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    path = tmp_path_factory.mktemp("foreman")
    app = path / "shop"
    app.mkdir()
    (app / "Procfile").write_text(PROCFILE)
    (app / ".env").write_text(ENV)
    (app / ".foreman").write_text("port: 7000\n")
    base = free_base()
    with pytest.MonkeyPatch.context() as shell:
        for name, value in (("A", "shell"), ("S", "shell"), ("PORT", "7777")):
            shell.setenv(name, value)
        flags = ("-m", "all=1,web=2,idle=0", "--port", str(base))
        with socket.create_server(("", base + 1)), Dev(app, *flags) as dev:
            dev.wait_line("ready: ")
            yield World(dev, base, path)


def free_base() -> int:
    """A first port that is free now, as the next and the next type's are."""
    for base in range(31_000, 39_000, 200):
        try:
            for port in (base, base + 1, base + 100):
                socket.create_server(("", port)).close()
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


@pytest.mark.parametrize(("label", "said"), rows())
def test_a_row_is_as_it_says(world: World, label: str, said: str) -> None:
    assert said
    CHECKS[label](world)


def test_nothing_is_checked_that_the_page_does_not_say() -> None:
    assert CHECKS.keys() == {label for label, _ in rows()}
