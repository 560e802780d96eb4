"""A view of the file system of its own for a process: a /tmp that nobody shares, or all of the
system read-only. In the fork that becomes it, while that is still root.

Used by the keeper alone; standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os

from formation_agent.spawnerror import SpawnError, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from formation_agent.link import Message

_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_SLAVE = 2, 4, 4096, 16384, 1 << 19
_SYS_MOUNT_SETATTR, _AT_FDCWD, _MOUNT_ATTR_RDONLY = 442, -100, 1
# Not of the disk: devices, processes, and what is for a while.
_OF_KERNEL = ("/dev", "/proc", "/sys")
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108
_SIZE = b"mode=1777,size=10%"
# Mounts that others lie over cannot be reached by their names, nor by anybody.
_OUT_OF_REACH = frozenset({errno.ENOENT, errno.EINVAL, errno.ENOTDIR})

_libc = ctypes.CDLL(None, use_errno=True)


def enter(sandbox: Message | None, beside: int) -> None:
    """`beside`: whose view it shall share, 0 for one of its own. Raises SpawnError."""
    if not sandbox:
        return
    try:
        if beside:
            _share(beside)
        else:
            _make(sandbox)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        raise SpawnError(f"this agent cannot give it a view of its own: {what}") from None


def _share(pid: int) -> None:
    fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, _CLONE_NEWNS))
    finally:
        os.close(fd)


def _make(sandbox: Message) -> None:
    _check(_libc.unshare(_CLONE_NEWNS))
    # What is mounted or unmounted outside happens here too, and nothing the other way round.
    _mount(b"none", b"/", None, _MS_REC | _MS_SLAVE)
    writable = [os.path.realpath(path) for path in sandbox.get("writable", ())]
    if sandbox.get("private_tmp"):
        _hide_temporary(writable)
    if sandbox.get("read_only"):
        _make_read_only(writable)


def _hide_temporary(writable: Sequence[str]) -> None:
    """But for what may be written below it."""
    inside = [path for path in writable if any(_is_within(path, t) for t in _TEMPORARY)]
    kept = {path: os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in inside}
    for directory in filter(os.path.isdir, _TEMPORARY):
        _mount(b"tmpfs", encode(directory), b"tmpfs", _MS_NOSUID | _MS_NODEV, _SIZE)
    for path, fd in kept.items():
        os.makedirs(path, exist_ok=True)
        _mount(b"/proc/self/fd/%d" % fd, encode(path), None, _MS_BIND | _MS_REC)
        os.close(fd)


def _make_read_only(writable: Sequence[str]) -> None:
    """Mount by mount: what was read-only before stays it also where it may be written."""
    spared = (*_OF_KERNEL, *filter(os.path.isdir, _TEMPORARY), *writable)
    for path in spared:
        # So that it is a mount of its own, which the one around it does not speak for.
        if not os.path.ismount(path):
            _mount(encode(path), encode(path), None, _MS_BIND | _MS_REC)
    for point in _mount_points():
        if not any(_is_within(point, path) for path in spared):
            _forbid_writing(point)


def _is_within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _mount_points() -> Iterator[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            yield _unescaped(line.split(" ")[4])


def _unescaped(word: str) -> str:
    for code in ("\\040", "\\011", "\\012", "\\134"):
        word = word.replace(code, chr(int(code[1:], 8)))
    return word


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _forbid_writing(point: str) -> None:
    wanted = _Attributes(attr_set=_MOUNT_ATTR_RDONLY)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    done = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        encode(point),
        ctypes.c_uint(0),
        ctypes.byref(wanted),
        size,
    )
    if done != 0 and ctypes.get_errno() not in _OUT_OF_REACH:
        number = ctypes.get_errno()
        words = "needs Linux 5.12" if number == errno.ENOSYS else os.strerror(number)
        raise OSError(number, words, point)


def _mount(
    source: bytes, target: bytes, kind: bytes | None, flags: int, data: bytes | None = None
) -> None:
    if _libc.mount(source, target, kind, ctypes.c_ulong(flags), data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(target))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
