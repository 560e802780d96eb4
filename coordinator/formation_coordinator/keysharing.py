"""Keys go round the coordinators: what one has made all hold before it counts, so that nothing is
sealed or signed with a key that is lost with one machine. What came before we did, we ask for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import grpc

from formation.dialling import Dialler, NotTrustedError, words
from formation.model import Coordinator
from formation.v1 import access_pb2, access_pb2_grpc
from formation_coordinator.changing import Refused
from formation_coordinator.live import LiveWorld
from formation_coordinator.notary import Notary

log = logging.getLogger(__name__)

CALL_S = 3.0


class KeySharing:
    """`came` is called when keys have come that we lacked."""

    def __init__(
        self,
        *,
        notary: Notary | None,
        live: LiveWorld,
        me: Coordinator,
        dialler: Dialler,
        came: Callable[[], None],
    ) -> None:
        self._notary, self._live, self._me, self._dialler = notary, live, me, dialler
        self._came = came

    def _others(self) -> list[Coordinator]:
        return [c for c in self._live.world.coordinators.values() if c.id != self._me.id]

    async def fetch_lacking(self) -> None:
        """Of any coordinator that answers; the one that has begun a rotation has the key. Raises
        `CredentialError`, ValueError."""
        for other in self._others():
            if self._notary is None or not self._notary.lacks_key():
                return
            with contextlib.suppress(grpc.aio.AioRpcError, NotTrustedError):
                async with self._dialler.channel(other.address) as channel:
                    stub = access_pb2_grpc.AccessStub(channel)
                    answer = await stub.GetKeyring(access_pb2.GetKeyringRequest(), timeout=CALL_S)
                self._notary.adopt(answer.keyring)
                self._came()
                log.info("keys came from coordinator %s", other.id)

    async def give(self, key: str) -> None:
        """Every coordinator of the cluster has this one now. Raises `Refused`, and then it must
        not count yet."""
        if self._notary is None:
            return
        request = access_pb2.TakeKeyringRequest(keyring=self._notary.keyring())
        told = [self._give_to(other, request, key) for other in self._others()]
        why = [said for said in await asyncio.gather(*told) if said]
        if why:
            raise Refused(f"{'; '.join(why)}; nothing is changed: try again when all are there")

    async def _give_to(
        self, other: Coordinator, request: access_pb2.TakeKeyringRequest, key: str
    ) -> str:
        """Why it does not have it, or ""."""
        try:
            async with self._dialler.channel(other.address) as channel:
                stub = access_pb2_grpc.AccessStub(channel)
                answer = await stub.TakeKeyring(request, timeout=CALL_S)
        except NotTrustedError as error:
            return f"coordinator {other.id} has not taken the new key: {error}"
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return f"coordinator {other.id} is of a version that takes no keys: upgrade it"
            return f"coordinator {other.id} has not taken the new key: {words(error)}"
        if key not in answer.keys:
            return (
                f"coordinator {other.id} does not have key {key}: it belongs into the "
                "--sealing-key-file of every coordinator"
            )
        return ""
