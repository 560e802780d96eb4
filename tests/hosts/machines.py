"""Machines of systemd-nspawn on a bridge of their own, for the stories in this directory.

Each has a systemd of its own, Debian 12 by debootstrap. The bridge is in a network namespace that
leads nowhere else. All of it ends with this process, and what a killed one left goes at the next
start.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

CACHE = Path(os.environ.get("FORMATION_HOSTS_CACHE", "/var/tmp/formation-hosts"))
BASE, SITE, WHEELS = CACHE / "base", CACHE / "site", CACHE / "wheels"
# What docs/install.md lets apt-get install, and what a machine is without any of it.
PACKAGES = (
    "systemd,systemd-sysv,dbus,python3,python3-venv,iproute2,procps,libpam-systemd,"
    "etcd-server,etcd-client,openssl"
)
TOOLS = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "nsenter": "util-linux",
}
PYTHON = (3, 11)  # Debian 12's, whose wheels are made here
SWITCH = "formation-switch"
CGROUPS = [Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")]
_PR_SET_PDEATHSIG = 1
_SHALL_BOOT_AGAIN = 133  # of systemd-nspawn
_GONE_WITHIN_S = 20.0


class Failed(Exception):
    """One line, and what a command said."""


def sh(*words: str, check: bool = True, timeout_s: float = 600) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def eventually(true: Callable[[], bool], what: str, within_s: float = 90) -> None:
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > within_s:
            raise Failed(f"not within {within_s:g} s: {what}")
        time.sleep(0.3)
    print(f"{what} ({time.monotonic() - began:.1f} s)", flush=True)


def missing() -> str:
    """Why there can be no such machines here, in words for people; "" when there can."""
    if os.geteuid() != 0:
        return "this takes root: it boots machines with systemd-nspawn"
    packages = [package for tool, package in TOOLS.items() if not shutil.which(tool)]
    if packages:
        return f"not everything is here: apt-get install {' '.join(packages)}"
    if sys.version_info[:2] != PYTHON:
        wanted = ".".join(map(str, PYTHON))
        return (
            f"wheels are made for Debian 12, by its Python: make hosts-test PYTHON=python{wanted}"
        )
    return ""


# -- one machine -----------------------------------------------------------------------------------


class Host:
    def __init__(self, number: int) -> None:
        self.name, self.address = f"h{number}", f"10.0.0.{number}"
        self._space = f"formation-{self.name}"
        self.tree = CACHE / self.name
        self._process: subprocess.Popen[bytes] | None = None

    def plug_in(self) -> None:
        link = f"v-{self.name}"
        sh("ip", "netns", "add", self._space)
        sh("ip", "-n", SWITCH, "link", "add", link, "type", "veth",
           "peer", "name", "host0", "netns", self._space)  # fmt: skip
        sh("ip", "-n", SWITCH, "link", "set", link, "master", "br0", "up")
        sh("ip", "-n", self._space, "addr", "add", f"{self.address}/24", "dev", "host0")
        for name in ("lo", "host0"):
            sh("ip", "-n", self._space, "link", "set", name, "up")

    def install(self) -> None:
        sh("cp", "-a", "--reflink=auto", str(BASE), str(self.tree))
        (self.tree / "etc/hostname").write_text(f"{self.name}\n")
        (self.tree / "etc/machine-id").write_text("")
        (self.tree / "etc/hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        (self.tree / "etc/resolv.conf").unlink(missing_ok=True)  # no network to ask

    def power_on(self) -> None:
        words = [
            "systemd-nspawn", "--quiet", "--boot", f"--machine={self.name}", "--register=no",
            "--keep-unit", "--console=pipe", f"--directory={self.tree}", "--link-journal=no",
            f"--network-namespace-path=/run/netns/{self._space}", "--resolv-conf=off",
            f"--bind-ro={SITE}:/srv/formation", f"--bind-ro={WHEELS}:/srv/wheels",
        ]  # fmt: skip
        with (CACHE / f"{self.name}.log").open("ab") as out:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=self._before_nspawn,  # noqa: PLW1509  no threads here
            )

    def _before_nspawn(self) -> None:
        """In a cgroup of its own, and off when this process is killed."""
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for tree in CGROUPS:
            if (tree / "cgroup.procs").exists():
                own = tree / self._space
                own.mkdir(exist_ok=True)
                (own / "cgroup.procs").write_text(str(os.getpid()))

    def _leader(self) -> str:
        """The pid of its systemd, as we see it; "" when it is off."""
        if self._process is None or self._process.poll() is not None:
            return ""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        pids = children.read_text().split()
        return pids[0] if len(pids) == 1 else ""

    def run(self, script: str, *, check: bool = True, timeout_s: float = 300) -> str:
        leader = self._leader()
        if not leader:
            if check:
                raise Failed(f"{self.name} is not up")
            return ""
        env = "PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/wheels PATH=/usr/local/bin:/usr/sbin:/usr/bin"
        words = ["nsenter", "-t", leader, "-m", "-u", "-i", "-n", "-p", "env", "-i", *env.split()]
        shell = ["bash", "-euc", f"cd /srv/formation\n{script}"]
        try:
            return sh(*words, *shell, check=check, timeout_s=timeout_s)
        except Failed as failed:
            raise Failed(f"on {self.name}: {failed}") from failed

    def receive(self, sender: Host, path: str, here: str) -> None:
        """A directory of another one, as scp would bring it. Paths from the root, without a /."""
        sh("cp", "-a", str(sender.tree / path), str(self.tree / here))

    def is_up(self) -> bool:
        """systemd-nspawn ends for a reboot and leaves it to a service manager: here to us."""
        if self._process is not None and self._process.poll() == _SHALL_BOOT_AGAIN:
            self.power_on()
        state = self.run("systemctl is-system-running || true", check=False).strip()
        return state in ("running", "degraded")

    def cut_power(self) -> None:
        """And the cable, so that nobody hears of it."""
        self._cable("down")
        self.end()
        self._cable("up")

    def end(self) -> None:
        """With its systemd-nspawn ends everything in there, in a moment."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for tree in CGROUPS:
            _end_cgroup(tree / self._space)

    def _cable(self, state: str) -> None:
        sh("ip", "-n", SWITCH, "link", "set", f"v-{self.name}", state)

    def remove(self) -> None:
        self.end()
        sh("ip", "netns", "del", self._space, check=False)
        if self.tree.exists():
            shutil.rmtree(self.tree)


def _end_cgroup(top: Path) -> None:
    """Who was killed may take a moment, and writes until then."""
    deadline_s = time.monotonic() + _GONE_WITHIN_S
    while pids := [pid for path in top.rglob("cgroup.procs") for pid in path.read_text().split()]:
        if time.monotonic() > deadline_s:
            raise Failed(f"cannot be killed: {', '.join(pids)}")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.05)
    for path, _, _ in os.walk(top, topdown=False):
        os.rmdir(path)


# -- all of them -----------------------------------------------------------------------------------


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Ctrl-C and SIGTERM end this as an error does: everything goes."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failed(f"another one is at work in {CACHE}") from None
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield


@contextlib.contextmanager
def switched_on(count: int) -> Iterator[list[Host]]:
    hosts = [Host(number + 1) for number in range(count)]
    _remove(hosts)
    try:
        sh("ip", "netns", "add", SWITCH)
        sh("ip", "-n", SWITCH, "link", "add", "br0", "type", "bridge")
        sh("ip", "-n", SWITCH, "link", "set", "br0", "up")
        for host in hosts:
            host.plug_in()
            host.install()
            host.power_on()
        yield hosts
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # it takes a second
        for host in hosts:
            host.end()
        _remove(hosts)


def _remove(hosts: Sequence[Host]) -> None:
    for host in hosts:
        host.remove()
    sh("ip", "netns", "del", SWITCH, check=False)


def left() -> list[str]:
    """What of such machines is there still, on the one that they ran on."""
    found = [line for line in sh("ip", "netns").splitlines() if line.startswith("formation-")]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if str(CACHE) in line]
    found += [str(path) for tree in CGROUPS for path in tree.glob("formation-h*")]
    found += [str(path) for path in CACHE.glob("h[0-9]") if path.is_dir()]
    return found


# -- what is kept for the next time ----------------------------------------------------------------


def prepare_base() -> None:
    """The root file system: whole, or not there."""
    stamp = BASE / "etc/debootstrapped-with"
    if stamp.exists() and stamp.read_text() == PACKAGES:
        return
    shutil.rmtree(BASE, ignore_errors=True)
    new = CACHE / "base.new"
    _discard(new)
    print("debootstrap of Debian 12, once", flush=True)
    try:
        sh("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(new),
           timeout_s=1200)  # fmt: skip
    except BaseException:
        _discard(new)
        raise
    # Each etcd is started by hand, on the machines that shall have one.
    (new / "etc/systemd/system/multi-user.target.wants/etcd.service").unlink(missing_ok=True)
    (new / "etc/debootstrapped-with").write_text(PACKAGES)
    new.rename(BASE)


def _discard(tree: Path) -> None:
    """debootstrap mounts /proc and /sys in there, and leaves them when it is stopped."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in reversed([mount for mount in mounts if mount.startswith(f"{tree}/")]):
        sh("umount", "-l", mount)
    shutil.rmtree(tree, ignore_errors=True)
