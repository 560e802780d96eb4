"""Who may call what: the one table. Pure. What is not in it nobody may.

`guard` asks it before any method runs. An agent may call what agents may call; that it speaks for
its own host alone is held where the host's name comes in (`guard.caller().speaks_for`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from formation.identity import PEOPLE, Identity, IssuedIdentity, Role

_AGENT, _CONTROL, _ACCESS, _ARTIFACTS = (
    f"/formation.v1.{service}/" for service in ("Agent", "Control", "Access", "Artifacts")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`own`: a deployer only for an app of its own. `values_own`: the same, where values of an
    environment are asked for; others who may call it get it without them."""

    roles: frozenset[Role]
    own: bool = False
    values_own: bool = False


_SEEING = Rule(roles=PEOPLE)
_SEEING_ALSO_OTHERS = Rule(roles=PEOPLE | {Role.COORDINATOR})
_CHANGING = Rule(roles=frozenset({Role.OPERATOR, Role.DEPLOYER}), own=True)
_OPERATING = Rule(roles=frozenset({Role.OPERATOR}))
_OF_AGENTS = Rule(roles=frozenset({Role.AGENT}))
_OF_COORDINATORS = Rule(roles=frozenset({Role.COORDINATOR}))
_ASKING_AFTER = Rule(roles=PEOPLE | {Role.AGENT, Role.COORDINATOR})

TABLE: Mapping[str, Rule] = {
    f"{_AGENT}Session": _OF_AGENTS,
    f"{_AGENT}PushLogs": _OF_AGENTS,
    f"{_AGENT}Exec": _OF_AGENTS,
    f"{_ACCESS}Enrol": Rule(roles=frozenset({Role.TOKEN})),
    f"{_ACCESS}Renew": Rule(roles=PEOPLE | {Role.AGENT, Role.COORDINATOR}),
    f"{_ACCESS}CreateToken": _OPERATING,
    f"{_ACCESS}ListTokens": _OPERATING,
    f"{_ACCESS}RevokeToken": _OPERATING,
    f"{_ACCESS}ListIdentities": _OPERATING,
    f"{_ACCESS}RevokeIdentity": _OPERATING,
    f"{_ACCESS}RotateAuthority": _OPERATING,
    f"{_ACCESS}RotateSealingKey": _OPERATING,
    f"{_ACCESS}CreateWebLogin": _SEEING,
    f"{_ACCESS}GetKeyring": _OF_COORDINATORS,
    f"{_ACCESS}TakeKeyring": _OF_COORDINATORS,
    f"{_ARTIFACTS}BeginUpload": _CHANGING,
    # With a ticket that BeginUpload gave to the same one.
    f"{_ARTIFACTS}Upload": Rule(roles=frozenset({Role.OPERATOR, Role.DEPLOYER})),
    # An agent only what it is to run: `artifacts.py` looks.
    f"{_ARTIFACTS}Fetch": Rule(roles=frozenset({Role.AGENT, Role.COORDINATOR})),
    f"{_CONTROL}GetCluster": _SEEING_ALSO_OTHERS,
    f"{_CONTROL}Usage": _SEEING_ALSO_OTHERS,
    f"{_CONTROL}Logs": _SEEING_ALSO_OTHERS,
    f"{_CONTROL}ListAutoscale": _SEEING_ALSO_OTHERS,
    f"{_CONTROL}ListApps": _SEEING,
    f"{_CONTROL}ListReleases": _SEEING,
    f"{_CONTROL}ListSecrets": _SEEING,
    f"{_CONTROL}ListRuns": _SEEING,
    f"{_CONTROL}ListHosts": _SEEING,
    f"{_CONTROL}ListAudit": _SEEING,
    f"{_CONTROL}WatchInstances": _SEEING,
    f"{_CONTROL}WatchEvents": _SEEING,
    f"{_CONTROL}DiffReleases": _SEEING,
    f"{_CONTROL}Plan": _SEEING,
    f"{_CONTROL}Explain": _SEEING,
    f"{_CONTROL}GetConfig": Rule(roles=PEOPLE, values_own=True),
    f"{_CONTROL}Apply": _CHANGING,
    f"{_CONTROL}Scale": _CHANGING,
    f"{_CONTROL}SetAutoscale": _CHANGING,
    f"{_CONTROL}Restart": _CHANGING,
    f"{_CONTROL}Retry": _CHANGING,
    f"{_CONTROL}DeleteApp": _CHANGING,
    f"{_CONTROL}SetConfig": _CHANGING,
    f"{_CONTROL}SetSecrets": _CHANGING,
    f"{_CONTROL}Rollback": _CHANGING,
    f"{_CONTROL}SteerRollout": _CHANGING,
    f"{_CONTROL}StartRun": _CHANGING,
    f"{_CONTROL}CancelRun": _CHANGING,
    f"{_CONTROL}StartExec": _CHANGING,
    # With the ticket that StartExec has given to this caller, for an app that it may change.
    f"{_CONTROL}Exec": Rule(roles=frozenset({Role.OPERATOR, Role.DEPLOYER})),
    f"{_CONTROL}RelayExec": Rule(roles=frozenset({Role.COORDINATOR})),
    f"{_CONTROL}SetHost": _OPERATING,
    f"{_CONTROL}ForgetHost": _OPERATING,
    f"{_CONTROL}StartRebalance": _OPERATING,
    f"{_CONTROL}Backup": _OPERATING,
    f"{_CONTROL}Restore": _OPERATING,
    f"{_CONTROL}Reconcile": _OPERATING,
    "/grpc.health.v1.Health/Check": _ASKING_AFTER,
    "/grpc.health.v1.Health/List": _ASKING_AFTER,
    "/grpc.health.v1.Health/Watch": _ASKING_AFTER,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _SEEING,
    f"{_CONTROL}AddWebhook": _OPERATING,
    f"{_CONTROL}RemoveWebhook": _OPERATING,
    f"{_CONTROL}TestWebhook": _OPERATING,
    f"{_CONTROL}ListWebhooks": _OPERATING,
}


def refusal(method: str, who: Identity, *, app: str = "", values: bool = False) -> str:
    """Why not, for people; or "". `app`: what the request is about; `values`: it asks for some."""
    rule, short = TABLE.get(method), method.rpartition("/")[2]
    if rule is None or who.role not in rule.roles:
        return f"{who} may not {short}"
    if rule.own and who.role is Role.DEPLOYER and not who.owns(app):
        return f"{who} may not {short} {app or 'without an app'}; only {', '.join(who.apps)}"
    if rule.values_own and values and not _sees_values(who, app):
        return f"{who} may not see values of {app or 'everything'}"
    return ""


def _sees_values(who: Identity, app: str) -> bool:
    return who.role is Role.OPERATOR or who.owns(app)


def is_void(issued_at_ms: int, record: IssuedIdentity | None) -> bool:
    """Was a certificate from then revoked? Nothing is known of most holders, and nothing against
    them: a store that was put back to an older state cuts nobody off."""
    return record is not None and issued_at_ms < record.void_before_ms
