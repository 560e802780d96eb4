"""Each kind of fault, done and undone on a lab."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable

from lab import Lab

from chaos.schedule import Fault

LOSS_PERCENT, NARROW_KBIT, DESCRIPTORS = 20, 64, 40
WORKLOADS = ("web.py", "worker.py", "holder.py")


class Verbs:
    """`begin` and `end` each fault once; what is left of a machine's programs is started again."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self._lab, self._network = lab, lab.network
        self._dice = random.Random(seed)
        self._limits: dict[str, int] = {}

    def begin(self, fault: Fault) -> None:
        self._of(fault.kind)[0](*fault.targets)

    def end(self, fault: Fault) -> None:
        self._of(fault.kind)[1](*fault.targets)

    def _of(self, kind: str) -> tuple[Callable[..., None], Callable[..., None]]:
        lab, network = self._lab, self._network
        verbs: dict[str, tuple[Callable[..., None], Callable[..., None]]] = {
            "isolate": (network.isolate, network.heal),
            "isolate coordinator": (network.isolate, network.heal),
            "isolate etcd": (network.isolate, network.heal),
            "cut": (network.cut, network.heal),
            "cut one way": (self._cut_one_way, network.heal),
            "cut from etcd": (self._cut_from_all, self._heal_from_all),
            "cut coordinators": (network.cut, network.heal),
            "kill coordinator": (lab.kill, lab.again),
            "stop coordinator": (self._stop, lab.again),
            "freeze coordinator": (self._freeze, self._thaw),
            "kill etcd": (lab.kill, lab.again),
            "freeze etcd": (self._freeze, self._thaw),
            "lose quorum": (self._freeze, self._thaw),
            "kill agent": (lab.kill, lab.again),
            "kill brain": (self._kill_brain, _nothing),
            "freeze brain": (self._freeze_brain, self._thaw_brain),
            "freeze host": (self._freeze, self._thaw),
            "power off": (lab.power_off, lab.again),
            "lose packets": (lambda name: network.lose(name, LOSS_PERCENT), network.heal),
            "narrow": (
                lambda name: network.narrow(name, NARROW_KBIT),
                lambda name: network.narrow(name, 0),
            ),
            "fill disk": (
                lambda name: lab.fill(lab.state(name)),
                lambda name: lab.empty(lab.state(name)),
            ),
            "few descriptors": (
                lambda name: network.hosts[name].allow_descriptors(DESCRIPTORS),
                lambda name: network.hosts[name].allow_descriptors(1024),
            ),
            "crash instance": (self._crash_instance, _nothing),
        }
        return verbs[kind]

    def _cut_one_way(self, a: str, b: str) -> None:
        self._network.cut(a, b, one_way=True)

    def _cut_from_all(self, one: str, *others: str) -> None:
        for other in others:
            self._network.cut(one, other)

    def _heal_from_all(self, one: str, *others: str) -> None:
        for other in others:
            self._network.heal(one, other)

    def _stop(self, name: str) -> None:
        self._lab.kill(name, signal.SIGTERM)

    def _freeze(self, *names: str) -> None:
        for name in names:
            self._network.hosts[name].freeze()

    def _thaw(self, *names: str) -> None:
        for name in names:
            self._network.hosts[name].thaw()

    def _kill_brain(self, name: str) -> None:
        _signal(self._lab.brain_of(name), signal.SIGKILL)

    def _freeze_brain(self, name: str) -> None:
        pid = self._limits[name] = self._lab.brain_of(name)
        _signal(pid, signal.SIGSTOP)

    def _thaw_brain(self, name: str) -> None:
        if self._lab.brain_of(name) == self._limits[name]:  # its keeper may have replaced it
            _signal(self._limits[name], signal.SIGCONT)

    def _crash_instance(self, name: str) -> None:
        found = [pid for word in WORKLOADS for pid in self._lab.workload(word).get(name, ())]
        if found:
            _signal(self._dice.choice(sorted(found)), signal.SIGKILL)


def _signal(pid: int, how: signal.Signals) -> None:
    if pid:
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            return


def _nothing(*_names: str) -> None:
    return
