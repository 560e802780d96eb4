"""This host's certificate of its cluster: found when somebody joins it, used, renewed. Thin.

It lies in the state directory, so that a host stays who it is. Without one only Unix sockets are
dialled, or plain TCP when the agent was told `--insecure`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from formation import credentials, pki
from formation.contexts import IDENTITY
from formation.credentials import Credential, CredentialError
from formation.diagnosis import diagnose
from formation.dialling import Dialler, connecting_within, is_socket
from formation.enrolling import EnrolError, renew, saved_over
from formation.identity import Role, Trust
from formation.names import PING_EVERY_S
from formation.runtime import utc
from formation.v1.agent_pb2_grpc import AgentStub
from formation.v1.artifacts_pb2_grpc import ArtifactsStub

if TYPE_CHECKING:  # the stubs know this class, the generated code does not
    from formation.v1.agent_pb2_grpc import AgentAsyncStub
    from formation.v1.artifacts_pb2_grpc import ArtifactsAsyncStub

DIRECTORY = "identity"
HOW_TO_JOIN = "join a cluster: formation-agent join ADDRESS TOKEN (formctl token create says both)"
_LOOKS_EVERY_S = 60.0
_AGAIN_S = 5.0
# Its own subchannel pool: a shared one would remember an earlier failure and not dial.
_OPTIONS: tuple[tuple[str, int | str], ...] = (("grpc.use_local_subchannel_pool", 1),)

log = logging.getLogger(__name__)


class Membership:
    """`configured`: coordinators that somebody named; else those that we have joined.

    `cluster_id`: the cluster whose orders were obeyed before, or "". Releases up to 0.1 knew no
    certificates: an agent that was in a cluster and never had one goes on as it was, and says so.
    """

    def __init__(
        self,
        state_dir: Path,
        configured: tuple[str, ...],
        *,
        insecure: bool,
        now_ms: Callable[[], int],
        cluster_id: str = "",
        ping_every_s: float = PING_EVERY_S,
    ) -> None:
        self._directory = str(state_dir / DIRECTORY)
        if cluster_id and not insecure and not os.path.exists(self._directory):
            insecure = True
            if not all(map(is_socket, configured)):
                log.warning("INSECURE, as before: whoever answers there is obeyed: %s", HOW_TO_JOIN)
        self._configured, self._now_ms = configured, now_ms
        self._read: tuple[int, Credential] | None = None
        self._due = asyncio.Event()
        self._dialler = Dialler(
            self.credential, insecure=insecure, remedy=HOW_TO_JOIN, ping_every_s=ping_every_s
        )

    def credential(self) -> Credential | None:
        """As it lies there now. Raises `CredentialError` when it cannot be used."""
        try:
            changed_ns = os.stat(os.path.join(self._directory, IDENTITY)).st_mtime_ns
        except OSError:
            return None
        if self._read is None or self._read[0] != changed_ns:
            found = credentials.load(self._directory)
            if found.seen.identity.role is not Role.AGENT:
                raise CredentialError(
                    f"{self._directory}: the certificate of {found.seen.identity}, not of a host"
                )
            self._read = changed_ns, found
        return self._read[1]

    def name(self) -> str:
        """What our certificate calls this host; "" without a usable one."""
        with contextlib.suppress(CredentialError):
            found = self.credential()
            return found.seen.identity.name if found else ""
        return ""

    def addresses(self) -> tuple[str, ...]:
        """Where to begin; empty before we have joined anything."""
        if self._configured:
            return self._configured
        with contextlib.suppress(CredentialError):
            found = self.credential()
            return found.coordinators if found else ()
        return ()

    @asynccontextmanager
    async def dialled(self, address: str, connect_s: float) -> AsyncIterator[AgentAsyncStub]:
        """The way to a coordinator, while it is held, when it is there within `connect_s`. Raises
        `NotTrustedError`."""
        options = (*_OPTIONS, connecting_within(connect_s))
        async with self._dialler.channel(address, options) as channel:
            yield AgentStub(channel)

    @asynccontextmanager
    async def artifacts(self, address: str) -> AsyncIterator[ArtifactsAsyncStub]:
        """As `dialled`, on a connection of its own: what is fetched holds up no session."""
        async with self._dialler.channel(address, _OPTIONS) as channel:
            yield ArtifactsStub(channel)

    async def explain(self, address: str) -> str:
        """Why nobody could be reached there, as far as certificates and clocks go; or ""."""
        if is_socket(address):
            return ""
        try:
            found = self.credential()
            return await diagnose(address, found, self._now_ms()) if found else ""
        except CredentialError as error:
            return str(error)

    def learn(self, trust: Trust) -> None:
        """Whose signatures count now. Ours is replaced when another authority signs."""
        try:
            found = self.credential()
            if found is None:
                return
            authorities = tuple(map(pki.read_certificate, trust.authorities))
            fits = found.seen.authority in map(pki.authority_fingerprint, authorities)
            if fits and authorities != found.authorities:
                credentials.save_authorities(self._directory, authorities)
                self._read = None
            if found.seen.authority != trust.signer:
                self._due.set()
        except (CredentialError, pki.CertificateError) as error:
            log.warning("whom to trust was not kept: %s", error)

    async def run(self, reached: Callable[[], str], renewed: Callable[[], None]) -> None:
        """For ever: renews in time. `reached`: the coordinator that we are connected to, or "".
        `renewed` is called when there is another certificate."""
        while True:
            try:
                if await self._renew_when_due(reached()):
                    renewed()
            except (EnrolError, CredentialError, grpc.aio.AioRpcError) as error:
                log.warning("this host's certificate is not renewed: %s", error)
                await asyncio.sleep(_AGAIN_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOKS_EVERY_S):
                    await self._due.wait()

    async def _renew_when_due(self, address: str) -> bool:
        found = self.credential()
        if not address or is_socket(address) or found is None:
            self._due.clear()
            return False
        if not self._due.is_set() and self._now_ms() < pki.renews_at_ms(found.seen):
            return False
        renewed = await renew(address, self._dialler, self._now_ms())
        saved_over(found, renewed)
        self._due.clear()
        log.info("certificate renewed, until %s", utc(renewed.seen.expires_at_ms))
        return True
