"""Who somebody is, as certificates and tokens say it. Pure: text and data only.

A certificate names its holder in one URI: `formation://CLUSTER/ROLE/NAME`, and for a deployer
`?apps=shop,blog-*` behind it. Nothing else in a certificate is ever believed. What each role may
do is in the coordinator's `access.py`.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from formation.names import HOST_NAME

SCHEME = "formation://"
APP_PATTERN = re.compile(r"[a-z0-9*?][a-z0-9*?._-]{0,62}")
TOKEN_PREFIX = "FORM1"  # noqa: S105  what a token begins with
SECRET_BYTES = 16
AUTHORITY_KEY_BYTES = 33
_CHECK_BYTES = 4


class Role(StrEnum):
    """AGENT: one host. TOKEN: nobody yet, may ask for one certificate and nothing else."""

    AGENT = "agent"
    COORDINATOR = "coordinator"
    OPERATOR = "operator"
    DEPLOYER = "deployer"
    VIEWER = "viewer"
    TOKEN = "token"  # noqa: S105


PEOPLE = frozenset({Role.OPERATOR, Role.DEPLOYER, Role.VIEWER})
# Who can be given a certificate.
JOINABLE = tuple(role for role in Role if role is not Role.TOKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """`apps`: patterns of the apps that a deployer may change; of others always empty."""

    cluster: str
    role: Role
    name: str
    apps: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.role} {self.name}"

    @property
    def uri(self) -> str:
        apps = f"?apps={','.join(self.apps)}" if self.apps else ""
        return f"{SCHEME}{self.cluster}/{self.role}/{self.name}{apps}"

    def owns(self, app: str) -> bool:
        return any(fnmatchcase(app, pattern) for pattern in self.apps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whose signatures count in a cluster: certificates in DER. `signer`: fingerprint of the key
    that signs now; `sealer`: id of the one that seals secrets now, "" before there was any."""

    authorities: tuple[bytes, ...]
    signer: str
    sealer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedIdentity:
    """The last certificate that somebody was given. Certificates issued before `void_before_ms`
    count no more. `key`: fingerprint of its public key; `authority`: of who signed it."""

    role: Role
    name: str
    apps: tuple[str, ...] = ()
    issued_at_ms: int = 0
    expires_at_ms: int = 0
    void_before_ms: int = 0
    key: str = ""
    authority: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """Allows `uses_left` more holders of its secret to become a `role`. The secret is a private
    key, of which only the public half is known here. `name` "": the joiner says its own.
    `used_by`: fingerprints of keys that were given a certificate for it."""

    id: str
    public_key: bytes
    role: Role
    name: str = ""
    apps: tuple[str, ...] = ()
    created_at_ms: int = 0
    expires_at_ms: int = 0
    uses_left: int = 1
    who: str = ""
    used_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenText:
    """What is pasted: whom to trust, and what to prove."""

    authority_key: bytes
    secret: bytes


def problem_with_name(name: str) -> str:
    """Why this is no name of a host, coordinator or person; or ""."""
    if HOST_NAME.fullmatch(name):
        return ""
    return f"{name!r} is no name: letters, digits, '.', '_' and '-' are"


def problem_with_apps(role: Role, apps: tuple[str, ...]) -> str:
    if role is not Role.DEPLOYER:
        return f"a role of {role} has no apps of its own" if apps else ""
    if not apps:
        return "a deployer needs the apps that it may change, for example shop-*"
    wrong = [app for app in apps if not APP_PATTERN.fullmatch(app)]
    return (
        f"{wrong[0]!r} is no pattern of apps: lower-case letters, digits, . _ - * and ?"
        if wrong
        else ""
    )


def identity_of(uri: str) -> Identity:
    """The other way round of `Identity.uri`. Raises ValueError for anything else."""
    rest = uri.removeprefix(SCHEME)
    words = rest.partition("?")[0].split("/")
    if rest == uri or len(words) != len(("cluster", "role", "name")):
        raise ValueError(f"{uri!r} names nobody in a cluster")
    cluster, role, name = words
    found = Identity(cluster=cluster, role=Role(role), name=name, apps=_apps(rest))
    wrong = problem_with_name(cluster) or problem_with_name(name)
    wrong = wrong or problem_with_apps(found.role, found.apps)
    if wrong or found.uri != uri:
        raise ValueError(f"{uri!r}: {wrong or 'not as it is written'}")
    return found


def _apps(rest: str) -> tuple[str, ...]:
    query = rest.partition("?")[2]
    return tuple(query.removeprefix("apps=").split(",")) if query else ()


def token_text(token: TokenText) -> str:
    """76 characters without spaces, quotes or anything that a shell would read."""
    body = token.authority_key + token.secret
    check = zlib.crc32(body).to_bytes(_CHECK_BYTES, "big")
    return TOKEN_PREFIX + base64.urlsafe_b64encode(body + check).decode().rstrip("=")


def read_token(text: str) -> TokenText:
    """Raises ValueError, one line that does not repeat the secret."""
    if not text.startswith(TOKEN_PREFIX):
        raise ValueError(f"this is no token: one begins with {TOKEN_PREFIX}")
    coded = text.removeprefix(TOKEN_PREFIX)
    try:
        whole = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        whole = b""
    body, check = whole[:-_CHECK_BYTES], whole[-_CHECK_BYTES:]
    right_size = len(body) == AUTHORITY_KEY_BYTES + SECRET_BYTES
    if not right_size or zlib.crc32(body).to_bytes(_CHECK_BYTES, "big") != check:
        raise ValueError("the token is damaged: was all of it pasted?")
    return TokenText(authority_key=body[:AUTHORITY_KEY_BYTES], secret=body[AUTHORITY_KEY_BYTES:])
