"""What can go wrong with a call to a coordinator. The message is one line for people.

`exit_code` is what formctl ends with: 1 it failed, 2 what was given makes no sense and nothing was
changed, 3 no coordinator can be reached.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self


class FormationError(Exception):
    """The operation failed."""

    exit_code = 1


class InputError(FormationError):
    """What was given makes no sense; nothing was changed."""

    exit_code = 2

    @classmethod
    def of(cls, problems: Iterable[str]) -> Self:
        return cls("\n".join(problems))


class UnreachableError(FormationError):
    """No coordinator answers. Of a change it may say that nobody knows whether it was done."""

    exit_code = 3
