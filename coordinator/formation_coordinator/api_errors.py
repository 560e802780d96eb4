"""Our exceptions as gRPC statuses, each with one line for people."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import grpc

from formation import wire
from formation_coordinator import changing
from formation_coordinator.checks import BadRelease
from formation_coordinator.store.base import StoreError, TooLarge

_CODES = {
    changing.Unknown: grpc.StatusCode.NOT_FOUND,
    changing.Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    changing.Refused: grpc.StatusCode.FAILED_PRECONDITION,
    changing.RaceLost: grpc.StatusCode.ABORTED,
    changing.Uncertain: grpc.StatusCode.UNKNOWN,
}
Context = grpc.aio.ServicerContext[Any, Any]
Unary = Callable[[Any, Any, Context], Awaitable[Any]]


def worded(method: Unary) -> Unary:
    """Turn our exceptions into a status with one line for people."""

    @wraps(method)
    async def call(self: Any, request: Any, context: Context) -> Any:
        try:
            return await method(self, request, context)
        except (changing.ControlError, StoreError, wire.WireError, BadRelease) as error:
            code, words = status_of(error)
        return await context.abort(code, words)

    return call


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, changing.ControlError):
        return _CODES[type(error)], str(error)
    if isinstance(error, wire.WireError | BadRelease | TooLarge):
        return grpc.StatusCode.INVALID_ARGUMENT, str(error)
    return grpc.StatusCode.UNAVAILABLE, str(error)
