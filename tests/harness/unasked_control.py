"""What the fake coordinator of formctl's tests does not know: tested with the real one instead."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
from grpc import aio

from formation.v1.control_pb2_grpc import ControlServicer

Context = aio.ServicerContext[Any, Any]


class UnaskedControl(ControlServicer):
    async def StartExec(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def Exec(self, request_iterator: Any, context: Context) -> NoReturn:  # type: ignore[override]  # noqa: N802
        await _unknown(context)

    async def RelayExec(self, request_iterator: Any, context: Context) -> NoReturn:  # type: ignore[override]  # noqa: N802
        await _unknown(context)

    async def SetAutoscale(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def ListAutoscale(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def AddWebhook(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def RemoveWebhook(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def TestWebhook(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def ListWebhooks(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def SetConfig(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def GetConfig(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def SetSecrets(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def ListSecrets(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def Rollback(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def SteerRollout(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def DiffReleases(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def SetHost(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def Plan(self, request: Any, context: Context) -> Any:  # noqa: N802
        await _unknown(context)

    async def Explain(self, request: Any, context: Context) -> Any:  # noqa: N802
        await _unknown(context)

    async def StartRebalance(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def StartRun(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def CancelRun(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    def Backup(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        raise NotImplementedError

    async def Restore(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def Reconcile(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)

    async def WatchEvents(  # noqa: N802
        self, request: Any, context: Context
    ) -> AsyncIterator[Any]:
        yield await _unknown(context)

    async def ListRuns(self, request: Any, context: Context) -> NoReturn:  # noqa: N802
        await _unknown(context)


async def _unknown(context: Context) -> NoReturn:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the fake does not know this")
    raise AssertionError("abort raises")
