"""Keys and certificates: an authority signs, holders ask and prove. ECDSA P-256, X.509 v3.

Times are arguments. What comes out is bytes in PEM or DER; who may have a certificate is decided
elsewhere. All of the cryptography is PyCA's.
"""

from __future__ import annotations

import datetime
import hashlib
import os
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from formation.identity import (
    PEOPLE,
    SECRET_BYTES,
    Identity,
    Role,
    TokenText,
    identity_of,
)
from formation.names import COORDINATOR_NAME

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

_DAY_MS = 86_400_000
# Clocks differ: what was signed a moment ago counts for whoever is late by less than this.
BACKDATED_MS = _DAY_MS
MACHINE_LIFE_MS = 7 * _DAY_MS
PERSON_LIFE_MS = 90 * _DAY_MS
ANCHOR_LIFE_MS = _DAY_MS
AUTHORITY_LIFE_MS = 3650 * _DAY_MS
# Daily: a machine that cannot for a while has six days left, and everybody has soon heard of
# another authority.
RENEWS_AFTER_MS = _DAY_MS

_CURVE = ec.SECP256R1()
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_FINGERPRINT_DIGITS = 16
_AUTHORITY_SUBJECT, _TOKEN_SUBJECT = "Formation authority", "Formation token"


class CertificateError(Exception):
    """A certificate, request or key that cannot be accepted; one line why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """Who signs. `certificate` is what others trust."""

    key: PrivateKey
    certificate: x509.Certificate

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.key.public_key())


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a certificate that one of the authorities signed says. `key`: its fingerprint."""

    identity: Identity
    issued_at_ms: int
    expires_at_ms: int
    key: str
    authority: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A new certificate, and what it says."""

    certificate: x509.Certificate
    seen: Seen


# -- keys ------------------------------------------------------------------------------------------


def new_key() -> PrivateKey:
    return ec.generate_private_key(_CURVE)


def new_secret() -> bytes:
    return os.urandom(SECRET_BYTES)


def token_key(secret: bytes) -> PrivateKey:
    """The private key that a token's secret stands for; everybody derives the same one."""
    drawn = HKDF(hashes.SHA256(), 40, salt=None, info=b"formation join token").derive(secret)
    # 64 bits more than the order has: no value is likelier than another.
    return ec.derive_private_key(int.from_bytes(drawn, "big") % (_ORDER - 1) + 1, _CURVE)


def point(key: PublicKey) -> bytes:
    """33 bytes: the compressed point."""
    form = serialization.PublicFormat.CompressedPoint
    return key.public_bytes(serialization.Encoding.X962, form)


def key_of(encoded: bytes) -> PublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, encoded)
    except ValueError as error:
        raise CertificateError("not a public key on P-256") from error


def fingerprint(key: PublicKey) -> str:
    """16 hexadecimal digits that tell keys apart for people and as names."""
    return hashlib.sha256(point(key)).hexdigest()[:_FINGERPRINT_DIGITS]


def authority_fingerprint(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey), "we make no others"
    return fingerprint(key)


def key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def read_key(pem: bytes) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError("no private key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != _CURVE.name:
        raise CertificateError("not a private key on P-256")
    return key


# -- certificates ----------------------------------------------------------------------------------


def new_authority(now_ms: int) -> Authority:
    key = new_key()
    name = _name(_AUTHORITY_SUBJECT, key.public_key())
    builder = _builder(name, name, key.public_key(), now_ms, AUTHORITY_LIFE_MS)
    return Authority(key=key, certificate=_as_authority(builder).sign(key, hashes.SHA256()))


def issue(authority: Authority, identity: Identity, key: PublicKey, now_ms: int) -> Signed:
    """Clients everywhere; only coordinators are servers too."""
    life_ms = PERSON_LIFE_MS if identity.role in PEOPLE else MACHINE_LIFE_MS
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.name[:64])])
    builder = _builder(subject, authority.certificate.subject, key, now_ms, life_ms)
    certificate = _as_holder(builder, identity).sign(authority.key, hashes.SHA256())
    return Signed(certificate=certificate, seen=look_at(certificate, (authority.certificate,)))


def request(key: PrivateKey) -> bytes:
    """Asks for a certificate and proves that the key is held. PKCS#10 in DER."""
    asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return asked.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def requested_key(request_der: bytes) -> PublicKey:
    """Of the request only its key counts: names are given, never taken."""
    try:
        asked = x509.load_der_x509_csr(request_der)
        valid = asked.is_signature_valid
        key = asked.public_key()
    except (ValueError, TypeError) as error:
        raise CertificateError("not a request for a certificate") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != _CURVE.name:
        raise CertificateError("the request's key is not on P-256")
    if not valid:
        raise CertificateError("the request is not signed by its own key")
    return key


def read_certificate(encoded: bytes) -> x509.Certificate:
    try:
        if encoded.startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(encoded)
        return x509.load_der_x509_certificate(encoded)
    except ValueError as error:
        raise CertificateError("not a certificate") from error


def certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def certificate_der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def look_at(certificate: x509.Certificate, authorities: tuple[x509.Certificate, ...]) -> Seen:
    """Who it is, signed by one of `authorities` itself: a token's key is trusted by TLS too.

    Says nothing of the time. Raises `CertificateError`.
    """
    signer = next((known for known in authorities if _signed_by(certificate, known)), None)
    if signer is None:
        raise CertificateError("the certificate is not of this cluster's authority")
    key, signer_key = certificate.public_key(), signer.public_key()
    assert isinstance(signer_key, ec.EllipticCurvePublicKey)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CertificateError("the certificate's key is not on P-256")
    issued_ms, expires_ms = validity_ms(certificate)
    return Seen(
        identity=_named(certificate),
        issued_at_ms=issued_ms,
        expires_at_ms=expires_ms,
        key=fingerprint(key),
        authority=fingerprint(signer_key),
    )


def validity_ms(certificate: x509.Certificate) -> tuple[int, int]:
    """When it was issued, and until when it counts."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return _ms(begins) + BACKDATED_MS, _ms(ends)


def renews_at_ms(seen: Seen) -> int:
    return seen.issued_at_ms + RENEWS_AFTER_MS


# -- tokens: a key that both sides know, without either sending it ---------------------------------


def token_certificate(token: TokenText, now_ms: int) -> tuple[PrivateKey, bytes]:
    """What a joiner shows: a fresh key, and its certificate in PEM signed by the token's."""
    signer, key = token_key(token.secret), new_key()
    identity = Identity(cluster="any", role=Role.TOKEN, name=fingerprint(signer.public_key()))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "joining")])
    issuer = _name(_TOKEN_SUBJECT, signer.public_key())
    builder = _builder(subject, issuer, key.public_key(), now_ms, ANCHOR_LIFE_MS)
    certificate = _as_holder(builder, identity).sign(signer, hashes.SHA256())
    return key, certificate_pem(certificate)


def token_anchor(public_key: bytes, now_ms: int) -> x509.Certificate:
    """Makes TLS trust what a token's key has signed. Nobody has to have signed an anchor."""
    return _anchor(_TOKEN_SUBJECT, key_of(public_key), now_ms)


def authority_anchor(token: TokenText, now_ms: int) -> x509.Certificate:
    """Makes TLS trust the cluster that the token is of, before anything was heard from it."""
    return _anchor(_AUTHORITY_SUBJECT, key_of(token.authority_key), now_ms)


def _anchor(subject: str, key: PublicKey, now_ms: int) -> x509.Certificate:
    name = _name(subject, key)
    builder = _as_authority(_builder(name, name, key, now_ms, ANCHOR_LIFE_MS))
    return builder.sign(new_key(), hashes.SHA256())


# -- parts -----------------------------------------------------------------------------------------


def _name(subject: str, key: PublicKey) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{subject} {fingerprint(key)}")])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, now_ms: int, life_ms: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now_ms - BACKDATED_MS))
        .not_valid_after(_time(now_ms + life_ms))
    )


def _as_authority(builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
    """It signs holders, never another authority."""
    return builder.add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    ).add_extension(_key_usage(signs=True), critical=True)


def _as_holder(builder: x509.CertificateBuilder, identity: Identity) -> x509.CertificateBuilder:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if identity.role is Role.COORDINATOR:
        names.append(x509.DNSName(COORDINATOR_NAME))
        uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def token_named(certificate: x509.Certificate) -> str:
    """The token that the certificate says it was signed for, or ""."""
    issuer = certificate.issuer.rfc4514_string().removeprefix("CN=")
    found = issuer.removeprefix(f"{_TOKEN_SUBJECT} ")
    return found if found != issuer else ""


def is_signed_by_key(certificate: x509.Certificate, encoded: bytes) -> bool:
    """By the private half of this key itself?"""
    algorithm = certificate.signature_hash_algorithm
    if algorithm is None:
        return False
    try:
        key_of(encoded).verify(
            certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(algorithm)
        )
    except (InvalidSignature, CertificateError):
        return False
    return True


def _named(certificate: x509.Certificate) -> Identity:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        (uri,) = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        return identity_of(uri)
    except (x509.ExtensionNotFound, ValueError) as error:
        raise CertificateError(f"the certificate names nobody: {error}") from error


def _time(at_ms: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at_ms // 1000, datetime.UTC)


def _ms(at: datetime.datetime) -> int:
    return int(at.timestamp()) * 1000
