"""What systemd's journal reads of us."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from formation import journald


def record(level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord("x", level, __file__, 1, text, (), None)


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3),
        (logging.CRITICAL, 3),
    ],
)  # fmt: skip
def test_a_line_says_how_important_it_is(level: int, priority: int) -> None:
    assert journald.Formatter().format(record(level, "it is so")) == f"<{priority}>it is so"


def test_each_line_of_a_message_does() -> None:
    assert journald.Formatter().format(record(logging.ERROR, "a\nb")) == "<3>a\n<3>b"
    assert journald.Formatter().format(record(logging.INFO, "")) == "<6>"


def test_what_leads_elsewhere_is_not_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        seen = os.fstat(file.fileno())
        there = {"JOURNAL_STREAM": f"{seen.st_dev}:{seen.st_ino}"}
        assert journald.is_listening(there, file.fileno())
        assert not journald.is_listening({}, file.fileno())
        assert not journald.is_listening({"JOURNAL_STREAM": "1:2"}, file.fileno())
    assert not journald.is_listening(there, -1)


LOGGED = (
    "from formation import runtime; import logging; runtime.setup_logging('p');"
    "logging.getLogger('x').warning('late')"
)
ENDED = "from formation import runtime; runtime.complain('p', 'late')"
SAID = "from formation_agent.brainprocess import NOTICE, say; say('late'); say('done', NOTICE)"


@pytest.mark.parametrize(
    ("said", "expected"),
    [(LOGGED, "<4>late\n"), (SAID, "<4>late\n<5>done\n"), (ENDED, "<3>late\n")],
)
def test_programs_notice_by_themselves(tmp_path: Path, said: str, expected: str) -> None:
    with (tmp_path / "log").open("w") as file:
        seen = os.fstat(file.fileno())
        env = {**os.environ, "JOURNAL_STREAM": f"{seen.st_dev}:{seen.st_ino}"}
        subprocess.run([sys.executable, "-c", said], env=env, stderr=file, check=True)
    assert (tmp_path / "log").read_text() == expected
    done = subprocess.run(
        [sys.executable, "-c", said], env=env, stderr=subprocess.PIPE, text=True, check=True
    )
    assert "<" not in done.stderr
    assert "late\n" in done.stderr
