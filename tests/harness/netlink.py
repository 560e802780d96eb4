"""A program that hears nothing of this machine's network interfaces.

A browser drops what it is loading whenever an interface comes or goes (ERR_NETWORK_CHANGED), and
other tests make and remove test hosts meanwhile. One that may open no netlink socket does not know.

A program of its own, `python netlink.py PROGRAM …`, since this process has threads that no fork
outlives.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys

_SOCKET_CALL = {"x86_64": 41, "aarch64": 198}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_CALL, _FIRST_ARGUMENT = 0, 16  # offsets in the kernel's seccomp_data

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _filter() -> bytes:
    steps = (
        (_LOAD, 0, 0, _CALL),
        (_IF_EQUAL, 0, 3, _SOCKET_CALL[platform.machine()]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_IF_EQUAL, 0, 1, socket.AF_NETLINK),
        (_RETURN, 0, 0, _FAIL | errno.EAFNOSUPPORT),
        (_RETURN, 0, 0, _ALLOW),
    )
    return b"".join(struct.pack("HBBI", *step) for step in steps)


_STEPS = _filter()
_PROGRAM = _Program(len(_STEPS) // 8, _STEPS)


def deaf() -> None:
    """No netlink sockets from here on, nor in what is started from here."""
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or (
        _libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(_PROGRAM), 0, 0) != 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    deaf()
    os.execv(sys.argv[1], sys.argv[1:])
