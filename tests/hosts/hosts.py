"""Installing on three machines, upgrading and taking away, as docs/install.md says it:
`make hosts-test`.

    python tests/hosts/hosts.py [script] [package] [tour]     some of the stories, or all

The last one is the README's tour, typed in by a user of a machine that has nothing but Python.


Takes root, debootstrap and systemd-nspawn. What it started is ended, also when it fails; a root
file system and wheels stay in FORMATION_HOSTS_CACHE for the next time.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import machines
from machines import CACHE, SITE, WHEELS, Failed, Host, eventually, sh

from formation import __version__

ROOT = Path(__file__).parents[2]
NEXT = f"{__version__}.post1"
OPERATOR = "runuser -u formation -- env HOME=/var/lib/formation-coordinator "
GUEST = "runuser -u guest -- env HOME=/home/guest PATH=/home/guest/venv/bin:/usr/bin:/bin"
# Warnings that belong to what is done here: a coordinator is restarted, a machine is switched off,
# and the only coordinator is taken away before the last agents.
FORESEEN = re.compile(
    r"trying again, everything here runs on$|^the brake is on: |^no coordinator took the goodbye$"
)
UNITS = "formation-agent formation-coordinator formation-etcd"


# -- what docs/install.md says ---------------------------------------------------------------------


def blocks(kind: str) -> list[str]:
    text = (ROOT / "docs/install.md").read_text("utf-8")
    found = re.findall(rf"^<!-- run: {kind} -->\n```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    if not found:
        raise Failed(f"docs/install.md has no block of commands called {kind}")
    return found


def shown(host: Host, script: str) -> str:
    for line in script.strip().splitlines():
        print(f"{host.name}# {line}", flush=True)
    out = host.run(script)
    print(out, end="", flush=True)
    return out


def join(first: Host, host: Host) -> None:
    line = first.run(blocks("token")[0])
    found = re.search(r"formation-agent join \S+ (FORM1\S+)", line)
    assert found, line
    print(f"{host.name}# {blocks('join')[0].strip()}")
    host.run(blocks("join")[0].replace("FORM1…", found[1]))


# -- what is there to be seen ----------------------------------------------------------------------


def healthy(first: Host) -> list[dict[str, object]]:
    out = first.run(f"{OPERATOR} formctl ps -o json", check=False)
    rows: list[dict[str, object]] | dict[str, list[dict[str, object]]] = json.loads(out or "[]")
    rows = rows if isinstance(rows, list) else rows["instances"]
    return [row for row in rows if row.get("state") == "healthy"]


def pids(first: Host) -> dict[str, object]:
    return {f"{row['type']}.{row['ordinal']}": row["pid"] for row in healthy(first)}


def run_on(first: Host, hosts: Iterable[Host]) -> bool:
    names = {host.name for host in hosts}
    return sorted(str(row["host"]) for row in healthy(first)) == sorted(names)


def look_through(hosts: Iterable[Host]) -> None:
    """Nothing of ours failed, was restarted, was refused something or warned without a reason."""
    for host in hosts:
        failed = host.run("systemctl list-units --failed --plain --no-legend")
        restarts = host.run(
            f"for unit in {UNITS}; do "
            'systemctl show -P NRestarts "$unit.service" | grep -v "^0$" | sed "s/^/$unit: /"; '
            "done || true"
        )
        said = host.run(
            "journalctl -b --no-pager -o cat -p warning -u formation-agent -u formation-coordinator"
        )
        bad = [line for line in said.splitlines() if not FORESEEN.search(line)]
        if failed or restarts or bad:
            raise Failed("\n".join([f"on {host.name}:", failed, restarts, *bad]))
    print("no unit failed or was restarted, no journal has a warning that was not foreseen")


def nothing_left(host: Host, *but: str) -> None:
    left = host.run(
        "ls -d /opt/formation* /etc/formation* /var/lib/formation* /usr/local/bin/form* "
        "/usr/bin/form* /etc/systemd/system/formation* /lib/systemd/system/formation* "
        "/etc/systemd/system/*.wants/formation* /usr/lib/*.d/formation* /run/formation* "
        "2>/dev/null || true\n"
        "getent passwd | grep formation || true\n"
        "ps -eo user:20,args | grep -e formation -e web.py | grep -v -e grep -e bash || true"
    )
    left = "\n".join(line for line in left.splitlines() if line not in but)
    if left:
        raise Failed(f"left on {host.name}:\n{left}")


# -- the stories -----------------------------------------------------------------------------------


def script(hosts: Sequence[Host]) -> None:
    """With install.sh, on all three."""
    first, *others = hosts
    shown(first, blocks("first")[0])
    for host in others:
        shown(host, blocks("others")[0])
    for host in hosts:
        join(first, host)
    shown(first, blocks("see")[0])
    eventually(lambda: run_on(first, hosts), "three healthy instances, one on each host")
    print(first.run("systemctl show -P StatusText formation-agent formation-coordinator"), end="")
    upgrade(first, others)
    reboot(first, hosts)
    look_through(hosts)
    stop(hosts)


def upgrade(first: Host, others: Iterable[Host]) -> None:
    before = pids(first)
    line = blocks("upgrade")[0]
    shown(first, line)
    for host in others:
        shown(host, line.replace("coordinator agent", "agent"))
    is_same(first, before, [first, *others])


def is_same(first: Host, before: dict[str, object], hosts: Iterable[Host]) -> None:
    eventually(lambda: pids(first) == before, f"upgraded, and the pids are the same: {before}")
    for host in hosts:
        version = host.run("formation-agent --version").strip()
        said = host.run(
            "journalctl -b _PID=$(systemctl show -P MainPID formation-agent) --no-pager -o cat"
        ).splitlines()
        assert version == f"formation-agent {NEXT}", host.name
        assert said.count("re-executed") == 1, host.name


def reboot(first: Host, hosts: Sequence[Host]) -> None:
    """Shut down in order a machine hands over what it runs; after a power cut it has it still."""
    last = hosts[-1]
    kept = {row["pid"] for row in healthy(first) if row["host"] != last.name}
    booted = "cat /run/formation-test-boot 2>/dev/null || true"
    last.run("echo before >/run/formation-test-boot")
    print(f"{last.name}# systemctl reboot")
    last.run("systemctl reboot", check=False)
    eventually(lambda: last.is_up() and not last.run(booted), f"{last.name} is up again")
    eventually(lambda: len(healthy(first)) == len(hosts), "what it ran was taken by others")
    shown(first, blocks("rebalance")[0])
    eventually(lambda: run_on(first, hosts), f"{last.name} has its share again")
    print(f"power cut on {last.name}")
    last.cut_power()
    last.power_on()

    def is_back() -> bool:
        runs_there = "web.py" in last.run("ps -eo args", check=False)
        return runs_there and last.is_up() and run_on(first, hosts)

    eventually(is_back, f"{last.name} runs again what it ran")
    assert kept <= {row["pid"] for row in healthy(first)}, "others were not touched by it"


def stop(hosts: Iterable[Host]) -> None:
    for host in hosts:
        print(f"{host.name}# systemctl stop formation-agent")
        host.run("systemctl stop formation-agent")
        left = host.run("pgrep -u formation-app || true; ls -d /sys/fs/cgroup/*/system.slice/"
                        "formation-agent.service 2>/dev/null || true")  # fmt: skip
        assert not left, f"still there on {host.name}: {left}"
        shown(host, blocks("uninstall")[0])
        nothing_left(host)
    print("nothing is left on any host")


def package(hosts: Sequence[Host]) -> None:
    """Three etcds with TLS; the Debian package on two of them, the single file on the third."""
    first, second, third = hosts
    three_etcds(hosts)
    for host in (first, second):
        shown(host, blocks("package")[0])
    shown(third, blocks("single")[0])
    shown(first, blocks("etcd-users")[0])
    shown(first, blocks("etcd-coordinator")[0])
    for host in hosts:
        join(first, host)
    shown(first, blocks("see")[0])
    eventually(lambda: run_on(first, hosts), "three healthy instances, one on each host")
    before = pids(first)
    for host in (first, second):
        shown(host, blocks("package-upgrade")[0])
    shown(third, blocks("single-upgrade")[0])
    is_same(first, before, hosts)
    assert "10.0.0.1:7100" in first.run("cat /etc/formation/coordinator.toml"), "a conffile stays"
    without_a_member(first, second)
    look_through(hosts)
    take_away(hosts)


def three_etcds(hosts: Sequence[Host]) -> None:
    first, *others = hosts
    shown(first, blocks("etcd-make")[0])
    first.run("cp -a /root/etcd-cluster/h1 /etc/formation-etcd")
    for host in others:
        host.receive(first, f"root/etcd-cluster/{host.name}", "etc/formation-etcd")
    for host in hosts:
        shown(host, blocks("etcd-start")[0])
    active = "systemctl is-active formation-etcd || true"

    def found() -> bool:
        return all(host.run(active) == "active\n" for host in hosts)

    eventually(found, "three etcds have found each other")


def without_a_member(first: Host, second: Host) -> None:
    print(f"{second.name}# systemctl stop formation-etcd")
    second.run("systemctl stop formation-etcd")
    shown(first, f"{OPERATOR} formctl scale --app hello web=6 --wait")
    eventually(lambda: len(healthy(first)) == 6, "six with two etcds of three")
    second.run("systemctl start formation-etcd")


def take_away(hosts: Sequence[Host]) -> None:
    """Packages leave their users, as Debian's do."""
    *packaged, third = hosts
    shown(third, blocks("single-uninstall")[0])
    for host in packaged:
        shown(host, blocks("package-purge")[0])
    for host in hosts:
        shown(host, blocks("etcd-uninstall")[0])
        host.run("for user in formation formation-app; do userdel $user 2>/dev/null || true; done")
        host.run("rm -rf /etc/formation/etcd && rmdir /etc/formation 2>/dev/null || true")
        nothing_left(host)
    print("nothing is left on any host")


def tour(hosts: Sequence[Host]) -> None:
    """The README's, by somebody who is not root."""
    host, home = hosts[-1], "/home/guest"
    host.run(f"useradd --create-home guest && cp -r examples/hello {home}/")
    host.run(f"chown -R guest {home}/hello && {GUEST} python3 -m venv {home}/venv")
    host.run(f"{GUEST} pip install -q --find-links dist 'formctl[embedded]'")
    dev = "formctl dev --agents 3 -m web=3,worker=2,clock=1"
    print(f"guest@{host.name}$ {dev}")
    # Not by runuser, which kills two seconds after it was told to end.
    unit = f"--unit=tour --uid=guest --working-directory={home}/hello"
    host.run(f"systemd-run --quiet {unit} env {GUEST.partition(' env ')[2]} {dev}")
    eventually(lambda: _toured(host).count('"healthy"') == 6, "six healthy instances")
    for command in _tour():
        print(f"guest@{host.name}$ {command}")
        # A plan that would change something says so with its exit code.
        may = " || [ $? = 1 ]" if " plan " in command else ""
        print(host.run(f"cd {home}/hello && {GUEST} {command}{may}"), end="", flush=True)
    host.run("systemctl stop tour")
    left = host.run("ps -u guest -o args= || true; find /tmp/formation-* ! -type d || true")
    if left:
        raise Failed(f"left of the tour:\n{left}")
    host.run("userdel --remove guest")


def _tour() -> list[str]:
    text = (ROOT / "README.md").read_text("utf-8")
    return re.findall(r"^\$ (formctl .*)$", text, re.MULTILINE)


def _toured(host: Host) -> str:
    return host.run(f"cd /home/guest/hello && {GUEST} formctl ps -o json", check=False)


STORIES: dict[str, Callable[[Sequence[Host]], None]] = {
    "script": script,
    "package": package,
    "tour": tour,
}


# -- what is installed -----------------------------------------------------------------------------


def prepare() -> None:
    """Wheels, kept for the next time; a site as a checkout has it, with this version and a next."""
    machines.prepare_base()
    _make_wheels()
    print("two versions, each as a wheel, a package and a single file", flush=True)
    shutil.rmtree(SITE, ignore_errors=True)
    for name in ("deploy", "examples"):
        shutil.copytree(ROOT / name, SITE / name)
    for folder, version in (("dist", __version__), ("next", NEXT)):
        _make(SITE / folder, version)


def _make_wheels() -> None:
    """Of what we need."""
    wanted = str(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"])
    wanted += " [embedded]"
    stamp = WHEELS / "made-for"
    if stamp.exists() and stamp.read_text("utf-8") == wanted:
        return
    print("wheels of what Formation needs, once", flush=True)
    shutil.rmtree(WHEELS, ignore_errors=True)
    sh(sys.executable, "-m", "pip", "wheel", "-q", "-w", str(WHEELS), f"{ROOT}[embedded]")
    for path in WHEELS.glob("formctl-*.whl"):
        path.unlink()
    stamp.write_text(wanted, "utf-8")


def _make(folder: Path, version: str) -> None:
    """The wheel, the package and the single file of a version."""
    tree = CACHE / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    for name in ("common", "coordinator", "agent", "cli", "pyproject.toml", "README.md"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    for path in (tree / "pyproject.toml", tree / "common/formation/__init__.py"):
        text = path.read_text("utf-8").replace(f'"{__version__}"', f'"{version}"')
        path.write_text(text, "utf-8")
    sh(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(tree))
    (wheel,) = folder.glob("formctl-*.whl")
    env = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(WHEELS),
        "PIP_PYTHON": sys.executable,
        "DPKG_DEB_COMPRESSOR_TYPE": "gzip",  # nobody waits for a smaller one
        "DPKG_DEB_COMPRESSOR_LEVEL": "1",
    }
    words = [f"{name}={value}" for name, value in env.items()]
    sh("env", *words, str(ROOT / "tools/makedeb.sh"), str(wheel), str(folder))
    here = ".".join(map(str, machines.PYTHON))
    single = str(folder / "formation-agent.pyz")
    # Of another platform than the wheels above: an older glibc's.
    sh(sys.executable, str(ROOT / "tools/makesingle.py"), str(wheel), single, here)
    shutil.rmtree(tree)


def tell(names: Sequence[str]) -> None:
    with machines.switched_on(3) as hosts:
        try:
            eventually(lambda: all(host.is_up() for host in hosts), "three machines are up")
            for name in names:
                STORIES[name](hosts)
        except BaseException:
            for host in hosts:
                words = "journalctl -b -n 60 --no-pager -u 'etcd' -u 'formation*'"
                print(f"--- {host.name}\n{host.run(words, check=False)}", flush=True)
            raise


def main(words: Sequence[str]) -> int:
    names = list(words) or list(STORIES)
    if unknown := [name for name in names if name not in STORIES]:
        print(
            f"hosts-test: no story {unknown[0]}; there are: {', '.join(STORIES)}", file=sys.stderr
        )
        return 2
    if why := machines.missing():
        print(f"hosts-test: {why}", file=sys.stderr)
        return 1
    try:
        with machines.only_one():
            prepare()
            tell(names)
    except Failed as failed:
        print(f"hosts-test: {failed}", file=sys.stderr)
        return 1
    if left := machines.left():
        print("hosts-test: left behind:", *left, sep="\n  ", file=sys.stderr)
        return 1
    print(f"hosts-test: {len(names)} passed")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
