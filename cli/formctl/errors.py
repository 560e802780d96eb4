"""All the ways a command can fail, each with its exit code. Messages are for people, no tracebacks.

0 it worked · 1 the operation failed, or something stayed unhealthy · 2 usage or bad input,
nothing was changed · 3 no coordinator can be reached · 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable

INTERRUPTED = 130


class CommandError(Exception):
    """The operation failed."""

    exit_code = 1


class InputError(CommandError):
    """What was given makes no sense; nothing was changed."""

    exit_code = 2

    @classmethod
    def of(cls, problems: Iterable[str]) -> InputError:
        return cls("\n".join(problems))


class UnreachableError(CommandError):
    """No coordinator answers."""

    exit_code = 3


class InterruptedByUserError(Exception):
    """Ctrl-C. What there is to say has been said where it happened."""


class ReaderGoneError(Exception):
    """Whoever read our output has seen enough."""
