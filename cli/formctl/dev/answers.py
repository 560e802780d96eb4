"""Does anybody listen on an instance's port? Connects and hangs up; neither sends nor prints."""

from __future__ import annotations

import asyncio

DEADLINE_S = 5.0
_PAUSE_S = 0.1
_CONNECT_S = 1.0
# Where it is tried, and how a browser is told. Some servers take localhost as IPv6 alone.
_PLACES = (("127.0.0.1", "127.0.0.1"), ("::1", "localhost"))


async def sentence(name: str, port: int, *, deadline_s: float = DEADLINE_S) -> str:
    """What there is to say of an instance that has this port."""
    url = await url_of(port, deadline_s=deadline_s)
    found = f"answers at {url}" if url else f"has port {port} (nothing listens there yet)"
    return f"{name} {found}"


async def url_of(port: int, *, deadline_s: float = DEADLINE_S) -> str:
    """As soon as a connection is taken; "" when none was until the deadline."""
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + deadline_s
    while True:
        for address, name in _PLACES:
            if await _is_taken(address, port):
                return f"http://{name}:{port}"
        if loop.time() >= ends_s:
            return ""
        await asyncio.sleep(_PAUSE_S)


async def _is_taken(address: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
