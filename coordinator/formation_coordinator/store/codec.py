"""Records ⇄ bytes in etcd. The key decides the type; conversions are `formation.wire`'s."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import DecodeError, Message
from msgspec import structs

from formation import model as m
from formation import wire, wire_access, wire_automation
from formation.automation import Autoscale, Delivery, Webhook
from formation.identity import IssuedIdentity, JoinToken, Trust
from formation.requests import Rebalance, Run
from formation.v1 import types_pb2 as pb
from formation_coordinator.store import keys

Record = (
    m.App
    | m.AssignmentDocument
    | m.AuditRecord
    | Autoscale
    | m.Cluster
    | m.Coordinator
    | Delivery
    | m.Host
    | m.HostStatus
    | IssuedIdentity
    | JoinToken
    | m.Release
    | Rebalance
    | Run
    | m.Session
    | Trust
    | Webhook
)

_ENCODERS: dict[type, Callable[[Any], Message]] = {
    m.App: wire.app_to_pb,
    m.AssignmentDocument: wire.document_to_pb,
    m.AuditRecord: wire.audit_to_pb,
    m.Cluster: wire.cluster_to_pb,
    m.Coordinator: wire.coordinator_to_pb,
    m.Host: wire.host_to_pb,
    m.HostStatus: wire.host_status_to_pb,
    m.Release: wire.release_to_pb,
    m.Session: wire.session_to_pb,
    Autoscale: wire_automation.autoscale_to_pb,
    Delivery: wire_automation.delivery_to_pb,
    IssuedIdentity: wire_access.issued_to_pb,
    JoinToken: wire_access.token_to_pb,
    Rebalance: wire.rebalance_to_pb,
    Run: wire.run_to_pb,
    Trust: wire_access.trust_to_pb,
    Webhook: wire_automation.webhook_to_pb,
}

_DECODERS: dict[str, tuple[Callable[[], Message], Callable[[Any], Record]]] = {
    "apps": (pb.App, wire.app_from_pb),
    "assignments": (pb.AssignmentDocument, wire.document_from_pb),
    "audit": (pb.AuditRecord, wire.audit_from_pb),
    "autoscale": (pb.Autoscale, wire_automation.autoscale_from_pb),
    "cluster": (pb.Cluster, wire.cluster_from_pb),
    "coordinators": (pb.Coordinator, wire.coordinator_from_pb),
    "deliveries": (pb.Delivery, wire_automation.delivery_from_pb),
    "hosts": (pb.Host, wire.host_from_pb),
    "identities": (pb.IssuedIdentity, wire_access.issued_from_pb),
    "leader": (pb.Coordinator, wire.coordinator_from_pb),
    "rebalance": (pb.Rebalance, wire.rebalance_from_pb),
    "releases": (pb.Release, wire.release_from_pb),
    "runs": (pb.Run, wire.run_from_pb),
    "sessions": (pb.Session, wire.session_from_pb),
    "status": (pb.HostStatus, wire.host_status_from_pb),
    "tokens": (pb.JoinToken, wire_access.token_from_pb),
    "trust": (pb.Trust, wire_access.trust_from_pb),
    "webhooks": (pb.Webhook, wire_automation.webhook_from_pb),
}


def encode(record: Record, over: bytes = b"") -> bytes:
    """The same bytes for equal records, so that an unchanged one can be recognised.

    `over`: what it takes the place of. What a newer version wrote there into fields that this one
    does not know is kept.
    """
    message = _ENCODERS[type(record)](record)
    if over:
        message = _over(message, over)
    return message.SerializeToString(deterministic=True)


class StatusEncoder:
    """Of one host, again and again: an instance that says what it said is not encoded anew, and
    what its agent has encoded is taken as it came. What it gives is the same as of `encode`, but
    for the order of fields, and for what only newer agents say."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[m.InstanceStatus, bytes]] = {}

    def take(self, said: Iterable[m.InstanceStatus], messages: Iterable[pb.InstanceStatus]) -> None:
        """`messages`: the same, as they were sent."""
        for item, message in zip(said, messages, strict=True):
            self._known[item.uid] = item, _of_host(message)

    def encode(self, status: m.HostStatus) -> bytes:
        known, self._known = self._known, {}
        parts = [encode(structs.replace(status, instances=()))]
        for item in status.instances:
            found = known.get(item.uid)
            if found is None or found[0] is not item:
                found = item, _of_host(wire.instance_status_to_pb(item))
            self._known[item.uid] = found
            parts.append(found[1])
        return b"".join(parts)


def _of_host(message: pb.InstanceStatus) -> bytes:
    return pb.HostStatus(instances=[message]).SerializeToString(deterministic=True)


def _over(message: Message, before: bytes) -> Message:
    strange = type(message)()
    try:
        strange.ParseFromString(before)
    except DecodeError:
        return message
    _keep_unknown(strange, message)
    if not strange.ByteSize():
        return message
    strange.MergeFrom(message)
    return strange


def _keep_unknown(before: Message, after: Message) -> None:
    """Of `before` only what is unknown stays, also within single messages that `after` has."""
    for field, value in before.ListFields():
        single = field.message_type is not None and not field.is_repeated
        if single and after.HasField(field.name):
            _keep_unknown(value, getattr(after, field.name))
            if value.ByteSize():
                continue
        before.ClearField(field.name)


def decode(key: str, value: bytes) -> Record:
    """Raises WireError, naming the key, for bytes that are no record of that key's kind."""
    parsed = keys.parse(key)
    if parsed is None:
        raise wire.WireError(f"{key}: not a key of this version")
    new, from_pb = _DECODERS[parsed.kind]
    message = new()
    try:
        message.ParseFromString(value)
        return from_pb(message)
    except DecodeError as error:
        raise wire.WireError(f"{key}: {len(value)} bytes that are no {parsed.kind}") from error
    except wire.WireError as error:
        raise wire.WireError(f"{key}: {error}") from error
