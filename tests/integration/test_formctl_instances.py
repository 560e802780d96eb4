"""The real formctl program against an in-process coordinator: one instance, and how it fares."""

from __future__ import annotations

import json
import re

import pytest
from fake_control import FakeControl, log_line
from formctl_program import Formctl

from formation.v1 import control_pb2, types_pb2


async def test_a_wait_that_is_in_vain_shows_how_the_output_of_what_fails_ends(
    formctl: Formctl, fake: FakeControl
) -> None:
    fake.crashing = {"web": "exit 1 after 3 s"}
    fake.history = [log_line("web.1", f"line {n}".encode(), n) for n in range(1, 31)]
    fake.history += [log_line("worker.1", b"not this", 31), log_line("web.1", b"\x1b[2Jlast", 32)]
    done = await formctl("apply", "--timeout", "0.5")
    assert done.code == 1
    lines = done.err.splitlines()
    assert lines[2] == "  the last output of web.1:"
    assert [line[:4] for line in lines[3:]] == ["    "] * 20
    assert lines[3].endswith(" line 12")
    assert lines[-1].endswith(" \\x1b[2Jlast")


async def test_a_wait_for_what_has_failed_for_good_ends_at_once(
    formctl: Formctl, fake: FakeControl
) -> None:
    fake.ending = {"web": "exit 3"}
    done = await formctl("apply")
    assert done.code == 1
    assert "web.1 failed on b: exit 3 after 2 s" in done.out
    assert done.err.splitlines() == [
        "formctl: not done; what has failed is not started again by itself, but by formctl retry:",
        "  web.1 failed on b: exit 3 after 2 s",
        "  web.1 has printed nothing",
    ]


async def test_what_has_finished_its_work_is_as_wanted(formctl: Formctl, fake: FakeControl) -> None:
    fake.ending = {"web": "exit 0"}
    done = await formctl("apply")
    assert done.code == 0
    assert re.fullmatch(r"web\.1 finished on b \d+\.\ds", done.out.splitlines()[-2])
    assert done.out.splitlines()[-1].startswith("web=1 worker=0: 1 finished in ")


async def test_a_retry_waits_for_the_try_and_leaves_alone_what_runs(
    formctl: Formctl, fake: FakeControl
) -> None:
    fake.crashing = {"web": "exit 1 after 3 s"}
    await formctl("apply", "-m", "web=2,worker=1", "--no-wait")
    fake.crashing = {}
    done = await formctl("retry", "web.2")
    assert done.code == 0
    first, second, third = done.out.splitlines()
    assert first == "retrying web.2"
    assert second.startswith("web.2 healthy on a (port 20002) ")
    assert third.startswith("web.2: 1 healthy in ")
    asked = fake.requests[-1]
    assert isinstance(asked, control_pb2.RetryRequest)
    assert (asked.app, asked.type, asked.ordinal) == ("shop", "web", 2)
    assert "@" in asked.who
    done = await formctl("retry", "web.2", "web", "web")
    assert done.code == 1
    assert done.out.splitlines()[0] == "retrying web.1"
    assert done.err == "formctl: web.2 is healthy: nothing to retry\n"
    done = await formctl("retry")
    assert (done.code, done.out) == (1, "")
    done = await formctl("retry", "nope")
    assert (done.code, done.err) == (2, "formctl: no process type nope: there is web, worker\n")


async def test_a_retry_that_fails_says_so_at_once_with_the_last_output(
    formctl: Formctl, fake: FakeControl
) -> None:
    fake.crashing = {"web": "exit 1 after 3 s"}
    await formctl("apply", "--no-wait")
    fake.history = [log_line("web.1", b"no database", 1)]
    done = await formctl("retry", "web.1")
    assert done.code == 1
    assert done.out.splitlines()[1].startswith("web.1 failing on b: exit 1 after 3 s, retry in ")
    lines = done.err.splitlines()
    assert lines[0] == "formctl: the retry has failed:"
    assert lines[-1].endswith(" no database")


async def test_a_retry_answers_programs_with_the_instances(
    formctl: Formctl, fake: FakeControl
) -> None:
    fake.ending = {"web": "exit 3"}
    await formctl("apply", "-m", "web=2", "--no-wait")
    done = await formctl("retry", "web.1", "-o", "json")
    assert done.code == 1
    (failed,) = json.loads(done.out)
    assert (failed["ordinal"], failed["state"], failed["restarts"]) == (1, "failed", 1)
    fake.ending = {}
    done = await formctl("retry", "-o", "json")
    assert [item["state"] for item in json.loads(done.out)] == ["healthy", "healthy"]


async def test_one_instance_is_shown_with_settings_usage_and_its_last_lines(
    formctl: Formctl, fake: FakeControl
) -> None:
    formctl.write(
        "formation.toml",
        "[types.web]\ncommand = './web'\nready.http = '/up'\nlimits.memory = '64MiB'\n",
    )
    await formctl("apply", "-m", "web=2")
    fake.usage = {"u2": types_pb2.InstanceUsage(uid="u2", memory_bytes=2**20, processes=2)}
    fake.history = [log_line("web.2", f"line {n}".encode(), n) for n in range(1, 31)]
    done = await formctl("show", "web.2", "-n", "3")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "shop/web.2"
    assert "  state      healthy" in lines
    assert "  ready      http /up every 5 s, timeout 1 s, 3 failures, grace 30 s" in lines
    assert "  limits     memory 64 MiB" in lines
    assert any(line.startswith("  usage      cpu 0.0%") for line in lines)
    assert lines[-4] == "  its last 3 lines:"
    assert [line.split()[-1] for line in lines[-3:]] == ["28", "29", "30"]
    shown = (await formctl("show", "web.2", "-o", "json")).json()
    assert isinstance(shown, dict)
    assert shown["settings"]["limits"]["memory_bytes"] == 64 * 2**20
    assert shown["usage"]["processes"] == 2
    assert len(shown["lines"]) == 20


async def test_what_is_placed_nowhere_is_shown_with_the_reason(
    formctl: Formctl, fake: FakeControl
) -> None:
    fake.room = 1
    await formctl("apply", "-m", "web=2", "--no-wait")
    done = await formctl("show", "web.2")
    assert done.code == 0
    assert "  reason     no host has room: a 1/1, b 1/1" in done.out.splitlines()
    assert done.out.splitlines()[-1] == "  no output is kept"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("web", "'web' is no instance; name one as in web.1"),
        ("web.9", "there is no web.9 in web=1 worker=0"),
        ("nope.1", "no process type nope: there is web, worker"),
        ("web.x", "'web.x' is neither a type (web) nor an instance (web.3)"),
    ],
)
async def test_an_instance_that_does_not_exist_cannot_be_shown(
    formctl: Formctl, word: str, said: str
) -> None:
    await formctl("apply")
    done = await formctl("show", word)
    assert (done.code, done.out, done.err) == (2, "", f"formctl: {said}\n")


async def test_usage_is_listed_and_who_could_not_be_asked_is_named(
    formctl: Formctl, fake: FakeControl
) -> None:
    await formctl("apply", "-m", "web=2")
    fake.usage = {"u1": types_pb2.InstanceUsage(uid="u1", cpu_share=0.5, processes=1, files=7)}
    fake.notices = ["host a: no answer"]
    done = await formctl("ps", "--usage")
    assert done.err == "formctl: host a: no answer\n"
    header, first, second = done.out.splitlines()
    assert header.split() == [
        "INSTANCE", "STATE", "HOST", "CPU", "MEMORY", "PROCS", "FILES", "LOG", "NOTE",
    ]  # fmt: skip
    assert first.split()[3] == "50%"
    assert second.split()[3:] == ["-"] * 5
    one, other = json.loads((await formctl("ps", "--usage", "-o", "json")).out)
    assert one["usage"]["files"] == 7
    assert other["usage"] is None


async def test_usage_is_asked_for_again_while_one_watches(
    formctl: Formctl, fake: FakeControl
) -> None:
    await formctl("apply")
    fake.usage = {"u1": types_pb2.InstanceUsage(uid="u1", processes=1)}
    async with formctl.running("ps", "--watch", "--usage", "-o", "json") as running:
        (first,) = json.loads(await running.line())
        assert first["usage"]["processes"] == 1
        fake.usage = {"u1": types_pb2.InstanceUsage(uid="u1", processes=2)}
        (again,) = json.loads(await running.line())
        assert again["usage"]["processes"] == 2


async def test_hosts_say_what_they_cannot_enforce_and_why_beside_the_table(
    formctl: Formctl, fake: FakeControl
) -> None:
    for name in fake.hosts:
        fake.host_status[name] = types_pb2.HostStatus(
            host=name, agent_version="1", abilities=["user"], inability="limits: no controllers"
        )
    done = await formctl("hosts")
    assert [line.split()[6] for line in done.out.splitlines()] == ["ENFORCES", "user", "user"]
    assert done.err == "a, b: limits: no controllers\n"
    assert "VIA" in (await formctl("hosts", "-o", "wide")).out
