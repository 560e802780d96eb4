"""The one table of who may call what: every method of every service, by every role."""

from __future__ import annotations

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from formation.identity import PEOPLE, Identity, IssuedIdentity, Role
from formation.v1 import access_pb2, agent_pb2, artifacts_pb2, control_pb2
from formation_coordinator.access import TABLE, is_void, refusal

MESSAGES = (access_pb2, agent_pb2, artifacts_pb2, control_pb2, health_pb2, reflection_pb2)
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for module in MESSAGES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
OPERATOR, DEPLOYER, VIEWER, AGENT, COORDINATOR, TOKEN = (
    Role.OPERATOR,
    Role.DEPLOYER,
    Role.VIEWER,
    Role.AGENT,
    Role.COORDINATOR,
    Role.TOKEN,
)
# What each may do, said a second time, in words of its own: method → roles; "own" only in the
# deployer's own apps.
READS = (
    "GetCluster ListApps ListReleases ListRuns ListHosts ListAudit WatchInstances Logs Usage "
    "DiffReleases Plan Explain GetConfig ListSecrets CreateWebLogin WatchEvents "
    "ServerReflectionInfo ListAutoscale"
)
OWN = (
    "Apply Scale Restart Retry DeleteApp SetConfig SetSecrets Rollback SteerRollout StartRun "
    "CancelRun StartExec SetAutoscale BeginUpload"
)
# What it is about is said by a ticket, which only who may have it is given.
TICKETED = "Upload"
ASKS_AFTER = "Check List Watch"
OPERATES = (
    "SetHost ForgetHost StartRebalance Backup Restore Reconcile CreateToken ListTokens RevokeToken "
    "ListIdentities RevokeIdentity RotateAuthority RotateSealingKey AddWebhook RemoveWebhook "
    "TestWebhook ListWebhooks"
)


def identity(role: Role) -> Identity:
    apps = ("shop-*",) if role is DEPLOYER else ()
    return Identity(cluster="c", role=role, name="x", apps=apps)


def expected(role: Role, name: str, app: str) -> bool:
    allowed = {
        OPERATOR: {*READS.split(), *OWN.split(), *OPERATES.split(), TICKETED, "Renew", "Exec"},
        # Exec is of whoever has a ticket, which StartExec gives for an app of one's own.
        DEPLOYER: {
            *(*READS.split(), *(OWN.split() if app == "shop-eu" else ())),
            *(TICKETED, "Renew", "Exec"),
        },
        VIEWER: {*READS.split(), "Renew"},
        AGENT: {"Session", "PushLogs", "Renew", "Agent.Exec", "Fetch"},
        COORDINATOR: {
            *("GetCluster", "Usage", "Logs", "ListAutoscale", "Renew", "GetKeyring", "RelayExec"),
            *("Fetch", "TakeKeyring"),
        },
        TOKEN: {"Enrol"},
    }
    if name in ASKS_AFTER.split():
        return role is not TOKEN
    return name in allowed[role]


def test_every_method_is_in_the_table_and_no_other() -> None:
    assert set(TABLE) == set(METHODS)


@pytest.mark.parametrize("app", ["shop-eu", "blog", ""])
@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_matrix(method: str, role: Role, app: str) -> None:
    name = method.rpartition("/")[2]
    if method == "/formation.v1.Agent/Exec":
        name = "Agent.Exec"
    refused = refusal(method, identity(role), app=app)
    assert (not refused) == expected(role, name, app), refused
    assert not refused or str(role) in refused


def test_whatever_changes_one_app_names_it_in_the_field_that_is_looked_at() -> None:
    """Else a deployer's own app could be told to the guard, and another one to the method."""
    for method, rule in TABLE.items():
        if rule.own or rule.values_own:
            fields = METHODS[method].input_type.fields_by_name
            assert "app" in fields, method
            assert not METHODS[method].client_streaming, method


@pytest.mark.parametrize("method", ["", "/", "/formation.v1.Control/_ready", "/x/Scale", "Scale"])
def test_what_is_not_in_the_table_nobody_may(method: str) -> None:
    for role in Role:
        assert refusal(method, identity(role), app="shop-eu")


def test_values_are_for_operators_and_for_the_deployers_of_the_app() -> None:
    method = "/formation.v1.Control/GetConfig"
    seeing = {
        (role, app)
        for role in PEOPLE
        for app in ("shop-eu", "blog")
        if not refusal(method, identity(role), app=app, values=True)
    }
    assert seeing == {(OPERATOR, "shop-eu"), (OPERATOR, "blog"), (DEPLOYER, "shop-eu")}


def test_a_certificate_is_void_when_it_was_issued_before_the_revocation() -> None:
    record = IssuedIdentity(role=AGENT, name="a", void_before_ms=2000)
    assert is_void(1999, record)
    assert not is_void(2000, record)
    assert not is_void(0, None)
    assert not is_void(0, IssuedIdentity(role=AGENT, name="a"))
