"""Certificates for tests: an authority, and anybody's identity, as `init` and `join` make them."""

from __future__ import annotations

import time
from pathlib import Path

import grpc

from formation import contexts, credentials, pki
from formation.identity import Identity, Role
from formation.names import COORDINATOR_NAME
from formation_coordinator import keyring

CONTEXT = "lab"


class Authority:
    """Gives certificates. `at_ms`: the moment of issue; now, if not told."""

    def __init__(self, cluster: str = "1ab1ab1ab1ab1ab1") -> None:
        self.cluster = cluster
        self.signer = pki.new_authority(now_ms())

    def issue(
        self,
        directory: Path,
        role: Role,
        name: str,
        apps: tuple[str, ...] = (),
        *,
        at_ms: int = 0,
    ) -> credentials.Credential:
        who = Identity(cluster=self.cluster, role=role, name=name, apps=apps)
        key = pki.new_key()
        signed = pki.issue(self.signer, who, key.public_key(), at_ms or now_ms())
        credentials.save_authorities(str(directory), (self.signer.certificate,))
        credentials.save_identity(str(directory), key, signed.certificate)
        return credentials.load(str(directory))

    def coordinator(self, directory: Path, name: str) -> Path:
        """Its --identity-dir."""
        self.issue(directory, Role.COORDINATOR, name)
        keyring.save(str(directory), keyring.Keyring(authorities=(self.signer,)))
        return directory

    def agent(self, state_dir: Path, name: str) -> None:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.issue(state_dir / "identity", Role.AGENT, name)

    def operator(self, config_home: Path, name: str = "ann") -> credentials.Credential:
        """For formctl, under that XDG_CONFIG_HOME, as context `lab`."""
        environ = {"XDG_CONFIG_HOME": str(config_home)}
        return self.issue(Path(contexts.identity_dir(environ, CONTEXT)), Role.OPERATOR, name)


def channel_credentials(credential: credentials.Credential) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        credential.authorities_pem, credential.key_pem, credential.certificate_pem
    )


def channel_options() -> list[tuple[str, str | int]]:
    return [("grpc.ssl_target_name_override", COORDINATOR_NAME)]


def now_ms() -> int:
    return time.time_ns() // 1_000_000
