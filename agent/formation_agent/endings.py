"""Why a session with a coordinator ended."""

from __future__ import annotations


class SessionLost(Exception):
    """The stream ended; dial again. `pause_s`: not before this."""

    def __init__(self, why: str, pause_s: float = 0.0) -> None:
        super().__init__(why)
        self.pause_s = pause_s


class Unreached(SessionLost):
    """There was no connection to begin with."""


class Renewed(SessionLost):
    """We have another certificate: dial again with it."""


class Moved(SessionLost):
    """Another coordinator has fewer agents, at `address`."""

    def __init__(self, address: str) -> None:
        super().__init__(f"asked to go on at {address}")
        self.address = address


class NameTaken(Exception):
    """Another living host has our name, and nothing runs here: the agent was set up wrongly."""


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """What was raised, out of all groups in it."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
