"""The page in a real browser: neither what runs nor other sites can use it. That it works is in
test_browser_page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp.web
import pytest
from browser import Browser
from hollow_agent import HollowAgent
from running import coordinator, free_port
from scene import Scene, of, says, scene_in

from formation.v1 import control_pb2
from formation_coordinator.store.memory import MemoryStore

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
LINES = (
    b"<script>alert(3)</script>",
    b"</pre><svg onload=alert(4)>",
    b"\x1b]0;owned\x07\x1b[2Jred \xe2\x80\xae txt",
    b"plain words",
)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene_in(tmp_path) as made:
        yield made


async def test_what_runs_cannot_make_the_page_run_anything(scene: Scene, tmp_path: Path) -> None:
    control = scene.running.control
    await control.SetHost(control_pb2.SetHostRequest(host="a", labels={"zone": HOSTILE[:60]}))
    for uid in scene.agent.running:
        scene.agent.tell(uid, reason=HOSTILE, told=HOSTILE, last_exit=HOSTILE)
    async with Browser() as browser:
        await scene.log_in(browser)
        await browser.press("Instances")
        await browser.press("Open shop/web.1")
        await browser.until(says("<script>alert(2)", of("detail")))
        pushing = asyncio.create_task(scene.push_lines(*LINES))
        try:
            await browser.until(says("plain words", of("detail")))
        finally:
            pushing.cancel()
            await asyncio.gather(pushing, return_exceptions=True)
        shown = await browser.run("document.querySelector('#detail .log').innerText")
        assert "<script>alert(3)</script>" in shown
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        await browser.press("Host a")
        await browser.until(says("zone=<img src=x", of("detail")))
        await browser.press("Map")
        await browser.run(f"(s => (s.value = 'zone', s.onchange()))({of('label')})")
        strange = (
            "document.querySelectorAll('img:not([src=\"/icon.svg\"]), script:not([src]), svg')"
        )
        assert await browser.run(f"{strange}.length") == 0
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
        await browser.until("!!document.querySelector('#apps input')")
        await browser.run("document.querySelector('#apps input').value = 2")
        await browser.press("Scale shop/web")
        await browser.press("Scale to 2")
        await browser.until(says("2/2", of("apps")))
    assert await scene.quantity() == 2


async def test_the_page_of_a_cluster_without_certificates_says_so(tmp_path: Path) -> None:
    port = free_port()
    async with (
        coordinator(MemoryStore(), tmp_path, http=f"127.0.0.1:{port}", insecure=True) as running,
        HollowAgent(running.address, "a") as agent,
        Browser() as browser,
    ):
        await Scene(running, f"http://127.0.0.1:{port}/", agent).log_in(browser)
        await browser.until(says("INSECURE: whoever reaches ", of("banners")))
