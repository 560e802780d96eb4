"""formctl as a real process, without reading Python and gRPC from disk for each one.

A server of this test run has imported everything and forks for each call: its own process, its own
environment, directory, output and exit code, in a fifth of the time. What starting costs, signals
and terminals are tested on the installed program. gRPC is only imported before a fork, never begun.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

_LENGTH = 4
_lock = threading.Lock()
_server: tuple[subprocess.Popen[bytes], socket.socket] | None = None


def run_formctl(
    words: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout_s: float
) -> subprocess.CompletedProcess[bytes]:
    """As `subprocess.run` with captured output; raises `TimeoutExpired`, and then it is killed."""
    request = json.dumps({"words": list(words), "cwd": str(cwd), "env": dict(env)}).encode()
    here, there = socket.socketpair()
    with here, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with there, _lock:
            fds = [there.fileno(), out.fileno(), err.fileno()]
            socket.send_fds(_begun(), [len(request).to_bytes(_LENGTH, "big")], fds)
            _begun().sendall(request)
        here.settimeout(timeout_s)
        try:
            answer = here.recv(_LENGTH)
        except TimeoutError as error:
            raise subprocess.TimeoutExpired(["formctl", *words], timeout_s) from error
        assert len(answer) == _LENGTH, "the server of formctls has ended"
        code = int.from_bytes(answer, "big", signed=True)
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read())
        return subprocess.CompletedProcess(["formctl", *words], code, *said)


def _begun() -> socket.socket:
    """Under the lock."""
    global _server  # noqa: PLW0603  one in each process of the test run
    if _server is None:
        ours, its = socket.socketpair()
        with its:
            process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(its.fileno())], pass_fds=[its.fileno()]
            )
        _server = process, ours
        atexit.register(_end)
    return _server[1]


def _end() -> None:
    if _server is not None:
        _server[1].close()  # then it ends
        _server[0].wait()


# -- the server ------------------------------------------------------------------------------------


def serve(asked: socket.socket) -> None:
    """Until the test run has closed its end."""
    _import_all()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks for those who wait
    while True:
        head, fds, _, _ = socket.recv_fds(asked, _LENGTH, 3)
        if not head:
            return
        request = b""
        size = int.from_bytes(head, "big")
        while len(request) < size:
            request += asked.recv(size - len(request))
        if os.fork() == 0:
            asked.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _wait_for_one(json.loads(request), *fds)
        for fd in fds:
            os.close(fd)


def _import_all() -> None:
    import formctl
    from formation import grpcenv

    grpcenv.prepare()
    for module in pkgutil.walk_packages(formctl.__path__, "formctl."):
        importlib.import_module(module.name)
    importlib.import_module("grpc.aio")
    importlib.import_module("formation.v1.control_pb2_grpc")


def _wait_for_one(request: dict[str, object], reply_fd: int, out_fd: int, err_fd: int) -> None:
    """One formctl: ends it when the test does not wait any more."""
    pid = os.fork()
    if pid == 0:
        os.close(reply_fd)
        _become(request, out_fd, err_fd)
    ended = threading.Thread(target=_tell, args=(pid, reply_fd))
    ended.start()
    with socket.socket(fileno=os.dup(reply_fd)) as reply:
        reply.recv(1)  # the test closes it when it has its answer, or gives up
    os.kill(pid, signal.SIGKILL)
    os._exit(0)


def _tell(pid: int, reply_fd: int) -> None:
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # the pid stays ours to kill
    assert info is not None
    code = info.si_status if info.si_code == os.CLD_EXITED else -info.si_status
    os.write(reply_fd, code.to_bytes(_LENGTH, "big", signed=True))


def _become(request: dict[str, object], out_fd: int, err_fd: int) -> None:
    from formctl.__main__ import main

    words, cwd, env = request["words"], request["cwd"], request["env"]
    assert isinstance(words, list)
    assert isinstance(cwd, str)
    assert isinstance(env, dict)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, number in ((null, 0), (out_fd, 1), (err_fd, 2)):
        os.dup2(fd, number)
    os.closerange(3, max(null, out_fd, err_fd) + 1)
    sys.argv = ["formctl", *words]
    try:
        main()
    except BaseException:  # noqa: BLE001  there is nothing above that would print it
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)  # main ends by itself


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
