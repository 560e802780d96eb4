"""The release before beside this one: a rolling upgrade, in either order, that stops nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab, required
from labtest import PROCFILE, count, keeps, pids, scale

ROOT = Path(__file__).resolve().parents[2]
# Of the release before this one, or what stands for it while there is none: the last commit whose
# programs must work together with those of today. It moves with each release.
PREVIOUS = "2d126de"
ROOMS = ("common", "coordinator", "agent", "cli")


class Mixed(Lab):
    """Each program runs from its own link to a tree, which an upgrade turns to another one."""

    def link(self, name: str) -> Path:
        return self.directory / f"tree-{name}"

    def turn(self, name: str, tree: Path) -> None:
        fresh = self.directory / f"fresh-{name}"
        fresh.symlink_to(tree)
        told = 'allow-user = "*"\n' if tree == ROOT and name[0] == "a" else ""
        self.settings(name).write_text(told)
        fresh.rename(self.link(name))

    def words(self, name: str) -> tuple[str, ...]:
        """Agents are told in a file, which is changed before they are: see CHANGELOG."""
        return ("--config", str(self.settings(name))) if name[0] == "a" else super().words(name)

    def settings(self, name: str) -> Path:
        return self.directory / f"{name}.toml"

    def command(self, name: str, *argv: str) -> list[str]:
        if not self.link(name).exists():
            return super().command(name, *argv)
        path = ":".join(str(self.link(name) / room) for room in ROOMS)
        module = Path(argv[0]).name.replace("-", "_")
        words = ["env", f"PYTHONPATH={path}", sys.executable, "-m", module, *argv[1:]]
        return super().command(name, *words)

    def formctl_of(self, tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment(), "PYTHONPATH": ":".join(str(tree / r) for r in ROOMS)}
        environment["FORMATION_COORDINATOR"] = ",".join(self.coordinators.values())
        return subprocess.run(
            [sys.executable, "-m", "formctl", *words], env=environment, capture_output=True,
            text=True, check=False, timeout=60,
        )  # fmt: skip


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("previous")
    packed = subprocess.run(
        ["git", "-C", str(ROOT), "archive", PREVIOUS, *ROOMS], capture_output=True, check=False
    )
    if packed.returncode != 0:
        pytest.skip(f"the history here does not go back to {PREVIOUS}: {packed.stderr.decode()}")
    subprocess.run(["tar", "-x", "-C", str(tree)], input=packed.stdout, check=True)
    return tree


@pytest.fixture
def lab(previous: Path) -> Iterator[Mixed]:
    required()
    with Mixed(coordinators=2, agents=2, secure=False) as lab:
        for name in (*lab.coordinator_names, *lab.agent_names):
            lab.turn(name, previous)
        lab.up()
        app = lab.app({"Procfile": PROCFILE})
        done = lab.formctl_of(previous, "apply", str(app), "-m", "web=2")
        assert done.returncode == 0, done.stderr
        yield lab


def upgrade_coordinator(lab: Mixed, name: str) -> None:
    lab.turn(name, ROOT)
    lab.kill(name, signal.SIGTERM)
    lab.again(name)
    lab.wait_hosts(2)


def upgrade_agent(lab: Mixed, name: str) -> None:
    """In place: its processes stay its children."""
    lab.turn(name, ROOT)
    keeper, brain = lab.programs[name].pid, lab.brain_of(name)
    os.kill(keeper, signal.SIGHUP)
    lab.wait(lambda: lab.brain_of(name) not in (0, brain), what="its next brain")
    assert _runs_from(lab, lab.brain_of(name)) == ROOT
    lab.wait_hosts(2)


def _runs_from(lab: Mixed, pid: int) -> Path:
    """The tree that this program's code is of."""
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    path = next(w for w in words if w.startswith(b"PYTHONPATH=")).decode()
    return Path(path.removeprefix("PYTHONPATH=").split("/common")[0]).resolve()


def works(lab: Mixed, quantity: int) -> None:
    """A change arrives, and what ran before runs on."""
    before = pids(lab)
    scale(lab, f"web={quantity}")
    assert count(lab) == quantity
    if quantity > sum(map(len, before.values())):
        keeps(lab, before, for_s=0.5)


@pytest.mark.parametrize("first", ["coordinators", "agents"])
def test_an_upgrade_one_by_one_stops_nothing(lab: Mixed, first: str, previous: Path) -> None:
    steps = [(upgrade_coordinator, name) for name in lab.coordinator_names]
    agents = [(upgrade_agent, name) for name in lab.agent_names]
    order = [*steps, *agents] if first == "coordinators" else [*agents, *steps]
    quantity = 2
    for upgrade, name in order:
        before = pids(lab)
        upgrade(lab, name)
        keeps(lab, before, for_s=1.0)
        quantity += 1
        works(lab, quantity)
    works(lab, 2)
    shown = lab.formctl_of(previous, "ps", "--app", "shop")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("healthy") == 2, "formctl of before still understands"


def test_a_new_leader_is_replaced_by_an_old_one(lab: Mixed) -> None:
    """An upgrade that is called off."""
    upgrade_agent(lab, "a1")
    upgrade_coordinator(lab, "c1")
    lab.kill("c2", signal.SIGTERM)  # so that the new one leads
    lab.wait(lambda: lab.leader() == "c1", what="c1 to lead")
    works(lab, 4)
    lab.again("c2")
    lab.wait(lambda: lab.formctl("ps", "--coordinator", lab.address("c2"), check=False)
             .returncode == 0, what="c2")  # fmt: skip
    before = pids(lab)
    lab.kill("c1", signal.SIGTERM)
    lab.wait_hosts(2)
    keeps(lab, before, for_s=3.0)
    works(lab, 5)
