"""The secrets of a cluster that only coordinators hold: the keys of its authorities, and those
that seal what formations must not show.

One private file beside the coordinator's identity. They are never in etcd: whoever can read or
write the store can sign nothing, and open nothing that was sealed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

from formation import pki
from formation.credentials import CredentialError, read_private, write_private
from formation_coordinator.sealing import key_text, read_keys

FILE = "keyring.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    authorities: tuple[pki.Authority, ...]
    sealing: tuple[bytes, ...] = field(default=(), repr=False)

    def signer(self, fingerprint: str) -> pki.Authority | None:
        return next((a for a in self.authorities if a.fingerprint == fingerprint), None)


def encode(keyring: Keyring) -> bytes:
    authorities = [
        {
            "key": pki.key_pem(authority.key).decode(),
            "certificate": pki.certificate_pem(authority.certificate).decode(),
        }
        for authority in keyring.authorities
    ]
    sealing = [key_text(key) for key in keyring.sealing]
    return json.dumps({"authorities": authorities, "sealing": sealing}, indent=1).encode()


def decode(content: bytes) -> Keyring:
    """Raises ValueError for anything that `encode` has not written."""
    try:
        table = json.loads(content)
        found = tuple(
            pki.Authority(
                key=pki.read_key(item["key"].encode()),
                certificate=pki.read_certificate(item["certificate"].encode()),
            )
            for item in table["authorities"]
        )
        # One that was written before there were secrets has none.
        sealing = table.get("sealing", [])
        sealing_keys = read_keys("\n".join(sealing)) if sealing else ()
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        pki.CertificateError,
        RecursionError,
    ) as error:
        raise ValueError("not a keyring") from error
    if not found:
        raise ValueError("a keyring without an authority")
    if any(pki.authority_fingerprint(a.certificate) != a.fingerprint for a in found):
        raise ValueError("a keyring with a key that is not its certificate's")
    return Keyring(authorities=found, sealing=sealing_keys)


def load(directory: str) -> Keyring:
    """Raises `CredentialError`."""
    path = os.path.join(directory, FILE)
    try:
        return decode(read_private(path))
    except ValueError as error:
        raise CredentialError(f"{path}: {error}") from None


def save(directory: str, keyring: Keyring) -> None:
    """Raises `CredentialError`."""
    write_private(directory, FILE, encode(keyring))
