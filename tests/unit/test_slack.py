"""Threads that are woken late: those that are made for it and no others."""

from __future__ import annotations

import ctypes
import threading

from formation_agent.slack import slack_for_new_threads

_PR_GET_TIMERSLACK = 30


def slack_s() -> float:
    slack_ns: int = ctypes.CDLL(None).prctl(_PR_GET_TIMERSLACK, 0, 0, 0, 0)
    return slack_ns / 1e9


def slack_of_new_thread_s() -> float:
    found: list[float] = []

    def look() -> None:
        inner = threading.Thread(target=lambda: found.append(slack_s()))
        inner.start()
        inner.join()

    outer = threading.Thread(target=look)
    outer.start()
    outer.join()
    return found[0]


def test_threads_made_in_the_block_and_by_these_have_the_slack_and_later_ones_do_not() -> None:
    before_s = slack_s()
    assert before_s < 0.001
    with slack_for_new_threads(0.25):
        assert slack_of_new_thread_s() == 0.25
    assert slack_s() == before_s
    assert slack_of_new_thread_s() == before_s


def test_the_caller_has_its_own_back_after_an_error() -> None:
    before_s = slack_s()
    try:
        with slack_for_new_threads(0.25):
            raise KeyError
    except KeyError:
        assert slack_s() == before_s
