"""Hosts by name: is there such a one, and what an operator says of them, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from formation.person import who
from formation.v1 import control_pb2 as pb
from formctl.client import Client
from formctl.errors import InputError
from formctl.settings import Settings


async def check_known(client: Client, hosts: Sequence[str]) -> None:
    """Raises `InputError` for one that there is not."""
    found, _ = await client.hosts()
    known = [line.status.host for line in found]
    for host in hosts:
        if host not in known:
            raise InputError(f"no host {host}: there is {', '.join(known) or 'none'}")


async def set_hosts(
    settings: Settings, hosts: Sequence[str], *, why: str = "", cordoned: bool
) -> None:
    async with Client(settings.target()) as client:
        for host in hosts:
            request = pb.SetHostRequest(host=host, cordoned=cordoned, who=who(), why=why)
            await client.change(lambda stub: stub.SetHost, request)
