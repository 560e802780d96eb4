"""The way to a coordinator: Unix sockets as they are, everything else by mutual TLS 1.3.

Plain TCP only for who was told `--insecure`. What a dialler knows is read anew for each
connection, so that a renewed certificate or another authority needs no restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from formation.contexts import CredentialError
from formation.names import COORDINATOR_NAME, PING_EVERY_S
from formation.runtime import client_channel_options

if TYPE_CHECKING:
    from formation.credentials import Credential  # brings all of cryptography

Options = Sequence[tuple[str, int | str]]


class NotTrustedError(Exception):
    """There is nothing to prove to that address who we are, or who it is; one line."""


def is_socket(address: str) -> bool:
    return address.startswith("unix:")


class Dialler:
    """`credential`: what we have now, or None. `remedy`: how people get one, for a message."""

    def __init__(
        self,
        credential: Callable[[], Credential | None],
        *,
        insecure: bool = False,
        remedy: str = "",
        ping_every_s: float = PING_EVERY_S,
    ) -> None:
        self.credential = credential
        self._ping_every_s = ping_every_s
        self._insecure = insecure
        self._remedy = remedy

    def channel(self, address: str, more: Options = ()) -> grpc.aio.Channel:
        """Connects later. Raises `NotTrustedError`."""
        options = [*client_channel_options(self._ping_every_s), *more]
        if is_socket(address):
            return grpc.aio.insecure_channel(address, options=options)
        credential = self._credential()
        if credential is not None:
            return secure_channel(
                address,
                authorities_pem=credential.authorities_pem,
                key_pem=credential.key_pem,
                certificate_pem=credential.certificate_pem,
                options=options,
            )
        if self._insecure:
            return grpc.aio.insecure_channel(address, options=options)
        raise NotTrustedError(f"{address}: nothing here proves who is who: {self._remedy}")

    def _credential(self) -> Credential | None:
        try:
            return self.credential()
        except CredentialError as error:
            raise NotTrustedError(str(error)) from error


def connecting_within(connect_s: float) -> tuple[str, int]:
    """How long one attempt of a channel may take, TLS included."""
    return ("grpc.min_reconnect_backoff_ms", round(connect_s * 1000))


def words(error: grpc.aio.AioRpcError | NotTrustedError) -> str:
    """What went wrong on the way to a coordinator."""
    if isinstance(error, NotTrustedError):
        return str(error)
    return error.details() or error.code().name


def ended_unread(error: grpc.aio.AioRpcError) -> bool:
    """The stream ended while we wrote to it. gRPC says this then instead of why it ended, which is
    said again to whoever asks again."""
    said = (error.details() or "").startswith("Internal error from Core")
    return said and error.code() is grpc.StatusCode.INTERNAL


def secure_channel(
    address: str,
    *,
    authorities_pem: bytes,
    key_pem: bytes,
    certificate_pem: bytes,
    options: Options | None = None,
) -> grpc.aio.Channel:
    """The other side must be a coordinator by its certificate, whatever it is reached by."""
    credentials = grpc.ssl_channel_credentials(authorities_pem, key_pem, certificate_pem)
    named = [("grpc.ssl_target_name_override", COORDINATOR_NAME)]
    shared = options if options is not None else client_channel_options()
    return grpc.aio.secure_channel(address, credentials, options=[*shared, *named])
