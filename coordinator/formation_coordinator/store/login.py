"""Who we are to an etcd with authentication on, and how a user with the least rights is made.

A coordinator needs to read and write below its own prefix, and nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from etcd3aio import _protobuf as pb

from formation_coordinator.store.endpoints import Channels, TlsFiles, parse_endpoints

_CALL_S = 5.0
Metadata = tuple[tuple[str, str], ...]


_IS_OFF = "authentication is not enabled"


class LoginError(Exception):
    """etcd does not do it; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """The password never appears in a message."""

    user: str
    password: str = field(repr=False)


async def log_in(channel: grpc.aio.Channel, login: Login) -> str:
    """A token for the calls that follow. Raises grpc's errors."""
    request = pb.AuthenticateRequest(name=login.user, password=login.password)
    answer = await pb.AuthStub(channel).Authenticate(request, timeout=_CALL_S)
    return str(answer.token)


async def make_user(
    endpoints: Sequence[str], tls: TlsFiles | None, root: Login, made: Login, prefix: str
) -> bool:
    """A role and a user of one name, for keys below `prefix` only; what is there is set right.

    Whether authentication is on in that etcd. Raises `LoginError`, ValueError for bad endpoints.
    """
    channels = Channels(parse_endpoints(endpoints, tls), tls)
    try:
        index = await channels.connected(_CALL_S)
        if index is None:
            raise LoginError(f"etcd does not answer at {channels.names}")
        return await _make_user(channels.channel(index), root, made, prefix)
    except grpc.aio.AioRpcError as error:
        raise LoginError(f"etcd makes no user {made.user}: {_words(error)}") from error
    finally:
        await channels.close()


async def _make_user(channel: grpc.aio.Channel, root: Login, made: Login, prefix: str) -> bool:
    metadata: Metadata = ()
    try:
        metadata = (("token", await log_in(channel, root)),)
    except grpc.aio.AioRpcError as error:
        if not _says(error, _IS_OFF):
            raise
    stub, name, key = pb.AuthStub(channel), made.user, prefix.encode()
    allowed = pb.auth_pb2.Permission(
        permType=pb.auth_pb2.Permission.READWRITE, key=key, range_end=key[:-1] + b"0"
    )
    more: dict[str, Any] = {"metadata": metadata, "timeout": _CALL_S}
    await _unless(stub.RoleAdd(pb.AuthRoleAddRequest(name=name), **more), "already exists")
    await stub.RoleGrantPermission(
        pb.AuthRoleGrantPermissionRequest(name=name, perm=allowed), **more
    )
    user = pb.AuthUserAddRequest(name=name, password=made.password)
    await _unless(stub.UserAdd(user, **more), "already exists")
    changed = pb.AuthUserChangePasswordRequest(name=name, password=made.password)
    await stub.UserChangePassword(changed, **more)
    await stub.UserGrantRole(pb.AuthUserGrantRoleRequest(user=name, role=name), **more)
    return bool(metadata)


async def _unless(call: Awaitable[Any], words: str) -> None:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if not _says(error, words):
            raise


def _says(error: grpc.aio.AioRpcError, words: str) -> bool:
    return words in (error.details() or "")


def _words(error: grpc.aio.AioRpcError) -> str:
    return " ".join((error.details() or error.code().name).split())
