"""Records → text and JSON: what people read, and what programs may rely on."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from formation.model import (
    Ability,
    App,
    AuditRecord,
    Capacity,
    HostState,
    HostStatus,
    InstanceState,
    InstanceStatus,
    ProcessType,
    Release,
    Slot,
    Usage,
)
from formation.releasecommand import Candidate, CommandEnd, ReleaseCommand
from formation.seen import Rollout
from formctl import jsonview, render, renderchange, wording
from formctl.loglines import Line
from formctl.views import AppLine, HostLine, Instance

NOW_MS = 1_700_000_000_000
STATUS = InstanceStatus(
    uid="u1",
    slot=Slot("shop", "web", 1),
    release=3,
    state=InstanceState.HEALTHY,
    pid=42,
    port=20001,
    attempt=3,
    started_at_ms=NOW_MS - 125_000,
)
HEALTHY = Instance(status=STATUS, host="a")
RELEASE = Release(
    app="shop",
    number=2,
    types=(ProcessType(name="web", command="./web"), ProcessType(name="mail", command="./mail")),
    env={"SECRET": "hunter2", "A": ""},
    workdir="/srv",
)
APP = App(name="shop", formation={}, release=2, latest_release=2, stable_release=2)


def row(item: Instance) -> list[str]:
    return render.instances([item], now_ms=NOW_MS).splitlines()[1].split(maxsplit=8)


def test_instances_are_a_table_with_what_people_look_for() -> None:
    text = render.instances([HEALTHY], now_ms=NOW_MS)
    assert text == (
        "INSTANCE  STATE    HOST  PORT   PID  UP    RESTARTS  RELEASE  NOTE\n"
        "web.1     healthy  a     20001  42   2m5s  2         v3"
    )
    assert "shop/web.1" in render.instances([HEALTHY], now_ms=NOW_MS, with_app=True)
    assert render.instances([], now_ms=NOW_MS) == "no instances"


def test_a_backoff_shows_its_reason_and_countdown() -> None:
    status = structs.replace(
        STATUS,
        state=InstanceState.BACKOFF,
        pid=0,
        started_at_ms=0,
        reason="exit 1 after 3 s",
        retry_at_ms=NOW_MS + 6_001,
    )
    found = row(Instance(status=status, host="a"))
    assert found[1] == "backoff"
    assert found[4:6] == ["-", "-"]
    assert found[8] == "exit 1 after 3 s, retry in 7s"


def test_a_crash_loop_shows_as_one_with_its_countdown() -> None:
    status = structs.replace(
        STATUS,
        state=InstanceState.BACKOFF,
        attempt=6,
        reason="exit 1 after 0.1 s (6th time in a row)",
        crash_looping=True,
        retry_at_ms=NOW_MS + 11_500,
    )
    looping = Instance(status=status, host="a")
    assert row(looping)[8] == "crash loop, try 7 in 12s, exit 1 after 0.1 s (6th time in a row)"
    trying = replace(
        looping, status=structs.replace(status, state=InstanceState.STARTING, reason="")
    )
    assert row(trying)[8] == "crash loop"
    assert (
        wording.trouble(replace(looping, status=structs.replace(STATUS, crash_looping=True)), 0)
        == ""
    )


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (InstanceState.UNREADY, "unready"),
        (InstanceState.RESTARTING, "restarting"),
        (InstanceState.FINISHED, "finished"),
        (InstanceState.FAILED, "failed"),
    ],
)
def test_every_state_has_a_word_its_reason_and_a_colour(state: InstanceState, word: str) -> None:
    item = Instance(status=structs.replace(STATUS, state=state, reason="because"), host="a")
    assert (row(item)[1], row(item)[8]) == (word, "because")
    painted = render.instances([item], now_ms=NOW_MS, colour=True)
    assert f"m{word}" in painted
    assert re.sub("\x1b\\[[0-9]*m", "", painted) == render.instances([item], now_ms=NOW_MS)


def test_every_state_can_be_painted() -> None:
    for state in InstanceState:
        item = Instance(status=structs.replace(STATUS, state=state), host="a")
        assert "\x1b[" in render.painted_state(item, "x")


def test_what_a_process_says_of_itself_is_its_note_while_nothing_is_wrong() -> None:
    told = structs.replace(STATUS, told="17 jobs waiting")
    assert row(Instance(status=told, host="a"))[8] == "17 jobs waiting"
    failing = structs.replace(told, state=InstanceState.UNREADY, reason="not ready: HTTP 503")
    assert row(Instance(status=failing, host="a"))[8] == "not ready: HTTP 503"


def test_usage_is_shown_in_place_of_where_to_find_it_and_a_dash_for_what_is_unknown() -> None:
    usage = Usage(
        uid="u1",
        cpu_share=0.125,
        memory_bytes=52 * 2**20,
        processes=3,
        files=-1,
        log_bytes_per_s=1536.0,
    )
    other = replace(HEALTHY, status=structs.replace(STATUS, uid="u2", slot=Slot("shop", "web", 2)))
    shown = render.instances([HEALTHY, other], now_ms=NOW_MS, usage={"u1": usage})
    assert shown.splitlines() == [
        "INSTANCE  STATE    HOST  CPU  MEMORY  PROCS  FILES  LOG        NOTE",
        "web.1     healthy  a     12%  52 MiB  3      -      1.5 KiB/s",
        "web.2     healthy  a     -    -       -      -      -",
    ]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10_240, "10 KiB"), (2**20, "1.0 MiB"),
        (1.5 * 2**30, "1.5 GiB"), (2**50, "1024 TiB"),
    ],
)  # fmt: skip
def test_sizes_are_read_at_a_glance(size: float, text: str) -> None:
    assert wording.amount(size) == text


@pytest.mark.parametrize(
    ("changes", "state", "note"),
    [
        ({"surplus": True}, "leaving", ""),
        ({"host_silent": True}, "host silent", "last seen healthy"),
        ({"current": False}, "healthy", "to be replaced"),
        ({"current": False, "surplus": True}, "leaving", ""),
    ],
)
def test_what_is_not_as_wanted_shows(changes: dict[str, Any], state: str, note: str) -> None:
    item = Instance(status=STATUS, host="a", **changes)
    assert wording.state(item) == state
    assert wording.trouble(item, NOW_MS) == note


def test_text_from_elsewhere_cannot_move_the_cursor() -> None:
    status = structs.replace(STATUS, state=InstanceState.BACKOFF, reason="\x1b[2Jexit\r1")
    assert "\\x1b[2Jexit\\r1" in render.instances(
        [Instance(status=status, host="a")], now_ms=NOW_MS
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (59, "59s"), (60, "1m0s"), (3_725, "1h2m"), (90_000, "1d1h")],
)
def test_ages_have_two_units_at_most(seconds: float, text: str) -> None:
    assert wording.age(seconds) == text


@pytest.mark.parametrize(
    ("last_exit", "text", "code"),
    [
        ("exit 3", "exited with code 3", 3),
        ("exit 0", "exited with code 0", 0),
        ("signal KILL", "killed by signal KILL", 137),
        ("signal SIGTERM", "killed by signal SIGTERM", 143),
        ("signal 35", "killed by signal 35", 163),
        ("signal SEGV (core dumped)", "killed by signal SEGV (core dumped)", 139),
        (
            "out of memory (signal KILL)",
            "ran out of memory and was killed by signal KILL",
            137,
        ),
        ("out of memory (exit 1)", "ran out of memory and exited with code 1", 1),
        ("", "", 127),
    ],
)
def test_ends_read_as_in_a_shell(last_exit: str, text: str, code: int) -> None:
    assert wording.ended(last_exit) == text
    assert wording.exit_code(last_exit) == code


def test_hosts_show_size_labels_and_complaints() -> None:
    status = HostStatus(
        host="a",
        agent_id="x",
        agent_version="0.1.0",
        capacity=Capacity(instances_max=10, cpus=2.0, memory_bytes=8 * 1024**3),
        labels={"zone": "z1", "disk": "ssd"},
        address="10.0.0.1",
        complaint="lower epoch",
    )
    line = HostLine(
        status=status, state=HostState.READY, instances=3, healthy=2, coordinator_id="c"
    )
    cells = render.hosts([line]).splitlines()[1]
    for cell in ("ready", "2/3", "8.0 GiB", "10.0.0.1", "disk=ssd zone=z1", "lower epoch"):
        assert cell in cells
    wide = render.hosts([line], wide=True)
    assert {"LIMIT", "AGENT", "VIA", "10", "0.1.0", "c"} <= set(wide.split())
    gone = HostLine(status=structs.replace(status, departed=True), state=HostState.LOST)
    assert render.host_state(gone) == "left"
    assert render.host_state(replace(gone, state=HostState.READY)) == "ready"
    assert "formation-agent" in render.hosts([])


@pytest.mark.parametrize(
    ("abilities", "shown"),
    [
        ((), "none"),
        ((Ability.CGROUP,), "none"),
        ((Ability.CGROUP, Ability.PIDS, Ability.USER), "pids user"),
        (tuple(Ability), "all"),
    ],
)
def test_hosts_show_what_they_can_enforce(abilities: tuple[Ability, ...], shown: str) -> None:
    status = HostStatus(host="a", agent_id="x", agent_version="1", abilities=abilities)
    header, cells = render.hosts([HostLine(status=status, state=HostState.READY)]).splitlines()
    column = header.index("ENFORCES")
    assert cells[column : header.index("LABELS")].strip() == shown


def test_why_hosts_cannot_enforce_something_is_told_once_for_each_reason() -> None:
    def host(name: str, inability: str, *, departed: bool = False) -> HostLine:
        status = HostStatus(host=name, agent_id=name, inability=inability, departed=departed)
        return HostLine(status=status, state=HostState.READY)

    found = [host("a", "not root"), host("b", ""), host("c", "not root"), host("d", "no\x1bcgroup")]
    assert render.inabilities([*found, host("e", "gone", departed=True)]) == [
        "a, c: not root",
        "d: no\\x1bcgroup",
    ]


def test_apps_show_the_formation_in_the_order_of_the_release() -> None:
    app = App(name="shop", formation={"b": 1, "a": 2, "old": 9}, release=2, latest_release=2)
    line = AppLine(app=app, types=("b", "a", "new"), healthy=2, wanted=3)
    assert "b=1 a=2 new=0" in render.apps([line])
    assert jsonview.app(line)["formation"] == {"b": 1, "a": 2, "new": 0}
    assert "formctl apply" in render.apps([])


def test_no_view_of_a_release_shows_a_value_of_its_environment() -> None:
    shown = [
        render.releases([RELEASE], app=APP),
        str(jsonview.release(RELEASE, app=APP)),
        str(render.release_changes(None, RELEASE)),
        str(render.release_changes(replace(RELEASE, env={}), RELEASE)),
    ]
    assert all("hunter2" not in text for text in shown)
    assert all("SECRET" in text for text in shown[1:])


def test_the_changes_of_a_release_are_named() -> None:
    before = replace(
        RELEASE,
        types=(
            ProcessType(name="web", command="./old", stop_grace_s=5.0),
            ProcessType(name="gone", command="x"),
        ),
        env={"OLD": "1", "A": ""},
        workdir="/old",
    )
    assert render.release_changes(before, RELEASE) == [
        "types added: mail",
        "types removed: gone",
        "web: command changed: ./web",
        "web: stop changed",
        "env added: SECRET",
        "env removed: OLD",
        "workdir: /srv",
    ]
    assert render.release_changes(RELEASE, RELEASE) == []


def test_releases_say_which_is_current_stable_or_was_taken_back() -> None:
    app = replace(APP, release=3, stable_release=2, rollout=Rollout(undone_release=1))
    rows = render.releases([replace(RELEASE, number=n) for n in (4, 3, 2, 1)], app=app)
    firsts = [line.split("  ")[0] for line in rows.splitlines()[1:]]
    assert firsts == ["v4", "v3 (current)", "v2 (stable)", "v1 (taken back)"]


def test_the_history_is_a_table_without_empty_columns() -> None:
    record = AuditRecord(
        at_ms=NOW_MS, who="me@a", action="scale", subject="shop", before="web=1", after="web=2"
    )
    header, row = render.history([record]).splitlines()
    assert header.split() == ["WHEN", "WHO", "DID", "TO", "FROM", "INTO"]
    assert row.split()[2:] == ["me@a", "scale", "shop", "web=1", "web=2"]
    assert jsonview.audit(record) == {
        "at": "2023-11-14T22:13:20.000Z",
        "who": "me@a",
        "action": "scale",
        "subject": "shop",
        "from": "web=1",
        "to": "web=2",
        "detail": "",
        "why": "",
    }


def test_json_of_an_instance_has_stable_keys_and_null_for_what_is_not_there() -> None:
    found = jsonview.instance(HEALTHY)
    assert list(found) == [
        "uid", "app", "type", "ordinal", "state", "host", "port", "pid", "started_at", "restarts",
        "release", "reason", "last_exit", "retry_at", "surplus", "host_silent", "current",
        "failures", "crash_looping", "told", "surge", "run", "placed_because",
    ]  # fmt: skip
    assert found["started_at"] == "2023-11-14T22:11:15.000Z"
    pending = structs.replace(STATUS, uid="shop/web.1", state=InstanceState.PENDING, pid=0, port=0)
    shown = jsonview.instance(Instance(status=structs.replace(pending, attempt=0, started_at_ms=0)))
    assert [shown[key] for key in ("uid", "host", "port", "pid", "started_at", "restarts")] == [
        None, None, None, None, None, 0,
    ]  # fmt: skip


def test_json_of_a_log_line_keeps_bytes_that_are_no_text() -> None:
    line = Line(at_us=NOW_MS * 1000, sequence=0, name="web.1", text=b"a\xff", app="shop", host="a")
    shown = jsonview.log_line(line)
    assert (shown["text"], shown["text_base64"]) == ("a\ufffd", "Yf8=")
    assert "text_base64" not in jsonview.log_line(replace(line, text="é".encode()))


MIGRATED = replace(RELEASE, number=3, command=ReleaseCommand(command="./migrate"))
WAITS = replace(APP, release=2, stable_release=2, candidate=Candidate(release=3))


def test_a_release_says_what_became_of_its_command() -> None:
    failed = replace(
        MIGRATED, number=1, command_end=CommandEnd(passed=False, how="failed on a: exit 3")
    )
    passed = replace(MIGRATED, number=2, command_end=CommandEnd(passed=True))
    rows = render.releases([MIGRATED, passed, failed], app=WAITS).splitlines()
    assert "COMMAND" in rows[0]
    assert [
        word in row for word, row in zip(("running", "passed", "exit 3"), rows[1:], strict=True)
    ]
    assert rows[1].startswith("v3 (waits)")
    assert "COMMAND" not in render.releases([RELEASE], app=APP)
    assert "release command: ./migrate" in render.release_changes(RELEASE, MIGRATED)
    assert "release command: none any more" in render.release_changes(MIGRATED, RELEASE)
    said = jsonview.release(failed, app=WAITS)
    assert said["release_command"] == {"command": "./migrate", "type": None, "timeout_s": 3600.0}
    assert said["release_command_end"] == {
        "passed": False, "how": "failed on a: exit 3", "at": None,
    }  # fmt: skip


def test_a_candidate_is_seen_beside_what_is_there() -> None:
    line = AppLine(app=WAITS, types=("web",))
    assert "v2 (v3 waits)" in render.apps([line])
    told = renderchange.rollout(line, ())
    assert "v2 runs everywhere" in told
    assert "v3 waits for its release command: formctl logs -f release.3" in told
    assert jsonview.rollout(line, ())["phase"] == "waiting"
    assert jsonview.rollout(line, ())["candidate"] == 3


def test_an_app_without_a_release_says_so() -> None:
    failed = Rollout(undone_release=1, reason="release.1 failed on a: exit 1")
    line = AppLine(app=replace(APP, release=0, stable_release=0, rollout=failed), types=())
    told = renderchange.rollout(line, ())
    assert "it has no release yet" in told
    assert "v1 was taken back: release.1 failed on a: exit 1" in told
    assert jsonview.rollout(line, ())["phase"] == "none"
    assert render.apps([line]).splitlines()[1].split()[1] == "-"
