"""A coordinator on TCP with certificates in the test's own loop, and whoever talks to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
from certified import Authority
from running import RunningCoordinator

from formation import pki
from formation.credentials import Credential
from formation.dialling import Dialler
from formation.identity import Role, TokenText
from formation.v1 import access_pb2, access_pb2_grpc, types_pb2


@dataclass
class Rig:
    directory: Path
    authority: Authority
    running: RunningCoordinator
    people: dict[str, Credential] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return self.running.address

    def somebody(self, role: Role, name: str = "x", apps: tuple[str, ...] = ()) -> Credential:
        key = f"{role}-{name}"
        if key not in self.people:
            self.people[key] = self.authority.issue(self.directory / key, role, name, apps)
        return self.people[key]

    def channel(self, credential: Credential) -> grpc.aio.Channel:
        return Dialler(lambda: credential).channel(self.address)

    async def token(
        self, role: Role = Role.AGENT, *, name: str = "", uses: int = 1, ttl_s: float = 60.0
    ) -> TokenText:
        secret = pki.new_secret()
        async with self.channel(self.somebody(Role.OPERATOR)) as channel:
            made = await access_pb2_grpc.AccessStub(channel).CreateToken(
                access_pb2.CreateTokenRequest(
                    public_key=pki.point(pki.token_key(secret).public_key()),
                    role=types_pb2.ROLE_AGENT if role is Role.AGENT else types_pb2.ROLE_COORDINATOR,
                    name=name,
                    uses=uses,
                    ttl_s=ttl_s,
                )
            )
        return TokenText(authority_key=made.authority_key, secret=secret)
