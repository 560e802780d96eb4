"""Where this coordinator serves: TCP with TLS, its owner's Unix socket, or plainly if told so."""

from __future__ import annotations

import logging
import os
import socket
import stat

import grpc
import grpc.aio

from formation.cuts import notice_cuts
from formation.dialling import is_socket
from formation.runtime import server_channel_options
from formation_coordinator.guard import Guard
from formation_coordinator.servertls import ServerTls

log = logging.getLogger(__name__)

SOCKET_PATH_MAX = 107


class ListenError(Exception):
    """It cannot serve there; one line for people."""


def new_server(guard: Guard, ping_every_s: float) -> grpc.aio.Server:
    return grpc.aio.server(options=server_channel_options(ping_every_s), interceptors=[guard])


async def listen(server: grpc.aio.Server, address: str, tls: ServerTls | None) -> None:
    """Raises `ListenError`."""
    _claim_socket(address)
    mask = os.umask(0o177)  # a socket is born 0600: nobody else can connect at any moment
    try:
        if tls is None or is_socket(address):
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, tls.credentials())
        await server.start()
        notice_cuts()
    except RuntimeError as error:
        raise ListenError(f"cannot listen on {address}: {_why_not(address)}") from error
    finally:
        os.umask(mask)
    if tls is None and not is_socket(address):
        log.warning("INSECURE: whoever reaches %s can run commands on every host", address)


def _claim_socket(address: str) -> None:
    """A dead coordinator's socket file is removed; a living one's is left alone."""
    if not is_socket(address):
        return
    path = address.removeprefix("unix:")
    if not os.path.exists(path):
        return
    if not stat.S_ISSOCK(os.stat(path).st_mode):
        raise ListenError(f"cannot listen on {address}: the file is no socket; remove it")
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(path) == 0:
            raise ListenError(f"cannot listen on {address}: another program serves there")
    os.unlink(path)


def _why_not(address: str) -> str:
    path = address.removeprefix("unix:")
    if path == address:
        return "the address is in use or not of this machine; give another --listen"
    if not os.path.isdir(os.path.dirname(path)):
        return f"there is no directory {os.path.dirname(path)}"
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        return f"a socket's path has room for {SOCKET_PATH_MAX} bytes; give a shorter one"
    return "the directory is not writable for this user, or the socket is in use"
