"""Three machines of systemd-nspawn, installed as docs/install.md says: `make hosts-test`.

Each has a systemd of its own. They share a bridge in a network namespace that leads nowhere else.
Needs root, debootstrap and systemd-nspawn. What it started is ended, also when it fails.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("FORMATION_HOSTS_CACHE", "/var/tmp/formation-hosts"))
PACKAGES = (
    "systemd,systemd-sysv,dbus,python3,python3-venv,iproute2,etcd-server,procps,libpam-systemd"
)
NAMES = ("h1", "h2", "h3")
SWITCH = "formation-switch"
OPERATOR = "runuser -u formation -- env HOME=/var/lib/formation-coordinator "
CGROUPS = [Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified")]


def sh(*words: str, check: bool = True, timeout_s: float = 600) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
    if check and done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def eventually(true: Callable[[], bool], what: str, within_s: float = 90) -> None:
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > within_s:
            raise SystemExit(f"not within {within_s:g} s: {what}")
        time.sleep(0.3)
    print(f"{what} ({time.monotonic() - began:.1f} s)", flush=True)


class Host:
    def __init__(self, number: int) -> None:
        self.name, self.address = f"h{number}", f"10.0.0.{number}"
        self.space = f"formation-{self.name}"
        self.tree = CACHE / self.name
        self.process: subprocess.Popen[bytes] | None = None

    def plug_in(self) -> None:
        link = f"v-{self.name}"
        sh("ip", "netns", "add", self.space)
        sh("ip", "-n", SWITCH, "link", "add", link, "type", "veth",
           "peer", "name", "host0", "netns", self.space)  # fmt: skip
        sh("ip", "-n", SWITCH, "link", "set", link, "master", "br0", "up")
        sh("ip", "-n", self.space, "addr", "add", f"{self.address}/24", "dev", "host0")
        for name in ("lo", "host0"):
            sh("ip", "-n", self.space, "link", "set", name, "up")

    def boot(self) -> None:
        sh("cp", "-a", "--reflink=auto", str(CACHE / "base"), str(self.tree))
        (self.tree / "etc/hostname").write_text(f"{self.name}\n")
        (self.tree / "etc/machine-id").write_text("")
        (self.tree / "etc/hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        (self.tree / "etc/resolv.conf").unlink(missing_ok=True)  # no network to ask
        words = [
            "systemd-nspawn", "--quiet", "--boot", f"--machine={self.name}", "--register=no",
            "--keep-unit", "--console=pipe", f"--directory={self.tree}", "--link-journal=no",
            f"--network-namespace-path=/run/netns/{self.space}", "--resolv-conf=off",
            f"--bind-ro={CACHE}/site:/srv/formation", f"--bind-ro={CACHE}/wheels:/srv/wheels",
        ]  # fmt: skip
        out = (CACHE / f"{self.name}.log").open("wb")
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            preexec_fn=self._own_cgroup,  # noqa: PLW1509  no threads here
        )

    def _own_cgroup(self) -> None:
        for tree in CGROUPS:
            if tree.is_dir():
                own = tree / f"formation-{self.name}"
                own.mkdir(exist_ok=True)
                (own / "cgroup.procs").write_text(str(os.getpid()))

    def leader(self) -> str:
        assert self.process
        return sh("ps", "-o", "pid=", "--ppid", str(self.process.pid), check=False).strip()

    def run(self, script: str, *, check: bool = True, timeout_s: float = 300) -> str:
        leader = self.leader()
        if not leader or " " in leader or "\n" in leader:
            if check:
                raise SystemExit(f"{self.name} is not up: {leader!r}")
            return ""
        env = "PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/wheels PATH=/usr/local/bin:/usr/sbin:/usr/bin"
        words = ["nsenter", "-t", leader, "-m", "-u", "-i", "-n", "-p", "env", "-i", *env.split()]
        shell = ["bash", "-euc", f"cd /srv/formation\n{script}"]
        return sh(*words, *shell, check=check, timeout_s=timeout_s)

    def is_up(self) -> bool:
        state = self.run("systemctl is-system-running || true", check=False).strip()
        return state in ("running", "degraded")

    def end(self) -> None:
        if self.process and self.process.poll() is None:
            leader = self.leader()
            if leader:
                os.kill(int(leader.split()[0]), signal.SIGRTMIN + 4)  # poweroff
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        sh("ip", "netns", "del", self.space, check=False)
        shutil.rmtree(self.tree, ignore_errors=True)
        for tree in CGROUPS:
            _remove_cgroup(tree / f"formation-{self.name}")


def _remove_cgroup(top: Path) -> None:
    for path, _, _ in os.walk(top, topdown=False):
        try:
            os.rmdir(path)
        except OSError as error:
            print(f"{path}: {error.strerror}")


def blocks(kind: str) -> list[str]:
    """What docs/install.md says to run there."""
    text = (ROOT / "docs/install.md").read_text("utf-8")
    found = re.findall(rf"^```sh {kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found, kind
    return found


def shown(host: Host, script: str) -> str:
    for line in script.strip().splitlines():
        print(f"{host.name}# {line}", flush=True)
    out = host.run(script)
    print(out, end="", flush=True)
    return out


def prepare() -> None:
    """Root file system and wheels, kept for the next time; a site as a checkout has it."""
    if not (CACHE / "base/usr/bin/etcd").exists():
        sh("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm",
           str(CACHE / "base"), timeout_s=1200)  # fmt: skip
    pip = [sys.executable, "-m", "pip", "wheel", "-q"]
    if not list((CACHE / "wheels").glob("grpcio-*.whl")):
        sh(*pip, "-w", str(CACHE / "wheels"), str(ROOT))
    site = CACHE / "site"
    shutil.rmtree(site, ignore_errors=True)
    for name in ("deploy", "examples"):
        shutil.copytree(ROOT / name, site / name)
    for folder, version in (("dist", ""), ("next", "0.1.1")):
        tree = CACHE / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        for name in ("common", "coordinator", "agent", "cli", "pyproject.toml", "README.md"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tree / name)
        if version:
            for path in (tree / "pyproject.toml", tree / "common/formation/__init__.py"):
                path.write_text(path.read_text("utf-8").replace("0.1.0", version), "utf-8")
        sh(*pip, "--no-deps", "-w", str(site / folder), str(tree))
        shutil.rmtree(tree)


def healthy(first: Host) -> list[dict[str, object]]:
    out = first.run(f"{OPERATOR} formctl ps -o json", check=False)
    rows = json.loads(out or "[]")
    rows = rows if isinstance(rows, list) else rows.get("instances", [])
    return [row for row in rows if row.get("state") == "healthy"]


def pids(first: Host) -> dict[str, object]:
    return {f"{row['type']}.{row['ordinal']}": row["pid"] for row in healthy(first)}


def on_three(first: Host) -> bool:
    rows = healthy(first)
    return len(rows) == 3 and {row["host"] for row in rows} == set(NAMES)


def story(hosts: list[Host]) -> None:
    first, *others = hosts
    eventually(lambda: all(host.is_up() for host in hosts), "three machines are up")
    begin, token, see = blocks("first")
    shown(first, begin)
    for host in others:
        shown(host, blocks("others")[0])
    for host in hosts:
        line = first.run(token)
        found = re.search(r"formation-agent join \S+ (FORM1\S+)", line)
        assert found, line
        print(f"{host.name}# {blocks('join')[0].strip()}")
        host.run(blocks("join")[0].replace("FORM1…", found[1]))
    shown(first, see)
    eventually(lambda: on_three(first), "three healthy instances, one on each host")
    upgrade(first, hosts)
    reboot(first, hosts)
    stop(hosts)


def upgrade(first: Host, hosts: list[Host]) -> None:
    before = pids(first)
    line = blocks("upgrade")[0]
    shown(first, line)
    for host in hosts[1:]:
        shown(host, line.replace("coordinator agent", "agent"))
    eventually(lambda: pids(first) == before, f"upgraded, and the pids are the same: {before}")
    for host in hosts:
        assert "0.1.1" in host.run("formation-agent --version"), host.name
        said = host.run("journalctl -u formation-agent --no-pager | grep -c ' re-executed$'")
        assert int(said) >= 1, host.name


def reboot(first: Host, hosts: list[Host]) -> None:
    last, boot = (
        hosts[2],
        "cat /proc/sys/kernel/random/boot_id; systemctl show -P UserspaceTimestampMonotonic",
    )
    before = last.run(boot)
    print(f"{last.name}# systemctl reboot")
    last.run("systemctl reboot", check=False)
    eventually(
        lambda: last.run(boot, check=False) not in ("", before) and last.is_up(), "h3 is up again"
    )
    eventually(
        lambda: len(healthy(first)) == 3 and "web.py" in last.run("ps ax", check=False),
        "instances run on h3 again",
    )


def stop(hosts: list[Host]) -> None:
    for host in hosts:
        print(f"{host.name}# systemctl stop formation-agent")
        host.run("systemctl stop formation-agent")
        left = host.run(
            "ps -eo user:20,args | grep -e formation-app -e web.py | grep -v grep || true"
        )
        assert not left, left
        shown(host, blocks("uninstall")[0])
        left = host.run(
            "ls -d /opt/formation /etc/formation /var/lib/formation* /usr/local/bin/form* "
            "/etc/systemd/system/formation* 2>/dev/null || true\n"
            "getent passwd | grep formation || true"
        )
        assert not left, left
    print("nothing is left on any host")


def main() -> int:
    if os.geteuid() != 0:
        print("hosts-test: this takes root: it boots machines with systemd-nspawn", file=sys.stderr)
        return 1
    for tool in ("debootstrap", "systemd-nspawn", "ip", "nsenter"):
        if not shutil.which(tool):
            print(f"hosts-test: {tool} is missing: apt-get install debootstrap systemd-container "
                  "iproute2", file=sys.stderr)  # fmt: skip
            return 1
    CACHE.mkdir(parents=True, exist_ok=True)
    lock = (CACHE / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("hosts-test: another one is at work here", file=sys.stderr)
        return 1
    prepare()
    hosts = [Host(number) for number in (1, 2, 3)]
    try:
        sh("ip", "netns", "add", SWITCH)
        sh("ip", "-n", SWITCH, "link", "add", "br0", "type", "bridge")
        sh("ip", "-n", SWITCH, "link", "set", "br0", "up")
        for host in hosts:
            host.plug_in()
            host.boot()
        story(hosts)
    except BaseException:
        for host in hosts:
            print(
                host.run(
                    "journalctl -n 40 --no-pager -p notice -u etcd -u 'formation*'", check=False
                )
            )
        raise
    finally:
        for host in hosts:
            host.end()
        sh("ip", "netns", "del", SWITCH, check=False)
    print("hosts-test: 1 passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
