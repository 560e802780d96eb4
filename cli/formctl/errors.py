"""All the ways a command can fail, each with its exit code. Messages are for people, no tracebacks.

0 it worked · 1 the operation failed, or something stayed unhealthy · 2 usage or bad input,
nothing was changed · 3 no coordinator can be reached · 130 interrupted.
"""

from __future__ import annotations

from formation.errors import FormationError as CommandError
from formation.errors import InputError, UnreachableError

__all__ = [
    "INTERRUPTED",
    "CommandError",
    "InputError",
    "InterruptedByUserError",
    "ReaderGoneError",
    "UnreachableError",
]

INTERRUPTED = 130


class InterruptedByUserError(Exception):
    """Ctrl-C. What there is to say has been said where it happened."""


class ReaderGoneError(Exception):
    """Whoever read our output has seen enough."""
