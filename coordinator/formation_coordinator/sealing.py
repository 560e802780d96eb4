"""Secrets sealed with a key of the cluster: AES-256-GCM. Pure: nonces are arguments.

A sealed value is bound to its app, name and version: put into another place of the store it
cannot be opened.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 12
_ID_DIGITS = 16


class CannotOpenError(ValueError):
    """It was sealed with another key, for another place, or is damaged."""


def key_id(key: bytes) -> str:
    return hashlib.sha256(b"formation sealing key\0" + key).hexdigest()[:_ID_DIGITS]


def seal(key: bytes, place: tuple[str, str, int], value: str, nonce: bytes) -> bytes:
    """`place`: app, name and version. `nonce`: NONCE_BYTES that were never used with this key."""
    return nonce + AESGCM(key).encrypt(nonce, value.encode(), _bound(*place))


def unseal(key: bytes, place: tuple[str, str, int], sealed: bytes) -> str:
    """Raises `CannotOpenError`."""
    nonce, rest = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    try:
        return AESGCM(key).decrypt(nonce, rest, _bound(*place)).decode()
    except (InvalidTag, ValueError) as error:
        raise CannotOpenError("it cannot be opened with this key") from error


def _bound(app: str, name: str, version: int) -> bytes:
    texts = (b"formation secret 1", app.encode(), name.encode())
    return b"".join(struct.pack("!I", len(t)) + t for t in texts) + struct.pack("!Q", version)


def key_text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def read_keys(text: str) -> tuple[bytes, ...]:
    """Keys of a file, one a line; the first seals. Raises ValueError, which repeats none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("no key in it: head -c 32 /dev/urandom | base64 makes one")
    return tuple(_read_key(line, number) for number, line in enumerate(lines, 1))


def _read_key(line: str, number: int) -> bytes:
    try:
        key = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"line {number} is no key: {KEY_BYTES} random bytes in base64 are")
    return key
