"""The agent's lease: how far it reaches, and what happens when it is over and when it is back."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from formation_agent.lease import Lease, Sent

LEASE_S = 15.0


def test_it_reaches_from_when_the_acknowledged_heartbeat_was_sent() -> None:
    sent = Sent(LEASE_S)
    first, second = sent.next(100.0), sent.next(105.0)
    assert sent.until_s(first) == 115.0
    assert sent.until_s(second) == 120.0


def test_an_answer_to_nothing_that_was_sent_says_nothing() -> None:
    sent = Sent(LEASE_S)
    assert sent.until_s(0) == sent.until_s(7) == 0.0
    assert Sent(0.0).until_s(Sent(0.0).next(5.0)) == 0.0


@given(st.lists(st.tuples(st.floats(0.0, 20.0), st.booleans()), max_size=100))
def test_however_many_are_lost_it_never_reaches_beyond_the_last_one_acknowledged(
    story: list[tuple[float, bool]],
) -> None:
    """Each: how long after the one before it was sent, and whether an answer came at last."""
    sent, now_s, until_s, last_s = Sent(LEASE_S), 0.0, 0.0, -LEASE_S
    for pause_s, answered in story:
        now_s += pause_s
        number = sent.next(now_s)
        if answered:
            last_s = now_s
            until_s = max(until_s, sent.until_s(number))
        assert until_s <= max(0.0, last_s + LEASE_S)


class Told:
    def __init__(self) -> None:
        self.words: list[str] = []
        self.longer: list[float] = []
        self.changed = asyncio.Event()

    def say(self, word: str) -> None:
        self.words.append(word)
        self.changed.set()


async def test_it_is_told_when_it_holds_again_and_when_it_is_over() -> None:
    told = Told()
    loop = asyncio.get_running_loop()
    lease = Lease(
        until_s=0.0,
        over=lambda: told.say("over"),
        back=lambda: told.say("back"),
        tell=told.longer.append,
        now_s=loop.time,
    )
    assert (lease.holds, told.words) == (False, [])
    until_s = loop.time() + 0.05
    lease.extend(until_s)
    assert (lease.holds, told.words, told.longer) == (True, ["back"], [until_s])
    lease.extend(until_s - 1.0)  # a late answer to an earlier one
    assert told.longer == [until_s]
    told.changed.clear()
    await asyncio.wait_for(told.changed.wait(), 5.0)
    assert (lease.holds, told.words) == (False, ["back", "over"])
    lease.close()


async def test_what_an_earlier_brain_was_granted_goes_on() -> None:
    told = Told()
    loop = asyncio.get_running_loop()
    lease = Lease(
        until_s=loop.time() + 9.0,
        over=lambda: told.say("over"),
        back=lambda: told.say("back"),
        tell=told.longer.append,
        now_s=loop.time,
    )
    assert (lease.holds, told.words) == (True, [])
    lease.close()
