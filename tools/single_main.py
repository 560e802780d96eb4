"""The first lines of dist/formation-agent.pyz: unpacks itself once, then is the agent or formctl.

`tools/makesingle.py` puts this into the file as `__main__.py`. Native parts cannot be loaded from
a zip, so what this Python needs is unpacked into a directory named by the content: root's is
/var/cache/formation, everybody else's is below ~/.cache; FORMATION_UNPACK_DIR says another one.
Which program it is says the name that it was called by, or `-m MODULE`, as with Python itself.
Standard library only, and little of it: the keeper lives in this process.
"""

from __future__ import annotations

import fcntl
import os
import runpy
import sys

_STAY_OF_OLD_ONES = 1  # besides the one in use, to go back to without unpacking
_LOCK, _NEW = "in-use", ".new"
_OTHERS_MAY_WRITE = 0o022
_FIRST_OF_OURS = 3
# Held as long as this process lives: nobody takes away what it may still import.
_held: list[int] = []


def cache(environ: dict[str, str], uid: int, home: str) -> str:
    if given := environ.get("FORMATION_UNPACK_DIR"):
        return given
    if uid == 0:
        return "/var/cache/formation"
    return os.path.join(environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache"), "formation")


def program(called: str, words: list[str]) -> tuple[str, list[str]]:
    """The module that is run, and the words for it."""
    if words[:1] == ["-m"] and len(words) > 1:
        return words[1], words[2:]
    is_formctl = os.path.basename(called).startswith("formctl")
    return "formctl" if is_formctl else "formation_agent", words


def unpacked(archive: str, top: str, digest: str, version: str) -> str:
    """The directory with what this Python needs; made when it is not there. Raises OSError."""
    os.makedirs(top, mode=0o755, exist_ok=True)
    seen = os.stat(top)
    if seen.st_uid != os.geteuid() or seen.st_mode & _OTHERS_MAY_WRITE:
        raise PermissionError(0, "others could write there", top)
    place = os.path.join(top, f"{digest}-{version}")
    while not _hold(place):
        alone = os.open(top, os.O_RDONLY)
        fcntl.flock(alone, fcntl.LOCK_EX)
        try:
            if not os.path.isdir(place):
                _unpack(archive, place, version)
                _forget_old(top)
        finally:
            os.close(alone)
    return place


def _hold(place: str) -> bool:
    try:
        lock = os.open(os.path.join(place, _LOCK), os.O_RDONLY)
    except FileNotFoundError:
        return False
    fcntl.flock(lock, fcntl.LOCK_SH)
    if not os.path.exists(os.path.join(place, _LOCK)):  # it went away meanwhile
        os.close(lock)
        return False
    # Not in a standard descriptor's place, where one is closed: children would get it.
    _held.append(fcntl.fcntl(lock, fcntl.F_DUPFD_CLOEXEC, _FIRST_OF_OURS))
    os.close(lock)
    return True


def _unpack(archive: str, place: str, version: str) -> None:
    import shutil
    import zipfile

    new = os.path.join(os.path.dirname(place), _NEW)
    shutil.rmtree(new, ignore_errors=True)  # of one that was killed
    os.mkdir(new, 0o755)
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            part, _, path = name.partition("/")
            if part in ("all", version):
                target = os.path.join(new, path)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with file.open(name) as source, open(target, "wb") as sink:
                    shutil.copyfileobj(source, sink)
    os.close(os.open(os.path.join(new, _LOCK), os.O_CREAT | os.O_WRONLY, 0o644))
    os.rename(new, place)


def _forget_old(top: str) -> None:
    """All but the newest, if nobody runs from them any more."""
    import shutil

    places = sorted((entry for entry in os.scandir(top) if entry.name != _NEW), key=_age)
    for entry in places[: -1 - _STAY_OF_OLD_ONES]:
        try:
            lock = os.open(os.path.join(entry.path, _LOCK), os.O_RDONLY)
        except OSError:
            continue  # not ours
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass  # in use
        else:
            os.unlink(os.path.join(entry.path, _LOCK))
            shutil.rmtree(entry.path, ignore_errors=True)
        finally:
            os.close(lock)


def _age(entry: os.DirEntry[str]) -> float:
    return entry.stat().st_mtime


def main(archive: str, versions: list[str], digest: str) -> None:
    """Replaces the file on `sys.path` by what was unpacked, and becomes the program."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = os.path.basename(archive)
    if version not in versions:
        raise SystemExit(f"{name}: made for Python {', '.join(versions)}; this is {version}")
    top = cache(dict(os.environ), os.geteuid(), os.path.expanduser("~"))
    try:
        sys.path[0] = unpacked(archive, top, digest, version)
    except OSError as error:
        raise SystemExit(
            f"{name}: cannot unpack into {top}: {error.strerror}; FORMATION_UNPACK_DIR says where"
        ) from error
    module, sys.argv[1:] = program(sys.argv[0], sys.argv[1:])
    runpy.run_module(module, run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    import about  # type: ignore[import-not-found]  # in the file, written by makesingle.py

    main(__loader__.archive, about.VERSIONS, about.DIGEST)  # type: ignore[name-defined]
