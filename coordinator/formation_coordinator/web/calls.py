"""What the page may ask for: some methods of `formation.v1.Control`, as JSON.

Each goes through the guard as any other call does, by the same table. What is not listed here
cannot be asked for over HTTP at all: nothing that could run a command or tell a value.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from formation.v1 import control_pb2 as pb
from formation_coordinator.api import ControlService
from formation_coordinator.guard import Caller, Denied, Guard

_SERVICE = pb.DESCRIPTOR.services_by_name["Control"]
READING = frozenset(
    {
        "GetCluster", "ListApps", "ListReleases", "ListRuns", "ListHosts", "ListSecrets",
        "ListAudit", "Usage", "Explain", "Plan", "ListAutoscale", "ListWebhooks",
    }
)  # fmt: skip
CHANGING = frozenset(["Scale", "Restart", "Retry", "Rollback", "SteerRollout", "SetHost"])
FOLLOWING = frozenset({"WatchInstances", "WatchEvents", "Logs"})
_SWITCHES = {"true": True, "false": False}
# Of the map in all its forms: the same for everybody who may do this.
LOOKING = "WatchInstances"
_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 412,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
}


class CallError(Exception):
    """It does not take place; `status` is HTTP's, the message for people."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Context:
    """What methods know of their caller's connection: a way to refuse."""

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        raise CallError(_STATUSES.get(code, 500), details)


class Calls:
    def __init__(self, guard: Guard, control: ControlService) -> None:
        self._guard, self._control = guard, control

    def check_may_look(self, who: Caller) -> None:
        """Raises `CallError`."""
        self._check("ListApps", pb.ListAppsRequest(), who)

    def check_may_see_instances(self, who: Caller) -> None:
        """And where their hosts are. Raises `CallError`."""
        self._check("WatchInstances", pb.WatchInstancesRequest(), who)
        self._check("ListHosts", pb.ListHostsRequest(), who)

    def _check(self, name: str, request: Message, who: Caller) -> None:
        try:
            with self._guard.admitted(_full(name), request, who):
                pass
        except Denied as denied:
            raise CallError(_STATUSES.get(denied.code, 500), str(denied)) from denied

    async def looked(self, source: AsyncIterator[bytes], who: Caller) -> AsyncIterator[bytes]:
        """What everybody sees who may see what runs. Raises `CallError`."""
        try:
            with self._guard.admitted(_full(LOOKING), pb.WatchInstancesRequest(), who) as held:
                async for part in source:
                    yield part
                    held.check()
        except Denied as denied:
            raise CallError(_STATUSES.get(denied.code, 500), str(denied)) from denied

    async def ask(self, name: str, body: object, who: Caller) -> dict[str, Any]:
        """One answer. Raises `CallError`."""
        if name not in READING | CHANGING:
            raise CallError(404, f"{name[:100]!r} cannot be asked for here")
        request = _request(name, body)
        try:
            with self._guard.admitted(_full(name), request, who) as held:
                answer = await getattr(self._control, name)(held.signed(request), _Context())
        except Denied as denied:
            raise CallError(_STATUSES.get(denied.code, 500), str(denied)) from denied
        return _json(answer)

    async def read(self, name: str, query: Mapping[str, str], who: Caller) -> dict[str, Any]:
        """The same for a GET, which changes nothing. Raises `CallError`."""
        if name not in READING:
            raise CallError(405 if name in CHANGING else 404, f"{name[:100]!r} is not read by GET")
        return await self.ask(name, _from_query(name, query), who)

    async def follow(
        self, name: str, query: Mapping[str, str], who: Caller
    ) -> AsyncIterator[dict[str, Any]]:
        """One answer after the other. Raises `CallError`."""
        if name not in FOLLOWING:
            raise CallError(404, f"{name[:100]!r} cannot be followed here")
        request = _request(name, _from_query(name, query))
        try:
            with self._guard.admitted(_full(name), request, who) as held:
                async for answer in getattr(self._control, name)(held.signed(request), _Context()):
                    yield _json(answer)
                    held.check()
        except Denied as denied:
            raise CallError(_STATUSES.get(denied.code, 500), str(denied)) from denied


def _full(name: str) -> str:
    return f"/{_SERVICE.full_name}/{name}"


def _request(name: str, body: object) -> Message:
    made: Message = GetMessageClass(_SERVICE.methods_by_name[name].input_type)()
    if not isinstance(body, dict):
        raise CallError(400, "the body must be a JSON object")
    try:
        json_format.ParseDict(body, made)
    except (json_format.ParseError, TypeError, ValueError, RecursionError) as error:
        raise CallError(400, f"{name}: {str(error)[:300]}") from None
    return made


def _from_query(name: str, query: Mapping[str, str]) -> dict[str, object]:
    """Texts as what the request's fields are; those that are messages or lists fit in no query."""
    fields = _SERVICE.methods_by_name[name].input_type.fields_by_name
    found: dict[str, object] = {}
    for key, text in query.items():
        field = fields.get(key)
        if field is None or field.message_type is not None or field.is_repeated:
            raise CallError(400, f"{name} has no {key[:100]!r} that fits into a query")
        if field.cpp_type == field.CPPTYPE_BOOL:
            if text not in _SWITCHES:
                raise CallError(400, f"{key}: {text[:20]!r} is neither true nor false")
            found[key] = _SWITCHES[text]
        else:
            found[key] = text
    return found


def _json(answer: Message) -> dict[str, Any]:
    return json_format.MessageToDict(answer, preserving_proto_field_name=True)
