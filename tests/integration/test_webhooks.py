"""A coordinator with certificates, and receivers of its events that behave and that do not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from aiohttp import web
from certified import Authority
from eventually import eventually
from receiver import Hang, Received, Receiver, receiving
from running import RunningCoordinator, coordinator
from secure_rig import Rig

from formation import credentials
from formation.automation import Webhook
from formation.dialling import Dialler
from formation.identity import Role
from formation.v1 import access_pb2, access_pb2_grpc, control_pb2_grpc, types_pb2
from formation.v1 import control_pb2 as pb
from formation_coordinator import herald
from formation_coordinator.backup import unpack
from formation_coordinator.outside import Outside, OutsideError
from formation_coordinator.store import keys
from formation_coordinator.store.memory import MemoryStore

SET = pb.QuantityChange.KIND_SET
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def c1(
    store: MemoryStore, tmp_path: Path, authority: Authority
) -> AsyncIterator[RunningCoordinator]:
    async with coordinator(store, tmp_path, authority=authority) as running:
        await eventually(lambda: running.service.election.leading)
        yield running


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


async def apply(c: RunningCoordinator, name: str = "shop") -> None:
    types = [types_pb2.ProcessType(name="web", command="true")]
    await c.control.Apply(pb.ApplyRequest(app=name, types=types, formation={"web": 1}, workdir="/"))


async def scale(c: RunningCoordinator, *quantities: int, app: str = "shop") -> None:
    for quantity in quantities:
        change = pb.QuantityChange(type="web", kind=SET, quantity=quantity)
        await c.control.Scale(pb.ScaleRequest(app=app, changes=[change]))


async def add(c: RunningCoordinator, url: str, *what: str, name: str = "ops", app: str = "") -> str:
    """Its secret."""
    request = pb.AddWebhookRequest(name=name, url=url, what=what, app=app)
    answer = await c.control.AddWebhook(request)
    assert not answer.webhook.sealed
    return answer.secret


async def listed(c: RunningCoordinator, name: str = "ops") -> types_pb2.Delivery:
    answer = await c.control.ListWebhooks(pb.ListWebhooksRequest())
    assert all(not view.webhook.sealed for view in answer.webhooks)
    return next(view.delivery for view in answer.webhooks if view.webhook.name == name)


async def until_listed(
    c: RunningCoordinator, wanted: Callable[[types_pb2.Delivery], bool], name: str = "ops"
) -> types_pb2.Delivery:
    async def look() -> types_pb2.Delivery | None:
        found = await listed(c, name)
        return found if wanted(found) else None

    found = await eventually(look, deadline_s=20.0)
    assert found is not None
    return found


def texts(received: list[Received]) -> list[str]:
    return [item.json["data"]["text"] for item in received]


async def test_events_are_told_in_order_and_signed(
    c1: RunningCoordinator, receiver: Receiver
) -> None:
    await apply(c1)
    await apply(c1, "blog")
    secret = await add(c1, receiver.url, "app.scaled", app="sh*")
    await scale(c1, *range(2, 12))
    await scale(c1, 5, app="blog")
    await scale(c1, 12)
    got = await receiver.until(lambda r: len(r) >= 11)
    assert texts(got) == [f"web: {n} -> {n + 1}" for n in range(1, 12)]
    assert all(item.is_signed_with(secret) for item in got)
    assert not any(item.is_signed_with(SECRET) for item in got)
    bodies = [item.json for item in got]
    assert [body["sequence"] for body in bodies] == list(range(1, 12))
    assert {body["type"] for body in bodies} == {"app.scaled"}
    assert {body["dropped"] for body in bodies} == {0}
    assert len({body["id"] for body in bodies}) == 11
    assert [item.headers["webhook-id"] for item in got] == [body["id"] for body in bodies]
    cluster = c1.service.live.world.cluster
    assert cluster
    assert {body["cluster"] for body in bodies} == {cluster.id}
    found = await until_listed(c1, lambda d: d.delivered == 11)
    assert (found.last_word, found.failed, found.dropped, found.waiting) == ("204", 0, 0, 0)


async def test_one_that_fails_is_tried_again_with_the_same_id_and_then_goes_on_in_order(
    c1: RunningCoordinator, receiver: Receiver
) -> None:
    statuses = {0: 500, 1: 302, 2: 404}
    elsewhere = {"Location": receiver.url + "/elsewhere"}
    receiver.answer = lambda n: web.Response(status=statuses.get(n, 200), headers=elsewhere)
    await apply(c1)
    secret = await add(c1, receiver.url, "app.scaled")
    await scale(c1, 2, 3)
    got = await receiver.until(lambda r: len(r) >= 5)
    assert texts(got) == ["web: 1 -> 2"] * 4 + ["web: 2 -> 3"]
    assert len({item.json["id"] for item in got[:4]}) == 1
    assert all(item.is_signed_with(secret) for item in got)
    found = await until_listed(c1, lambda d: d.delivered == 2)
    assert (found.failed, found.failing_since_ms) == (3, 0)
    metrics = c1.service.automation.herald.records()
    assert metrics["ops"].failed == 3


async def test_one_that_hangs_slows_nobody_and_is_told_what_it_missed(
    c1: RunningCoordinator, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(_: int) -> web.Response:
        raise Hang

    monkeypatch.setattr(herald, "TIMEOUT_S", 0.5)
    receiver.answer = hang
    await apply(c1)
    async with receiving() as other:
        await add(c1, receiver.url, "app.scaled", name="hangs")
        await add(c1, other.url, "app.scaled", name="well")
        await receiver.until(lambda _: True)
        _, post = await _post(c1, "hangs")
        post.queue._most = 3
        began_s = time.monotonic()
        await scale(c1, *range(2, 12))
        await other.until(lambda r: len(r) >= 10)
        assert time.monotonic() - began_s < 10
        found = await until_listed(c1, lambda d: d.dropped == 7, "hangs")
        assert found.waiting == 3
        assert "no answer within 0.5 s" in found.last_word
        receiver.received.clear()
        receiver.answer = lambda _: web.Response(status=200)
        got = await receiver.until(lambda r: len(r) >= 3)
    # One that was on its way when it was dropped may be the first.
    last = got[-3:]
    assert texts(last) == [f"web: {n} -> {n + 1}" for n in (8, 9, 10)]
    assert [item.json["sequence"] for item in last] == [8, 9, 10]
    assert last[0].json["dropped"] == 7
    assert last[1].json["dropped"] == 0


async def _post(c: RunningCoordinator, name: str) -> tuple[Webhook, herald._Post]:
    posts = c.service.automation.herald._posts
    await eventually(lambda: name in posts)
    return posts[name]


async def test_a_test_is_sent_at_once_and_says_what_came_back(
    c1: RunningCoordinator, receiver: Receiver
) -> None:
    secret = await add(c1, receiver.url, "run")
    answer = await c1.control.TestWebhook(pb.TestWebhookRequest(name="ops"))
    assert (answer.good, answer.word) == (True, "204")
    (got,) = receiver.received
    assert got.json["type"] == "webhook.test"
    assert got.is_signed_with(secret)
    receiver.answer = lambda _: web.Response(status=503)
    answer = await c1.control.TestWebhook(pb.TestWebhookRequest(name="ops"))
    assert (answer.good, answer.word) == (False, "503")
    with pytest.raises(grpc.aio.AioRpcError, match="no webhook 'nope'"):
        await c1.control.TestWebhook(pb.TestWebhookRequest(name="nope"))


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (pb.AddWebhookRequest(url="ftp://x/"), "must begin with https://"),
        (pb.AddWebhookRequest(url="https://x/", what=["hots"]), "begins with one of"),
        (pb.AddWebhookRequest(url="https://x/", secret="hunter2"), "is not whsec_ and base64"),
        (pb.AddWebhookRequest(url="https://x/", name="A B"), "small letters"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    c1: RunningCoordinator, request_: pb.AddWebhookRequest, why: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=why) as caught:
        await c1.control.AddWebhook(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "hunter2" not in str(caught.value.details())


async def test_names_are_made_of_the_host_and_taken_once(c1: RunningCoordinator) -> None:
    request = pb.AddWebhookRequest(url="https://Hooks.Example:8443/x", what=["run"])
    assert (await c1.control.AddWebhook(request)).webhook.name == "hooks-example"
    with pytest.raises(grpc.aio.AioRpcError, match="there is a webhook hooks-example already"):
        await c1.control.AddWebhook(request)
    await c1.control.RemoveWebhook(pb.RemoveWebhookRequest(name="hooks-example"))
    with pytest.raises(grpc.aio.AioRpcError, match="no webhook 'hooks-example'"):
        await c1.control.RemoveWebhook(pb.RemoveWebhookRequest(name="hooks-example"))
    await c1.control.AddWebhook(request)
    records = (await c1.control.ListAudit(pb.ListAuditRequest(limit=9))).records
    assert [r.action for r in records if "webhook" in r.action] == [
        "add webhook", "remove webhook", "add webhook",
    ]  # fmt: skip
    assert {r.who for r in records if "webhook" in r.action} == {"ann"}


async def test_the_secret_is_nowhere_and_survives_another_sealing_key(
    c1: RunningCoordinator, store: MemoryStore, receiver: Receiver, tmp_path: Path
) -> None:
    request = pb.AddWebhookRequest(name="ops", url=receiver.url, secret=SECRET, what=["app.scaled"])
    answer = await c1.control.AddWebhook(request)
    assert answer.secret == ""
    await apply(c1)
    before = (await store.get(keys.webhook("ops"))) or pytest.fail("it is not there")
    await _rotate(c1, tmp_path)
    after = (await store.get(keys.webhook("ops"))) or pytest.fail("it is not there")
    assert before.value != after.value
    await scale(c1, 2)
    got = await receiver.until(lambda r: len(r) >= 1)
    assert got[0].is_signed_with(SECRET)
    everything = b"".join(item.value for item in (await store.ranges([*keys.MIRRORED])).items)
    audits = b"".join(item.value for item in (await store.ranges([keys.AUDIT])).items)
    for needle in (SECRET.encode(), SECRET.removeprefix("whsec_").encode()):
        assert needle not in everything + audits
    parts = [part.data async for part in c1.control.Backup(pb.BackupRequest())]
    kept = unpack(b"".join(parts), schema_version=1)
    assert keys.webhook("ops") in kept.values
    assert keys.delivery("ops") not in kept.values


async def _rotate(c: RunningCoordinator, directory: Path) -> None:
    ann = credentials.load(str(directory / "ann"))
    async with Dialler(lambda: ann).channel(c.address) as channel:
        stub = access_pb2_grpc.AccessStub(channel)
        done = await stub.RotateSealingKey(access_pb2.RotateSealingKeyRequest())
    assert done.secrets == 1


async def test_only_operators_have_anything_to_do_with_webhooks(
    c1: RunningCoordinator, tmp_path: Path, authority: Authority
) -> None:
    rig = Rig(tmp_path, authority, c1)
    for role, apps in ((Role.DEPLOYER, ("*",)), (Role.VIEWER, ())):
        async with rig.channel(rig.somebody(role, "x", apps)) as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            for call in (
                stub.AddWebhook(pb.AddWebhookRequest(url="https://x/")),
                stub.RemoveWebhook(pb.RemoveWebhookRequest(name="ops")),
                stub.TestWebhook(pb.TestWebhookRequest(name="ops")),
                stub.ListWebhooks(pb.ListWebhooksRequest()),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_another_leader_goes_on_and_says_so(
    store: MemoryStore, tmp_path: Path, authority: Authority, receiver: Receiver
) -> None:
    async with coordinator(store, tmp_path, "c1", authority=authority) as c1:
        await eventually(lambda: c1.service.election.leading)
        secret = await add(c1, receiver.url, "app.scaled")
        await apply(c1)
        async with coordinator(store, tmp_path, "c2", authority=authority) as c2:
            await eventually(lambda: not (n := c2.service.notary) or not n.lacks_key())
            await scale(c1, 2, 3)
            await receiver.until(lambda r: len(r) >= 2)
            await until_listed(c1, lambda d: d.delivered == 2)
            receiver.answer = lambda n: web.Response(status=500 if n < 4 else 204)
            await scale(c1, 4)
            await receiver.until(lambda r: len(r) >= 3)
            c1.stop.set()
            await eventually(lambda: c2.service.election.leading)
            await scale(c2, 5)
            got = await receiver.until(lambda r: texts(r)[-1:] == ["web: 4 -> 5"])
    assert all(item.is_signed_with(secret) for item in got)
    began = next(n for n, item in enumerate(got) if item.json["type"] == "webhook.resumed")
    resumed = got[began].json
    assert resumed["data"]["gap"] is False
    assert resumed["coordinator"] == "c2"
    assert resumed["epoch"] > got[0].json["epoch"]
    # Nothing is missing; what was told just before may be told again.
    after = [t for t in texts(got[began:]) if t.startswith("web")]
    assert after[-2:] == ["web: 3 -> 4", "web: 4 -> 5"]
    assert sorted(set(after)) == after


class Lasting(Authority):
    """A coordinator that is started again has the keys that it had."""

    def coordinator(self, directory: Path, name: str) -> Path:
        return directory if directory.exists() else super().coordinator(directory, name)


async def test_a_coordinator_that_knows_nothing_of_before_says_that_there_is_a_gap(
    store: MemoryStore, tmp_path: Path, receiver: Receiver
) -> None:
    authority = Lasting()
    async with coordinator(store, tmp_path, "c1", authority=authority) as c1:
        await eventually(lambda: c1.service.election.leading)
        await add(c1, receiver.url, "app.scaled")
        await apply(c1)
        await scale(c1, 2)
        await until_listed(c1, lambda d: d.delivered == 1)
    async with coordinator(store, tmp_path, "c1", authority=authority) as c1:
        got = await receiver.until(lambda r: len(r) >= 2)
        assert got[1].json["type"] == "webhook.resumed"
        assert got[1].json["data"]["gap"] is True
        assert got[1].json["data"]["gap_from"] < got[1].json["data"]["gap_to"]
        found = await until_listed(c1, lambda d: d.delivered == 2)
        assert found.epoch == got[1].json["epoch"]


async def test_without_certificates_there_is_no_key_to_seal_with(
    store: MemoryStore, tmp_path: Path
) -> None:
    async with coordinator(store, tmp_path) as c1:
        with pytest.raises(grpc.aio.AioRpcError, match="no key to seal"):
            await add(c1, "https://x/")


# -- where it does not go --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1%25lo]/",
        "http://[::ffff:169.254.169.254]/",
        "http://0.0.0.0:80/",
        "http://0/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://169.254.43518/",
    ],
)
async def test_addresses_of_secrets_are_refused_however_they_are_written(url: str) -> None:
    outside = Outside()
    try:
        with pytest.raises(OutsideError) as caught:
            await outside.get(url, 2.0)
    finally:
        await outside.close()
    said = str(caught.value)
    assert "refused" in said or "InvalidUrl" in said or "not known" in said, said
    assert "meta-data" not in said


async def test_redirects_are_not_followed_and_long_answers_not_read(receiver: Receiver) -> None:
    outside = Outside()
    try:
        receiver.answer = lambda _: web.Response(status=307, headers={"Location": "/secret"})
        assert (await outside.get(receiver.url, 5.0)).status == 307
        receiver.answer = lambda _: web.Response(body=b"x" * 5_000_000)
        assert len((await outside.get(receiver.url, 5.0)).body) == 65_537
        receiver.answer = lambda _: web.Response(headers={"Set-Cookie": "a=b"})
        await outside.get(receiver.url, 5.0)
        await outside.get(receiver.url, 5.0)
        assert "cookie" not in receiver.received[-1].headers
        assert len(receiver.received) == 4
    finally:
        await outside.close()


async def test_what_does_not_answer_is_told_in_one_line(receiver: Receiver) -> None:
    def hang(_: int) -> web.Response:
        raise Hang

    async def rubbish(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x01 what?\r\n\r\n")
        writer.close()

    async def gone(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    outside = Outside()
    try:
        receiver.answer = hang
        with pytest.raises(OutsideError, match=r"no answer within 0\.2 s"):
            await outside.get(receiver.url, 0.2)
        for serve, why in ((rubbish, "BadStatusLine|BadHttpMessage|Response"), (gone, "hung up")):
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(OutsideError, match=why):
                await outside.post(f"http://127.0.0.1:{port}/x", b"{}", {}, 5.0)
            server.close()
            await server.wait_closed()
            with pytest.raises(OutsideError, match=r"refused|Connect"):
                await outside.get(f"http://127.0.0.1:{port}/x", 5.0)
        with pytest.raises(OutsideError, match=r"nowhere\.invalid: "):
            await outside.get("http://nowhere.invalid/token", 5.0)
    finally:
        await outside.close()
