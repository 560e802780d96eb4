"""What no child shall gain: privileges of set-user-id programs, what a service manager lent, and a
look into us.

Standard library only, for the keeper. What it takes from itself its children never get.
"""

from __future__ import annotations

import ctypes
import os

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4


def hide() -> None:
    """No core dump of this process, and no look into it by others of the same user: instances may
    be of that user, and values of all of them come through here. Children are as usual after
    their exec. Raises OSError."""
    _control(_PR_SET_DUMPABLE, 0)


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
