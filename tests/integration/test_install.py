"""What deploy/ holds for real machines, without any; `make hosts-test` installs it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import yaml

from formation_agent.config import load as read_agent
from formation_coordinator.config import read_config as read_coordinator
from formation_coordinator.systemd import Manager

DEPLOY = Path(__file__).parents[2] / "deploy"
INSTALL = DEPLOY / "install.sh"
SCRIPTS = [
    INSTALL,
    DEPLOY / "etcd" / "make-cluster.sh",
    *(DEPLOY / "debian").iterdir(),
    DEPLOY.parent / "tools" / "makedeb.sh",
]
ROLES = ("coordinator", "agent")

needs_python_and_systemd = pytest.mark.skipif(
    not shutil.which("systemctl"), reason="systemd is not installed"
)


def install(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(INSTALL), *words], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "which role"),
        (["agent"], "--from is missing"),
        (["agent", "--from"], "--from needs a value"),
        (["leader"], "what is leader?"),
        (["agent", "--from", "x.whl", "--purge"], "--purge goes with --uninstall"),
        (["--uninstall", "agent"], "takes all of it away"),
    ],
)
def test_what_is_asked_wrongly_gets_one_line(words: list[str], complaint: str) -> None:
    done = install(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


@needs_python_and_systemd
def test_a_wheel_that_is_not_there_changes_nothing() -> None:
    done = install("agent", "--from", "none.whl", "--dry-run")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "install.sh: none.whl: no such file\n"


@needs_python_and_systemd
def test_a_rehearsal_shows_all_and_does_nothing() -> None:
    there = Path("/opt/formation").exists()
    done = install("coordinator", "agent", "--from", "formctl", "--dry-run")
    if "virtual environments" in done.stderr or "Python 3.11" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    for role in ROLES:
        assert f"/etc/systemd/system/formation-{role}.service" in done.stdout
    assert Path("/opt/formation").exists() == there


@pytest.mark.parametrize("role", ROLES)
def test_the_settings_that_come_along_are_read(role: str) -> None:
    path = str(DEPLOY / "config" / f"{role}.toml")
    read = read_agent if role == "agent" else read_coordinator
    assert read(["--config", path], {}, lambda name: Path(name).read_text("utf-8"))


@pytest.mark.parametrize("role", ROLES)
def test_systemd_takes_unit_and_user(role: str, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze") or not shutil.which("systemd-sysusers"):
        pytest.skip("systemd is not installed")
    unit = tmp_path / f"formation-{role}.service"
    text = (DEPLOY / "systemd" / unit.name).read_text("utf-8")
    assert "Type=notify" in text
    assert "WatchdogSec=" in text
    unit.write_text(text.replace(f"/usr/local/bin/formation-{role}", "/bin/true"), "utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []
    users = DEPLOY / "sysusers.d" / f"formation-{role}.conf"
    words = ["systemd-sysusers", f"--root={tmp_path}", "--dry-run", str(users)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:  # before systemd 250
        pytest.skip("systemd-sysusers has no --dry-run")
    assert done.returncode == 0, done.stderr


def test_systemd_takes_the_unit_of_etcd(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not installed")
    unit = tmp_path / "formation-etcd.service"
    text = (DEPLOY / "etcd" / unit.name).read_text("utf-8")
    unit.write_text(text.replace("/usr/bin/etcd", "/bin/true"), "utf-8")
    words: list[str | Path] = ["systemd-analyze", "verify", "--man=no", unit]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []


@pytest.mark.parametrize("unit", [*DEPLOY.rglob("*.service")], ids=lambda path: path.name)
def test_no_unit_is_given_up(unit: Path) -> None:
    text = unit.read_text("utf-8")
    assert "\nStartLimitIntervalSec=0\n" in text
    assert "\nRestart=always\n" in text


def test_every_command_of_the_page_is_run_by_the_hosts_test() -> None:
    page = (DEPLOY.parent / "docs" / "install.md").read_text("utf-8")
    hosts_test = (DEPLOY.parent / "tests" / "hosts" / "hosts.py").read_text("utf-8")
    told = set(re.findall(r"^<!-- run: (\S+) -->$", page, re.MULTILINE))
    assert told - {"network"} == set(re.findall(r'blocks\("(\S+)"\)', hosts_test))
    assert page.count("```sh\n") == page.count("-->\n```sh\n")


@pytest.mark.parametrize(
    "path", [*DEPLOY.rglob("*.yml")], ids=lambda path: str(path.relative_to(DEPLOY))
)
def test_yaml_is_yaml(path: Path) -> None:
    assert yaml.safe_load(path.read_text("utf-8"))


def test_ansible_takes_the_role(tmp_path: Path) -> None:
    if not shutil.which("ansible-playbook"):
        pytest.skip("ansible is not installed: pip install ansible-core")
    done = subprocess.run(
        ["ansible-playbook", "-i", "h1,", "--syntax-check", "agents.yml"],
        cwd=DEPLOY / "ansible",
        env={**os.environ, "ANSIBLE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


async def test_a_coordinator_says_ready_beats_and_says_that_it_stops(tmp_path: Path) -> None:
    address = str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(address)
        ear.setblocking(False)
        environ = {
            "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())
        }  # fmt: skip
        manager = Manager(environ)
        assert environ == {}, "not for an etcd that it starts"
        loop = asyncio.get_running_loop()
        beats = asyncio.create_task(manager.beat())
        heard = [(await loop.sock_recv(ear, 100)).decode() for _ in range(2)]
        beats.cancel()
        await asyncio.gather(beats, return_exceptions=True)
        manager.ready("listens")
        manager.stopping()
        heard += [(await loop.sock_recv(ear, 100)).decode() for _ in range(2)]
        manager.close()
    beat = "WATCHDOG=1"
    assert heard == [beat, beat, "READY=1\nSTATUS=listens", "STOPPING=1\nSTATUS=stopping"]


async def test_a_coordinator_without_a_manager_is_silent() -> None:
    manager = Manager({})
    manager.ready("x")
    await manager.beat()
    manager.close()
