"""How much may be under way in an exec: nothing is lost, nobody holds more than the window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation.execflow import (
    CHUNK_BYTES,
    SIZE_MAX,
    TELL_BYTES,
    WINDOW_BYTES,
    FlowError,
    Sending,
    Taking,
    shell_code,
    size_in_bounds,
)


def test_a_sender_has_room_for_a_window_and_waits_until_something_was_taken() -> None:
    sending, pieces = Sending(), 0
    while sending.room:
        sending = sending.after(sending.room)
        pieces += 1
    assert sending.sent == WINDOW_BYTES
    assert pieces == WINDOW_BYTES // CHUNK_BYTES
    sending = sending.told(100)
    assert sending.room == 100
    assert sending.after(100).room == 0


def test_who_sends_more_than_the_window_is_cut_off() -> None:
    full = Taking().arrived(WINDOW_BYTES)
    with pytest.raises(FlowError, match="not taken yet"):
        full.arrived(1)
    assert full.took(1).arrived(1).held == WINDOW_BYTES


@pytest.mark.parametrize("told", [-1, 4, 11, 1 << 63])
def test_who_tells_of_more_than_there_was_or_goes_back_is_cut_off(told: int) -> None:
    sending = Sending().after(10).told(5)
    with pytest.raises(FlowError):
        sending.told(told)


def test_what_was_taken_is_told_in_time_for_the_sender_never_to_wait_for_a_taker_that_is_done() -> (
    None
):
    assert TELL_BYTES <= WINDOW_BYTES // 2
    taking = Taking().arrived(TELL_BYTES).took(TELL_BYTES - 1)
    assert not taking.owes
    taking = taking.took(1)
    assert taking.owes
    assert not taking.telling().owes


@given(st.lists(st.tuples(st.integers(0, CHUNK_BYTES), st.integers(0, WINDOW_BYTES))))
def test_two_ends_that_keep_to_the_rules_never_stop_and_never_complain(
    steps: list[tuple[int, int]],
) -> None:
    sending, taking = Sending(), Taking()
    for size, taken in steps:
        piece = min(size, sending.room)
        sending, taking = sending.after(piece), taking.arrived(piece)
        assert taking.held <= WINDOW_BYTES
        taking = taking.took(min(taken, taking.held))
        if taking.owes:
            taking = taking.telling()
            sending = sending.told(taking.told)
    taking = taking.took(taking.held)
    if taking.owes:
        sending = sending.told(taking.telling().told)
    assert sending.room > 0


@pytest.mark.parametrize(
    ("code", "signal", "said"), [(0, None, 0), (7, None, 7), (None, 9, 137), (None, None, 127)]
)
def test_codes_are_those_of_a_shell(code: int | None, signal: int | None, said: int) -> None:
    assert shell_code(code, signal) == said


def test_no_terminal_is_as_large_as_somebody_claims() -> None:
    assert size_in_bounds(24, 80) == (24, 80)
    assert size_in_bounds(1 << 31, 1 << 31) == (SIZE_MAX, SIZE_MAX)
