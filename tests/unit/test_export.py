"""A formation in the words of other process managers: as it was looked at and found right.

After a wanted change: formctl export MANAGER tests/golden/shop -m web=2,worker=1,report=1
--user app > tests/golden/export-MANAGER.txt, and look at the difference.
"""

from __future__ import annotations

import plistlib
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cronsim import CronSim

from formation.model import InstanceState, InstanceStatus, Limits, ProcessType, Release, Slot
from formation.rules import Schedule
from formctl.__main__ import run
from formctl.commands.export import FORMATS
from formctl.exporting import WRITERS, Formation, gathering
from formctl.exporting.calendar import TIMES_MAX, events, intervals
from formctl.exporting.work import Work
from formctl.views import Instance

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SHOP = ["-m", "web=2,worker=1,report=1", "--user", "app"]


@pytest.mark.parametrize("manager", FORMATS)
def test_each_manager_is_written_as_it_was(
    manager: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", manager, str(GOLDEN / "shop"), *SHOP]) == 0
    assert capsys.readouterr().out == (GOLDEN / f"export-{manager}.txt").read_text()


def test_every_format_has_its_writer() -> None:
    assert tuple(WRITERS) == FORMATS


def test_what_the_other_does_not_know_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    run(["export", "supervisord", str(GOLDEN / "shop"), *SHOP])
    said = capsys.readouterr().err
    assert "formctl: web: limits.memory is not known there, and left out\n" in said
    assert "formctl: report: schedule is not known there, and left out\n" in said


def test_files_are_written_privately_where_values_are_in_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "systemd", str(GOLDEN / "shop"), *SHOP, "--out", str(tmp_path)]
    assert run(words) == 0
    assert stat.S_IMODE((tmp_path / "etc/shop/web.env").stat().st_mode) == 0o600
    assert "then: systemctl enable --now shop.target" in capsys.readouterr().out
    assert run(words) == 2
    assert "is there already; --force overwrites it" in capsys.readouterr().err
    assert run([*words, "--force"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "web=0,worker=0,report=0"], "nothing is to run: say how many with -m web=1"),
        (["-m", "mail=1"], "no process type mail: there is web, worker, report"),
        (["-m", "web"], "'web' is not a quantity"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", "systemd", str(GOLDEN / "shop"), *words]) == 2
    assert said in capsys.readouterr().err


def instance(name: str, host: str, *, surplus: bool = False) -> Instance:
    kind, _, ordinal = name.partition(".")
    status = InstanceStatus(
        uid=f"u-{name}",
        slot=Slot("shop", kind, int(ordinal)),
        release=3,
        state=InstanceState.HEALTHY,
        port=20_000 + int(ordinal),
    )
    return Instance(status=status, host=host, surplus=surplus)


def test_of_a_host_what_runs_there_is_written_with_its_ports() -> None:
    release = Release(
        app="shop",
        number=3,
        types=(ProcessType(name="web", command="w"), ProcessType(name="mail", command="m")),
        workdir="/srv",
    )
    there = [instance("web.7", "a"), instance("mail.2", "a"), instance("web.9", "a", surplus=True)]
    variables = [
        ("A", "of the operator", "config"),
        ("B", "of the project", "project"),
        ("C", "of web", "web"),
        ("A", "of web", "web"),
    ]
    found = gathering.of_host(release, there, variables, "")
    assert [(work.name, work.port) for work in found.works] == [
        ("mail.2", 20_002),
        ("web.7", 20_007),
    ]
    web = found.works[1].spec
    assert found.variables(web) == {
        "A": "of the operator",
        "B": "of the project",
        "C": "of web",
    }


# -- schedules -------------------------------------------------------------------------------------

CRONS = ("0 0 * * *", "*/15 3 1 * mon-fri", "5,35 8-17/3 * jan-mar,dec 0", "30 2 31 * 7")


@pytest.mark.parametrize("cron", CRONS)
def test_launchd_is_told_the_same_times_as_cron_means(cron: str) -> None:
    times = intervals(cron)
    assert times is not None
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    meant = [at for at, _ in zip(until_2027(CronSim(cron, begin)), range(300), strict=False)]
    for at in meant:
        assert any(fits(time, at) for time in times), (cron, at)
    for time in times:
        assert any(fits(time, at) for at in until_2027(CronSim(cron, begin))), (cron, time)


def until_2027(times: Iterator[datetime]) -> Iterator[datetime]:
    for at in times:
        if at.year > 2026:
            return
        yield at


def fits(time: dict[str, int], at: datetime) -> bool:
    found = {
        "Minute": at.minute,
        "Hour": at.hour,
        "Day": at.day,
        "Month": at.month,
        "Weekday": (at.weekday() + 1) % 7,
    }
    return all(found[name] == value for name, value in time.items())


def test_too_many_times_are_not_written_into_a_file() -> None:
    assert intervals("*/2 */2 1-28 * *") is None
    formation = Formation(
        app="shop",
        workdir="/",
        works=(
            Work(
                spec=ProcessType(name="r", command="r", schedule=Schedule(cron="*/2 */2 1-28 * *")),
                ordinal=1,
            ),
        ),
    )
    made = WRITERS["launchd"](formation)
    assert made.files == ()
    assert made.notes == ("r.1: schedule.cron means too many times for launchd; left out",)
    assert TIMES_MAX < 30 * 12 * 28


def test_either_of_days_of_the_month_and_the_week_are_two_times() -> None:
    assert events("0 3 1 * mon", "UTC") == ("*-*-01 03:00:00 UTC", "Mon *-*-* 03:00:00 UTC")
    assert events("0 3 * * *", "UTC") == ("*-*-* 03:00:00 UTC",)


def test_what_supervisord_replaces_whatever_one_writes_is_said() -> None:
    spec = ProcessType(name="web", command="echo %(here)s")
    made = WRITERS["supervisord"](
        Formation(app="x", workdir="/", works=(Work(spec=spec, ordinal=1),))
    )
    assert made.notes == ("web: %(here)s is replaced there by a directory, however it is written",)


# -- hostile values --------------------------------------------------------------------------------


def test_a_property_list_holds_any_text() -> None:
    spec = ProcessType(name="web", command="a <b> & 'c'\n\"d\"", limits=Limits(rlimits={"core": 0}))
    (file,) = WRITERS["launchd"](
        Formation(app="x", workdir="/", works=(Work(spec=spec, ordinal=1),))
    ).files
    found = plistlib.loads(file.text.encode())
    assert found["ProgramArguments"][2] == spec.command
    assert found["SoftResourceLimits"] == {"Core": 0}


def test_a_release_command_is_a_line_of_a_procfile_and_told_to_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Procfile").write_text("web: ./web\nrelease: ./migrate\n")
    assert run(["export", "foreman", str(tmp_path), "--app", "shop"]) == 0
    written = capsys.readouterr()
    assert "web: ./web\nrelease: ./migrate\n" in written.out
    assert "formation: web=1\n" in written.out
    assert "release" not in written.err
    assert run(["export", "systemd", str(tmp_path), "--app", "shop"]) == 0
    said = capsys.readouterr().err
    assert "release: ./migrate is not known there: run it yourself before something new" in said
