"""Planned commands do what the same line does in a real sh."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from pathlib import Path

import pytest
from eventually import eventually
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from formation_agent.command import SHELL, find_program, plan

PIECES = [
    *("a", "b c", " ", "  ", "\t", "=", "A=", "x=y", "-", "/", ".", ",", "%", "é", "\xa0", "1"),
    *("''", "'a b'", '"a b"', '""', "'", '"', "\\", "\\ ", "\\\\", "\\\n", "\\'", '\\"', "\\$"),
    *("$A", "${A}", '"$A"', '"${A:-q r}"', "$", "$ ", "$B", "$(echo q)", "`echo r`", "$((1+1))"),
    *("*", "?", "[a]", "~", "#", " #", "!", "{", "}", "{a,b}", "^", "@"),
    *(">o ", "2>&1 ", "2>e ", "<i ", ">", "<", "&", ";", "|", "(", ")", "\n", "&&"),
]
LINES = st.tuples(
    st.sampled_from(["", "", "A=1 ", "C='x y' ", ">o ", "exec ", "2>&1 "]),
    st.sampled_from(["show ", "show ", "./show ", "'show' ", "sh\\ow "]),
    st.lists(st.sampled_from(PIECES), max_size=8),
).map(lambda parts: parts[0] + parts[1] + "".join(parts[2]))


def run(argv: tuple[str, ...]) -> tuple[int, bytes]:
    """In a directory of its own, since a line may make files that a later `*` would find."""
    with tempfile.TemporaryDirectory(prefix="command-", dir="/tmp") as directory:
        return run_in(Path(directory), argv)


def run_in(place: Path, argv: tuple[str, ...]) -> tuple[int, bytes]:
    show = place / "show"
    show.write_text('#!/bin/sh\nprintf "%s|" "$A" "$C" "$#" "$@"\n')
    show.chmod(0o755)
    for name in ("i", "o", "e"):
        (place / name).write_bytes(b"")
    path = f"{place}:/usr/bin:/bin"
    file = find_program(argv[0], path, str(place), lambda name: Path(name).is_file())
    assert file is not None
    done = subprocess.run(
        argv,
        executable=file,
        env={"PATH": path, "HOME": "/home/me", "A": "p q", "B": ""},
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stdout + b"|" + (place / "o").read_bytes()


@settings(max_examples=200)
@given(line=LINES)
@example(line="2>&1 'show' *>?x=y>o ")
def test_a_planned_command_gets_the_words_that_sh_would_pass(line: str) -> None:
    assume("$$" not in line)  # another number in each process
    assume(not ("/" in line and set(line) & set("*?[")))  # other files at another moment
    planned = plan(line)
    if planned.argv[-1].strip() == line.strip():
        return  # sh itself
    assert run(planned.argv) == run((SHELL, "-c", line)), planned


@pytest.mark.parametrize(
    "command",
    ["sleep 1000", "A=1 sleep 1000 >/dev/null", "sleep ${X:-1000}", "sleep $(echo 1000)"],
)
async def test_no_shell_stays_above_a_simple_command(command: str) -> None:
    process = await asyncio.create_subprocess_exec(*plan(command).argv)
    try:
        name = Path(f"/proc/{process.pid}/comm")
        await eventually(lambda: name.read_text() == "sleep\n", what=command)
    finally:
        process.kill()
        await process.wait()
