"""Where secrets are sealed and opened: the one room that sees values and keys together."""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Awaitable, Callable, Mapping

from formation.credentials import CredentialError
from formation.identity import Trust
from formation.secrets import Secret
from formation_coordinator.changing import Refused
from formation_coordinator.notary import Notary
from formation_coordinator.sealing import NONCE_BYTES, CannotOpenError, seal, unseal
from formation_coordinator.store.base import StoreError

log = logging.getLogger(__name__)


class Vault:
    """`notary` None: a cluster without certificates. `give` sees that every coordinator has a key,
    or raises `Refused`."""

    def __init__(
        self,
        notary: Notary | None,
        trust: Callable[[], Trust | None],
        give: Callable[[str], Awaitable[None]],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._given_notary, self._trust, self._random = notary, trust, random
        self._give = give
        self._said: set[tuple[str, str, int]] = set()

    @property
    def _notary(self) -> Notary:
        if self._given_notary is None:
            raise Refused(
                "this cluster has no certificates, so no key to seal secrets with: "
                "formation-coordinator init; values that are no secret are for formctl config"
            )
        return self._given_notary

    @property
    def sealer(self) -> str:
        """Id of the key that seals; "" before there was any."""
        trust = self._trust()
        return trust.sealer if trust else ""

    async def another_key(self) -> str:
        """Id of one that shall seal instead of the present one; all coordinators have it. Raises
        `Refused`."""
        try:
            key = self._notary.another_sealing_key(self.sealer)
        except CredentialError as error:
            raise Refused(str(error)) from error
        await self._give(key)
        return key

    def seal(self, app: str, name: str, version: int, value: str) -> Secret:
        """Raises `Refused`, and `StoreError` while the key has not come to this coordinator."""
        key = self._notary.sealing_keys().get(self.sealer)
        if key is None:
            raise StoreError(f"the key that seals secrets, {self.sealer}, is not here; try again")
        sealed = seal(key, (app, name, version), value, self._random(NONCE_BYTES))
        return Secret(version=version, key=self.sealer, sealed=sealed)

    def unseal(self, app: str, name: str, secret: Secret) -> str:
        """Raises `CannotOpenError`."""
        keys = self._given_notary.sealing_keys() if self._given_notary else {}
        key = keys.get(secret.key)
        if key is None:
            raise CannotOpenError(f"its key, {secret.key}, is not here")
        return unseal(key, (app, name, secret.version), secret.sealed)

    def is_same(self, app: str, name: str, secret: Secret | None, value: str) -> bool:
        """Does it say that already? What cannot be opened does not."""
        if secret is None:
            return False
        try:
            known = self.unseal(app, name, secret)
        except CannotOpenError:
            return False
        return hmac.compare_digest(known.encode(), value.encode())

    def value_for_agent(self, app: str, name: str, secret: Secret) -> str:
        """ "" for what cannot be opened: the instances that need it will say so."""
        try:
            return self.unseal(app, name, secret)
        except CannotOpenError as error:
            place = (app, name, secret.version)
            if place not in self._said:
                self._said.add(place)
                # Its traceback says nothing.
                log.error("secret %s of %s: %s", name, app, error)  # noqa: TRY400
            return ""

    def seal_anew(self, app: str, secrets: Mapping[str, Secret]) -> Mapping[str, Secret]:
        """Those that another key has sealed, by name. Raises `Refused` for what cannot be opened,
        and as `seal`."""
        found = {}
        for name, secret in secrets.items():
            if secret.key == self.sealer:
                continue
            try:
                value = self.unseal(app, name, secret)
            except CannotOpenError as error:
                raise Refused(
                    f"secret {name} of {app}: {error}; set it again: formctl secret set {name}"
                ) from error
            found[name] = self.seal(app, name, secret.version, value)
        return found
