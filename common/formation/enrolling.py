"""How a joiner becomes somebody: proves its token, is given a certificate, checks it, keeps it.

The server is proven first: TLS trusts only the key that the token carries. The token's secret is
never sent; TLS proves that we hold the key that it stands for.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import grpc
import grpc.aio
from cryptography import x509

from formation import credentials, pki, wire_access
from formation.credentials import Credential
from formation.diagnosis import judge, look
from formation.dialling import Dialler, NotTrustedError, secure_channel, words
from formation.identity import Role, TokenText
from formation.v1 import access_pb2 as pb
from formation.v1 import access_pb2_grpc

_CALL_S = 15.0


class EnrolError(Exception):
    """Nobody has become anybody; one line. `final`: trying again does not help."""

    def __init__(self, reason: str, *, final: bool = True) -> None:
        super().__init__(reason)
        self.final = final


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """`keyring`: for a coordinator, else empty."""

    key: pki.PrivateKey
    certificate: x509.Certificate
    seen: pki.Seen
    authorities: tuple[x509.Certificate, ...]
    coordinators: tuple[str, ...]
    keyring: bytes = b""

    def save(self, directory: str) -> None:
        """The identity last: whoever finds it finds all. Raises `CredentialError`."""
        credentials.save_authorities(directory, self.authorities)
        if self.coordinators:
            credentials.save_coordinators(directory, self.coordinators)
        credentials.save_identity(directory, self.key, self.certificate)


async def enrol(
    address: str,
    token: TokenText,
    name: str,
    roles: Collection[Role],
    now_ms: int,
    *,
    default_name: str = "",
) -> Enrolled:
    """`name`: what we insist on, or ""; `roles`: what we can be. Raises `EnrolError`."""
    shown_key, shown_pem = pki.token_certificate(token, now_ms)
    anchor = pki.authority_anchor(token, now_ms)
    key = pki.new_key()
    request = pb.EnrolRequest(
        request=pki.request(key),
        name=name,
        default_name=default_name,
        roles=map(wire_access.role_to_pb, roles),
    )
    channel = secure_channel(
        address,
        authorities_pem=pki.certificate_pem(anchor),
        key_pem=pki.key_pem(shown_key),
        certificate_pem=shown_pem,
    )
    async with channel:
        try:
            answer = await access_pb2_grpc.AccessStub(channel).Enrol(request, timeout=_CALL_S)
        except grpc.aio.AioRpcError as error:
            raise await _why(address, (anchor,), now_ms, error) from error
    return _checked(answer.grant, key, address, keyring=answer.keyring)


async def renew(address: str, dialler: Dialler, now_ms: int) -> Enrolled:
    """For the same name, with a new key. Raises `EnrolError`."""
    key = pki.new_key()
    request = pb.RenewRequest(request=pki.request(key))
    try:
        async with dialler.channel(address) as channel:
            answer = await access_pb2_grpc.AccessStub(channel).Renew(request, timeout=_CALL_S)
    except grpc.aio.AioRpcError as error:
        final = error.code() is not grpc.StatusCode.UNAVAILABLE
        raise EnrolError(f"coordinator {address}: {words(error)}", final=final) from error
    except NotTrustedError as error:
        raise EnrolError(str(error)) from error
    return _checked(answer.grant, key, address)


def saved_over(credential: Credential, renewed: Enrolled) -> None:
    """Raises `EnrolError` for a certificate of somebody else, `CredentialError` by the disk."""
    if renewed.seen.identity != credential.seen.identity:
        raise EnrolError(f"asked for {credential.seen.identity}, given {renewed.seen.identity}")
    renewed.save(credential.directory)


def _checked(
    grant: pb.Grant, key: pki.PrivateKey, address: str, *, keyring: bytes = b""
) -> Enrolled:
    """What came is ours, and signed by whom it says. Raises `EnrolError`."""
    try:
        certificate = pki.read_certificate(grant.certificate)
        authorities = tuple(map(pki.read_certificate, grant.authorities))
        seen = pki.look_at(certificate, authorities)
    except pki.CertificateError as error:
        raise EnrolError(f"coordinator {address}: {error}") from error
    if seen.key != pki.fingerprint(key.public_key()):
        raise EnrolError(f"coordinator {address}: gave a certificate for another key")
    return Enrolled(
        key=key,
        certificate=certificate,
        seen=seen,
        authorities=authorities,
        coordinators=_addresses(grant.coordinator_addresses, address),
        keyring=keyring,
    )


def _addresses(others: Sequence[str], address: str) -> tuple[str, ...]:
    """The one that we have reached first; sockets are of the coordinator's own machine."""
    reachable = (other for other in others if not other.startswith("unix:"))
    return tuple(dict.fromkeys((address, *reachable)))


async def _why(
    address: str,
    authorities: tuple[x509.Certificate, ...],
    now_ms: int,
    error: grpc.aio.AioRpcError,
) -> EnrolError:
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return EnrolError(f"coordinator {address}: {words(error)}")
    shown = await look(address, "")
    if shown is None:
        return EnrolError(f"no coordinator answers at {address}", final=False)
    strange = judge(shown, authorities, None, now_ms)
    if strange:
        return EnrolError(f"{address}: {strange}")
    return EnrolError(
        f"coordinator {address} does not know this token: it was revoked, has run out, or this "
        "coordinator has not heard of it yet"
    )
