"""formctl exec with the real programs: between pipes and in terminals."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster import Cluster
from exec_rig import (
    FAMILY,
    IS_ROOT,
    all_gone,
    begun,
    execs_in_history,
    execute,
    family,
    pids_of,
    started,
    terminal,
)


@pytest.fixture(scope="module")
def steady() -> Iterator[Cluster]:
    """Shared by the tests that leave everything as it was."""
    with Cluster() as made:
        yield started(made)


# -- between pipes -------------------------------------------------------------------------------


def test_it_has_what_the_instance_has(steady: Cluster) -> None:
    pid = steady.healthy()["web.2"]["pid"]
    its = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    done = execute(steady, "web.2", "--", "env", "-0")
    mine = [item for item in done.stdout.split(b"\0") if not item.startswith(b"FORMATION_EXEC=")]
    assert sorted(mine) == sorted(its)
    assert b"PS=web.2" in mine
    assert b"COLOUR=blue" in mine

    script = "cat /proc/self/status /proc/self/limits /proc/self/cgroup; pwd; nice"
    shown = execute(steady, "web.2", "--", script).stdout.decode()
    names = ("Uid", "Gid", "Groups", "NoNewPrivs", "CapEff", "CapBnd", "Seccomp", "Umask")
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    for line in status:
        if line.partition(":")[0] in names:
            assert line in shown
    assert Path(f"/proc/{pid}/cgroup").read_text() in shown
    assert Path(f"/proc/{pid}/limits").read_text() in shown
    assert shown.endswith(f"/tmp\n{psutil.Process(pid).nice()}\n")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -9 $$", 137),
        ("exit 255", 255),
        ("no-such-program", 127),
    ],
)
def test_the_exit_code_is_the_commands(steady: Cluster, line: str, code: int) -> None:
    execute(steady, "web.1", "--", line, code=code)


def test_ten_megabytes_go_in_and_come_out_unharmed(steady: Cluster) -> None:
    data = os.urandom(10_000_000)
    digest = hashlib.sha256(data).hexdigest().encode()
    assert digest in execute(steady, "web.1", "--", "sha256sum", stdin=data).stdout
    done = execute(steady, "web.1", "--", "tee /dev/stderr", stdin=data)
    assert done.stdout == data
    assert done.stderr == data


def test_who_does_not_read_its_input_or_whose_output_nobody_reads_ends_well(
    steady: Cluster,
) -> None:
    data = bytes(3_000_000)
    done = execute(steady, "web.1", "--", "exec 0<&-; sleep 0.3; echo done", stdin=data)
    assert done.stdout == b"done\n"
    process = begun(steady, "web.1", "--", "yes")
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait(60) == 0
    process.communicate()
    all_gone(steady, pids_of(steady, "yes"))


def test_a_slow_reader_holds_the_writer_up_and_nothing_is_kept(steady: Cluster) -> None:
    """What is under way is bounded by the window and two pipes, whatever is written."""
    process = begun(steady, "web.1", "--", "head -c 20000000 /dev/zero | tee /dev/null")
    (writer,) = steady.wait(lambda: pids_of(steady, "head -c 20000000 /dev/zero"))
    written = psutil.Process(writer).io_counters()
    steady.wait(
        lambda: (
            psutil.Process(writer).status() == psutil.STATUS_SLEEPING
            and psutil.Process(writer).io_counters().write_bytes == written.write_bytes
        )
    )
    assert psutil.Process(writer).io_counters().write_chars < 2_000_000
    out, _ = process.communicate(timeout=60)
    assert len(out) == 20_000_000


def test_a_type_alone_is_one_of_its_healthy_ones_and_that_is_said(steady: Cluster) -> None:
    done = execute(steady, "web", "--", "echo $PS")
    assert done.stdout == b"web.1\n"
    assert done.stderr == b"formctl: beside web.1 on host a\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["web.9", "--", "true"], 2, "there is no web.9"),
        (["shop.1", "--", "true"], 2, "no type 'shop'"),
        (["once.1", "--", "true"], 1, "once.1 does not run now, it is failed"),
        (["idle", "--", "true"], 1, "no instance of idle is healthy"),
        (["web.1"], 2, "nothing to run"),
        (["web.1", "--", " "], 2, "nothing to run"),
        (["../x", "--", "true"], 2, "neither a type (web) nor an instance (web.3)"),
        (["--app", "nope", "web.1", "--", "true"], 2, "no app nope"),
        (["--escape", "ab", "web.1", "--", "true"], 2, "neither one character"),
    ],
)
def test_what_cannot_be_is_one_line(
    steady: Cluster, words: list[str], code: int, said: str
) -> None:
    steady.wait(lambda: any(row["state"] == "failed" for row in steady.ps()))
    done = execute(steady, *words, code=code)
    assert said in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1


def test_the_history_says_who_ran_what_and_how_it_ended(steady: Cluster) -> None:
    execute(steady, "web.2", "--", "sh", "-c", "exit 9", code=9)

    def both() -> list[dict[str, Any]]:
        found = [row for row in execs_in_history(steady) if "exit 9" in row["detail"]]
        return found if len(found) == 2 else []

    ended, began = steady.wait(both)
    assert began["detail"].startswith("began ")
    assert began["detail"].endswith("on web.2 (a): sh -c 'exit 9'")
    assert ended["detail"] == began["detail"].replace("began", "ended")
    assert ended["to"] == "exit 9"
    assert "@" in began["who"]
    for name in ("c1", "a"):
        assert "exit 9" not in steady.log(name)


# -- in a terminal -------------------------------------------------------------------------------


def test_a_terminal_is_one_with_its_size_its_keys_and_its_jobs(steady: Cluster) -> None:
    with terminal(steady, "web.1", "--", "sh", size=(31, 97)) as here:
        here.wait_for("$ " if not IS_ROOT else b"")
        here.type("PS1='@ '; stty size; tty; echo term=$TERM\r")
        here.wait_for("31 97")
        here.wait_for("term=xterm-256color")
        assert here.is_raw
        here.resize(45, 133)
        here.type("until [ \"$(stty size)\" = '45 133' ]; do sleep 0.1; done; echo re''sized\r")
        here.wait_for("resized")
        here.type("sh -c 'echo sl''eeps; exec sleep 1000'\r")
        here.wait_for("sleeps")
        here.type(b"\x03")
        here.type("echo aft''er=$?\r")
        here.wait_for("after=130")
        here.type("ls -l /proc/self/fd/0; echo x > /dev/tty && echo tt''y-is-mine\r")
        here.wait_for("tty-is-mine")
        here.type("exit 5\r")
        assert here.exit_code() == 5
        assert here.is_as_before


def test_stop_and_end_of_file_pass_through(steady: Cluster) -> None:
    with terminal(steady, "web.1", "--", "bash --norc -i") as here:
        here.type("sleep 765\r")
        steady.wait(lambda: pids_of(steady, "sleep 765"))
        here.type(b"\x1a")
        here.wait_for("Stopped")
        here.type("exit; exit\r")
        here.exit_code()
        all_gone(steady, pids_of(steady, "sleep 765"))
        assert here.is_as_before
    with terminal(steady, "web.1", "--", "cat; echo cat-ended; exit 3") as here:
        here.type("one line\r")
        here.wait_for("one line\r\none line\r\n")
        here.type(b"\x04")
        here.wait_for("cat-ended")
        assert here.exit_code() == 3


def test_what_full_screen_programs_say_and_hear_is_not_changed(steady: Cluster) -> None:
    every = bytes(range(256)) * 8
    script = "stty raw -echo; printf rea''dy; head -c 2048 | sha256sum; cat every"
    (Path("/tmp") / "every").write_bytes(every + b"END")
    try:
        with terminal(steady, "--escape", "none", "web.1", "--", script) as here:
            here.wait_for("ready")
            here.type(every)
            here.wait_for(hashlib.sha256(every).hexdigest())
            assert here.wait_for("END").endswith(every + b"END")
            assert here.exit_code() == 0
    finally:
        (Path("/tmp") / "every").unlink()


def test_the_escape_leaves_a_session_that_is_stuck(steady: Cluster) -> None:
    with terminal(steady, "web.1", "--", "stty raw -echo; " + FAMILY.format(n="61")) as here:
        here.wait_for("began")
        left = family(steady, "61")
        here.type("x~.")  # not at the beginning of a line
        here.type("\r~?")
        here.wait_for("ends the session")
        here.type("\r~.")
        assert here.exit_code() == 130
        assert here.is_as_before
    all_gone(steady, left)


def test_a_terminal_may_be_asked_for_or_not(steady: Cluster) -> None:
    done = execute(steady, "--tty", "web.1", "--", "tty; cat", stdin=b"typed\n")
    assert b"/dev/pts/" in done.stdout  # behind the echo of what was typed
    assert b"typed\r\n" in done.stdout
    with terminal(steady, "-T", "web.1", "--", "tty; echo; exit 6") as here:
        here.wait_for("not a tty")
        assert here.exit_code() == 6
