"""A real browser, headless, driven over its own debugging protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path
from typing import Any, Self

import aiohttp
import netlink
import pytest
from eventually import eventually

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--remote-debugging-port=0", "--window-size=1200,900",
    "--remote-allow-origins=*",
)  # fmt: skip


def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no browser: apt install chromium")
    return found


class Browser:
    """One tab. `said`: what its console and its errors said."""

    def __init__(self, *flags: str) -> None:
        self._flags = flags
        self.said: list[str] = []
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    def _start(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="fmn-chromium-"))
        words = (*_FLAGS, *self._flags, f"--user-data-dir={self._home}", "about:blank")
        self._program = subprocess.Popen(
            [sys.executable, netlink.__file__, chromium(), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._program.pid

    async def __aenter__(self) -> Self:
        self._start()
        try:
            port = await eventually(self._port, what="the browser starts", deadline_s=60.0)
        except BaseException:
            await self._end()
            raise
        self._http = aiohttp.ClientSession()
        async with self._http.get(f"http://127.0.0.1:{port}/json") as response:
            tabs = await response.json()
        address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        self._socket = await self._http.ws_connect(address, max_msg_size=1 << 26)
        self._reader = asyncio.create_task(self._read())
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._socket.close()
        await self._http.close()
        await self._end()

    async def _end(self) -> None:
        os.killpg(self._program.pid, signal.SIGKILL)
        self._program.wait()
        await asyncio.to_thread(shutil.rmtree, self._home, ignore_errors=True)

    def _port(self) -> str:
        file = self._home / "DevToolsActivePort"
        lines = file.read_text().splitlines() if file.exists() else []
        return lines[0] if lines else ""

    async def _read(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
                continue
            if told["method"] in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.said.append(json.dumps(told["params"]))
            if told["method"] == "Page.javascriptDialogOpening":
                self.said.append(f"DIALOG {told['params']['message']}")
                await self._socket.send_json(
                    {
                        "id": 0,
                        "method": "Page.handleJavaScriptDialog",
                        "params": {"accept": True},
                    }
                )
                self._answers[0] = asyncio.get_running_loop().create_future()

    async def send(self, method: str, **parameters: object) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(30.0):
            found = await answer
        assert "error" not in found, found
        result: dict[str, Any] = found["result"]
        return result

    async def go(self, url: str) -> None:
        await self.send("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """What that expression is, after it was waited for."""
        found = await self.send(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            allowUnsafeEvalBlockedByCSP=False,
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def text(self) -> str:
        return str(await self.run("document.body ? document.body.innerText : ''"))

    async def until(self, script: str, what: str = "") -> Any:
        """The first truthy value."""
        ends_s = asyncio.get_running_loop().time() + 30.0
        while asyncio.get_running_loop().time() < ends_s:
            try:
                if found := await self.run(script):
                    return found
            except AssertionError:
                pass  # between two pages
            await asyncio.sleep(0.05)
        shown = (await self.text())[:1_500]
        raise AssertionError(f"not within 30 s: {what or script}; said {self.said[-3:]}; {shown}")

    async def press(self, label: str) -> None:
        """The button of that name, by what it is called before what is written on it."""
        named = json.dumps(label)
        await self.until(
            "(all => (b => b && !b.disabled && (b.click(), true))("
            f"all.find(b => b.getAttribute('aria-label') === {named}) "
            f"|| all.find(b => b.textContent === {named})))"
            "([...(document.querySelector('dialog[open]') || document)"
            ".querySelectorAll('button')])",
            f"a button {label}",
        )

    async def look(self, *, dark: bool = False, width: int = 1200, height: int = 900) -> None:
        """How its window and its wearer's taste are from now on."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    async def key(self, name: str) -> None:
        """Pressed where the focus is: "Enter", "Tab", "ArrowRight", "h"."""
        told: dict[str, object] = {"key": name}
        if len(name) == 1:
            told |= {"text": name}
        elif name == "Enter":
            told |= {"text": "\r", "windowsVirtualKeyCode": 13}
        elif name == "Tab":
            told |= {"windowsVirtualKeyCode": 9}
        for kind in ("keyDown", "keyUp"):
            await self.send("Input.dispatchKeyEvent", type=kind, **told)

    async def picture(self, path: Path) -> None:
        found = await self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))
