"""The course that every contestant runs: how much of everything, lives, turns and figures.

In each round all contestants take their turn, so that what else the machine does meets them all.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.supervision import processes
from bench.supervision.contestants import Contestant, Load, Places, Tools
from bench.supervision.figures import Figures
from bench.supervision.processes import Newcomers, TooSlowError

DEADLINE_S = 180.0
_SLOW_S = 20.0  # what took this long is not done again


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`settle_s`: how long a contestant has been up before anything is done to it; a supervisor
    that waits a second before it believes a start has then believed it."""

    count: int
    rounds: int
    kills: int
    lines: int
    writers: int
    flat_lines: int
    idle_s: float
    settle_s: float


class Course:
    """`contestants` take part beside the floors; `say` shows what is going on."""

    def __init__(
        self,
        settings: Settings,
        *,
        contestants: Sequence[type[Contestant]],
        places: Places,
        tools: Tools,
        say: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self.contestants = contestants
        self.tools = tools
        self.figures = Figures()
        self._places = places
        self._say = say
        self._numbers = itertools.count(1000)

    def sleepers(self, count: int) -> Load:
        """Sleeps that no other process of the machine and no other life has the words of."""
        return Load(argv=("sleep", f"{next(self._numbers)}.{os.getpid()}"), count=count)

    def fresh_name(self) -> str:
        return f"formation-bench-{os.getpid()}-{next(self._numbers)}"

    @contextlib.contextmanager
    def life(self, kind: type[Contestant], load: Load) -> Iterator[Contestant]:
        """Made ready; nothing of it is left afterwards. Raises `TooSlowError`, and has said it."""
        self._say(f"{kind.name}: {load.count} x {os.path.basename(load.argv[0])}")
        with tempfile.TemporaryDirectory(prefix="formation-bench-") as directory:
            contestant = kind(Path(directory), load, places=self._places, tools=self.tools)
            try:
                contestant.prepare()
                yield contestant
            except (TooSlowError, ProcessLookupError) as error:
                self._say(f"{kind.name}: {error}\n{contestant.said()}")
                self.figures.failures.append(f"{kind.name}: {error}")
                raise TooSlowError(str(error)) from error
            finally:
                contestant.close()

    def ordered(self, contestant: Contestant) -> tuple[Newcomers, float]:
        """Its load runs; how long that took from the order on."""
        newcomers = Newcomers(contestant.load.argv)
        began_s = time.perf_counter()
        contestant.order()
        return newcomers, newcomers.wait(contestant.load.count, DEADLINE_S) - began_s

    def settled(self, contestant: Contestant) -> Newcomers:
        """Its load has been up for a while."""
        newcomers, _ = self.ordered(contestant)
        time.sleep(self.settings.settle_s)
        return newcomers

    def turns(self, *kinds: type[Contestant]) -> Iterator[type[Contestant]]:
        """All in turn, as often as there are rounds; who is very slow only once."""
        slow: set[type[Contestant]] = set()
        for _ in range(self.settings.rounds):
            for kind in kinds:
                if kind in slow:
                    continue
                began_s = time.monotonic()
                yield kind
                if time.monotonic() - began_s > _SLOW_S:
                    slow.add(kind)


def total(figure: Callable[[int], int], contestant: Contestant) -> float:
    """Of all its processes together, in MiB."""
    return sum(map(figure, contestant.managers())) / processes.MIB
