"""The line that says how far something is."""

from __future__ import annotations

import pytest

from formctl import cells, progress
from formctl.progress import Step


def test_the_line_says_how_many_of_how_many_how_long_and_what() -> None:
    step = Step(done=3, total=12, what="web.4 starting")
    shown = progress.line(step, elapsed_s=75.9, columns=80)
    assert shown == "[#####---------------] 3/12  1m15s  web.4 starting"


def test_where_nobody_knows_how_many_there_is_no_bar() -> None:
    assert progress.line(Step(what="reading"), elapsed_s=4.2, columns=80) == "4s  reading"


@pytest.mark.parametrize("columns", [1, 2, 5, 12, 39, 40, 69, 70, 200])
def test_it_never_fills_a_row_so_that_it_never_makes_another(columns: int) -> None:
    step = Step(done=3, total=12, what="漢字" * 80)
    assert cells.width(progress.line(step, elapsed_s=1, columns=columns)) < columns


def test_a_narrow_terminal_keeps_the_numbers() -> None:
    assert progress.line(Step(done=3, total=12), elapsed_s=1, columns=20) == "3/12  1s"


def test_what_others_wrote_cannot_leave_the_line() -> None:
    shown = progress.line(Step(what="a\x1b[2J\nb"), elapsed_s=1, columns=80)
    assert shown.isprintable()


def test_only_the_first_of_many_are_named() -> None:
    assert progress.named(["a", "b", "c"]) == "a, b, c"
    assert progress.named(["a", "b", "c", "d"]) == "a, b and 2 more"
