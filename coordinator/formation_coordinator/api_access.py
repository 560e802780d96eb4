"""Serves `formation.v1.Access`. What somebody may ask for was judged by `guard` before."""

from __future__ import annotations

from typing import Any

from formation import pki, wire_access
from formation.credentials import CredentialError
from formation.identity import JoinToken, Role
from formation.v1 import access_pb2 as pb
from formation.v1 import access_pb2_grpc
from formation_coordinator.api_errors import Context, worded
from formation_coordinator.changing import Invalid, Refused
from formation_coordinator.control_access import AccessControl, Wish
from formation_coordinator.control_automation import AutomationControl
from formation_coordinator.control_secrets import SecretControl
from formation_coordinator.guard import caller
from formation_coordinator.keysharing import KeySharing
from formation_coordinator.live import LiveWorld
from formation_coordinator.notary import Notary
from formation_coordinator.vault import Vault
from formation_coordinator.web.logins import Logins


class AccessService(access_pb2_grpc.AccessServicer):
    """`notary` None: a cluster without certificates. `address`: where others reach us."""

    def __init__(
        self,
        *,
        control: AccessControl,
        secrets: SecretControl,
        webhooks: AutomationControl,
        vault: Vault,
        sharing: KeySharing,
        live: LiveWorld,
        notary: Notary | None,
        address: str,
        logins: Logins,
        page_url: str,
    ) -> None:
        self._logins, self._page_url = logins, page_url
        self._address, self._secrets, self._vault = address, secrets, vault
        self._webhooks, self._sharing = webhooks, sharing
        self.control, self._live, self._given_notary = control, live, notary

    @property
    def _notary(self) -> Notary:
        if self._given_notary is None:
            raise Refused(
                "this cluster has no certificates; make them first: formation-coordinator init"
            )
        return self._given_notary

    @worded
    async def Enrol(self, request: pb.EnrolRequest, context: Context) -> Any:  # noqa: N802
        notary, who = self._notary, caller().identity
        if who is None or who.role is not Role.TOKEN:
            raise Refused("only who holds a token can join")
        key = _requested_key(request.request)
        roles = [wire_access.role_from_pb(role) for role in request.roles]
        wish = Wish(
            key=key, name=request.name, default_name=request.default_name, roles=frozenset(roles)
        )
        signed = await self.control.enrol(who.name, wish, self._sign)
        is_coordinator = signed.seen.identity.role is Role.COORDINATOR
        return pb.EnrolResponse(
            grant=self._grant(signed), keyring=notary.keyring() if is_coordinator else b""
        )

    @worded
    async def Renew(self, request: pb.RenewRequest, context: Context) -> Any:  # noqa: N802
        who = caller().identity
        if who is None:
            raise Refused("only who has a certificate can renew it")
        key = _requested_key(request.request)
        return pb.RenewResponse(grant=self._grant(await self.control.renew(who, key, self._sign)))

    def _sign(self, *asked: Any) -> pki.Signed:
        try:
            return self._notary.sign(*asked)
        except CredentialError as error:
            raise Refused(f"this coordinator cannot sign: {error}") from error

    def _grant(self, signed: pki.Signed) -> pb.Grant:
        return pb.Grant(
            certificate=pki.certificate_der(signed.certificate),
            authorities=map(pki.certificate_der, self._notary.authorities()),
            coordinator_addresses=self._addresses(),
        )

    def _addresses(self) -> list[str]:
        """Ours first: we surely are there."""
        others = sorted(c.address for c in self._live.world.coordinators.values())
        return list(dict.fromkeys((self._address, *others)))

    @worded
    async def CreateToken(self, request: pb.CreateTokenRequest, context: Context) -> Any:  # noqa: N802
        notary = self._notary
        wanted = JoinToken(
            id="",
            public_key=request.public_key,
            role=wire_access.role_from_pb(request.role),
            name=request.name,
            apps=tuple(request.apps),
            uses_left=request.uses or 1,
            who=request.who,
        )
        token = await self.control.create_token(wanted, request.ttl_s)
        return pb.CreateTokenResponse(
            token=wire_access.token_to_pb(token),
            authority_key=pki.point(notary.signer().key.public_key()),
            coordinator_addresses=self._addresses(),
        )

    @worded
    async def ListTokens(self, request: pb.ListTokensRequest, context: Context) -> Any:  # noqa: N802
        found = sorted(self._live.world.tokens.values(), key=lambda token: token.expires_at_ms)
        now_ms = self.control.now_ms()
        usable = [token for token in found if token.expires_at_ms > now_ms and token.uses_left]
        return pb.ListTokensResponse(tokens=map(wire_access.token_to_pb, usable))

    @worded
    async def RevokeToken(self, request: pb.RevokeTokenRequest, context: Context) -> Any:  # noqa: N802
        await self.control.revoke_token(request.id, request.who)
        return pb.RevokeTokenResponse()

    @worded
    async def ListIdentities(self, request: pb.ListIdentitiesRequest, context: Context) -> Any:  # noqa: N802
        found = sorted(self._live.world.identities.values(), key=lambda i: (i.role, i.name))
        return pb.ListIdentitiesResponse(identities=map(wire_access.issued_to_pb, found))

    @worded
    async def RevokeIdentity(self, request: pb.RevokeIdentityRequest, context: Context) -> Any:  # noqa: N802
        role = wire_access.role_from_pb(request.role)
        revoked = await self.control.revoke(role, request.name, request.who, request.why)
        return pb.RevokeIdentityResponse(identity=wire_access.issued_to_pb(revoked))

    @worded
    async def RotateAuthority(self, request: pb.RotateAuthorityRequest, context: Context) -> Any:  # noqa: N802
        notary = self._notary
        if request.step == pb.RotateAuthorityRequest.STEP_BEGIN:
            try:
                trust = notary.another_authority()
            except CredentialError as error:
                raise Refused(str(error)) from error
            await self._sharing.give(trust.signer)
            await self.control.begin_rotation(trust, request.who)
        elif request.step == pb.RotateAuthorityRequest.STEP_FINISH:
            trust = await self.control.finish_rotation(request.who, force=request.force)
        else:
            trust = self._live.world.trust or notary.first_trust()
        behind = await self.control.behind(trust)
        return pb.RotateAuthorityResponse(
            trust=wire_access.trust_to_pb(trust), behind=map(wire_access.issued_to_pb, behind)
        )

    @worded
    async def RotateSealingKey(  # noqa: N802
        self, request: pb.RotateSealingKeyRequest, context: Context
    ) -> Any:
        vault = self._vault
        if not request.finish:
            before, key = vault.sealer, await vault.another_key()
            await self._live.reach(await self._secrets.turn_to(key, before, request.who))
        secrets, releases = await self._secrets.seal_all_anew(vault)
        secrets += await self._webhooks.seal_webhooks_anew(vault)
        return pb.RotateSealingKeyResponse(key=vault.sealer, secrets=secrets, releases=releases)

    @worded
    async def CreateWebLogin(self, request: pb.CreateWebLoginRequest, context: Context) -> Any:  # noqa: N802
        if not self._page_url:
            raise Refused("this coordinator serves no page: start it with --http ADDR")
        ticket = self._logins.ticket(caller())
        return pb.CreateWebLoginResponse(url=self._page_url, ticket=ticket)

    @worded
    async def GetKeyring(self, request: pb.GetKeyringRequest, context: Context) -> Any:  # noqa: N802
        return pb.GetKeyringResponse(keyring=self._notary.keyring())

    @worded
    async def TakeKeyring(self, request: pb.TakeKeyringRequest, context: Context) -> Any:  # noqa: N802
        try:
            self._notary.adopt(request.keyring)
        except ValueError as error:
            raise Invalid(str(error)) from error
        except CredentialError as error:
            raise Refused(str(error)) from error
        return pb.TakeKeyringResponse(keys=self._notary.key_ids())


def _requested_key(request: bytes) -> pki.PublicKey:
    try:
        return pki.requested_key(request)
    except pki.CertificateError as error:
        raise Invalid(str(error)) from error
