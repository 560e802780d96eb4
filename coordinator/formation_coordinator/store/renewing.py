"""Leases are renewed on a thread of their own.

An event loop that is busy with a thousand agents takes a while for each of its rounds, and a call
on it takes several. A lease of three seconds must not be lost for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
from etcd3aio import _protobuf as pb

Metadata = tuple[tuple[str, str], ...]


class Renewer:
    """`dial`: a blocking channel to an endpoint, by its index."""

    def __init__(self, dial: Callable[[int], grpc.Channel], *, timeout_s: float) -> None:
        self._dial, self._timeout_s = dial, timeout_s
        self._channels: dict[int, grpc.Channel] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lease")

    async def renew(self, index: int, lease: int, metadata: Metadata) -> Any:
        """etcd's answer, or None when it closed the stream without one. Raises AioRpcError."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._renew, index, lease, metadata)
        except grpc.RpcError as error:
            nothing = grpc.aio.Metadata()
            said: Any = error
            raise grpc.aio.AioRpcError(
                said.code(), nothing, nothing, details=said.details()
            ) from error

    def _renew(self, index: int, lease: int, metadata: Metadata) -> Any:
        """One renewal on a stream of its own: nothing can queue up behind a stuck one."""
        channel = self._channels.get(index)
        if channel is None:
            channel = self._channels[index] = self._dial(index)
        call = pb.LeaseStub(channel).LeaseKeepAlive(
            iter([pb.LeaseKeepAliveRequest(ID=lease)]),
            timeout=self._timeout_s,
            metadata=metadata,
            wait_for_ready=True,
        )
        try:
            return next(call, None)
        finally:
            call.cancel()

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        for channel in self._channels.values():
            channel.close()
