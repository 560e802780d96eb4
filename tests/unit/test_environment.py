"""A child's environment is made from scratch."""

from __future__ import annotations

from formation.model import Assignment, ProcessType, Release, Slot
from formation_agent.environment import Surroundings, instance_environment, type_environment

AGENT = {
    "PATH": "/agent/bin",
    "HOME": "/home/agent",
    "LANG": "C.UTF-8",
    "AWS_SECRET": "agent's own",
    "FORMATION_AGENT_STATE_DIR": "/x",
    "NOTIFY_SOCKET": "/run/systemd/notify",
    "WATCHDOG_USEC": "3",
    "WATCHDOG_PID": "1",
}
SLOT = Slot("shop", "web", 3)
ASSIGNMENT = Assignment(uid="u3", slot=SLOT, release=7)
WEB = ProcessType(name="web", command="x")
DEPLOY = {"HOME": "/home/deploy", "USER": "deploy", "LOGNAME": "deploy", "SHELL": "/bin/sh"}


def environment(
    env: dict[str, str],
    agent: dict[str, str] | None = None,
    *,
    inherit: bool = False,
    spec: ProcessType = WEB,
    account: dict[str, str] | None = None,
) -> dict[str, str]:
    environ = AGENT if agent is None else agent
    around = Surroundings(environ=environ, host="b", agent_id="a1", inherit=inherit)
    release = Release(app="shop", number=7, types=(spec,), env=env)
    return instance_environment(
        type_environment(around, release, spec, account or {}), ASSIGNMENT, port=20001
    )


def test_a_child_sees_its_release_and_who_it_is_and_nothing_of_the_agent() -> None:
    assert environment({"DATABASE_URL": "x"}) == {
        "DATABASE_URL": "x",
        "PATH": "/agent/bin",
        "HOME": "/home/agent",
        "LANG": "C.UTF-8",
        "PORT": "20001",
        "PS": "web.3",
        "FORMATION_APP": "shop",
        "FORMATION_TYPE": "web",
        "FORMATION_INSTANCE": "u3",
        "FORMATION_RELEASE": "v7",
        "FORMATION_HOST": "b",
        "FORMATION_AGENT": "a1",
    }


def test_a_release_changes_the_path_but_not_the_port_or_the_identity() -> None:
    made = environment({"PATH": "/app/bin", "PORT": "1", "PS": "no", "FORMATION_APP": "no"})
    assert (made["PATH"], made["PORT"], made["PS"]) == ("/app/bin", "20001", "web.3")
    assert made["FORMATION_APP"] == "shop"


def test_another_user_has_its_own_home_unless_the_release_says_otherwise() -> None:
    made = environment({}, account=DEPLOY, inherit=True)
    assert {name: made[name] for name in DEPLOY} == DEPLOY
    assert environment({"HOME": "/data"}, account=DEPLOY)["HOME"] == "/data"


def test_who_must_feed_a_watchdog_is_told_how_often() -> None:
    spec = ProcessType(name="web", command="x", watchdog_s=2.5)
    assert environment({}, spec=spec)["WATCHDOG_USEC"] == "2500000"


def test_an_agent_without_a_path_still_gives_its_children_one() -> None:
    made = environment({}, agent={})
    assert "/usr/bin" in made["PATH"]
    assert made["HOME"] == "/"


def test_inheriting_takes_everything_but_what_is_meant_for_the_agent() -> None:
    made = environment({}, inherit=True)
    assert made["AWS_SECRET"] == "agent's own"
    for name in ("FORMATION_AGENT_STATE_DIR", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        assert name not in made
