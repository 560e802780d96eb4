"""deploy/compose without an engine: its words are those that our programs know, and they work."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import BIN
from eventually import eventually
from running import own_address

from formation_agent.config import load as read_agent
from formation_coordinator.config import read_config as read_coordinator

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy" / "compose"
FILE = COMPOSE / "compose.yml"
DOCKERFILE = (COMPOSE / "Dockerfile").read_text("utf-8")
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text("utf-8"))["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.mark.parametrize("name", SERVICES)
def test_its_programs_and_flags_are_ours(name: str) -> None:
    program, *flags = SERVICES[name]["command"]
    assert program in PROJECT["scripts"]
    read = read_agent if program == "formation-agent" else read_coordinator
    assert read(flags, {}, pytest.fail)


@pytest.mark.parametrize("name", SERVICES)
def test_its_paths_and_names_are_there(name: str) -> None:
    service = SERVICES[name]
    context = (COMPOSE / service["build"]["context"]).resolve()
    assert context == ROOT
    assert (context / service["build"]["dockerfile"]).samefile(COMPOSE / "Dockerfile")
    for volume in service["volumes"]:
        assert (COMPOSE / volume.split(":")[0]).is_dir()
    assert set(service.get("depends_on", ())) <= set(SERVICES)
    assert set(service["networks"]) <= set(yaml.safe_load(FILE.read_text("utf-8"))["networks"])


def test_its_image_has_a_python_and_an_extra_that_there_are() -> None:
    found = re.search(r"^FROM python:3\.(\d+)-slim$", DOCKERFILE, re.MULTILINE)
    assert found
    assert int(found[1]) >= int(PROJECT["requires-python"].removeprefix(">=3."))
    (extra,) = re.findall(r"'/src\[(\w+)\]'", DOCKERFILE)
    assert extra in PROJECT["optional-dependencies"]


def test_what_its_image_is_built_from_is_all_that_a_build_needs() -> None:
    kept = re.findall(r"^!(\S+)$", (COMPOSE / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    packages = {
        path.split("/")[0] for path in tool["hatch"]["build"]["targets"]["wheel"]["packages"]
    }
    assert set(kept) == packages | {"pyproject.toml", PROJECT["readme"]}


class Composed:
    """The services as processes: at an address of this machine instead of their network."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._address = directory, own_address()
        self._processes: list[subprocess.Popen[bytes]] = []

    def _words(self, words: list[str]) -> list[str]:
        there = {
            "coordinator:7100": self._address,
            "0.0.0.0:7100": self._address,
            "/var/lib/etcd": str(self._directory / "etcd"),
        }
        for old, new in there.items():
            words = [word.replace(old, new) for word in words]
        return [str(BIN / words[0]), *words[1:]]

    def _environment(self, name: str) -> dict[str, str]:
        extra = SERVICES[name].get("environment", {})
        given = {
            key: value.replace("coordinator:7100", self._address) for key, value in extra.items()
        }
        return {"PATH": os.environ["PATH"], "HOME": str(self._directory), **given}

    def start(self, name: str, *more: str) -> None:
        words = [*self._words(SERVICES[name]["command"]), *more]
        with (self._directory / f"{name}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(words, env=self._environment(name), stdout=log, stderr=log)
            )

    def formctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """As `docker compose exec coordinator formctl` does it."""
        return subprocess.run(
            [str(BIN / "formctl"), *words],
            env=self._environment("coordinator"),
            capture_output=True,
            text=True,
            check=False,
        )

    def close(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            process.wait(30)


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Composed]:
    running = Composed(tmp_path)
    yield running
    running.close()


async def test_its_services_find_each_other(composed: Composed, tmp_path: Path) -> None:
    composed.start("coordinator")
    # In a container these are its own.
    composed.start("agent", "--name=a", f"--state-dir={tmp_path / 'state'}")

    def ready() -> bool:
        return " ready " in composed.formctl("hosts").stdout

    await eventually(ready)
    tried = re.search(r"exec coordinator formctl (.*)", FILE.read_text("utf-8"))
    assert tried
    assert composed.formctl(*tried[1].split()).returncode == 0
