"""Tables on a terminal, a type's settings in a few words, and everything about one instance."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from formation.model import (
    Ability,
    InstanceState,
    InstanceStatus,
    Limits,
    Probe,
    ProbeKind,
    ProcessType,
    RestartPolicy,
    Slot,
    StopTo,
    Usage,
)
from formation.rules import (
    Constraint,
    HostLoss,
    Keep,
    LossAction,
    Missed,
    Operator,
    Overlap,
    Resources,
    RolloutRules,
    Schedule,
    Share,
    Where,
)
from formctl import details, jsonview, typelines
from formctl.loglines import Line, clock
from formctl.tables import below, hanging, table
from formctl.views import Instance

NOW_MS = 1_700_000_000_000
PLAIN = ProcessType(name="web", command="./web")
IN_PLACE = RolloutRules(surge=Share(), unavailable=Share(count=1))
FULL = ProcessType(
    name="web",
    command="./web",
    restart=RestartPolicy.ON_FAILURE,
    stop_signal="INT",
    stop_grace_s=10.0,
    stop_to=StopTo.MAIN,
    readiness=Probe(kind=ProbeKind.HTTP, target="/health", port=9000, successes=2),
    liveness=Probe(kind=ProbeKind.GRPC, failures=1, timeout_s=0.5),
    watchdog_s=20.0,
    port=8080,
    limits=Limits(
        cpus=0.5, memory_bytes=2**29, pids=50, rlimits={"nofile": 1024, "core": -1, "cpu": 60}
    ),
    nice=5,
    user="www-data",
    group="web",
    workdir="app",
    umask=0o027,
    requires=(Ability.MEMORY, Ability.USER),
    rollout=IN_PLACE,
)
RULED = replace(
    PLAIN,
    env={"TOKEN": "hunter2", "A": "1"},
    resources=Resources(cpus=0.5, memory_bytes=2**28),
    where=Where(
        require=(
            Constraint(label="disk", patterns=("nvme", "ssd")),
            Constraint(label="gpu", operator=Operator.NOT_IN),
        ),
        prefer=(Constraint(label="zone", patterns=("eu-*",)),),
        spread=("zone", "rack"),
        max_per_host=2,
        apart_from=("db", "other/web"),
    ),
    rollout=RolloutRules(
        surge=Share(percent=50.0), unavailable=Share(count=1), deadline_s=600.0, rollback=False
    ),
    on_host_loss=HostLoss(after_s=60.0, keep=Keep.ORIGINAL),
)
NIGHTLY = Schedule(cron="0 3 * * *", zone="Europe/Berlin")


# -- tables ----------------------------------------------------------------------------------------


ROWS = [("web.1", "healthy", ""), ("web.2", "backoff", "exit 1 after 0.1 s, retry in 7s")]


def test_a_note_that_does_not_fit_stands_below_its_row_and_the_columns_stay() -> None:
    assert table(("A", "B", "NOTE"), ROWS, width=40).splitlines() == [
        "A      B        NOTE",
        "web.1  healthy",
        "web.2  backoff",
        "    exit 1 after 0.1 s, retry in 7s",
    ]
    assert table(("A", "B", "NOTE"), ROWS, width=47).splitlines()[2].endswith("retry in 7s")


def test_into_a_pipe_a_row_is_one_line() -> None:
    assert len(table(("A", "B", "NOTE"), [("a", "b", "x" * 500)]).splitlines()) == 2


def test_a_long_note_is_wrapped_also_on_a_tiny_terminal() -> None:
    assert all(len(line) <= 50 for line in below("word " * 40, 50))
    assert all(len(line) <= 34 for line in below("word " * 40, 5))


def test_a_long_text_goes_on_below_its_beginning() -> None:
    assert hanging("says  ", "one two three four five six seven", 36).splitlines() == [
        "says  one two three four five six",
        "      seven",
    ]
    assert hanging("says  ", "x y", 20) == "says  x y"
    assert hanging("says  ", "x " * 100, None).count("\n") == 0


def test_paint_colours_a_cell_without_moving_the_columns() -> None:
    def paint(row: int, column: int, padded: str) -> str:
        return f"<{padded}>" if (row, column) == (0, 1) else padded

    assert table(("A", "B", "NOTE"), ROWS, paint=paint).splitlines() == [
        "A      B        NOTE",
        "web.1  <healthy>",
        "web.2  backoff  exit 1 after 0.1 s, retry in 7s",
    ]


# -- a type's settings -----------------------------------------------------------------------------


def test_a_type_without_settings_says_when_it_is_ready_and_how_it_stops() -> None:
    assert typelines.described(PLAIN) == [
        ("command", "./web"),
        ("ready", "when up 1 s"),
        ("stop", "TERM, KILL after 30 s"),
    ]


def test_every_setting_is_described() -> None:
    assert typelines.described(FULL) == [
        ("command", "./web"),
        (
            "ready",
            "http /health on port 9000 every 5 s, timeout 1 s, 3 failures, 2 successes, grace 30 s",
        ),
        (
            "live",
            "grpc health every 5 s, timeout 0.5 s, 1 failure; says WATCHDOG=1 every 20 s",
        ),
        ("restart", "on-failure"),
        ("stop", "INT to the main process, KILL after 10 s"),
        (
            "limits",
            "0.5 cpus, memory 512 MiB, 50 pids, core unlimited, cpu 60 s, nofile 1024",
        ),
        ("runs", "as www-data:web, in app, umask 027, nice 5, on port 8080 only"),
        ("requires", "memory user"),
    ]


def test_every_rule_is_described_and_no_value_of_the_environment() -> None:
    told = typelines.described(RULED)
    assert told[3:] == [
        ("env", "TOKEN A"),
        ("resources", "0.5 cpus, memory 256 MiB for each"),
        (
            "placement",
            (
                "require disk in (nvme, ssd) and !gpu; prefer zone=eu-*; spread over zone, rack; "
                "at most 2 on a host; apart from db, other/web"
            ),
        ),
        ("rollout", "surge 50%, unavailable 1, healthy 10 s, deadline 600 s, no rollback"),
        ("host loss", "replaced after 60 s, keeps the original"),
    ]
    assert "hunter2" not in str(told)
    assert "hunter2" not in str(jsonview.process_type(RULED))


@pytest.mark.parametrize(
    ("change", "what", "how"),
    [
        ({"where": Where(spread=())}, "placement", "spread over hosts only"),
        ({"exclusive": True, "rollout": IN_PLACE}, "exclusive",
         "never two copies of one slot at once"),
        ({"per_host": True, "rollout": IN_PLACE}, "per host",
         "the quantity is that of every host that fits"),
        ({"schedule": NIGHTLY}, "schedule", "0 3 * * * Europe/Berlin"),
        ({"schedule": replace(NIGHTLY, overlap=Overlap.ALLOW, missed=Missed.ONCE, keep=3)},
         "schedule", "0 3 * * * Europe/Berlin, overlap allow, missed once, keep 3"),
        ({"on_host_loss": HostLoss(action=LossAction.WAIT)}, "host loss", "waits for its host"),
        ({"resources": Resources(memory_bytes=1024)}, "resources",
         "memory 1.0 KiB for each"),
        ({"exclusive": True}, "rollout",
         "surge 25%, unavailable 0, healthy 10 s, deadline 300 s"),
    ],
)  # fmt: skip
def test_a_rule_is_told_in_words(change: dict[str, object], what: str, how: str) -> None:
    found = dict(typelines.described(replace(PLAIN, **change)))  # type: ignore[arg-type]
    assert found[what] == how
    assert "rollout" not in found or what == "rollout"


def test_who_says_itself_when_it_is_ready_is_described_so() -> None:
    found = dict(typelines.described(replace(PLAIN, notify=True, start_grace_s=5.0)))
    assert found["ready"] == "says READY=1 within 5 s"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"restart": RestartPolicy.NEVER}, "restart"),
        ({"ready_after_s": 2.0}, "ready"),
        ({"start_grace_s": 2.0}, "ready"),
        ({"watchdog_s": 2.0}, "live"),
        ({"stop_to": StopTo.MAIN}, "stop"),
        ({"stop_drain_s": 5.0}, "stop"),
        ({"port": 80}, "port"),
        ({"limits": Limits(pids=3)}, "limits"),
        ({"nice": 3}, "nice"),
        ({"user": "a"}, "user"),
        ({"group": "a"}, "group"),
        ({"workdir": "a"}, "workdir"),
        ({"umask": 0}, "umask"),
        ({"requires": (Ability.CGROUP,)}, "requires"),
        ({"env": {"A": "1"}}, "env"),
        ({"resources": Resources(cpus=1.0)}, "resources"),
        ({"where": Where(max_per_host=1)}, "placement"),
        ({"rollout": RolloutRules(rollback=False)}, "rollout"),
        ({"exclusive": True}, "exclusive"),
        ({"per_host": True}, "per_host"),
        ({"schedule": NIGHTLY}, "schedule"),
        ({"on_host_loss": HostLoss(after_s=1.0)}, "on_host_loss"),
    ],
)
def test_a_change_of_a_setting_is_named_as_in_the_file(change: dict[str, object], key: str) -> None:
    assert typelines.changed(PLAIN, replace(PLAIN, **change)) == [key]  # type: ignore[arg-type]


def test_no_change_of_a_type_goes_untold() -> None:
    told = typelines.changed(PLAIN, FULL)
    assert set(told) == {
        "restart", "ready", "live", "stop", "port", "limits", "nice", "user", "group", "workdir",
        "umask", "requires", "rollout",
    }  # fmt: skip


# -- one instance ----------------------------------------------------------------------------------

STATUS = InstanceStatus(
    uid="u1",
    slot=Slot("shop", "web", 3),
    release=7,
    state=InstanceState.BACKOFF,
    port=20001,
    attempt=6,
    reason="exit 1 after 0.1 s (6th time in a row)",
    last_exit="exit 1",
    retry_at_ms=NOW_MS + 12_000,
    failures=6,
    crash_looping=True,
)


def shown(found: details.Details) -> dict[str, str]:
    lines = details.instance(found, now_ms=NOW_MS).splitlines()
    assert lines[0] == "shop/web.3"
    return {line[2:13].strip(): line[13:] for line in lines[1:]}


def test_a_crash_loop_is_told_with_its_countdown_and_what_happened() -> None:
    found = shown(details.Details(instance=Instance(status=STATUS, host="b"), spec=PLAIN))
    assert found == {
        "state": "backoff",
        "next try": "try 7 in 12s, crash loop, after 6 failures in a row",
        "reason": "exit 1 after 0.1 s (6th time in a row)",
        "last exit": "exited with code 1",
        "host": "b",
        "port": "20001",
        "starts": "6",
        "release": "v7",
        "command": "./web",
        "ready": "when up 1 s",
        "stop": "TERM, KILL after 30 s",
    }


def test_a_healthy_instance_shows_what_it_uses_and_says() -> None:
    status = structs.replace(
        STATUS,
        state=InstanceState.HEALTHY,
        pid=42,
        started_at_ms=NOW_MS - 61_000,
        reason="",
        failures=0,
        crash_looping=False,
        told="17 jobs\x1b waiting",
    )
    usage = Usage(uid="u1", cpu_s=1.5, cpu_share=0.02, memory_bytes=2**20, processes=1, files=9)
    item = Instance(status=status, host="b", current=False)
    found = shown(details.Details(instance=item, usage=usage))
    assert found["says"] == "17 jobs\\x1b waiting"
    assert found["usage"] == "cpu 2.0% (1.5 s), memory 1.0 MiB, 1 process, 9 files, log 0 B/s"
    assert found["up"].startswith("1m1s, since 2023-11-14 ")
    assert found["release"] == "v7, to be replaced"
    assert "next try" not in found
    assert details.used(None) == ""


def test_what_is_placed_nowhere_says_why() -> None:
    status = InstanceStatus(
        uid="shop/web.3",
        slot=Slot("shop", "web", 3),
        release=7,
        state=InstanceState.PENDING,
        reason="no host has room: a 1/1",
    )
    found = shown(details.Details(instance=Instance(status=status, current=False)))
    assert found == {
        "state": "pending",
        "reason": "no host has room: a 1/1",
        "host": "none yet",
        "release": "v7",
    }


def test_log_lines_have_their_time_and_cannot_move_the_cursor() -> None:
    line = Line(at_us=NOW_MS * 1000, sequence=0, name="web.3", text=b"a\x1b[2Jb\xff")
    assert details.log_lines([line]) == [f"{clock(NOW_MS * 1000)} a\\x1b[2Jb\\xff"]


def test_json_of_a_type_s_rules_says_what_formation_toml_would() -> None:
    found = jsonview.process_type(RULED)
    assert found["env_names"] == ["A", "TOKEN"]
    assert (found["exclusive"], found["per_host"], found["schedule"]) == (False, False, None)
    assert found["resources"] == {"cpus": 0.5, "memory_bytes": 2**28}
    assert found["placement"] == {
        "require": ["disk in (nvme, ssd)", "!gpu"],
        "prefer": ["zone=eu-*"],
        "spread": ["zone", "rack"],
        "max_per_host": 2,
        "apart_from": ["db", "other/web"],
    }
    assert found["rollout"] == {
        "surge": "50%",
        "unavailable": "1",
        "healthy_s": 10.0,
        "deadline_s": 600.0,
        "rollback": False,
    }
    assert found["on_host_loss"] == {"action": "replace", "after_s": 60.0, "keep": "original"}
    nightly = jsonview.process_type(replace(PLAIN, schedule=NIGHTLY))
    assert nightly["schedule"] == {
        "cron": "0 3 * * *",
        "zone": "Europe/Berlin",
        "overlap": "skip",
        "missed": "skip",
        "keep": 10,
    }
    assert nightly["resources"] == {"cpus": None, "memory_bytes": None}


def test_json_of_everything_about_an_instance_has_stable_keys() -> None:
    item = Instance(status=STATUS, host="b")
    found = jsonview.details(details.Details(instance=item, spec=FULL))
    assert list(found)[: len(jsonview.instance(item))] == list(jsonview.instance(item))
    assert list(found)[-3:] == ["settings", "usage", "lines"]
    assert found["usage"] is None
    settings = found["settings"]
    assert isinstance(settings, dict)
    assert list(settings) == [
        "type", "command", "restart", "stop_signal", "stop_grace_s", "stop_to", "stop_drain_s",
        "ready_after_s", "readiness", "liveness", "notify", "watchdog_s", "start_grace_s", "port",
        "user", "group", "workdir", "umask", "nice", "requires", "limits", "env_names",
        "exclusive", "per_host",
        "secrets", "secret_files", "resources", "placement", "rollout", "schedule",
        "on_host_loss",
    ]  # fmt: skip
    assert settings["umask"] == "027"
    assert settings["readiness"] == {
        "kind": "http", "target": "/health", "port": 9000, "every_s": 5.0, "timeout_s": 1.0,
        "failures": 3, "successes": 2,
    }  # fmt: skip
    assert settings["limits"] == {
        "cpus": 0.5,
        "memory_bytes": 2**29,
        "pids": 50,
        "rlimits": {"core": -1, "cpu": 60, "nofile": 1024},
    }
    unknown = Usage(uid="u1", files=-1)
    assert (jsonview.usage(unknown) or {})["files"] is None
