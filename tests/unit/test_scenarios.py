"""The stories in tests/scenarios are told as they are written.

FORMATION_ACCEPT=1 writes them anew: read what changed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from stories import told

SCENARIOS = sorted((Path(__file__).resolve().parents[1] / "scenarios").glob("*.txt"))


def test_there_are_stories() -> None:
    assert len(SCENARIOS) >= 14


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_story_is_told_as_it_is_written(path: Path) -> None:
    written = path.read_text("utf-8")
    now = told(written)
    if os.environ.get("FORMATION_ACCEPT") == "1":
        path.write_text(now, "utf-8")
    assert now == written or os.environ.get("FORMATION_ACCEPT") == "1"
