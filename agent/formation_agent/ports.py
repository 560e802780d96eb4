"""Gives every slot of this host a port that is free, and the same one again while it can.

Knows slots and numbers; whether a number is free it asks the kernel by binding it. Keeps nothing
on disk: the journal remembers for it.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from formation.model import Slot

_FOREMAN_STEP = 100
_NUMBERS = range(1, 65536)
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
# These say nothing about the port.
_CANNOT_LOOK = {
    errno.EMFILE: "the agent has too many open files (raise LimitNOFILE= or ulimit -Hn)",
    errno.ENFILE: "this machine has too many open files",
    errno.ENOBUFS: "this machine has no memory left for sockets",
    errno.ENOMEM: "this machine has no memory left for sockets",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """`moved_from`: the number that was wanted first and is not free."""

    number: int
    moved_from: int | None = None


class PortError(Exception):
    """There is no port to be had; its text is one line for people, with numbers."""


def is_free(number: int) -> bool:
    """Whether nobody listens there, on any address, in either family.

    Raises PermissionError for a port that we may not use, OSError when it cannot be found out.
    """
    can = _can_bind(socket.AF_INET6, "::", number)
    if can is None:
        can = _can_bind(socket.AF_INET, "0.0.0.0", number)  # noqa: S104  only a test
    return bool(can)


def _can_bind(family: socket.AddressFamily, address: str, number: int) -> bool | None:
    """None: this machine has no such addresses."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Connections that wait out their end do not make a port taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # and IPv4 with it
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind((address, number))
    except PermissionError:
        raise
    except OSError as error:
        if error.errno in _CANNOT_LOOK:
            raise
        return None if error.errno in _NO_IPV6 else False
    return True


class Ports:
    """Ports of `numbers`; with `foreman_base`, foreman's numbers first (5000, 5001, … 5100, …)."""

    def __init__(
        self,
        numbers: range,
        foreman_base: int = 0,
        *,
        is_free: Callable[[int], bool] = is_free,
    ) -> None:
        self._numbers = numbers
        self._foreman_base = foreman_base
        self._is_free = is_free
        self._held: dict[Slot, int] = {}
        self._holders: dict[int, Slot] = {}
        # A slot's last number, also after `release`; each number is remembered for one slot.
        self._last: dict[Slot, int] = {}
        self._last_of: dict[int, Slot] = {}
        self._next = 0
        self._denied: set[int] = set()  # not for our user

    def remember(self, slot: Slot, number: int) -> None:
        """The slot had this port in an earlier life of the agent, or has it still."""
        self._last_of.pop(self._last.get(slot, -1), None)
        self._last.pop(self._last_of.get(number, slot), None)
        self._last[slot] = number
        self._last_of[number] = slot

    def take(self, slot: Slot, type_index: int, wanted: int | None = None) -> Port:
        """The slot's port until `release`: `wanted`, foreman's, its last or any other, if free.

        For a slot without a running process: what it holds is let go first. For one that runs
        already there is `hold`. Raises PortError.
        """
        first: int | None = None
        self.release(slot)
        for number in self._preferred(slot, type_index, wanted):
            if self._may_give(number):
                return self._give(slot, number, first)
            first = number if first is None else first
        return self._give(slot, self._any(), first)

    def take_fixed(self, slot: Slot, number: int) -> Port:
        """This port and no other, for a slot without a running process. Raises PortError."""
        self.release(slot)
        if (holder := self._holders.get(number)) is not None:
            advice = "; choose one outside of --port-range" if number in self._numbers else ""
            raise PortError(f"port {number} is given to {holder} on this host{advice}")
        if not self._may_give(number):
            if number in self._denied:
                raise PortError(f"port {number} needs root or net.ipv4.ip_unprivileged_port_start")
            raise PortError(f"port {number} is taken by another program")
        return self._give(slot, number, None)

    def hold(self, slot: Slot, number: int) -> None:
        """For a process that runs already: the port is this slot's, whoever listens there."""
        self.release(slot)
        self._give(slot, number, None)

    def release(self, slot: Slot) -> None:
        """Others may have it now; the slot gets it back if nobody took it."""
        number = self._held.pop(slot, None)
        if number is not None:
            del self._holders[number]

    def _give(self, slot: Slot, number: int, first: int | None) -> Port:
        self._held[slot] = number
        self._holders[number] = slot
        self.remember(slot, number)
        return Port(number=number, moved_from=first)

    def _preferred(self, slot: Slot, type_index: int, wanted: int | None) -> Iterator[int]:
        if wanted is not None and wanted in _NUMBERS:
            yield wanted
        if self._foreman_base and 1 <= slot.ordinal <= _FOREMAN_STEP:
            number = self._foreman_base + _FOREMAN_STEP * type_index + slot.ordinal - 1
            if number in _NUMBERS:
                yield number
        if self._last.get(slot, -1) in self._numbers:
            yield self._last[slot]

    def _any(self) -> int:
        """Numbers that nobody had before come first, so that returning slots find theirs."""
        for remembered in (False, True):
            for number in self._in_turn():
                if (number in self._last_of) == remembered and self._may_give(number):
                    self._next = self._numbers.index(number) + 1
                    return number
        raise PortError(self._why_none())

    def _in_turn(self) -> Iterator[int]:
        count = len(self._numbers)
        return (self._numbers[(self._next + step) % count] for step in range(count))

    def _may_give(self, number: int) -> bool:
        if number in self._holders:
            return False
        try:
            free = self._is_free(number)
        except PermissionError:
            self._denied.add(number)
            return False
        except OSError as error:
            # The next number would not be found out either.
            reason = _CANNOT_LOOK.get(error.errno or 0, error.strerror)
            raise PortError(f"cannot look for a free port: {reason}") from error
        self._denied.discard(number)
        return free

    def _why_none(self) -> str:
        numbers = self._numbers
        ours = sum(number in numbers for number in self._holders)
        denied = sum(number in numbers for number in self._denied - self._holders.keys())
        text = f"no free port in {numbers.start}-{numbers.stop - 1}: {ours} given to instances here"
        if denied:
            text += f", {denied} only for root (see net.ipv4.ip_unprivileged_port_start)"
        others = len(numbers) - ours - denied
        return f"{text}, {others} in use by others; {'move' if denied else 'widen'} --port-range"
