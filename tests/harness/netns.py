"""Machines of our own on this one: network namespaces on a bridge, with cables that can be cut.

Each host has an address, and a cgroup to freeze or end it as a whole. The bridge is in a namespace
of its own; this process reaches all hosts as one more machine. Everything is removed by `close`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from formation_agent import cgroups

# Of the block that RFC 2544 sets aside for trying networks.
_BLOCK = "198.18"
_FILTER = "table bridge cut { chain forward { type filter hook forward priority 0; }; }"
_SERIALS = itertools.count()
# Enters a cgroup, then becomes the command: nothing of it is ever outside.
_ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


def missing() -> str:
    """Why there can be no test hosts here, in words for people; "" when there can."""
    if os.geteuid() != 0:
        return "test hosts are network namespaces, which only root can make"
    for program, package in {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux"}.items():
        if shutil.which(program) is None:
            return f"test hosts need {program}: apt install {package}"
    try:
        run("ip", "netns", "add", probe := f"fmn{os.getpid()}x")
    except RuntimeError as error:
        return f"this machine lets nobody make network namespaces: {error}"
    run("ip", "netns", "del", probe)
    return "" if cgroups.own()[0] else "test hosts need a cgroup v2 to be frozen in"


def run(*words: str, stdin: str = "") -> str:
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """`cable`: the bridge's end of its link."""

    name: str
    address: str
    namespace: str
    cable: str
    cgroup: str

    def command(self, *words: str) -> list[str]:
        """What runs `words` on this host: in its network, and in its cgroup."""
        inside = ("sh", "-c", _ENTER, self.cgroup)
        return ["nsenter", f"--net=/run/netns/{self.namespace}", "--", *inside, *words]

    def pids(self) -> list[int]:
        found: list[int] = []
        for directory, _below, _files in os.walk(self.cgroup):
            with contextlib.suppress(OSError):
                found += map(int, Path(directory, "cgroup.procs").read_text().split())
        return found

    def freeze(self) -> None:
        """All of it stands still, as a machine that is suspended; its kernel answers no more."""
        self._freeze("1")

    def thaw(self) -> None:
        self._freeze("0")

    def _freeze(self, word: str) -> None:
        Path(self.cgroup, "cgroup.freeze").write_text(word)
        events = Path(self.cgroup, "cgroup.events")
        ends_s = time.monotonic() + 5.0
        while f"frozen {word}" not in events.read_text():
            assert time.monotonic() < ends_s, f"{self.name} does not freeze"
            time.sleep(0.002)

    def power_off(self) -> None:
        """Every process at once, without a word."""
        assert cgroups.kill_and_remove(self.cgroup, 20.0), f"{self.name} does not end"
        os.mkdir(self.cgroup)

    def allow_descriptors(self, count: int) -> None:
        """Of each process that runs here now; those above what they have open get no more."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, hard))


class Network:
    """Use as a context manager. Cuts are silent: packets vanish, no end is told."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        # Two parts of it tell apart test runs at the same time; a name has room for 15 bytes.
        self._id = f"{os.getpid() % 100_000}{next(_SERIALS) % 10}"
        self._space = f"fmn{self._id}"
        self._third = self._free_third()
        self._numbers = itertools.count(11)
        self._cut: dict[tuple[str, str], str] = {}

    def __enter__(self) -> Network:
        try:
            self._lay()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _free_third(self) -> int:
        taken = run("ip", "-4", "addr", "show")
        first = os.getpid() % 250
        return next(n for n in _around(first, 250) if f"{_BLOCK}.{n}." not in taken)

    def _lay(self) -> None:
        self._space_of("")
        self._in("ip", "link", "add", "name", "br0", "type", "bridge", "stp_state", "0")
        self._in("ip", "link", "set", "br0", "up")
        self._in("nft", "-f", "-", stdin=_FILTER)
        ours = f"fmn{self._id}r"
        run("ip", "link", "add", ours, "type", "veth", "peer", "name", "us", "netns", self._space)
        run("ip", "addr", "add", f"{_BLOCK}.{self._third}.1/24", "dev", ours)
        run("ip", "link", "set", ours, "up")
        self._plug("us")

    def _space_of(self, name: str) -> str:
        space = f"{self._space}{name and '-'}{name}"
        run("ip", "netns", "add", space)
        run("ip", "-n", space, "link", "set", "lo", "up")
        return space

    def _plug(self, cable: str) -> None:
        self._in("ip", "link", "set", cable, "master", "br0")
        self._in("ip", "link", "set", cable, "up")

    def _in(self, *words: str, stdin: str = "") -> str:
        return run("nsenter", f"--net=/run/netns/{self._space}", "--", *words, stdin=stdin)

    @property
    def our_address(self) -> str:
        return f"{_BLOCK}.{self._third}.1"

    def add(self, name: str) -> Host:
        space = self._space_of(name)
        address, cable = f"{_BLOCK}.{self._third}.{next(self._numbers)}", f"to-{name}"[:15]
        self._in("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", space, "link", "set", "eth0", "up")
        self._plug(cable)
        cgroup = f"{cgroups.own()[0].rstrip('/')}/{space}"
        os.mkdir(cgroup)
        host = Host(name=name, address=address, namespace=space, cable=cable, cgroup=cgroup)
        self.hosts[name] = host
        return host

    # ------------------------------------------------------------------ cables

    def cut(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Nothing of `a` reaches `b`; nor the other way, unless `one_way`."""
        self._drop((a, b), f'iifname "{self._cable(a)}" oifname "{self._cable(b)}"')
        if not one_way:
            self._drop((b, a), f'iifname "{self._cable(b)}" oifname "{self._cable(a)}"')

    def isolate(self, name: str) -> None:
        """Pull its cable: it reaches nobody, and nobody reaches it."""
        cable = self._cable(name)
        self._drop((name, ""), f'iifname "{cable}"')
        self._drop(("", name), f'oifname "{cable}"')

    def lose(self, name: str, percent: int) -> None:
        """So many of a hundred packets to it and from it, at random."""
        cable, some = self._cable(name), f"numgen random mod 100 < {percent}"
        self._drop((name, "%"), f'iifname "{cable}" {some}')
        self._drop(("%", name), f'oifname "{cable}" {some}')

    def heal(self, *names: str) -> None:
        """Of the cuts and losses those between two names, all of one, or all there are."""
        kept = {ends: rule for ends, rule in self._cut.items() if not set(names) <= set(ends)}
        self._cut = kept
        self._write()

    def narrow(self, name: str, kbit: int) -> None:
        """What goes to it and comes from it fits through `kbit` kbit/s; 0: all again."""
        for prefix, device in (
            (("nsenter", f"--net=/run/netns/{self._space}", "--", "tc"), self._cable(name)),
            (("tc", "-n", self.hosts[name].namespace), "eth0"),
        ):
            with contextlib.suppress(RuntimeError):  # there was none
                run(*prefix, "qdisc", "del", "dev", device, "root")
            if kbit:
                tbf = ("tbf", "rate", f"{kbit}kbit", "burst", "8kb", "latency", "400ms")
                run(*prefix, "qdisc", "add", "dev", device, "root", *tbf)

    def _cable(self, name: str) -> str:
        return self.hosts[name].cable if name else "us"

    def _drop(self, ends: tuple[str, str], match: str) -> None:
        self._cut[ends] = f"add rule bridge cut forward {match} drop"
        self._write()

    def _write(self) -> None:
        """All rules in one transaction, so no packet slips through between two."""
        self._in("nft", "-f", "-", stdin="\n".join(["flush chain bridge cut forward",
                                                    *self._cut.values()]))  # fmt: skip

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        for host in self.hosts.values():
            with contextlib.suppress(OSError):
                Path(host.cgroup, "cgroup.freeze").write_text("0")
            cgroups.kill_and_remove(host.cgroup, 20.0)
        for space in [host.namespace for host in self.hosts.values()] + [self._space]:
            with contextlib.suppress(RuntimeError):
                run("ip", "netns", "del", space)
        self.hosts.clear()


def _around(first: int, count: int) -> Iterator[int]:
    yield from range(first, count)
    yield from range(first)


def names(prefix: str, count: int) -> Sequence[str]:
    return [f"{prefix}{index + 1}" for index in range(count)]
