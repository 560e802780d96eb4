"""Says an operator's word on hosts to a coordinator, one host after the other."""

from __future__ import annotations

from collections.abc import Sequence

from formation.v1 import control_pb2 as pb
from formctl.client import Client
from formctl.settings import Settings, who


async def set_hosts(
    settings: Settings, hosts: Sequence[str], *, why: str = "", cordoned: bool
) -> None:
    async with Client(settings.target()) as client:
        for host in hosts:
            request = pb.SetHostRequest(host=host, cordoned=cordoned, who=who(), why=why)
            await client.change(lambda stub: stub.SetHost, request)
