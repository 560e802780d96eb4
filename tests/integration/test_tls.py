"""Who gets in, over real TLS: every method by everybody, forgeries, revocation, old protocols."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest
from certified import Authority, now_ms
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from running import coordinator
from secure_rig import Rig

from formation import pki
from formation.credentials import Credential
from formation.dialling import Dialler, ended_unread, secure_channel
from formation.enrolling import EnrolError, enrol, renew
from formation.identity import Identity, Role, TokenText, identity_of
from formation.v1 import (
    access_pb2,
    access_pb2_grpc,
    agent_pb2,
    artifacts_pb2,
    control_pb2,
    control_pb2_grpc,
    types_pb2,
)
from formation.v1.agent_pb2_grpc import AgentStub
from formation_coordinator import access
from formation_coordinator.store.memory import MemoryStore

Sent = TypeVar("Sent", bound=Message)

CALL_S = 5.0
DAY_MS = 86_400_000
DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
NO_HANDSHAKE = grpc.StatusCode.UNAVAILABLE
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for module in (access_pb2, agent_pb2, artifacts_pb2, control_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    authority = Authority()
    async with coordinator(MemoryStore(), tmp_path, authority=authority) as running:
        yield Rig(tmp_path, authority, running)


async def code_of(channel: grpc.aio.Channel, method: str, request: Message) -> grpc.StatusCode:
    """What comes of it, as a status; OK also for a stream that began."""
    described = METHODS[method]
    requests, responses = described.client_streaming, described.server_streaming
    kind = f"{'stream' if requests else 'unary'}_{'stream' if responses else 'unary'}"
    call = getattr(channel, kind)(method, request_serializer=type(request).SerializeToString)
    given: Any = _once(request) if requests else request
    try:
        started = call(given, timeout=CALL_S)
        if responses:
            await started.read()
            started.cancel()
        else:
            await started
    except grpc.aio.AioRpcError as error:
        return await code_of(channel, method, request) if ended_unread(error) else error.code()
    return grpc.StatusCode.OK


async def _once(request: Sent) -> AsyncIterator[Sent]:
    yield request


def empty(method: str) -> Message:
    made: Message = GetMessageClass(METHODS[method].input_type)()
    return made


# -- the matrix ------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.TOKEN])
async def test_every_method_is_open_to_whom_the_table_names_and_to_nobody_else(
    rig: Rig, role: Role
) -> None:
    apps = ("shop-*",) if role is Role.DEPLOYER else ()
    who = rig.somebody(role, apps=apps)
    async with rig.channel(who) as channel:
        for method in METHODS:
            code = await code_of(channel, method, empty(method))
            allowed = not access.refusal(method, who.seen.identity)
            assert (code not in (DENIED, UNKNOWN)) == allowed, (method, code)


async def test_a_token_opens_nothing_but_the_door(rig: Rig) -> None:
    async with joining_channel(rig, await rig.token()) as channel:
        for method in METHODS:
            code = await code_of(channel, method, empty(method))
            assert (code is DENIED) == (not method.endswith("/Enrol")), (method, code)


def joining_channel(rig: Rig, token: TokenText) -> grpc.aio.Channel:
    key, shown = pki.token_certificate(token, now_ms())
    return secure_channel(
        rig.address,
        authorities_pem=pki.certificate_pem(rig.authority.signer.certificate),
        key_pem=pki.key_pem(key),
        certificate_pem=shown,
    )


# -- who does not even get a handshake -------------------------------------------------------------


async def refused_handshake(channel: grpc.aio.Channel) -> bool:
    method = "/formation.v1.Control/GetCluster"
    async with channel:
        return await code_of(channel, method, empty(method)) is NO_HANDSHAKE


async def test_without_a_certificate_there_is_no_handshake(rig: Rig) -> None:
    root = pki.certificate_pem(rig.authority.signer.certificate)
    bare = grpc.aio.secure_channel(
        rig.address,
        grpc.ssl_channel_credentials(root),
        options=[("grpc.ssl_target_name_override", "coordinator.formation.internal")],
    )
    assert await refused_handshake(bare)
    assert await refused_handshake(grpc.aio.insecure_channel(rig.address))


async def test_anothers_authority_is_nobodys(rig: Rig, tmp_path: Path) -> None:
    foreign = Authority(rig.authority.cluster).issue(tmp_path / "f", Role.OPERATOR, "ann")
    ours = pki.certificate_pem(rig.authority.signer.certificate)
    assert await refused_handshake(
        secure_channel(
            rig.address,
            authorities_pem=ours,
            key_pem=foreign.key_pem,
            certificate_pem=foreign.certificate_pem,
        )
    )


@pytest.mark.parametrize("days", [-30, 30])
async def test_a_certificate_that_has_run_out_or_is_of_the_future_counts_for_nothing(
    rig: Rig, tmp_path: Path, days: int
) -> None:
    when = now_ms() + days * DAY_MS
    old = rig.authority.issue(tmp_path / "old", Role.AGENT, "a", at_ms=when)
    assert await refused_handshake(rig.channel(old))


async def test_a_host_that_plays_coordinator_is_not_believed(rig: Rig) -> None:
    """Nomad CVE-2020-7956: the right authority, the wrong role."""
    agent = rig.somebody(Role.AGENT)
    server = grpc.aio.server()
    credentials = grpc.ssl_server_credentials(
        [(agent.key_pem, agent.certificate_pem)], agent.authorities_pem, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        ann = rig.somebody(Role.OPERATOR)
        assert await refused_handshake(Dialler(lambda: ann).channel(f"127.0.0.1:{port}"))
    finally:
        await server.stop(None)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_nothing_older_than_tls_1_3_is_spoken(rig: Rig, version: ssl.TLSVersion) -> None:
    agent = rig.somebody(Role.AGENT)
    shaken = await asyncio.to_thread(_shaken, rig.address, agent, version)
    assert shaken == (version is ssl.TLSVersion.TLSv1_3)


def _shaken(address: str, credential: Credential, version: ssl.TLSVersion) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(credential.identity_path)
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), CALL_S) as plain,
            context.wrap_socket(plain) as secured,
        ):
            return secured.version() is not None
    except (ssl.SSLError, ConnectionResetError):
        return False


# -- who holds a token, and wants to be more -------------------------------------------------------


async def test_what_a_tokens_key_signs_is_that_token_whatever_it_claims(rig: Rig) -> None:
    """TLS trusts the token's key; a certificate for an operator signed by it must be worth none."""
    token = await rig.token()
    signer, key = pki.token_key(token.secret), pki.new_key()
    _, shown = pki.token_certificate(token, now_ms())
    claimed = Identity(cluster=rig.authority.cluster, role=Role.OPERATOR, name="evil")
    forged = _certificate(pki.read_certificate(shown).issuer, claimed, key, signer)
    channel = secure_channel(
        rig.address,
        authorities_pem=pki.certificate_pem(rig.authority.signer.certificate),
        key_pem=pki.key_pem(key),
        certificate_pem=pki.certificate_pem(forged),
    )
    async with channel:
        for name in ("ListHosts", "Backup", "Scale"):
            method = f"/formation.v1.Control/{name}"
            assert await code_of(channel, method, empty(method)) is DENIED


async def test_a_token_makes_no_authority_of_our_name(rig: Rig) -> None:
    """A chain: token's key → "our authority" → operator. Its names are right, its keys are not."""
    token = await rig.token()
    signer, middle, key = pki.token_key(token.secret), pki.new_key(), pki.new_key()
    _, shown = pki.token_certificate(token, now_ms())
    ours = rig.authority.signer.certificate.subject
    between = _certificate(pki.read_certificate(shown).issuer, ours, middle, signer)
    claimed = Identity(cluster=rig.authority.cluster, role=Role.OPERATOR, name="evil")
    leaf = _certificate(ours, claimed, key, middle)
    channel = secure_channel(
        rig.address,
        authorities_pem=pki.certificate_pem(rig.authority.signer.certificate),
        key_pem=pki.key_pem(key),
        certificate_pem=pki.certificate_pem(leaf) + pki.certificate_pem(between),
    )
    method = "/formation.v1.Control/ListHosts"
    async with channel:
        code = await code_of(channel, method, empty(method))
    assert code in (NO_HANDSHAKE, UNKNOWN)


def _certificate(
    issuer: x509.Name, subject: Identity | x509.Name, key: pki.PrivateKey, signer: pki.PrivateKey
) -> x509.Certificate:
    is_authority = isinstance(subject, x509.Name)
    name = subject if isinstance(subject, x509.Name) else x509.Name([])
    builder = pki._builder(name, issuer, key.public_key(), now_ms(), DAY_MS)
    if is_authority:
        builder = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
    else:
        assert isinstance(subject, Identity)
        names = [x509.UniformResourceIdentifier(subject.uri)]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


# -- joining ---------------------------------------------------------------------------------------


async def test_a_token_becomes_a_certificate_that_works(rig: Rig) -> None:
    joined = await enrol(rig.address, await rig.token(), "web-1", [Role.AGENT], now_ms())
    assert joined.seen.identity == Identity(
        cluster=rig.authority.cluster, role=Role.AGENT, name="web-1"
    )
    joined.save(str(rig.directory / "joined"))
    renewed = await renew(rig.address, _dialler(rig.directory / "joined"), now_ms())
    assert renewed.seen.identity == joined.seen.identity
    assert renewed.seen.key != joined.seen.key


def _dialler(directory: Path) -> Dialler:
    from formation.credentials import load

    return Dialler(lambda: load(str(directory)))


async def test_a_joiner_believes_only_the_cluster_of_its_token(rig: Rig, tmp_path: Path) -> None:
    """In the middle: somebody with another authority, who would give it orders."""
    other = TokenText(
        authority_key=pki.point(pki.new_key().public_key()), secret=(await rig.token()).secret
    )
    with pytest.raises(EnrolError, match="another authority signed its certificate"):
        await enrol(rig.address, other, "web-1", [Role.AGENT], now_ms())


async def test_a_guessed_token_is_none(rig: Rig) -> None:
    authority_key = pki.point(rig.authority.signer.key.public_key())
    guessed = TokenText(authority_key=authority_key, secret=pki.new_secret())
    with pytest.raises(EnrolError, match="does not know this token"):
        await enrol(rig.address, guessed, "web-1", [Role.AGENT], now_ms())


async def test_a_used_token_is_refused_in_words(rig: Rig) -> None:
    token = await rig.token()
    await enrol(rig.address, token, "web-1", [Role.AGENT], now_ms())
    with pytest.raises(EnrolError, match="used already"):
        await enrol(rig.address, token, "web-2", [Role.AGENT], now_ms())


@pytest.mark.parametrize("days", [-10, 10])
async def test_a_joiner_whose_clock_is_wrong_by_days_is_told_so(rig: Rig, days: int) -> None:
    with pytest.raises(EnrolError, match=r"the clock here is (behind|ahead)"):
        await enrol(rig.address, await rig.token(), "web-1", [Role.AGENT], now_ms() + days * DAY_MS)


async def test_a_second_coordinator_is_given_the_keys_and_nobody_else(rig: Rig) -> None:
    joined = await enrol(
        rig.address, await rig.token(Role.COORDINATOR), "c2", [Role.COORDINATOR], now_ms()
    )
    assert b"PRIVATE KEY" in joined.keyring
    agent = await enrol(rig.address, await rig.token(), "web-1", [Role.AGENT], now_ms())
    assert agent.keyring == b""


# -- a host speaks for itself ----------------------------------------------------------------------


async def hello(rig: Rig, who: Credential, host: str) -> tuple[grpc.StatusCode, str]:
    said = agent_pb2.AgentMessage(
        hello=agent_pb2.Hello(host=types_pb2.HostStatus(host=host, agent_id="x", boot_id="b"))
    )
    async with rig.channel(who) as channel:
        call = AgentStub(channel).Session()
        try:
            await call.write(said)
            answer = await call.read()
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
        call.cancel()
        assert isinstance(answer, agent_pb2.CoordinatorMessage)
        return grpc.StatusCode.OK, str(answer.WhichOneof("message"))


async def test_a_hosts_certificate_opens_its_own_session_and_no_other(rig: Rig) -> None:
    """Salt CVE-2024-38822: a minion that says it is another."""
    who = rig.somebody(Role.AGENT, "web-1")
    assert (await hello(rig, who, "web-1")) == (grpc.StatusCode.OK, "welcome")
    code, why = await hello(rig, who, "db-1")
    assert code is DENIED
    assert "agent web-1 does not speak for host db-1" in why


async def test_lines_that_a_host_pushes_for_another_arrive_nowhere(rig: Rig) -> None:
    sessions = rig.running.service.sessions
    relay = sessions._relay
    with relay.open() as here:
        token = relay.expect(here, "db-1")
        push = agent_pb2.LogPush(request_id=token, lines=[agent_pb2.LogLine(text=b"lie")])
        async with rig.channel(rig.somebody(Role.AGENT, "web-1")) as channel:
            await AgentStub(channel).PushLogs(_once(push), timeout=CALL_S)
        assert here.queue.empty()
        async with rig.channel(rig.somebody(Role.AGENT, "db-1")) as channel:
            await AgentStub(channel).PushLogs(_once(push), timeout=CALL_S)
        lines = here.queue.get_nowait().lines
        assert lines is not None
        assert [line.host for line in lines.lines] == ["db-1"]


# -- revoked ---------------------------------------------------------------------------------------


async def revoke(rig: Rig, role: types_pb2.Role.ValueType, name: str) -> None:
    async with rig.channel(rig.somebody(Role.OPERATOR)) as channel:
        await access_pb2_grpc.AccessStub(channel).RevokeIdentity(
            access_pb2.RevokeIdentityRequest(role=role, name=name)
        )


Watch = grpc.aio.UnaryStreamCall[control_pb2.WatchInstancesRequest, control_pb2.WatchUpdate]


async def watching(channel: grpc.aio.Channel) -> Watch:
    stub: control_pb2_grpc.ControlAsyncStub = control_pb2_grpc.ControlStub(channel)
    call = stub.WatchInstances(control_pb2.WatchInstancesRequest())
    await call.read()
    return call


async def end_of(call: Watch) -> tuple[grpc.StatusCode, str]:
    try:
        async with asyncio.timeout(CALL_S):
            while await call.read():  # EOF is nothing
                pass
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


async def test_revoking_ends_what_goes_on_and_refuses_what_comes(rig: Rig) -> None:
    vic = rig.somebody(Role.VIEWER, "vic")
    method = "/formation.v1.Control/ListHosts"
    async with rig.channel(vic) as channel:
        call = await watching(channel)
        assert await code_of(channel, method, empty(method)) is grpc.StatusCode.OK
        await revoke(rig, types_pb2.ROLE_VIEWER, "vic")
        code, why = await end_of(call)
        assert code is UNKNOWN
        assert "revoked" in why
        # The same connection, which TLS took when all was well.
        assert await code_of(channel, method, empty(method)) is UNKNOWN


async def test_a_certificate_that_runs_out_ends_what_goes_on(rig: Rig) -> None:
    guard = rig.running.service.guard
    vic = rig.somebody(Role.VIEWER, "vic")
    async with rig.channel(vic) as channel:
        call = await watching(channel)
        guard._now_ms = lambda: vic.seen.expires_at_ms
        guard._end_those_ended()
        assert "has run out" in (await end_of(call))[1]


async def test_whoever_shows_a_certificate_can_be_seen_and_revoked(rig: Rig) -> None:
    """Those whom `init` made, and all when the store was put back to before they joined."""
    async with rig.channel(rig.somebody(Role.OPERATOR, "ann")) as channel:
        stub = access_pb2_grpc.AccessStub(channel)
        async with asyncio.timeout(CALL_S):
            while True:
                listed = await stub.ListIdentities(access_pb2.ListIdentitiesRequest())
                found = {(item.role, item.name) for item in listed.identities}
                if found == {(types_pb2.ROLE_OPERATOR, "ann"), (types_pb2.ROLE_COORDINATOR, "c1")}:
                    break
                await asyncio.sleep(0.05)


async def test_what_is_done_bears_the_name_of_the_certificate(rig: Rig) -> None:
    async with rig.channel(rig.somebody(Role.OPERATOR, "mallory")) as channel:
        stub = access_pb2_grpc.AccessStub(channel)
        public = pki.point(pki.new_key().public_key())
        made = await stub.CreateToken(
            access_pb2.CreateTokenRequest(
                public_key=public, role=types_pb2.ROLE_AGENT, ttl_s=60, who="ann"
            )
        )
    assert made.token.who == "mallory"
    assert identity_of(rig.somebody(Role.OPERATOR, "mallory").seen.identity.uri).name == "mallory"
