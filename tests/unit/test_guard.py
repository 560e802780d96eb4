"""The guard without a network: who is let through, by what gRPC says of the connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from certified import Authority, now_ms

from formation.identity import Role
from formation.v1 import control_pb2
from formation_coordinator.guard import CALLS_BURST, Caller, Denied, Guard, caller
from formation_coordinator.world import World

METHOD = "/formation.v1.Control/ListHosts"


class Connection:
    """What the guard asks a call's context."""

    def __init__(self, pem: bytes = b"", version: bytes = b"TLSv1.3", peer: str = "ipv4:1.2.3.4:5"):
        self.said = {"x509_pem_cert": [pem], "ssl_tls_version": [version]} if pem else {}
        self._peer = peer

    def auth_context(self) -> dict[str, list[bytes]]:
        return self.said

    def peer(self) -> str:
        return self._peer


def guard(authority: Authority, *, insecure: bool = False) -> Guard:
    return Guard(
        world=World,
        authorities=lambda: (authority.signer.certificate,),
        now_ms=now_ms,
        clock=lambda: 0.0,
        insecure=insecure,
    )


def admitted(guarding: Guard, connection: Connection, request: Any = None) -> Caller:
    asked = request or control_pb2.ListHostsRequest()
    who = guarding._who(connection)  # type: ignore[arg-type]
    with guarding.admitted(METHOD, asked, who) as held:
        held.signed(asked)
        return caller()


@pytest.fixture
def authority() -> Authority:
    return Authority()


async def test_a_certificate_says_who_calls(authority: Authority, tmp_path: Path) -> None:
    vic = authority.issue(tmp_path, Role.VIEWER, "vic")
    who = admitted(guard(authority), Connection(vic.certificate_pem))
    assert who.identity == vic.seen.identity
    assert not who.speaks_for("vic")


async def test_an_older_protocol_is_refused_although_the_certificate_is_right(
    authority: Authority, tmp_path: Path
) -> None:
    vic = authority.issue(tmp_path, Role.VIEWER, "vic")
    with pytest.raises(Denied, match=r"TLSv1\.2 is too old"):
        admitted(guard(authority), Connection(vic.certificate_pem, b"TLSv1.2"))


async def test_nobody_without_a_certificate_but_who_may_open_the_socket(
    authority: Authority,
) -> None:
    with pytest.raises(Denied, match="No certificate"):
        admitted(guard(authority), Connection())
    with pytest.raises(Denied):
        admitted(guard(authority), Connection(peer="ipv4:127.0.0.1:7"))
    assert admitted(guard(authority), Connection(peer="unix:")).speaks_for("any")
    assert admitted(guard(authority, insecure=True), Connection()).identity is None


async def test_what_is_refused_leaves_nothing_open(authority: Authority, tmp_path: Path) -> None:
    guarding, agent = guard(authority), authority.issue(tmp_path, Role.AGENT, "a")
    with pytest.raises(Denied) as denied:
        admitted(guarding, Connection(agent.certificate_pem))
    assert denied.value.code is grpc.StatusCode.PERMISSION_DENIED
    assert not guarding._open


async def test_who_calls_too_often_is_refused_and_others_are_not(
    authority: Authority, tmp_path: Path
) -> None:
    guarding = guard(authority)
    vic = authority.issue(tmp_path / "vic", Role.VIEWER, "vic").certificate_pem
    for _ in range(int(CALLS_BURST)):
        admitted(guarding, Connection(vic))
    with pytest.raises(Denied, match="slow down") as denied:
        admitted(guarding, Connection(vic))
    assert denied.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    ann = authority.issue(tmp_path / "ann", Role.OPERATOR, "ann").certificate_pem
    admitted(guarding, Connection(ann))
    guarding._clock = lambda: 1.0
    admitted(guarding, Connection(vic))


async def test_a_person_signs_what_it_asks_for(authority: Authority, tmp_path: Path) -> None:
    ann = authority.issue(tmp_path, Role.OPERATOR, "ann")
    request = control_pb2.ScaleRequest(app="shop", who="somebody else")
    admitted(guard(authority), Connection(ann.certificate_pem), request)
    assert request.who == "ann"
    part = control_pb2.RestorePart(options=control_pb2.RestoreOptions(who="somebody else"))
    admitted(guard(authority), Connection(ann.certificate_pem), part)
    assert part.options.who == "ann"


async def test_a_method_that_is_not_there_has_no_handler(authority: Authority) -> None:
    class Details:
        method = "/formation.v1.Control/_ready"

    async def nothing(_: object) -> None:
        return None

    found = await guard(authority).intercept_service(nothing, Details())  # type: ignore[arg-type]
    assert found is None
