"""This coordinator's own certificate, and its hand that signs those of others. Thin.

Whose signatures count is what the store says (`Trust`); until it was read, what the coordinator
was given when it joined.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from cryptography import x509

from formation import credentials, pki
from formation.credentials import CredentialError
from formation.identity import Identity, Role, Trust
from formation.runtime import utc
from formation_coordinator import keyring, sealing
from formation_coordinator.keyring import Keyring

log = logging.getLogger(__name__)

_LOOKS_EVERY_S = 60.0


class Notary:
    """`trust`: what the store says now. Raises `CredentialError` when there is none to begin with,
    or it is not a coordinator's. `sealing_file`: its keys seal secrets instead of such as we make,
    and are given to nobody."""

    def __init__(
        self,
        directory: str,
        *,
        trust: Callable[[], Trust | None],
        now_ms: Callable[[], int],
        sealing_file: str = "",
    ) -> None:
        self._directory, self._trust, self._now_ms = directory, trust, now_ms
        self._keyring = keyring.load(directory)
        self._own_keys = _keys_of_file(sealing_file) if sealing_file else ()
        self.credential = credentials.load(directory)
        self._read: tuple[tuple[bytes, ...], tuple[x509.Certificate, ...]] = ((), ())
        if self.identity.role is not Role.COORDINATOR:
            raise CredentialError(f"{directory}: a certificate of {self.identity}, no coordinator")

    @property
    def identity(self) -> Identity:
        return self.credential.seen.identity

    def first_trust(self) -> Trust:
        """What the first coordinator of a cluster writes."""
        first = self._keyring.authorities[0]
        return Trust(
            authorities=(pki.certificate_der(first.certificate),), signer=first.fingerprint
        )

    def authorities(self) -> tuple[x509.Certificate, ...]:
        trust = self._trust()
        if trust is None:
            return self.credential.authorities
        if self._read[0] != trust.authorities:
            self._read = trust.authorities, tuple(map(pki.read_certificate, trust.authorities))
        return self._read[1]

    def keyring(self) -> bytes:
        """For another coordinator that joins."""
        return keyring.encode(self._keyring)

    def signer(self) -> pki.Authority:
        """Raises `CredentialError` when its key was not given to us."""
        trust = self._trust() or self.first_trust()
        found = self._keyring.signer(trust.signer)
        if found is None:
            raise CredentialError(f"the key of authority {trust.signer} is not in our keyring")
        return found

    def sign(self, who: Identity, key: pki.PublicKey, now_ms: int) -> pki.Signed:
        whole = replace(who, cluster=self.identity.cluster)
        return pki.issue(self.signer(), whole, key, now_ms)

    async def run(self) -> None:
        """For ever: keeps our own certificate fresh, and the authorities on disk those of now."""
        while True:
            try:
                self.refresh()
            except CredentialError as error:
                log.warning("our certificate is not renewed: %s", error)
            await asyncio.sleep(_LOOKS_EVERY_S)

    def refresh(self) -> None:
        """Also for one that was away for longer than its certificate counts.

        While there are several authorities ours is signed by the oldest: who has not heard of the
        others yet knows us by that one. Raises `CredentialError`.
        """
        trusted, seen = self.authorities(), self.credential.seen
        signer = self._oldest()
        if seen.authority != signer.fingerprint or self._now_ms() >= pki.renews_at_ms(seen):
            key = pki.new_key()
            signed = pki.issue(signer, seen.identity, key.public_key(), self._now_ms())
            # Whatever comes between: what lies there fits together.
            both = dict.fromkeys((*self.credential.authorities, *trusted))
            credentials.save_authorities(self._directory, tuple(both))
            credentials.save_identity(self._directory, key, signed.certificate)
            self.credential = credentials.load(self._directory)
            log.info("our certificate is renewed, until %s", utc(signed.seen.expires_at_ms))
        if trusted != self.credential.authorities:
            credentials.save_authorities(self._directory, trusted)
            self.credential = credentials.load(self._directory)

    def _oldest(self) -> pki.Authority:
        """Of the authorities that count, of those that we can sign for."""
        for authority in self.authorities():
            found = self._keyring.signer(pki.authority_fingerprint(authority))
            if found is not None:
                return found
        raise CredentialError("no key of an authority that counts is in our keyring")

    # ------------------------------------------------------------------ another authority

    def lacks_key(self) -> bool:
        """Somebody else has begun a rotation, and has the key."""
        trust = self._trust()
        if trust is None:
            return False
        sealed = bool(trust.sealer) and trust.sealer not in self.sealing_keys()
        return sealed or self._keyring.signer(trust.signer) is None

    def adopt(self, given: bytes) -> None:
        """Keys of another coordinator. Raises ValueError, `CredentialError`."""
        self._keep(keyring.decode(given))

    def key_ids(self) -> tuple[str, ...]:
        """Of all keys here: those that seal, and those of authorities."""
        signing = (authority.fingerprint for authority in self._keyring.authorities)
        return (*self.sealing_keys(), *signing)

    def another_authority(self) -> Trust:
        """Made, kept, and the one that shall sign; what counts now goes on to count."""
        made = pki.new_authority(self._now_ms())
        self._keep(Keyring(authorities=(made,)))
        certificates = (*self.authorities(), made.certificate)
        return Trust(
            authorities=tuple(map(pki.certificate_der, certificates)), signer=made.fingerprint
        )

    def _keep(self, more: Keyring) -> None:
        authorities = (*self._keyring.authorities, *more.authorities)
        self._keyring = Keyring(
            authorities=tuple({a.fingerprint: a for a in authorities}.values()),
            sealing=tuple(dict.fromkeys((*self._keyring.sealing, *more.sealing))),
        )
        keyring.save(self._directory, self._keyring)

    # ------------------------------------------------------------------ keys that seal

    def sealing_keys(self) -> Mapping[str, bytes]:
        """All that we have, by id: what was sealed with an earlier one can still be opened."""
        return {sealing.key_id(key): key for key in (*self._keyring.sealing, *self._own_keys)}

    def another_sealing_key(self, now: str) -> str:
        """Id of one that shall seal instead of `now` ("": there was none): made and kept here, or
        the first one of our file. Raises `CredentialError`."""
        if not self._own_keys:
            made = os.urandom(sealing.KEY_BYTES)
            self._keep(Keyring(authorities=(), sealing=(made,)))
            return sealing.key_id(made)
        first = sealing.key_id(self._own_keys[0])
        if first == now:
            raise CredentialError(
                f"--sealing-key-file: its first key, {now}, seals already: put another one before "
                "it, on every coordinator, start them anew, and try again"
            )
        return first


def _keys_of_file(path: str) -> tuple[bytes, ...]:
    try:
        return sealing.read_keys(credentials.read_private(path).decode("utf-8", "replace"))
    except ValueError as error:
        raise CredentialError(f"{path}: {error}") from None
