"""Asks a process by gRPC's standard health protocol. Imported when a first probe needs it.

Protocol: grpc.health.v1.Health/Check,
https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from formation_agent.probes import PASSED, Outcome, refused

_METHOD = "/grpc.health.v1.Health/Check"
_ADDRESSES = ("ipv4:127.0.0.1:{}", "ipv6:[::1]:{}")
_OPTIONS = [
    # One connection for one question, as others ask too, and never by a proxy.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.primary_user_agent", "formation-probe"),
]


async def ask(port: int, service: str, deadline_s: float) -> Outcome:
    """SERVING passes. `service` "" is the whole server. Raises TimeoutError at `deadline_s`."""
    outcome = Outcome(passed=False, reason=refused(port))
    for address in _ADDRESSES:
        try:
            return _judged(await _check(address.format(port), service, deadline_s), service)
        except grpc.aio.AioRpcError as error:
            outcome = _of_error(error, service, port)
            if outcome.reason != refused(port):
                break
    return outcome


async def _check(address: str, service: str, deadline_s: float) -> int:
    left_s = deadline_s - asyncio.get_running_loop().time()
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        check = channel.unary_unary(
            _METHOD,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        request = health_pb2.HealthCheckRequest(service=service)
        response = await check(request, timeout=max(left_s, 0.0))
        return int(response.status)


def _judged(status: int, service: str) -> Outcome:
    if status == health_pb2.HealthCheckResponse.SERVING:
        return PASSED
    try:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
    except ValueError:
        name = f"status {status}"
    return Outcome(passed=False, reason=f"{name}{f' from {service}' if service else ''}")


def _of_error(error: grpc.aio.AioRpcError, service: str, port: int) -> Outcome:
    """Raises TimeoutError."""
    details = error.details() or ""
    match error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            raise TimeoutError
        case grpc.StatusCode.UNAVAILABLE if "refused" in details:
            reason = refused(port)
        case grpc.StatusCode.UNAVAILABLE:
            reason = f"no gRPC answer on port {port}"
        case grpc.StatusCode.NOT_FOUND:
            reason = f"gRPC knows no service {service!r} on port {port}"
        case grpc.StatusCode.UNIMPLEMENTED:
            reason = f"no grpc.health.v1.Health on port {port}"
        case code:
            reason = f"gRPC {code.name} on port {port}"
    return Outcome(passed=False, reason=reason)
