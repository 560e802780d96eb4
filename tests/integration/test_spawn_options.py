"""What a process can be given beside its program, and that the keeper keeps none of it."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from keeper_rig import NOBODY, Brain, KeeperRig, gone, inside, keeper_rig

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
NOBODYS = {"uid": 65534, "gid": 65534, "groups": [100, 101], "name": "nobody"}
_OF_KEEPER = ("Uid", "Gid", "Groups", "Umask", "NoNewPrivs", "SigBlk", "SigIgn", "SigCgt")


def status(pid: int | str, *names: str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: fields[name].strip() for name in names}


def keeper_itself(pid: int) -> list[object]:
    """All that a start could have changed in it."""
    nice = os.getpriority(os.PRIO_PROCESS, pid)
    limits = Path(f"/proc/{pid}/limits").read_text()
    return [status(pid, *_OF_KEEPER), nice, limits, os.readlink(inside(pid) / "cwd")]


async def output(rig: KeeperRig, brain: Brain, script: str, **options: Any) -> str:
    key = f"{len(brain.events)}:1"
    rig.spawn(brain, key, "sh", "-c", script, options=options)
    return await brain.text(key)


async def failure(rig: KeeperRig, brain: Brain, *argv: str, cwd: str = "/", **options: Any) -> str:
    key = f"{len(brain.events)}:1"
    rig.spawn(brain, key, *argv, cwd=cwd, options=options)
    return str((await brain.event("SpawnFailed", key))["reason"])


async def test_umask_priority_and_limits_are_the_childs_alone() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        before = keeper_itself(rig.pid)
        assert await output(rig, brain, "umask", umask=0o27) == "0027\n"
        assert await output(rig, brain, "umask; nice", umask=0o77, nice=7) == "0077\n7\n"
        limits = {"nofile": [50, 60], "core": [0, 0]}
        shown = "ulimit -Sn; ulimit -Hn; ulimit -c"
        assert await output(rig, brain, shown, rlimits=limits) == "50\n60\n0\n"
        assert keeper_itself(rig.pid) == before
        plain = "umask; nice; ulimit -Sn"
        _, nice, files = (await output(rig, brain, plain)).split()
        assert (int(nice), int(files)) == (0, int(os.sysconf("SC_OPEN_MAX")))


async def test_a_careful_start_gives_what_a_fast_one_gives() -> None:
    script = (
        "import os, sys; status = open('/proc/self/status').read().splitlines(); "
        "print(sorted(os.listdir('/proc/self/fd')), os.readlink('/proc/self/fd/0'), "
        "os.getpid() == os.getsid(0) == os.getpgid(0), os.getcwd(), sorted(os.environ), "
        "[line for line in status if line[:6] in ('SigBlk', 'Groups', 'NoNewP')], "
        # 32 and 33 are the C library's own.
        "[int(line[7:], 16) & ~(3 << 31) for line in status if line[:6] == 'SigIgn'])"
    )
    before = ("sh", "-c", 'trap "" INT HUP USR1; ulimit -Sn 300; exec "$@"', "sh")
    async with keeper_rig(before) as rig:
        brain = await rig.brain()
        rig.spawn(brain, "fast:1", sys.executable, "-c", script, cwd="/usr")
        rig.spawn(brain, "slow:1", sys.executable, "-c", script, cwd="/usr", options={"nice": 1})
        assert await brain.text("slow:1") == await brain.text("fast:1") != ""
        assert await output(rig, brain, "ulimit -Sn", nice=1) == "300\n"


@needs_root
async def test_a_process_of_another_user_has_no_way_back() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        before = keeper_itself(rig.pid)
        shown = "grep -E '^(Uid|Gid|Groups|NoNewPrivs)' /proc/$$/status"
        lines = (await output(rig, brain, shown, user=NOBODYS)).splitlines()
        assert [line.split() for line in lines] == [
            ["Uid:", *["65534"] * 4],
            ["Gid:", *["65534"] * 4],
            ["Groups:", "100", "101"],
            ["NoNewPrivs:", "1"],
        ]
        assert keeper_itself(rig.pid) == before


@needs_root
async def test_a_process_of_another_user_can_open_its_own_outputs() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        script = "echo out >/dev/stdout; echo err >/dev/stderr"
        assert await output(rig, brain, script, user=NOBODYS) == "out\n"


@needs_root
async def test_a_process_of_another_user_dies_with_its_keeper() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        rig.spawn(brain, "a:1", "sleep", "1000", options={"user": NOBODYS})
        pid = (await brain.event("Started", "a:1"))["pid"]
        os.kill(brain.pid, signal.SIGSTOP)  # nobody else does it
        rig.keeper.kill()
        await gone(pid)
        os.kill(brain.pid, signal.SIGKILL)


@needs_root
async def test_the_working_directory_is_entered_as_the_user() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        secret = rig.directory / "secret"
        secret.mkdir(mode=0o700)
        reason = await failure(rig, brain, "sleep", "1", cwd=str(secret), user=NOBODYS)
        assert reason == f"permission denied: working directory {secret}"


async def test_a_careful_start_that_fails_says_why_as_a_fast_one_does() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        here = str(rig.directory)
        (rig.directory / "plain").write_text("x")
        bad = rig.directory / "bad"
        bad.write_text("#!/no/such/interpreter\n")
        bad.chmod(0o755)
        stories: list[tuple[tuple[str, ...], str]] = [
            (("no-such-program",), "/"),
            (("./no-such",), here),
            (("sleep", "1"), "/no/where"),
            (("./plain",), here),
            ((here,), "/"),
            (("./bad",), here),
            (("sleep", "1\0"), "/"),
            (("sleep", "x" * 200_000), "/"),
        ]
        for argv, cwd in stories:
            fast = await failure(rig, brain, *argv, cwd=cwd)
            assert await failure(rig, brain, *argv, cwd=cwd, nice=1) == fast
        assert len(os.listdir(inside(rig.pid) / "fd")) < 16  # nothing left open


async def test_a_script_without_an_interpreter_line_runs_in_sh_after_a_careful_start() -> None:
    async with keeper_rig() as rig:
        script = rig.directory / "run"
        script.write_text('echo "$1"\n')
        script.chmod(0o755)
        brain = await rig.brain()
        rig.spawn(brain, "a:1", str(script), "x y", options={"nice": 1})
        assert await brain.text("a:1") == "x y\n"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"user": {"uid": 1, "gid": 1, "name": "daemon"}}, "run as user daemon: it is not root"),
        ({"user": {"uid": 65534, "gid": 4}}, "this agent cannot run as user 65534: it is not root"),
        ({"nice": -5}, "cannot set nice to -5: not permitted"),
        ({"rlimits": {"nofile": [100_000, 100_000]}}, "cannot raise limit nofile to 100000: not"),
        ({"rlimits": {"nofile": [9, 5]}}, "cannot set limit nofile to 5: "),
        ({"rlimits": {"wings": [1, 1]}}, "cannot set limit wings: there is none of this name"),
    ],
)
@needs_root
async def test_what_an_agent_may_not_do_is_said(options: dict[str, Any], reason: str) -> None:
    async with keeper_rig((*NOBODY, "prlimit", "--nofile=4096:4096")) as rig:
        brain = await rig.brain()
        assert reason in await failure(rig, brain, "sleep", "1", **options)


@needs_root
async def test_an_agent_that_is_the_user_already_needs_no_rights() -> None:
    async with keeper_rig(NOBODY) as rig:
        brain = await rig.brain()
        user = {"uid": 65534, "gid": 65534, "groups": []}
        assert await output(rig, brain, "id -u", user=user) == "65534\n"


async def test_what_a_process_says_while_no_brain_is_there_reaches_the_next() -> None:
    async with keeper_rig() as rig:
        first = await rig.brain()
        script = 'echo "$NOTIFY_SOCKET"; exec sleep 1000'
        rig.spawn(first, "a:1", "sh", "-c", script, options={"notify": True})
        started = await first.event("Started", "a:1")
        assert started["notify_fd"] >= 0
        await first.until(lambda: first.output["a:1", "stdout"].endswith(b"\n"))
        name = first.output["a:1", "stdout"].decode().rstrip("\n")
        assert name.startswith("@formation/")
        os.kill(first.pid, signal.SIGKILL)
        await gone(first.pid)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"READY=1", f"\0{name[1:]}")
        second = await rig.brain()
        notified = await second.event("Notified", "a:1")
        assert (notified["data"], notified["sender"]) == ("READY=1", os.getpid())


async def test_without_notify_there_is_no_socket() -> None:
    async with keeper_rig() as rig:
        brain = await rig.brain()
        rig.spawn(brain, "a:1", "sh", "-c", 'echo "[$NOTIFY_SOCKET]"')
        assert (await brain.event("Started", "a:1"))["notify_fd"] == -1
        assert await brain.text("a:1") == "[]\n"


async def test_probes_are_ended_with_the_brain_that_asked_for_them() -> None:
    async with keeper_rig() as rig:
        first = await rig.brain()
        rig.spawn(first, "probe:1", "sleep", "1000")
        rig.spawn(first, "a:1", "sleep", "1000")
        probe = (await first.event("Started", "probe:1"))["pid"]
        await first.event("Started", "a:1")
        os.kill(first.pid, signal.SIGKILL)
        second = await rig.brain()
        assert set(second.children) == {"a:1"}
        await gone(probe)
        rig.spawn(second, "b:1", "true")
        await second.event("Exited", "b:1")
        assert not [event for event in second.events if event.get("key") == "probe:1"]
        os.kill(second.pid, signal.SIGKILL)
        assert set((await rig.brain()).children) == {"a:1", "b:1"}
