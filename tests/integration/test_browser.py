"""The page in a real browser: it works, and neither what runs nor other sites can use it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp.web
import grpc
import pytest
from browser import Browser
from eventually import eventually
from hollow_agent import HollowAgent
from running import RunningCoordinator, coordinator, free_port

from formation.model import InstanceState
from formation.v1 import access_pb2, access_pb2_grpc, agent_pb2, control_pb2, types_pb2
from formation_coordinator.store.memory import MemoryStore

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
LINES = (
    b"<script>alert(3)</script>",
    b"</pre><svg onload=alert(4)>",
    b"\x1b]0;owned\x07\x1b[2Jred \xe2\x80\xae txt",
    b"plain words",
)


def says(words: str) -> str:
    return f"document.body && document.body.innerText.includes({json.dumps(words)})"


class Scene:
    """A coordinator with a page, a host that may say anything, and a tab that is logged in."""

    def __init__(self, running: RunningCoordinator, url: str, agent: HollowAgent) -> None:
        self.running, self.url, self.agent = running, url, agent

    async def ticket(self) -> str:
        options = [("grpc.default_authority", "localhost")]
        async with grpc.aio.insecure_channel(self.running.address, options) as channel:
            stub: access_pb2_grpc.AccessAsyncStub = access_pb2_grpc.AccessStub(channel)
            return (await stub.CreateWebLogin(access_pb2.CreateWebLoginRequest())).ticket

    async def log_in(self, browser: Browser) -> None:
        await browser.go(f"{self.url}#ticket={await self.ticket()}")
        await browser.until("!document.getElementById('main').hidden")

    async def quantity(self) -> int:
        apps = await self.running.control.ListApps(control_pb2.ListAppsRequest())
        return apps.apps[0].app.formation["web"]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    port = free_port()
    async with (
        coordinator(MemoryStore(), tmp_path, http=f"127.0.0.1:{port}") as running,
        HollowAgent(running.address, "a") as agent,
    ):
        spec = types_pb2.ProcessType(name="web", command="true", initial_quantity=1)
        await running.control.Apply(control_pb2.ApplyRequest(app="shop", types=[spec]))
        await eventually(lambda: agent.running)
        yield Scene(running, f"http://127.0.0.1:{port}/", agent)


async def test_a_login_shows_what_runs_and_scales_it(scene: Scene, tmp_path: Path) -> None:
    async with Browser() as browser:
        await browser.go(scene.url)
        await browser.until(
            "document.body && document.body.innerText.includes('formctl login --web')"
        )
        browser.said.clear()  # that it was refused before
        await scene.log_in(browser)
        assert "ticket" not in await browser.run("location.href")
        await browser.until(says("shop/web.1"))
        text = await browser.text()
        assert "healthy" in text
        assert "operator" in text
        await browser.run("document.querySelector('input').value = 3")
        await browser.press("Scale shop/web")
        await browser.until(says("shop/web.3"))
        await browser.until(says("web: 1 -> 3"))
        assert await scene.quantity() == 3
        await browser.picture(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 10_000
        assert not browser.said
        await browser.press("Log out")
        await browser.until("!document.getElementById('login').hidden")


CLICK = """((x, y) => {
  const canvas = document.getElementById('map'), box = canvas.getBoundingClientRect();
  const where = { clientX: box.left + x, clientY: box.top + y, bubbles: true };
  canvas.dispatchEvent(new MouseEvent('click', where));
  return true;
})(%d, %d)"""


async def test_the_map_shows_what_runs_where_and_tells_of_what_is_clicked(
    scene: Scene, tmp_path: Path
) -> None:
    running = scene.running
    change = control_pb2.QuantityChange(
        type="web", kind=control_pb2.QuantityChange.KIND_SET, quantity=12
    )
    async with HollowAgent(running.address, "b") as other, Browser() as browser:
        for name, zone in (("a", "east"), ("b", "west")):
            await running.control.SetHost(
                control_pb2.SetHostRequest(host=name, labels={"zone": zone})
            )
        await running.control.Scale(control_pb2.ScaleRequest(app="shop", changes=[change]))
        await eventually(lambda: len(scene.agent.running) + len(other.running) == 12)
        bad = min(scene.agent.running)
        scene.agent.tell(bad, state=InstanceState.BACKOFF, reason="exit 3")
        await scene.log_in(browser)
        await browser.until(says("2 hosts, 12 instances, 11 healthy"))
        # The first cell of the first host.
        await browser.run(CLICK % (8, 24))
        chosen = await browser.until("document.getElementById('chosen').innerText")
        assert " on a: " in chosen
        await browser.run(CLICK % (3000, 10))
        assert await browser.run("document.getElementById('chosen').hidden")
        await browser.until("document.getElementById('label').options.length === 2")
        await browser.run(
            "((s) => { s.value = 'zone'; s.dispatchEvent(new Event('change')); })"
            "(document.getElementById('label'))"
        )
        # A title for each group comes first, so the cell is further down.
        there = "document.getElementById('chosen').innerText.includes(' on a: ')"
        await browser.until(f"{CLICK % (8, 48)} && {there}")
        await browser.run(CLICK % (8, 8))
        assert await browser.run("document.getElementById('chosen').hidden")
        await browser.picture(tmp_path / "map.png")
        assert not browser.said


async def push_lines(scene: Scene) -> None:
    """To whoever has asked."""
    await eventually(lambda: scene.agent.open_logs)

    async def pushes() -> AsyncIterator[agent_pb2.LogPush]:
        lines = [
            agent_pb2.LogLine(app="shop", type="web", ordinal=1, at_us=number, text=text)
            for number, text in enumerate(LINES, 1)
        ]
        token = scene.agent.open_logs[-1].request_id
        yield agent_pb2.LogPush(request_id=token, lines=lines, history_done=True)
        await asyncio.sleep(30)

    await scene.agent.stub.PushLogs(pushes())


async def test_what_runs_cannot_make_the_page_run_anything(scene: Scene, tmp_path: Path) -> None:
    for uid in scene.agent.running:
        scene.agent.tell(uid, reason=HOSTILE, told=HOSTILE, last_exit=HOSTILE)
    async with Browser() as browser:
        await scene.log_in(browser)
        await browser.until(says("<script>alert(2)"))
        await browser.press("Log of shop/web.1")
        pushing = asyncio.create_task(push_lines(scene))
        try:
            await browser.until(says("plain words"))
        finally:
            pushing.cancel()
            await asyncio.gather(pushing, return_exceptions=True)
        shown = await browser.run("document.getElementById('log').innerText")
        assert "<script>alert(3)</script>" in shown
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert (
            await browser.run("document.querySelectorAll('img, script:not([src]), svg').length")
            == 0
        )
        await browser.picture(tmp_path / "hostile.png")
        # No dialog opened, and nothing was tried that the policy had to forbid.
        assert not browser.said


async def test_the_policy_stops_what_would_get_into_the_page_nevertheless(scene: Scene) -> None:
    async with Browser() as browser:
        await scene.log_in(browser)
        assert (
            await browser.run(f"""(() => {{
          const script = document.createElement('script');
          const forbidden = [
            () => {{ document.body.innerHTML = {HOSTILE!r}; }},
            () => {{ script.text = 'alert(1)'; }},
            () => {{ eval('alert(1)'); }},
          ];
          for (const attempt of forbidden) try {{ attempt(); return 'was let' }} catch {{}}
          document.body.append(script);
          const link = document.createElement('a');
          link.href = 'javascript:alert(5)';
          document.body.append(link);
          link.click();
          return '';
        }})()""")
            == ""
        )
        assert not [said for said in browser.said if said.startswith("DIALOG")]


EVIL = (Path(__file__).parents[1] / "harness" / "evil.html").read_text()


@pytest.mark.parametrize("evil_host", ["127.0.0.1", "localhost"], ids=["same site", "cross site"])
async def test_another_sites_page_changes_and_learns_nothing(scene: Scene, evil_host: str) -> None:
    """From another port of the same host browsers send our cookie along: it has to be the rest
    that holds."""
    port = free_port()
    async with AsyncExitStack() as stack:

        async def page(_: aiohttp.web.Request) -> aiohttp.web.Response:
            return aiohttp.web.Response(
                text=EVIL.replace("%URL%", scene.url), content_type="text/html"
            )

        application = aiohttp.web.Application()
        application.router.add_get("/", page)
        runner = aiohttp.web.AppRunner(application)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await aiohttp.web.TCPSite(runner, "127.0.0.1", port).start()
        browser = await stack.enter_async_context(Browser())
        await scene.log_in(browser)
        await browser.go(f"http://{evil_host}:{port}/")
        await browser.until("document.title === 'evil' && !!document.getElementById('form')")
        tried = await browser.run("attack()")
        # Not even their answers can be read; the simple one could not be refused sooner.
        assert [word for word in tried if not word.endswith((" failed", " opaque 0"))] == []
        assert len(tried) == 8
        assert await scene.quantity() == 1
        # Our own page, in the same browser, still may.
        await browser.go(scene.url)
        await browser.until(says("shop/web.1"))
        await browser.run("document.querySelector('input').value = 2")
        await browser.press("Scale shop/web")
        await browser.until(says("shop/web.2"))
    assert await scene.quantity() == 2


async def test_the_page_of_a_cluster_without_certificates_says_so(tmp_path: Path) -> None:
    port = free_port()
    async with (
        coordinator(MemoryStore(), tmp_path, http=f"127.0.0.1:{port}", insecure=True) as running,
        HollowAgent(running.address, "a") as agent,
        Browser() as browser,
    ):
        await Scene(running, f"http://127.0.0.1:{port}/", agent).log_in(browser)
        banner = await browser.until("document.getElementById('banner').innerText")
        assert banner.startswith("INSECURE: whoever reaches ")
