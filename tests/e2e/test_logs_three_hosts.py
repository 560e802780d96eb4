"""`formctl logs` over three hosts: what is missing is said where it is missing, in both outputs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cluster import BIN, Cluster

# Each instance writes what stands in its file, so that a test says when.
WRITER = """
import os, sys, time
path = sys.argv[1] + "/" + os.environ["PS"]
open(path, "a").close()
with open(path) as file:
    while True:
        text = file.read()
        sys.stdout.write(text)
        sys.stdout.flush()
        if not text:
            time.sleep(0.02)
"""
LOST, BACK = "does not answer: its lines are missing from here", "is back: what it kept meanwhile"


class Words:
    """What instances shall say."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()

    def say(self, name: str, *lines: str) -> None:
        with (self.directory / name).open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))


@contextmanager
def three_hosts(*flags: str) -> Iterator[tuple[Cluster, Words, dict[str, str]]]:
    """web.1 to web.3, and which of them is on which host."""
    with Cluster() as made:
        made.start_coordinator()
        for name in "abc":
            made.start_agent(name, *flags)
        made.wait_hosts(3)
        words = Words(made.directory / "words")
        made.app(
            {"Procfile": f"web: exec python3 writer.py {words.directory}\n", "writer.py": WRITER}
        )
        made.formctl("apply", "-f", "shop/Procfile", "-m", "web=3")
        yield made, words, {row["host"]: slot for slot, row in made.healthy().items()}


@contextmanager
def following(made: Cluster, *words: str) -> Iterator[Path]:
    """`formctl logs -f`, and the file that it writes to."""
    out = made.directory / f"follow-{len(list(made.directory.glob('follow-*')))}"
    environment = {
        **made.environment(), "FORMATION_COORDINATOR": ",".join(made.coordinators.values())
    }  # fmt: skip
    with out.open("wb") as file:
        process = subprocess.Popen(
            [str(BIN / "formctl"), "logs", "-f", *words],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment,
            cwd=made.directory / "shop",
        )  # fmt: skip
    try:
        yield out
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)


def logs(made: Cluster, *words: str) -> list[str]:
    done = made.formctl("logs", *words, cwd=made.directory / "shop")
    return [line.split(" | ", 1)[1] for line in done.stdout.splitlines()]


def test_a_host_that_is_killed_and_comes_back_is_told_of_in_the_stream_and_in_json() -> None:
    with (
        three_hosts() as (made, words, slots),
        following(made) as plain,
        following(made, "-o", "json") as as_json,
    ):
        for slot in slots.values():
            words.say(slot, f"first of {slot}")
        made.wait(lambda: plain.read_text().count("first of") == 3, what="all are followed")
        made.wait(lambda: as_json.read_text().count("first of") == 3)
        made.kill("b")
        made.wait(lambda: f"host b {LOST}" in plain.read_text(), what="the loss is said")
        shown = logs(made, "--tail", "all")
        assert [line for line in shown if LOST in line] == [f"host b {LOST}"]
        assert shown[-1] == f"host b {LOST}"
        words.say(slots["a"], "while b was away")
        made.start_agent("b")
        made.wait(lambda: f"host b {BACK}" in plain.read_text(), what="the return is said")
        for slot in slots.values():
            words.say(slot, f"last of {slot}")
        made.wait(lambda: plain.read_text().count("last of") >= 3, what="all are followed again")
        made.wait(lambda: as_json.read_text().count("last of") >= 3)
        text = plain.read_text()
        told = [json.loads(line) for line in as_json.read_text().splitlines()]
    gaps = [(item["gap"], item["host"], item["instance"]) for item in told if item["gap"]]
    assert gaps == [("host-lost", "b", None), ("host-back", "b", None)]
    assert text.index(LOST) < text.index("while b was away")
    assert f"system | host b {LOST}" in text


def test_lines_of_three_hosts_are_in_order_and_history_goes_over_rotated_files() -> None:
    with three_hosts("--log-max-bytes", "4096", "--log-files", "50") as (made, words, slots):
        before_s = time.time()
        for number in range(30):
            for slot in slots.values():
                kinds = ("even", "odd") * 4
                words.say(slot, *(f"{number} {slot} {kind} {'x' * 30}" for kind in kinds))
            made.wait(partial(_said_all, made, f"{number} "), what="they are written")
        rotated = list(made.directory.glob("state-*/logs/shop/web.*.log.*"))
        assert len({path.parent for path in rotated}) == 3
        shown = [int(line.split()[0]) for line in logs(made, "--tail", "all")]
        assert shown == sorted(shown)
        assert len(shown) == 720
        odd = logs(made, "--tail", "all", "--grep", "odd", "--since", "10m")
        assert len(odd) == 360
        asked = logs(made, "web.2", "--tail", "5", "--grep", "even")
        assert [line.split()[:2] for line in asked] == [["28", "web.2"], *[["29", "web.2"]] * 4]
        assert logs(made, "--until", _moment(before_s - 5), "--tail", "all") == []
        assert len(logs(made, "--since", _moment(before_s - 5), "--tail", "all")) == 720
        bare = made.formctl("logs", "--no-prefix", "--tail", "1", cwd=made.directory / "shop")
        assert bare.stdout.startswith("29 web.")


def _moment(at_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at_s))


def _said_all(made: Cluster, wanted: str) -> bool:
    return _said(made, wanted) == 24


def _said(made: Cluster, wanted: str) -> int:
    """How many lines of all logs begin with that."""
    found = 0
    for path in made.directory.glob("state-*/logs/shop/web.*.log*"):
        with contextlib.suppress(FileNotFoundError):  # it is being rotated
            lines = path.read_text().splitlines()
            found += sum(line.split(" ", 2)[2].startswith(wanted) for line in lines)
    return found


def test_who_reads_too_slowly_is_told_how_many_lines_were_rotated_away_meanwhile() -> None:
    with three_hosts("--log-max-bytes", "65536", "--log-files", "2") as (made, words, _):
        read, write = os.pipe()
        process = subprocess.Popen(
            [str(BIN / "formctl"), "logs", "-f", "-o", "json", "web.1"],
            stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.DEVNULL,
            env={**made.environment(), "FORMATION_COORDINATOR": made.coordinators["c1"]},
            cwd=made.directory / "shop",
        )  # fmt: skip
        os.close(write)
        try:
            with os.fdopen(read) as lines:
                words.say("web.1", "0")
                assert json.loads(lines.readline())["text"] == "0"
                # More than pipe, formctl, gRPC and coordinator hold between them.
                for number in range(1, 200_000, 1000):
                    words.say("web.1", *(f"{n} {'x' * 200}" for n in range(number, number + 1000)))
                words.say("web.1", "200001 end")
                made.wait(lambda: _said(made, "200001 end") == 1, what="all is written")
                found = _until_end(lines)
        finally:
            process.kill()
            process.wait(timeout=30)
    gaps = [item for item in found if item["gap"]]
    assert gaps
    assert {item["gap"] for item in gaps} == {"rotated"}
    assert {item["instance"] for item in gaps} == {"web.1"}
    numbers = [int(item["text"].split()[0]) for item in found if not item["gap"]]
    assert numbers == sorted(numbers)
    assert len(numbers) + sum(item["missing"] for item in gaps) == 200_001


def _until_end(lines: Any) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        found.append(json.loads(line))
        if found[-1]["text"] == "200001 end":
            return found
    pytest.fail("it ended before the last line")
