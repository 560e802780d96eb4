"""What makes two builds the same, and how one is run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from formation.artifacts import Artifact
from formation.builds import Build
from formation.model import Limits, ProcessType, Release
from formation.secrets import Secret
from formation_agent.buildplan import NAME, build_type, code_name, is_built, largest

DIGEST = "ab" * 32
PLAIN = Release(
    app="shop",
    number=1,
    types=(ProcessType(name="web", command="run", user="shop"),),
    env={"A": "1"},
    artifact=Artifact(digest=DIGEST, size_bytes=1),
)
BUILT = replace(PLAIN, build=Build(command="make", user="shop"))


def test_code_that_is_not_built_is_called_by_its_digest_and_what_is_has_a_mark_too() -> None:
    assert code_name(PLAIN) == DIGEST
    assert not is_built(DIGEST)
    name = code_name(BUILT)
    assert name.startswith(f"{DIGEST}-")
    assert is_built(name)
    assert NAME.fullmatch(name)
    assert NAME.fullmatch(DIGEST)
    assert code_name(replace(PLAIN, artifact=None)) == ""


@pytest.mark.parametrize(
    "other",
    [
        replace(BUILT, build=Build(command="make all", user="shop")),
        replace(BUILT, build=Build(command="make", user="blog")),
        replace(BUILT, build=Build(command="make", user="shop", group="www")),
        replace(BUILT, env={"A": "2"}),
        replace(BUILT, env={"A": "1", "B": "1"}),
        replace(BUILT, config={"A": "2"}),
        replace(BUILT, artifact=Artifact(digest="cd" * 32, size_bytes=1)),
    ],
)
def test_what_makes_a_difference_to_a_build_is_another_directory(other: Release) -> None:
    assert code_name(other) != code_name(BUILT)


@pytest.mark.parametrize(
    "other",
    [
        replace(BUILT, number=2, reason="another"),
        replace(BUILT, build=replace(BUILT.build, timeout_s=1.0)),  # type: ignore[type-var]
        replace(BUILT, types=(ProcessType(name="web", command="run", env={"A": "9"}),)),
        replace(BUILT, secrets={"KEY": Secret(version=3, value="x")}),
        replace(BUILT, config={"A": "1"}),
    ],
)
def test_what_makes_none_is_the_same(other: Release) -> None:
    assert code_name(other) == code_name(BUILT)


def test_nobody_gets_more_by_building_than_by_running() -> None:
    small = Limits(cpus=0.5, memory_bytes=100, pids=10, rlimits={"nofile": 10, "core": 0})
    large = Limits(cpus=2.0, memory_bytes=300, pids=5, rlimits={"nofile": -1})
    assert largest([small, large]) == Limits(
        cpus=2.0, memory_bytes=300, pids=10, rlimits={"nofile": -1}
    )
    assert largest([small, Limits()]) == Limits()
    assert largest([small]) == small
    assert largest([]) == Limits()


def test_a_build_gets_no_secrets() -> None:
    spec = build_type(BUILT)
    assert (spec.command, spec.user, spec.secrets) == ("make", "shop", ())
