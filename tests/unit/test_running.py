"""What an assignment runs: its type, or one command to its end."""

from __future__ import annotations

from formation.model import (
    Assignment,
    Limits,
    Probe,
    ProbeKind,
    ProcessType,
    Release,
    RestartPolicy,
    Slot,
)
from formation.running import spec_of

WEB = ProcessType(
    name="web",
    command="serve",
    port=80,
    user="shop",
    limits=Limits(cpus=1.0),
    env={"A": "1"},
    readiness=Probe(kind=ProbeKind.TCP),
    exclusive=True,
)
RELEASE = Release(app="shop", number=1, types=(WEB,))


def item(type_name: str, **fields: str) -> Assignment:
    return Assignment(uid="u", slot=Slot("shop", type_name, 1), release=1, **fields)  # type: ignore[arg-type]


def test_an_ordinary_one_is_its_type() -> None:
    assert spec_of(RELEASE, item("web")) is WEB
    assert spec_of(RELEASE, item("gone")) is None
    assert spec_of(None, item("web")) is None


def test_a_command_has_the_settings_of_the_type_it_is_like_and_nothing_to_be_asked() -> None:
    spec = spec_of(RELEASE, item("run", command="ls", like="web"))
    assert spec is not None
    assert (spec.name, spec.command, spec.user, dict(spec.env)) == ("run", "ls", "shop", {"A": "1"})
    assert (spec.restart, spec.port, spec.readiness, spec.exclusive) == (
        RestartPolicy.NEVER,
        0,
        None,
        False,
    )
    assert spec.limits.cpus == 1.0
    assert spec_of(RELEASE, item("run", command="ls", like="gone")) is None


def test_a_command_like_nothing_is_plain() -> None:
    spec = spec_of(RELEASE, item("run", command="ls"))
    assert spec == ProcessType(name="run", command="ls", restart=RestartPolicy.NEVER)
