"""Certificates: who signed, whom they name, how long they count. Forgeries that TLS would take."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from formation import pki
from formation.identity import Identity, Role, TokenText
from formation.names import COORDINATOR_NAME

NOW_MS = 1_800_000_000_000
WHO = Identity(cluster="c1", role=Role.AGENT, name="web-1")


@pytest.fixture(scope="module")
def authority() -> pki.Authority:
    return pki.new_authority(NOW_MS)


def issued(authority: pki.Authority, who: Identity = WHO) -> pki.Signed:
    return pki.issue(authority, who, pki.new_key().public_key(), NOW_MS)


def test_a_certificate_says_who_since_when_and_until_when(authority: pki.Authority) -> None:
    key = pki.new_key()
    signed = pki.issue(authority, WHO, key.public_key(), NOW_MS)
    seen = pki.look_at(signed.certificate, (authority.certificate,))
    assert seen == signed.seen
    assert seen.identity == WHO
    assert seen.issued_at_ms == NOW_MS
    assert seen.expires_at_ms == NOW_MS + pki.MACHINE_LIFE_MS
    assert seen.key == pki.fingerprint(key.public_key())
    assert seen.authority == authority.fingerprint


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.VIEWER])
def test_people_have_longer_certificates(authority: pki.Authority, role: Role) -> None:
    person = issued(authority, Identity(cluster="c1", role=role, name="ann")).seen
    machine = issued(authority).seen
    assert person.expires_at_ms - person.issued_at_ms == pki.PERSON_LIFE_MS
    assert machine.expires_at_ms - machine.issued_at_ms == pki.MACHINE_LIFE_MS


def test_only_a_coordinator_can_be_a_server(authority: pki.Authority) -> None:
    for role in (Role.AGENT, Role.OPERATOR, Role.COORDINATOR):
        who = Identity(cluster="c1", role=role, name="x")
        extensions = issued(authority, who).certificate.extensions
        uses = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        serves = role is Role.COORDINATOR
        assert (ExtendedKeyUsageOID.SERVER_AUTH in uses) == serves
        assert names.get_values_for_type(x509.DNSName) == ([COORDINATOR_NAME] if serves else [])


def test_another_authority_counts_only_when_it_is_trusted(authority: pki.Authority) -> None:
    other = pki.new_authority(NOW_MS)
    signed = issued(other)
    with pytest.raises(pki.CertificateError, match="not of this cluster's authority"):
        pki.look_at(signed.certificate, (authority.certificate,))
    both = (authority.certificate, other.certificate)
    assert pki.look_at(signed.certificate, both).authority == other.fingerprint


def forged(
    signer: ec.EllipticCurvePrivateKey, issuer: x509.Name, *uris: str, ca: bool = False
) -> x509.Certificate:
    at = datetime.datetime.fromtimestamp(NOW_MS / 1000, datetime.UTC)
    names = [x509.UniformResourceIdentifier(uri) for uri in uris]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
        .issuer_name(issuer)
        .public_key(pki.new_key().public_key())
        .serial_number(1)
        .not_valid_before(at)
        .not_valid_after(at + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


def test_the_name_of_an_authority_without_its_key_is_nothing(authority: pki.Authority) -> None:
    certificate = forged(pki.new_key(), authority.certificate.subject, WHO.uri)
    with pytest.raises(pki.CertificateError):
        pki.look_at(certificate, (authority.certificate,))


@pytest.mark.parametrize("uris", [(), ("https://x",), (WHO.uri, WHO.uri), ("formation://c/x/y",)])
def test_a_certificate_must_name_just_one_of_us(
    authority: pki.Authority, uris: tuple[str, ...]
) -> None:
    certificate = forged(authority.key, authority.certificate.subject, *uris)
    with pytest.raises(pki.CertificateError, match="names nobody"):
        pki.look_at(certificate, (authority.certificate,))


def test_what_a_holder_signs_counts_for_nothing(authority: pki.Authority) -> None:
    """A host's certificate is no authority, and an authority makes no others (path length 0)."""
    key = pki.new_key()
    host = pki.issue(authority, WHO, key.public_key(), NOW_MS).certificate
    operator = Identity(cluster="c1", role=Role.OPERATOR, name="evil").uri
    with pytest.raises(pki.CertificateError):
        pki.look_at(forged(key, host.subject, operator), (authority.certificate,))
    limits = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert limits.path_length == 0


def test_a_token_is_a_key_that_both_sides_derive() -> None:
    secret = pki.new_secret()
    assert pki.fingerprint(pki.token_key(secret).public_key()) == pki.fingerprint(
        pki.token_key(secret).public_key()
    )
    assert pki.fingerprint(pki.token_key(secret).public_key()) != pki.fingerprint(
        pki.token_key(pki.new_secret()).public_key()
    )


def test_what_a_joiner_shows_was_signed_by_the_token_and_by_no_authority(
    authority: pki.Authority,
) -> None:
    secret = pki.new_secret()
    public = pki.token_key(secret).public_key()
    token = TokenText(authority_key=pki.point(authority.key.public_key()), secret=secret)
    _, shown = pki.token_certificate(token, NOW_MS)
    certificate = pki.read_certificate(shown)
    assert pki.token_named(certificate) == pki.fingerprint(public)
    assert pki.is_signed_by_key(certificate, pki.point(public))
    assert not pki.is_signed_by_key(certificate, pki.point(pki.new_key().public_key()))
    with pytest.raises(pki.CertificateError):
        pki.look_at(certificate, (authority.certificate,))


def test_a_request_proves_its_key() -> None:
    key = pki.new_key()
    asked = pki.request(key)
    assert pki.fingerprint(pki.requested_key(asked)) == pki.fingerprint(key.public_key())
    broken = asked[:-1] + bytes([asked[-1] ^ 1])
    for wrong in (b"", b"rubbish", broken, asked[:50]):
        with pytest.raises(pki.CertificateError):
            pki.requested_key(wrong)


def test_only_keys_on_p256_are_taken() -> None:
    for other in (
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ):
        algorithm = None if isinstance(other, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        der = asked.sign(other, algorithm).public_bytes(serialization.Encoding.DER)
        with pytest.raises(pki.CertificateError, match="P-256"):
            pki.requested_key(der)


@pytest.mark.parametrize("encoded", [b"", b"\x02" + b"\xff" * 32, b"x" * 33, b"\x04" * 65])
def test_what_is_no_point_is_no_key(encoded: bytes) -> None:
    with pytest.raises(pki.CertificateError):
        pki.key_of(encoded)
