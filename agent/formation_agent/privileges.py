"""What no child shall gain: privileges of set-user-id programs, and what a service manager lent.

Used by the keeper alone; standard library only. What it takes from itself its children never get.
"""

from __future__ import annotations

import ctypes
import os

_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4


def drop(*, new_privileges: bool) -> None:
    """`new_privileges`: set-user-id programs go on working in children. Cannot be undone while
    this process lives. Raises OSError."""
    _control(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    if not new_privileges:
        _control(_PR_SET_NO_NEW_PRIVS, 1)


def _control(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
