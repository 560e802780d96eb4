"""An ASGI app without a framework."""

import os


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        print("stopping", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = f"hello from {os.environ.get('PS')} on ASGI\n".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
