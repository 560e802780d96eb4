"""The real formctl program against an in-process coordinator: what it asks, prints, exits with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest
from eventually import eventually
from fake_control import FakeControl, log_line
from formctl_program import DEADLINE_S, Formctl, finished

from formation.v1 import control_pb2, types_pb2


async def test_an_app_is_applied_scaled_and_listed(formctl: Formctl, fake: FakeControl) -> None:
    done = await formctl("apply")
    assert done.code == 0
    assert done.out.splitlines()[:4] == [
        "shop v1",
        "  types: web worker",
        "  formation: web=1 worker=0",
        "web.1 healthy on b (port 20001) 0.0s",
    ]
    done = await formctl("scale", "web=3", "worker+1")
    assert done.code == 0
    *lines, last = done.out.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["web.2", "web.3", "worker.1"]
    assert last.startswith("web=3 worker=1: 4 healthy in ")
    assert (await formctl("scale")).out == "web=3 worker=1\n"
    listed = (await formctl("ps", "-o", "json")).json()
    assert isinstance(listed, list)
    assert [f"{item['type']}.{item['ordinal']}" for item in listed] == [
        "web.1",
        "web.2",
        "web.3",
        "worker.1",
    ]
    assert "web.3     healthy" in (await formctl("ps")).out


async def test_apply_tells_names_of_the_environment_and_never_values(
    formctl: Formctl, fake: FakeControl
) -> None:
    formctl.write(".env", "SECRET=hunter2\nPORT=1\n")
    done = await formctl("apply", "-m", "web=2", "--reason", "first")
    assert "env: PORT SECRET" in done.out
    assert "warning: .env: PORT is set by Formation" in done.err
    (request,) = fake.requests
    assert isinstance(request, control_pb2.ApplyRequest)
    assert dict(request.env) == {"SECRET": "hunter2", "PORT": "1"}
    assert request.workdir == str(formctl.project)
    assert dict(request.formation) == {"web": 2}
    formctl.write(".env", "SECRET=other\nPORT=1\n")
    again = await formctl("apply", "-m", "web=5")
    assert "only values of the environment changed" in again.out
    assert "web stays 2" in again.err
    assert "unchanged" in (await formctl("apply")).out
    everything = [done, again, await formctl("releases", "-o", "json"), await formctl("releases")]
    assert all("hunter2" not in item.out + item.err for item in everything)


async def test_a_procfile_may_come_from_standard_input(formctl: Formctl, fake: FakeControl) -> None:
    done = await formctl("apply", "-f", "-", "--no-wait")
    assert done.code == 2
    assert "standard input: no processes defined" in done.err
    assert fake.requests == []


async def test_lines_appear_as_instances_become_healthy(
    formctl: Formctl, fake: FakeControl
) -> None:
    await formctl("apply")
    fake.hold = True
    async with formctl.running("scale", "web=2") as running:
        await eventually(lambda: len(fake.instances) == 2)
        fake.release_held()
        assert (await running.line()).startswith("web.2 healthy on a (port 20002) ")
        done = await running.end()
    assert done.code == 0
    assert done.out.startswith("web=2: 2 healthy in ")


async def test_a_scale_down_is_over_when_the_last_one_has_stopped(
    formctl: Formctl, fake: FakeControl
) -> None:
    await formctl("apply", "-m", "web=3")
    fake.hold = True
    async with formctl.running("scale", "web=1") as running:
        await eventually(lambda: sum(view.surplus for view in fake.instances.values()) == 2)
        fake.release_held()
        assert {await running.line(), await running.line()} == {
            "web.2 stopped on a",
            "web.3 stopped on b",
        }
        assert (await running.end()).out.startswith("web=1: 1 healthy in ")


async def test_without_waiting_it_says_only_what_is_wanted_now(
    formctl: Formctl, fake: FakeControl
) -> None:
    await formctl("apply")
    fake.hold = True
    done = await formctl("scale", "web=9", "--no-wait")
    assert (done.code, done.out) == (0, "web=9 worker=0\n")


async def test_a_failing_instance_is_named_with_its_reason_and_the_timeout_says_what_is_missing(
    formctl: Formctl, fake: FakeControl
) -> None:
    fake.crashing = {"web": "exit 1 after 3 s"}
    done = await formctl("apply", "--timeout", "0.5")
    assert done.code == 1
    assert "web.1 failing on b: exit 1 after 3 s, retry in " in done.out
    first, second, third = done.err.splitlines()
    assert third == "  web.1 has printed nothing"
    assert first == "formctl: not done after 0.5 s; the change stays and may still arrive:"
    assert second.startswith("  web.1 backoff on b: exit 1 after 3 s, retry in ")
    assert "backoff" in (await formctl("ps")).out


async def test_what_cannot_be_placed_gives_the_reason(formctl: Formctl, fake: FakeControl) -> None:
    fake.room, fake.note = 1, "2 wait for room"
    done = await formctl("apply", "-m", "web=3", "--timeout", "0.5")
    assert done.code == 1
    assert done.out.splitlines()[-3:] == [
        "web.1 healthy on b (port 20001) 0.0s",
        "web.2 waits for a place: no host has room: a 1/1, b 1/1",
        "2 wait for room",
    ]


async def test_what_cannot_be_placed_gives_its_reason_once_also_in_the_list(
    formctl: Formctl, fake: FakeControl
) -> None:
    fake.room, fake.note = 1, "no host has room: a 1/1, b 1/1"
    done = await formctl("apply", "-m", "web=3", "--timeout", "0.5")
    assert done.out.count("no host has room") == 1
    assert done.err.splitlines()[-1] == "  web.3 pending: no host has room: a 1/1, b 1/1"
    assert (await formctl("ps")).out.count("no host has room") == 2  # web.2 and web.3
    fake.note = "a is silent"
    assert (await formctl("ps")).out.splitlines()[-1] == "a is silent"


async def test_an_interrupted_wait_says_that_the_change_stays(
    formctl: Formctl, fake: FakeControl
) -> None:
    await formctl("apply")
    fake.crashing = {"web": "boom"}
    async with formctl.running("scale", "web=2") as running:
        assert (await running.line()).startswith("web.2 failing")
        running.process.send_signal(signal.SIGINT)
        done = await running.end()
    assert done.code == 130
    assert done.err == "interrupted: the change itself stays, only the waiting has ended\n"


async def test_bad_words_change_nothing(formctl: Formctl, fake: FakeControl) -> None:
    await formctl("apply")
    fake.requests.clear()
    done = await formctl("scale", "web=2", "nope", "worker=x")
    assert done.code == 2
    assert "'nope'" in done.err
    assert "'worker=x'" in done.err
    assert fake.requests == []
    done = await formctl("scale", "wbe=2")
    assert (done.code, done.err) == (2, "formctl: no process type wbe: there is web, worker\n")


async def test_restarts_wait_for_the_new_ones(formctl: Formctl, fake: FakeControl) -> None:
    await formctl("apply", "-m", "web=2")
    done = await formctl("restart", "web.2")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "restarting web.2"
    assert lines[1] == "web.2 stopped on a"
    assert lines[2].startswith("web.2 healthy on ")
    assert lines[3].startswith("web.2: 1 healthy in ")
    assert (await formctl("restart")).out.splitlines()[0] == "restarting web.1 web.2"
    assert (await formctl("restart", "nope")).code == 2


async def test_a_deletion_asks_and_waits_until_all_is_gone(
    formctl: Formctl, fake: FakeControl
) -> None:
    await formctl("apply")
    done = await formctl("delete", "shop")
    assert done.code == 2
    assert "--yes" in done.err
    done = await formctl("delete", "shop", "--yes")
    assert done.code == 0
    assert done.out.startswith("shop deleted\nweb.1 stopped on b\nshop: none left in ")
    assert fake.apps == {}
    for words in (("delete", "shop", "--yes"), ("delete", "shop")):
        done = await formctl(*words)
        assert done.code == 2
        assert done.err == "formctl: no app shop; there is none; add one with: formctl apply\n"


@pytest.mark.parametrize("command", ["ps", "scale", "restart", "retry", "releases", "logs"])
async def test_every_command_says_in_the_same_words_that_there_is_no_such_app(
    formctl: Formctl, command: str
) -> None:
    await formctl("apply")
    done = await formctl(command, "--app", "nope")
    assert (done.code, done.out) == (2, "")
    assert done.err == "formctl: no app nope; there is shop\n"


async def test_a_project_in_another_directory_is_applied_by_its_path(
    formctl: Formctl, fake: FakeControl
) -> None:
    other = formctl.project / "api"
    other.mkdir()
    (other / "Procfile").write_text("api: ./api\n")
    (other / ".env").write_text("A=1\n")
    assert (await formctl("apply", "api", "-m", "api=1")).out.startswith("api v1\n")
    (request,) = fake.requests
    assert isinstance(request, control_pb2.ApplyRequest)
    assert (request.app, request.workdir, dict(request.env)) == ("api", str(other), {"A": "1"})
    assert (await formctl("apply", "nowhere")).code == 2


async def test_hosts_apps_audit_and_version_are_read(formctl: Formctl, fake: FakeControl) -> None:
    await formctl("apply")
    fake.audit = [types_pb2.AuditRecord(at_ms=1, who="me", action="apply", subject="shop")] * 3
    hosts = (await formctl("hosts", "-o", "json")).json()
    assert isinstance(hosts, list)
    assert [host["host"] for host in hosts] == ["a", "b"]
    apps = (await formctl("apps", "-o", "json")).json()
    assert isinstance(apps, list)
    assert apps[0]["formation"] == {"web": 1, "worker": 0}
    audit = (await formctl("history", "-n", "2", "-o", "json")).json()
    assert isinstance(audit, list)
    assert len(audit) == 2
    version = (await formctl("version", "-o", "json")).json()
    assert isinstance(version, dict)
    assert version["coordinator"]["cluster"] == "c1"
    for command in ("hosts", "apps", "history", "version"):
        assert (await formctl(command)).code == 0


async def test_a_host_is_forgotten_unless_it_is_connected(
    formctl: Formctl, fake: FakeControl
) -> None:
    assert (await formctl("hosts", "forget", "old")).code == 0
    assert fake.forgotten == ["old"]
    done = await formctl("hosts", "forget", "a")
    assert (done.code, done.err) == (1, "formctl: host a is connected\n")


async def test_the_app_is_found_without_being_named_or_all_are_listed(
    formctl: Formctl, fake: FakeControl, tmp_path: Path
) -> None:
    assert "this cluster has no apps" in (await formctl("ps")).err
    await formctl("apply", "--app", "one")
    assert (await formctl("scale")).out == "web=1 worker=0\n"
    await formctl("apply", "--app", "two")
    done = await formctl("scale")
    assert (done.code, done.err) == (
        2,
        "formctl: which app? give --app NAME; there is one, two\n",
    )
    assert (await formctl("scale", FORMATION_APP="two")).code == 0
    assert (await formctl("--app", "one", "scale")).code == 0
    assert (await formctl("scale", "--app", "nope")).code == 2
    await formctl("apply", "-m", "web=2")  # named like the directory
    assert (await formctl("scale")).out == "web=2 worker=0\n"
    formctl.write("formation.toml", 'app = "two"\n[types.web]\ncommand = "x"\n')
    assert (await formctl("scale", "-o", "json")).json() == {
        "app": "two",
        "formation": {"web": 1, "worker": 0},
    }


@pytest.mark.parametrize("address", ["127.0.0.1:1", "unix:/nowhere.sock", "localhost:1,[::1]:1"])
async def test_no_coordinator_is_one_line_within_seconds_and_exit_code_3(
    formctl: Formctl, address: str
) -> None:
    started_s = asyncio.get_running_loop().time()
    done = await formctl("ps", "--coordinator", address)
    assert asyncio.get_running_loop().time() - started_s < 8
    assert done.code == 3
    assert done.err.count("\n") == 1
    assert all(part in done.err for part in address.split(","))


async def test_the_next_address_is_tried(formctl: Formctl) -> None:
    there = formctl.environ["FORMATION_COORDINATOR"]
    assert (await formctl("apps", "--coordinator", f"127.0.0.1:1,{there}")).code == 0


async def test_an_empty_address_is_a_mistake_and_not_the_usual_one(formctl: Formctl) -> None:
    done = await formctl("apps", "--coordinator", "")
    assert done.code == 2
    assert "--coordinator" in done.err
    done = await formctl("dev", FORMATION_COORDINATOR="", FORMATION_APP="Bad App")
    assert done.code == 2
    assert (await formctl("--coordinator", "a:1", "dev")).code == 2


async def test_a_coordinator_that_is_not_ready_is_passed_over(
    formctl: Formctl, fake: FakeControl
) -> None:
    unready, there = FakeControl(), formctl.environ["FORMATION_COORDINATOR"]
    unready.refusals = ["coordinator two is not ready: no etcd"] * 20
    async with unready.serving() as address:
        both = f"{address},{there}"
        assert (await formctl("apply", "--coordinator", both)).code == 0
        assert (await formctl("scale", "web=2", "--coordinator", both)).code == 0
        assert (await formctl("ps", "--coordinator", both)).out.count("healthy") == 2
        done = await formctl("apps", "--coordinator", address)
    assert (done.code, done.err) == (
        3,
        f"formctl: coordinator {address}: coordinator two is not ready: no etcd\n",
    )
    assert unready.requests == []


async def test_a_wait_goes_on_when_the_coordinator_comes_back(
    formctl: Formctl, fake: FakeControl, home: Path
) -> None:
    address = f"unix:{home}/c.sock"
    async with fake.serving(address):
        await formctl("apply", "--coordinator", address)
        fake.hold = True
        process = await formctl.start("scale", "web=2", "--coordinator", address)
        await eventually(lambda: len(fake.instances) == 2 and fake.watchers)
    fake.release_held()
    async with fake.serving(address):
        done = await finished(process)
    assert done.code == 0
    assert done.out.splitlines()[-1].startswith("web=2: 2 healthy in ")
    assert done.err == f"formctl: connection to coordinator {address} lost; trying again\n"


async def test_ps_watch_shows_every_change(formctl: Formctl, fake: FakeControl) -> None:
    await formctl("apply")
    async with formctl.running("ps", "--watch", "-o", "json") as running:
        (first,) = json.loads(await running.line())
        assert first["state"] == "healthy"
        fake.report("web.1", lambda view: view.MergeFrom(control_pb2.InstanceView(surplus=True)))
        (second,) = json.loads(await running.line())
        assert second["surplus"] is True
        running.process.send_signal(signal.SIGINT)
        assert (await running.end()).code == 130


async def test_logs_of_all_hosts_are_merged_and_cut_to_the_last(
    formctl: Formctl, fake: FakeControl
) -> None:
    await formctl("apply")
    fake.history = [
        log_line("web.1", b"one", 1),
        log_line("web.1", b"three", 3),
        log_line("worker.12", b"two \xff", 2, host="b"),
    ]
    done = await formctl("logs", "--tail", "2")
    assert done.code == 0
    first, second = done.raw.splitlines()
    assert first.endswith(b" worker.12 | two \xff")
    assert second.endswith(b" web.1     | three")
    assert b"\x1b[" not in done.raw
    assert b"\x1b[" in (await formctl("logs", "--color", "always")).raw
    one = (await formctl("logs", "web", "--tail", "all")).out.splitlines()
    assert [line.split(" | ")[1] for line in one] == ["one", "three"]
    shown = (await formctl("logs", "worker.12", "-o", "json")).json()
    assert isinstance(shown, dict)
    assert shown["instance"] == "worker.12"


async def test_logs_are_chosen_by_target_host_time_and_text(
    formctl: Formctl, fake: FakeControl
) -> None:
    await formctl("apply")
    now_s = int(time.time())
    fake.history = [
        log_line("web.1", b"old error", now_s - 3_600),
        log_line("web.1", b"error one", now_s - 500),
        log_line("web.2", b"fine", now_s - 40),
        log_line("web.2", b"error two", now_s - 30, host="b"),
        log_line("worker.1", b"error three", now_s - 20),
    ]

    async def texts(*words: str) -> list[str]:
        done = await formctl("logs", *words)
        assert done.code == 0, done.err
        return [line.split(" | ")[1] for line in done.out.splitlines()]

    assert await texts("--grep", "error", "--since", "10m") == [
        "error one", "error two", "error three",
    ]  # fmt: skip
    assert await texts("web.2", "worker", "-g", "error") == ["error two", "error three"]
    assert await texts("web", "--since", "4m") == ["fine", "error two"]
    assert await texts("--grep", "error", "--tail", "1") == ["error three"]
    asked = [request for request in fake.requests if isinstance(request, control_pb2.LogsRequest)]
    assert [(item.type, item.ordinal) for item in asked[1].choice.targets] == [
        ("web", 2), ("worker", 0),
    ]  # fmt: skip
    assert asked[1].choice.text == "error"
    for words, said in (
        (("--since", "yesterday"), "'yesterday'"),
        (("--since", "-5m"), "--since"),
        (("--host", "nowhere"), "no host nowhere: there is"),
        (("web", "w!b"), "'w!b' is neither a type"),
    ):
        done = await formctl("logs", *words)
        assert (done.code, said in done.err, len(done.err.splitlines())) == (2, True, 1), done.err


async def test_logs_of_what_does_not_exist_are_refused_and_of_what_has_gone_are_shown(
    formctl: Formctl, fake: FakeControl
) -> None:
    formctl.write("Procfile", "web: ./web\nold: ./old\n")
    await formctl("apply")
    formctl.write("Procfile", "web: ./web\n")
    await formctl("apply")
    fake.history = [log_line("old.7", b"kept", 1)]
    for words in (("logs", "nope"), ("logs", "-f", "nope.1")):
        done = await formctl(*words)
        assert (done.code, done.out) == (2, "")
        assert done.err == "formctl: no process type nope: there is web, old\n"
    assert (await formctl("logs", "old.7")).out.endswith(" old.7 | kept\n")
    assert (await formctl("logs", "web.99")).code == 0


async def test_a_line_that_goes_on_says_so_in_json_and_its_bytes_stay_as_they_are_in_a_pipe(
    formctl: Formctl, fake: FakeControl
) -> None:
    await formctl("apply")
    cut = log_line("web.1", b"x" * 65536, 1)
    cut.partial = True
    fake.history = [cut]
    shown = (await formctl("logs", "-o", "json")).json()
    assert isinstance(shown, dict)
    assert shown["partial"] is True
    assert (await formctl("logs")).raw.endswith(b"| " + b"x" * 65536 + b"\n")


async def test_logs_are_followed_live_after_the_history(
    formctl: Formctl, fake: FakeControl
) -> None:
    await formctl("apply")
    fake.history = [log_line("web.1", b"old", 1)]
    async with formctl.running("logs", "-f") as running:
        assert (await running.line()).endswith("| old")
        fake.log(log_line("web.1", b"new", 2))
        assert (await running.line()).endswith("| new")
        running.process.send_signal(signal.SIGINT)
        assert (await running.end()).code == 130
    await eventually(lambda: fake.log_readers == 0)


async def test_a_reader_that_goes_away_is_no_error(formctl: Formctl, fake: FakeControl) -> None:
    await formctl("apply")
    async with formctl.running("logs", "-f") as running:
        await eventually(lambda: fake.log_readers == 1)
        assert running.process.stdout is not None
        transport = running.process._transport  # type: ignore[attr-defined]
        transport.get_pipe_transport(1).close()
        fake.log(log_line("web.1", b"x" * 100_000, 2))
        fake.log(log_line("web.1", b"y", 3))
        assert await asyncio.wait_for(running.process.wait(), DEADLINE_S) == 0


@pytest.mark.parametrize(
    ("procfile", "words", "message"),
    [
        ("", (), "no processes defined"),
        ("web: a\nweb: b\n", (), "defined twice"),
        ("web: a\n+x\n", ("--strict",), "not a process"),
        ("web: a\n", ("-m", "nope=1"), "-m: no process type nope"),
        ("web: a\n", ("-m", "web+1"), "-m: 'web+1' is no quantity here: write web=2"),
        ("web: a\n", ("--app", "Bad App"), "'Bad App' is no app name"),
        ("web: a\n", ("--app", ""), "--app"),
        ("web: a\n", ("--grace", "nan"), "'nan' is no number of seconds"),
        ("web: a\n", ("--grace", "inf"), "inf"),
        ("web: a\n", ("--env", "nope.env"), "nope.env: no such file"),
        ("web: a\n", ("-f", "nope"), "nope: no such file"),
    ],
)
async def test_dev_reports_what_it_cannot_run_before_anything_is_started(
    formctl: Formctl, home: Path, procfile: str, words: tuple[str, ...], message: str
) -> None:
    formctl.write("Procfile", procfile)
    done = await formctl("dev", *words)
    assert done.code == 2
    assert message in done.err
    assert os.listdir(home) == []
