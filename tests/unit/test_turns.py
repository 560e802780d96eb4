"""Work in turns: how much in one round of the loop, and that everybody's comes."""

from __future__ import annotations

import asyncio
import itertools

from formation_coordinator.turns import ROUND_S, Turns


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_round_ends_when_its_time_is_over_and_all_have_their_turn() -> None:
    clock, rounds, done = Clock(), list[int](), list[int]()
    turns = Turns(clock)

    async def work(number: int) -> None:
        await turns.turn()
        clock.now_s += ROUND_S / 4
        done.append(number)

    async def count() -> None:
        while len(done) < 500:
            rounds.append(len(done))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for number in range(500):
            group.create_task(work(number))
        group.create_task(count())
    assert sorted(done) == list(range(500))
    assert max(after - before for before, after in itertools.pairwise(rounds)) <= 8


async def test_who_gives_up_waiting_holds_up_nobody() -> None:
    clock, done = Clock(), list[int]()
    turns = Turns(clock)

    async def work(number: int) -> None:
        await turns.turn()
        clock.now_s += ROUND_S
        done.append(number)

    tasks = [asyncio.create_task(work(number)) for number in range(10)]
    await asyncio.sleep(0)
    for task in tasks[1:9]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert done == [0, 9]
