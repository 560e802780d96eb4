"""A file of ours that another program reads: replaced as a whole, and that program told."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import tempfile
from collections.abc import Sequence

from formctl.errors import CommandError

_MODE = 0o644
# A reload that takes longer hangs, and must not keep the next one from coming.
RUN_WITHIN_S = 60.0


def replace(path: str, text: str) -> bool:
    """False: it says so already. Mode and owner stay, a link too. Raises `CommandError`."""
    target, data = os.path.realpath(path), text.encode()
    try:
        before = _read(target)
        if before is not None and before[0] == data:
            return False
        _write(target, data, before[1] if before else None)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    return True


def _read(path: str) -> tuple[bytes, os.stat_result] | None:
    try:
        with open(path, "rb") as file:
            return file.read(), os.fstat(file.fileno())
    except FileNotFoundError:
        return None


def _write(path: str, data: bytes, like: os.stat_result | None) -> None:
    # Programs that read all *.cfg of a directory must not take it for one.
    directory, name = os.path.split(path)
    fd, temporary = tempfile.mkstemp(suffix=".new", prefix=f".{name}.", dir=directory)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            if like is not None and (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
                _keep_owner(fd, path, like)
            os.fchmod(fd, stat.S_IMODE(like.st_mode) if like else _MODE & ~_umask())
            file.flush()
            os.fsync(fd)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _keep_owner(fd: int, path: str, like: os.stat_result) -> None:
    try:
        os.fchown(fd, like.st_uid, like.st_gid)
    except PermissionError:
        owner = f"{like.st_uid}:{like.st_gid}"
        raise CommandError(f"{path} is {owner}'s: only root or that user may write it") from None


def _umask() -> int:
    found = os.umask(0o077)
    os.umask(found)
    return found


async def run(words: Sequence[str], within_s: float = RUN_WITHIN_S) -> None:
    """Raises `CommandError` when it fails. Killed when it takes too long, or we are stopped."""
    import asyncio

    shown = shlex.join(words)
    try:
        process = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.DEVNULL)
    except OSError as error:
        raise CommandError(f"{words[0]}: {error.strerror}") from None
    try:
        async with asyncio.timeout(within_s):
            code = await process.wait()
    except TimeoutError:
        raise CommandError(f"{shown} was killed: not done after {within_s:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code:
        how = f"ended with {code}" if code > 0 else f"was killed by signal {-code}"
        raise CommandError(f"{shown} {how}")
