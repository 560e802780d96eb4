"""How execs end, whoever dies, and that nothing is left behind; and formctl attach."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc.aio
import psutil
import pytest
from cluster import BIN, Cluster
from etcd_server import EtcdServer, available_etcds
from exec_rig import (
    FAMILY,
    all_gone,
    begun,
    environ,
    execs_in_history,
    execute,
    family,
    pids_of,
    started,
    terminal,
)
from leftovers import alive

from formation.execflow import GRACE_S
from formation.runtime import client_channel_options
from formation.v1 import control_pb2 as pb
from formation.v1 import control_pb2_grpc, exec_pb2

if TYPE_CHECKING:
    from formation.v1.control_pb2_grpc import ControlAsyncStub

MANY = int(os.environ.get("FORMATION_EXECS", "200"))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        yield started(made)


@pytest.fixture(scope="module")
def steady() -> Iterator[Cluster]:
    """Shared by the tests that leave everything as it was."""
    with Cluster() as made:
        yield started(made)


# -- who dies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_formctl_that_ends_takes_all_of_it_along(steady: Cluster, how: signal.Signals) -> None:
    number = f"1{how.value}"
    process = begun(steady, "web.1", "--", FAMILY.format(n=number))
    assert process.stdout is not None
    assert process.stdout.readline() == b"began\n"
    left = family(steady, number)
    process.send_signal(how)
    process.communicate(timeout=60)
    all_gone(steady, left)
    steady.wait(lambda: "its asker has gone" in execs_in_history(steady)[0]["to"])


def test_what_a_command_leaves_behind_ends_with_it(steady: Cluster) -> None:
    line = "nohup sleep 733 >/dev/null 2>&1 & (setsid nohup sleep 733 >/dev/null 2>&1 &); exit 2"
    execute(steady, "web.1", "--", line, code=2)
    all_gone(steady, pids_of(steady, "sleep 733"))


def test_it_ends_when_its_instance_is_stopped_and_does_not_hold_that_up(cluster: Cluster) -> None:
    with terminal(cluster, "web.1", "--", FAMILY.format(n="21")) as here:
        here.wait_for("began")
        left = family(cluster, "21")
        cluster.formctl("restart", "web.1", "--timeout", str(10 * GRACE_S))
        here.wait_for("its instance ends")
        assert here.exit_code() == 137
        assert here.is_as_before
        all_gone(cluster, left)
    assert cluster.healthy()["web.1"]


def test_a_coordinator_that_is_killed_ends_it_and_the_terminal_is_as_before(
    cluster: Cluster,
) -> None:
    with terminal(cluster, "web.1", "--", FAMILY.format(n="31")) as here:
        here.wait_for("began")
        left = family(cluster, "31")
        pid = cluster.healthy()["web.1"]["pid"]
        cluster.kill("c1")
        here.wait_for("lost; what ran there ends")
        assert here.exit_code() == 3
        assert here.is_as_before
        all_gone(cluster, left)
    assert alive(pid)


def test_a_brain_that_is_killed_ends_it_and_nothing_else(cluster: Cluster) -> None:
    with terminal(cluster, "web.1", "--", FAMILY.format(n="41")) as here:
        here.wait_for("began")
        left = family(cluster, "41")
        pid = cluster.healthy()["web.1"]["pid"]
        os.kill(cluster.brain_of("a"), signal.SIGKILL)
        here.wait_for("the connection to the agent of host a has broken")
        assert here.exit_code() == 1
        assert here.is_as_before
        all_gone(cluster, left)
    cluster.wait_hosts(1)
    assert cluster.healthy()["web.1"]["pid"] == pid
    cluster.wait(lambda: execute(cluster, "web.1", "--", "echo again").stdout == b"again\n")


def test_a_killed_agent_leaves_none(cluster: Cluster) -> None:
    process = begun(cluster, "web.1", "--", FAMILY.format(n="51"))
    assert process.stdout is not None
    assert process.stdout.readline() == b"began\n"
    left = family(cluster, "51")
    cluster.kill("a")
    _, said = process.communicate(timeout=60)
    assert b"the connection to the agent of host a has broken" in said
    assert process.returncode == 1
    all_gone(cluster, left)


@pytest.mark.parametrize("hangs", ["formctl", "coordinator", "brain"])
def test_who_says_nothing_any_more_is_taken_for_gone_by_both_sides(
    cluster: Cluster, hangs: str
) -> None:
    number = f"6{len(hangs)}"
    with terminal(cluster, "web.1", "--", FAMILY.format(n=number)) as here:
        here.wait_for("began")
        left = family(cluster, number)
        programs = {
            "formctl": here.process.pid,
            "coordinator": cluster.programs["c1"].pid,
            "brain": cluster.brain_of("a"),
        }
        os.kill(programs[hangs], signal.SIGSTOP)
        try:
            if hangs != "brain":  # which is who would end them
                all_gone(cluster, left)
            if hangs != "formctl":
                assert here.exit_code() in (1, 3)
        finally:
            os.kill(programs[hangs], signal.SIGCONT)
        assert here.exit_code() in (1, 3)
        assert here.is_as_before
        all_gone(cluster, left)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look into our programs")
def test_many_execs_in_a_row_leave_no_descriptor_behind(steady: Cluster) -> None:
    programs = [steady.programs["c1"].pid, steady.programs["a"].pid, steady.brain_of("a")]

    def descriptors() -> list[int]:
        return [psutil.Process(pid).num_fds() for pid in programs]

    asyncio.run(many(steady.coordinators["c1"], 10))
    before = steady.wait(descriptors)
    asyncio.run(many(steady.coordinators["c1"], MANY))
    steady.wait(lambda: all(now <= then for now, then in zip(descriptors(), before, strict=True)))


async def many(address: str, count: int) -> None:
    """Eight at a time, with pipes and with terminals."""
    async with grpc.aio.insecure_channel(address, client_channel_options()) as channel:
        stub: ControlAsyncStub = control_pb2_grpc.ControlStub(channel)
        numbers = iter(range(count))

        async def some() -> None:
            for number in numbers:
                await one(stub, number)

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(some())


async def one(stub: ControlAsyncStub, number: int) -> None:
    size = exec_pb2.ExecTerminal(name="xterm", size=exec_pb2.ExecSize(rows=24, columns=80))
    request = pb.StartExecRequest(
        app="shop",
        type="web",
        command=f"exit {number % 100}",
        terminal=size if number % 2 else None,
        who="many",
    )
    answer = await stub.StartExec(request)
    call = stub.Exec()
    await call.write(exec_pb2.ExecInput(ticket=answer.ticket))
    while isinstance(message := await call.read(), exec_pb2.ExecOutput):
        if message.WhichOneof("message") == "ended":
            assert (message.ended.code, message.ended.why) == (number % 100, "")
            await call.done_writing()


def test_the_machines_owner_may_forbid_it() -> None:
    with Cluster() as made:
        started(made, "--no-exec")
        done = execute(made, "web.1", "--", "true", code=1)
        assert done.stderr == (
            b"formctl: this machine's owner forbids it (formation-agent --no-exec)\n"
        )
        made.wait(lambda: "--no-exec" in execs_in_history(made)[0]["to"])


def test_a_host_that_is_silent_is_one_line(cluster: Cluster) -> None:
    cluster.programs["a"].send_signal(signal.SIGSTOP)
    os.kill(cluster.brain_of("a"), signal.SIGSTOP)
    try:
        done = execute(cluster, "web.1", "--", "true", code=1)
    finally:
        os.kill(cluster.brain_of("a"), signal.SIGCONT)
        cluster.programs["a"].send_signal(signal.SIGCONT)
    said = done.stderr.decode()
    assert len(said.splitlines()) == 1
    assert "host a" in said


def test_any_coordinator_will_do_and_when_one_on_the_way_dies_it_ends() -> None:
    with EtcdServer(available_etcds()[0]) as server, Cluster(etcd=server.endpoint) as made:
        started(made)  # the agent is held by c1
        held = made.coordinators["c1"]
        made.start_coordinator("c2")
        made.coordinators = {"c2": made.coordinators["c2"]}
        made.wait(lambda: made.healthy().get("web.1"))
        data = os.urandom(2_000_000)
        assert execute(made, "web.1", "--", "cat; exit 0", stdin=data).stdout == data
        execute(made, "web.1", "--", "exit 8", code=8)
        with terminal(made, "web.1", "--", FAMILY.format(n="81")) as here:
            here.wait_for("began")
            left = family(made, "81")
            made.kill("c1")
            here.wait_for("what ran there ends")
            assert here.exit_code() == 1
            assert here.is_as_before
            all_gone(made, left)
        made.coordinators = {"c1": held, **made.coordinators}


# -- attach --------------------------------------------------------------------------------------


def test_attach_follows_one_process_and_ends_as_it_does(cluster: Cluster) -> None:
    line = "sh -c 'echo early; read x < go || true; echo out; echo err >&2; sleep 1; exit 6'"
    go = cluster.directory / "go"
    os.mkfifo(go)
    (cluster.directory / "shop" / "formation.toml").write_text(
        f'app = "talk"\nworkdir = "{cluster.directory}"\n[types.talk]\nrestart = "never"\n'
        f'quantity = 1\ncommand = "{line}"\n'
    )
    cluster.directory.chmod(0o755)
    cluster.formctl("apply", "shop", "--no-wait")
    cluster.wait(lambda: cluster.json("ps", "--app", "talk")[0]["state"] == "healthy")
    with subprocess.Popen(
        [str(BIN / "formctl"), "--app", "talk", "attach", "talk.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cluster.directory,
        env={**environ(cluster), "PYTHONUNBUFFERED": "1"},
    ) as attached:
        assert attached.stderr is not None
        assert attached.stderr.readline().startswith(b"formctl: following ")
        go.write_text("\n")
        out, err = attached.communicate(timeout=60)
    assert out == b"out\n"
    assert err == b"err\nformctl: talk.1 exited with code 6\n"
    assert attached.returncode == 6

    done = cluster.formctl("--app", "talk", "attach", "talk.1", check=False)
    assert done.returncode == 1
    assert "talk.1 does not run now, it is failed" in done.stderr
    assert cluster.formctl("--app", "talk", "attach", "talk.9", check=False).returncode == 2


def test_attach_ends_when_the_process_is_another_one(cluster: Cluster) -> None:
    with subprocess.Popen(
        [str(BIN / "formctl"), "attach", "web.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cluster.directory,
        env=environ(cluster),
    ) as attached:
        assert attached.stderr is not None
        assert attached.stderr.readline().startswith(b"formctl: following ")
        os.kill(cluster.healthy()["web.1"]["pid"], signal.SIGKILL)
        _, err = attached.communicate(timeout=60)
    assert attached.returncode == 137
    assert err.endswith(b"formctl: web.1 killed by signal KILL\n")
