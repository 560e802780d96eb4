"""Why no TLS connection comes about: what the other side shows, looked at without trusting it.

gRPC only says that a handshake failed. `look` makes one by hand and reads the certificate and the
alert; `judge`, a function of that and the time, finds the words. Nothing is sent but a handshake.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

from cryptography import x509

from formation import pki
from formation.credentials import Credential
from formation.runtime import utc

_LOOK_S = 2.0
# Coordinators renew daily, so what they show was signed not long ago by their own clock.
_LEAF_AGE_MAX_MS = pki.MACHINE_LIFE_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """`speaks_tls` False: something listens there that does not. `alert`: why it hung up."""

    speaks_tls: bool
    certificate: x509.Certificate | None = None
    alert: str = ""


async def diagnose(address: str, credential: Credential, now_ms: int) -> str:
    """One line, or "" when nothing is strange: then it is just not there."""
    shown = await look(address, credential.identity_path)
    if shown is None:
        return ""
    return judge(shown, credential.authorities, credential.seen, now_ms)


async def look(address: str, identity_path: str) -> Shown | None:
    """None: nobody listens there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    if identity_path:
        context.load_cert_chain(identity_path)
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_LOOK_S):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
    except (ssl.SSLError, ConnectionResetError, TimeoutError) as error:
        if isinstance(error, TimeoutError):
            return None
        return Shown(speaks_tls=False)
    except OSError:
        return None
    try:
        return await _read(reader, writer)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Shown:
    """A server looks at our certificate after the client's handshake is over: it may hang up."""
    session: ssl.SSLObject = writer.get_extra_info("ssl_object")
    shown = session.getpeercert(binary_form=True)
    certificate = pki.read_certificate(shown) if shown else None
    alert = ""
    try:
        async with asyncio.timeout(_LOOK_S):
            alert = "" if await reader.read(1) else "it hung up"
    except ssl.SSLError as error:
        alert = (error.reason or "").replace("_", " ").lower()
    except OSError:
        alert = "it hung up"
    return Shown(speaks_tls=True, certificate=certificate, alert=alert)


def judge(
    shown: Shown, authorities: tuple[x509.Certificate, ...], ours: pki.Seen | None, now_ms: int
) -> str:
    if not shown.speaks_tls or shown.certificate is None:
        return "what listens there speaks no TLS 1.3: a coordinator without certificates?"
    begins_ms, ends_ms = pki.validity_ms(shown.certificate)
    try:
        pki.look_at(shown.certificate, authorities)
    except pki.CertificateError:
        return "what answers there is not of our cluster: another authority signed its certificate"
    theirs = f"its certificate was signed at {utc(begins_ms)} and counts until {utc(ends_ms)}"
    here = f"it is {utc(now_ms)} by the clock here"
    if now_ms < begins_ms - pki.BACKDATED_MS:
        return f"the clock here is behind, or the coordinator's ahead: {here}, and {theirs}"
    if now_ms > ends_ms:
        return f"the clock here is ahead, or the coordinator's behind: {here}, and {theirs}"
    if ours is None:
        return ""
    return _of_ours(ours, begins_ms, here, now_ms) or (
        shown.alert and f"it hung up on us: {shown.alert}"
    )


def _of_ours(ours: pki.Seen, begins_ms: int, here: str, now_ms: int) -> str:
    counts = f"ours counts from {utc(ours.issued_at_ms)} until {utc(ours.expires_at_ms)}"
    if now_ms > ours.expires_at_ms:
        return f"our certificate has run out, or the clock is wrong: {counts}, and {here}"
    if begins_ms > ours.expires_at_ms:
        return f"our certificate has run out by the coordinator's clock: {counts}, and {here}"
    if begins_ms + _LEAF_AGE_MAX_MS < ours.issued_at_ms:
        return f"the coordinator's clock is behind ours: {counts}, and {here}"
    return ""
