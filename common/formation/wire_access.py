"""Records of who may take part ⇄ protobuf. Part of `formation.wire`; see there."""

from __future__ import annotations

from formation.identity import IssuedIdentity, JoinToken, Role, Trust
from formation.v1 import types_pb2 as pb
from formation.wire_maps import WireError

_ROLES = {
    Role.AGENT: pb.ROLE_AGENT,
    Role.COORDINATOR: pb.ROLE_COORDINATOR,
    Role.OPERATOR: pb.ROLE_OPERATOR,
    Role.DEPLOYER: pb.ROLE_DEPLOYER,
    Role.VIEWER: pb.ROLE_VIEWER,
}
_ROLES_BACK = {number: role for role, number in _ROLES.items()}


def role_to_pb(role: Role) -> pb.Role.ValueType:
    """Of a role that somebody can have: a token has none."""
    return _ROLES[role]


def role_from_pb(number: int) -> Role:
    try:
        return _ROLES_BACK[pb.Role.ValueType(number)]
    except KeyError:
        raise WireError(f"unknown role {number}") from None


def trust_to_pb(trust: Trust) -> pb.Trust:
    return pb.Trust(authorities=trust.authorities, signer=trust.signer, sealer=trust.sealer)


def trust_from_pb(message: pb.Trust) -> Trust:
    if not message.authorities:
        raise WireError("a cluster that trusts nobody")
    return Trust(
        authorities=tuple(message.authorities), signer=message.signer, sealer=message.sealer
    )


def issued_to_pb(issued: IssuedIdentity) -> pb.IssuedIdentity:
    return pb.IssuedIdentity(
        role=role_to_pb(issued.role),
        name=issued.name,
        apps=issued.apps,
        issued_at_ms=issued.issued_at_ms,
        expires_at_ms=issued.expires_at_ms,
        void_before_ms=issued.void_before_ms,
        key=issued.key,
        authority=issued.authority,
    )


def issued_from_pb(message: pb.IssuedIdentity) -> IssuedIdentity:
    return IssuedIdentity(
        role=role_from_pb(message.role),
        name=message.name,
        apps=tuple(message.apps),
        issued_at_ms=message.issued_at_ms,
        expires_at_ms=message.expires_at_ms,
        void_before_ms=message.void_before_ms,
        key=message.key,
        authority=message.authority,
    )


def token_to_pb(token: JoinToken) -> pb.JoinToken:
    return pb.JoinToken(
        id=token.id,
        public_key=token.public_key,
        role=role_to_pb(token.role),
        name=token.name,
        apps=token.apps,
        created_at_ms=token.created_at_ms,
        expires_at_ms=token.expires_at_ms,
        uses_left=token.uses_left,
        who=token.who,
        used_by=token.used_by,
    )


def token_from_pb(message: pb.JoinToken) -> JoinToken:
    return JoinToken(
        id=message.id,
        public_key=message.public_key,
        role=role_from_pb(message.role),
        name=message.name,
        apps=tuple(message.apps),
        created_at_ms=message.created_at_ms,
        expires_at_ms=message.expires_at_ms,
        uses_left=message.uses_left,
        who=message.who,
        used_by=tuple(message.used_by),
    )
