"""A person at work meanwhile: one command after the other, each remembered with its outcome."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from lab import Lab

APP = "load"
QUANTITIES = {"web": (2, 5), "worker": (2, 8), "one": (1, 1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`acknowledged` False: it may have been made. `refused`: it surely was not."""

    number: int
    words: tuple[str, ...]
    acknowledged: bool
    refused: bool = False
    shown: str = ""
    said: str = ""


class Operator(threading.Thread):
    def __init__(self, lab: Lab, seed: int) -> None:
        super().__init__(daemon=True)
        self.commands: list[Command] = []
        self._lab = lab
        self._dice = random.Random(seed + 1)
        self._over = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._over.wait(self._dice.uniform(0.5, 3.0)):
            number += 1
            self.commands.append(self._do(number, self._words(number)))

    def finish(self) -> list[Command]:
        self._over.set()
        self.join(timeout=90.0)
        return self.commands

    def _words(self, number: int) -> tuple[str, ...]:
        kind = self._dice.choices(("scale", "config", "restart", "label"), (6, 2, 1, 2))[0]
        if kind == "scale":
            name = self._dice.choice(("web", "worker"))
            quantity = self._dice.randint(*QUANTITIES[name])
            return ("scale", f"{name}={quantity}", "--why", f"chaos {number}", "--no-wait")
        if kind == "config":
            return ("config", "set", f"TURN={number}", "--no-wait")
        if kind == "restart":
            return ("restart", self._dice.choice(("web", "worker", "one")), "--no-wait")
        host = self._dice.choice(list(self._lab.agent_names))
        return ("hosts", "label", host, f"turn={number}")

    def _do(self, number: int, words: tuple[str, ...]) -> Command:
        of_app = () if words[0] == "hosts" else ("--app", APP)
        done = self._lab.formctl(*words, *of_app, check=False, timeout_s=120.0)
        doubtful = "may or may not" in done.stderr
        return Command(
            number=number,
            words=words,
            acknowledged=done.returncode == 0,
            refused=done.returncode != 0 and not doubtful,
            shown=done.stdout.strip(),
            said=done.stderr.strip(),
        )


def lost(lab: Lab, commands: list[Command]) -> list[str]:
    """Acknowledged, and yet not there; or there, and yet refused."""
    found: list[str] = []
    (app,) = (row for row in lab.json("apps") if row["app"] == APP)
    for name in ("web", "worker"):
        mine = [c for c in commands if c.words[0] == "scale" and c.words[1].startswith(f"{name}=")]
        found += _last(mine, f"{name}={app['formation'][name]}", 1)
    shown = lab.formctl("config", "--values", "--app", APP).stdout
    turn = re.search(r"^TURN +config +(\d+)", shown, re.MULTILINE)
    turns = [c for c in commands if c.words[0] == "config"]
    found += _last(turns, f"TURN={turn[1] if turn else None}", 2)
    history = {row["why"] for row in lab.json("history", APP, "-n", "10000")}
    found += [f"not in the history: {c.words[3]}" for c in _made(commands)
              if c.words[3] not in history]  # fmt: skip
    return found


def _made(commands: list[Command]) -> Iterator[Command]:
    """The scales that surely changed something: those after another that shows other numbers."""
    before = ""
    for command in commands:
        if command.words[0] == "scale":
            if command.acknowledged and before not in ("", command.shown):
                yield command
            before = command.shown if command.acknowledged else ""


def _last(commands: list[Command], now: str, word: int) -> list[str]:
    """What is there is the last acknowledged, or a doubtful one that came after it."""
    possible: set[str] = set()
    for command in commands:
        if command.acknowledged:
            possible = {command.words[word]}
        elif not command.refused:
            possible.add(command.words[word])
    return [] if not possible or now in possible else [f"it is {now}, it should be {possible}"]
