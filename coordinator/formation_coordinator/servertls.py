"""What gRPC's server shows and trusts: our certificate, the authorities, the keys of tokens.

gRPC asks at every handshake, in a thread of its own; what it gets is made here, when something
has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from formation import pki
from formation_coordinator.notary import Notary
from formation_coordinator.world import World

_LOOKS_EVERY_S = 60.0


class ServerTls:
    def __init__(
        self, notary: Notary, *, world: Callable[[], World], now_ms: Callable[[], int]
    ) -> None:
        self._notary, self._world, self._now_ms = notary, world, now_ms
        self._made_of: object = None
        self._made_at_ms = 0
        self._fresh: grpc.ServerCertificateConfiguration | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Every client must show a certificate that one of those that we trust has signed."""
        first = self._configuration()
        return grpc.dynamic_ssl_server_credentials(
            first,
            self._take_fresh,  # type: ignore[arg-type]  # the stubs do not know of None
            require_client_authentication=True,
        )

    async def watch(self, hint: asyncio.Event) -> None:
        """For ever. `hint` is set when the world changes."""
        while True:
            self.refresh()
            hint.clear()
            try:
                async with asyncio.timeout(_LOOKS_EVERY_S):
                    await hint.wait()
            except TimeoutError:
                pass  # certificates are renewed on disk, and anchors made of tokens age

    def refresh(self) -> None:
        now_ms = self._now_ms()
        made_of = (
            self._notary.credential,
            self._notary.authorities(),
            tuple(t.id for t in self._world().tokens.values() if t.expires_at_ms > now_ms),
        )
        aged = now_ms - self._made_at_ms > pki.ANCHOR_LIFE_MS // 2
        if made_of != self._made_of or aged:
            self._fresh = self._configuration()
            self._made_of, self._made_at_ms = made_of, now_ms

    def _take_fresh(self) -> grpc.ServerCertificateConfiguration | None:
        """None: as before. Called from gRPC's threads."""
        fresh, self._fresh = self._fresh, None
        return fresh

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        now_ms, credential = self._now_ms(), self._notary.credential
        anchors = [
            pki.token_anchor(token.public_key, now_ms)
            for token in self._world().tokens.values()
            if token.expires_at_ms > now_ms
        ]
        trusted = (*self._notary.authorities(), *anchors)
        return grpc.ssl_server_certificate_configuration(
            [(credential.key_pem, credential.certificate_pem)],
            root_certificates=b"".join(map(pki.certificate_pem, trusted)),
        )
