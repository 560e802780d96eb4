"""A holder's key and certificates on disk: one directory, readable by its owner alone.

`identity.pem` holds key and certificate together, so that both change at once; `authorities.pem`
whom to trust; `coordinators` where the cluster was last seen, a line each.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509

from formation import pki
from formation.contexts import IDENTITY, CredentialError

__all__ = [
    "AUTHORITIES",
    "COORDINATORS",
    "IDENTITY",
    "Credential",
    "CredentialError",
    "exists",
    "load",
    "read_password",
    "read_private",
    "save_authorities",
    "save_coordinators",
    "save_identity",
    "write_private",
]

AUTHORITIES, COORDINATORS = "authorities.pem", "coordinators"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """`seen`: what our own certificate says."""

    directory: str
    seen: pki.Seen
    key_pem: bytes
    certificate_pem: bytes
    authorities: tuple[x509.Certificate, ...]
    coordinators: tuple[str, ...] = ()

    @property
    def authorities_pem(self) -> bytes:
        return b"".join(map(pki.certificate_pem, self.authorities))

    @property
    def identity_path(self) -> str:
        return os.path.join(self.directory, IDENTITY)


def exists(directory: str) -> bool:
    return bool(directory) and os.path.exists(os.path.join(directory, IDENTITY))


def load(directory: str) -> Credential:
    """Raises `CredentialError`."""
    path = os.path.join(directory, IDENTITY)
    content, authorities_pem = read_private(path), _read(os.path.join(directory, AUTHORITIES))
    key_pem, dashes, rest = content.partition(b"-----BEGIN CERTIFICATE")
    certificate_pem = dashes + rest
    try:
        authorities = tuple(x509.load_pem_x509_certificates(authorities_pem))
    except ValueError:
        raise CredentialError(f"{directory}/{AUTHORITIES}: no certificates in PEM") from None
    try:
        key = pki.read_key(key_pem)
        certificate = pki.read_certificate(certificate_pem)
        seen = pki.look_at(certificate, authorities)
    except pki.CertificateError as error:
        raise CredentialError(f"{path}: {error}") from None
    if pki.fingerprint(key.public_key()) != seen.key:
        raise CredentialError(f"{path}: the key is not the certificate's")
    return Credential(
        directory=directory,
        seen=seen,
        key_pem=key_pem,
        certificate_pem=certificate_pem,
        authorities=authorities,
        coordinators=_addresses(directory),
    )


def read_private(path: str) -> bytes:
    """Refused when others can read it: then it may be anybody's already.

    Raises `CredentialError`.
    """
    with contextlib.suppress(OSError):
        found = os.stat(path)
        # systemd's credentials are root's, readable for root's group.
        of_root = found.st_uid == found.st_gid == 0 and not found.st_mode & stat.S_IWGRP
        if found.st_mode & (stat.S_IRWXO if of_root else stat.S_IRWXG | stat.S_IRWXO):
            raise CredentialError(f"{path}: others may read this key: chmod 600 {path}")
    return _read(path)


def read_password(path: str) -> str:
    """The first line of that private file; "" for no file. Raises `CredentialError`."""
    if not path:
        return ""
    lines = read_private(path).decode("utf-8", "replace").splitlines()
    if not lines or not lines[0]:
        raise CredentialError(f"{path}: its first line is empty: no password")
    return lines[0]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CredentialError(f"{path}: cannot be read: {error.strerror}") from None


def _addresses(directory: str) -> tuple[str, ...]:
    try:
        with open(os.path.join(directory, COORDINATORS), encoding="utf-8") as file:
            return tuple(file.read().split())
    except (OSError, UnicodeDecodeError):
        return ()


def save_identity(directory: str, key: pki.PrivateKey, certificate: x509.Certificate) -> None:
    """Raises `CredentialError` when the disk does not take it."""
    write_private(directory, IDENTITY, pki.key_pem(key) + pki.certificate_pem(certificate))


def save_authorities(directory: str, authorities: Sequence[x509.Certificate]) -> None:
    write_private(directory, AUTHORITIES, b"".join(map(pki.certificate_pem, authorities)))


def save_coordinators(directory: str, addresses: Sequence[str]) -> None:
    lines = "".join(f"{address}\n" for address in addresses)
    write_private(directory, COORDINATORS, lines.encode())


def write_private(directory: str, name: str, content: bytes) -> None:
    """At once or not at all, for its owner alone from the first byte on.

    Raises `CredentialError` when the disk does not take it.
    """
    try:
        _replace(directory, name, content)
    except OSError as error:
        path = os.path.join(directory, name)
        raise CredentialError(f"{path}: cannot be written: {error.strerror}") from None


def _replace(directory: str, name: str, content: bytes) -> None:
    os.makedirs(directory, mode=0o700, exist_ok=True)
    path = os.path.join(directory, name)
    temporary = f"{path}.{os.getpid()}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
