"""The supervision bench at tiny sizes, and what it says of lines that did not arrive whole."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from bench.supervision import lines
from bench.supervision.figures import Figures, Measure

PROGRAM = Path(__file__).resolve().parents[2] / "bench" / "supervise.py"
TINY = ("--count", "3", "--rounds", "1", "--kills", "2", "--lines", "400", "--writers", "2")
SHORT = ("--idle-s", "0.1", "--settle-s", "0.1", "--peers", "none")


@pytest.fixture
def short() -> Iterator[Path]:
    """Sockets go below it, whose paths must not be long."""
    with tempfile.TemporaryDirectory(prefix="fb-") as made:
        yield Path(made)


def test_the_bench_measures_the_agent_and_leaves_nothing_behind(
    tmp_path: Path, short: Path
) -> None:
    report = tmp_path / "report.json"
    only = ("--only", "start,stop,respawn,log,idle", "--json", str(report))
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *only, *TINY, *SHORT],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(short)},
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout
    measures = json.loads(report.read_text())["measures"]
    for key in ("start", "cold", "stop", "respawn", "log", "merged", "followed", "idle"):
        (value, *_) = measures[key]["contestants"]["formation"]["values"]
        assert value >= 0, key
    assert measures["log"]["contestants"]["formation"]["notes"] == ["intact"]
    assert list(short.iterdir()) == []


def test_an_unknown_measure_is_refused_by_name() -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--only", "speed"], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"no such measure: speed; there are start, " in done.stderr


def line(writer: int, number: int) -> bytes:
    return b"%08d %09d %b\n" % (writer, number, b"x" * 80)


WHOLE = [line(7, 0), line(8, 0), line(7, 1), line(8, 1)]
STAMPED = rb"\d\d:\d\d "


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (WHOLE, "intact"),
        ([b"web.1 | " + text for text in WHOLE], "intact"),
        ([b"a word of the supervisor\n", *WHOLE], "intact"),
        (WHOLE[1:], "1 lost"),
        ([*WHOLE, WHOLE[0]], "1 doubled"),
        ([WHOLE[0][:-1] + WHOLE[1], *WHOLE[2:]], "1 broken, 2 lost"),
        ([WHOLE[0][:50] + b"\n", WHOLE[0][50:], *WHOLE[1:]], "2 broken, 1 lost"),
    ],
)
def test_what_happened_to_lines_is_told_apart(output: list[bytes], said: str) -> None:
    assert str(lines.check(output, writers=2, lines=2)) == said


def test_a_line_without_the_time_that_it_must_have_is_broken() -> None:
    output = [b"12:00 " + WHOLE[0], WHOLE[1]]
    verdict = lines.check(output, writers=2, lines=1, prefix=STAMPED)
    assert (verdict.whole, verdict.broken, verdict.lost) == (1, 1, 1)


def test_a_table_shows_medians_and_ratios_to_formation() -> None:
    figures = Figures()
    measure = Measure(key="start", title="start 3", unit="s", aim="soon")
    figures.add(measure, "formation", [1.0, 4.0, 2.0])
    figures.add(measure, "other", [5.0], "a note")
    figures.add(measure, "third", [], "cannot")
    text = [" ".join(row.split()) for row in figures.table().splitlines()]
    assert text == [
        "start 3 (s; aim: soon)",
        "formation 2.000 1.000 - 4.000 1.00x",
        "other 5.000 2.50x a note",
        "third - cannot",
    ]
