"""gRPC's idle threads are woken late while a session holds, and no others."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from formation_agent.slack import SLACK_S, idle_slack

_PR_SET_NAME = 15


@pytest.fixture
def thread() -> Iterator[int]:
    """One that is named like those of the pool."""
    found: list[int] = []
    ready, over = threading.Event(), threading.Event()

    def wait() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_NAME, b"event_engine", 0, 0, 0)
        found.append(threading.get_native_id())
        ready.set()
        over.wait(30)

    waiting = threading.Thread(target=wait)
    waiting.start()
    ready.wait(30)
    yield found[0]
    over.set()
    waiting.join()


def slack_s(tid: int) -> float:
    return int(Path(f"/proc/{tid}/timerslack_ns").read_text()) / 1e9


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: others may not change their threads")
def test_threads_of_the_pool_are_late_in_the_block_and_no_others(thread: int) -> None:
    before_s = slack_s(thread)
    assert before_s < 0.001
    with idle_slack():
        assert slack_s(thread) == SLACK_S
        assert slack_s(os.getpid()) < 0.001
    assert slack_s(thread) == before_s


def test_where_it_is_not_to_be_had_nothing_happens(tmp_path: Path) -> None:
    other = tmp_path / "no such thread"
    other.mkdir()
    (other / "comm").write_text("event_engine\n")
    for threads in (tmp_path, tmp_path / "nothing"):
        with idle_slack(threads):
            pass
