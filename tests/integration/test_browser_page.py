"""The page clicked through in a real browser, on a live cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from browser import Browser
from certified import Authority
from eventually import eventually
from hollow_agent import HollowAgent
from running import coordinator, free_port
from scene import FORMATION, Scene, beating, of, says, scene_in, web

from formation.dialling import Dialler
from formation.identity import Role
from formation.model import InstanceState
from formation.v1 import access_pb2, access_pb2_grpc, control_pb2, types_pb2
from formation_coordinator.store.memory import MemoryStore

# Where that square is in the window, from the same arithmetic that draws it.
PLACE = f"""((name) => {{
  const {{ map }} = {FORMATION}, {{ picture, view }} = map;
  for (let id = 0; id < picture.count; id++) {{
    if (picture.kind[id] >= picture.kinds.length || picture.nameOf(id) !== name) continue;
    const at = map.placeOf(id), box = map.canvas.getBoundingClientRect();
    if (!at) return null;
    const [x, y] = [(at.x - view.x) * view.scale, (at.y - view.y) * view.scale];
    return [box.left + x + at.size / 3, box.top + y + at.size / 3];
  }}
  return null;
}})"""


async def click(browser: Browser, x: float, y: float) -> None:
    for kind in ("mousePressed", "mouseReleased"):
        await browser.send(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
        )


async def click_square(browser: Browser, name: str) -> None:
    await browser.run("scrollTo(0, 0)")
    x, y = await browser.until(f'{PLACE}("{name}")')
    await click(browser, x, y)


async def slide(browser: Browser, value: int) -> None:
    """The time line's handle."""
    await browser.run(
        f"(w => (w.value = '{value}', w.dispatchEvent(new Event('input'))))({of('when')})"
    )


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene_in(tmp_path) as made:
        yield made


async def test_a_login_shows_what_runs_and_scales_it_as_planned(scene: Scene) -> None:
    async with Browser() as browser:
        await browser.go(scene.url)
        await browser.until(says("formctl login --web"))
        browser.said.clear()  # that it was refused before
        await scene.log_in(browser)
        assert "ticket" not in await browser.run("location.href")
        await browser.until(says("1 host, 1 instance, 1 healthy"))
        assert "operator" in await browser.text()
        await browser.run("document.querySelector('#apps input').value = 3")
        await browser.press("Scale shop/web")
        await browser.until(says("Scale shop/web from 1 to 3?", of("ask")))
        await browser.until(says("It would start 2.", of("ask")))
        assert await scene.quantity() == 1
        await browser.press("Scale to 3")
        await browser.until(says("1 host, 3 instances, 3 healthy"))
        await browser.until(says("web: 1 -> 3", of("events")))
        assert await scene.quantity() == 3
        assert not browser.said
        await browser.press("Log out")
        await browser.until("!document.getElementById('login').hidden")


async def test_from_the_map_to_the_instance_its_ends_and_its_log(scene: Scene) -> None:
    await scene.scale(5)
    await eventually(lambda: len(scene.agent.running) == 5)
    uid = next(uid for uid in scene.agent.running if uid.startswith("web.1-"))
    async with Browser() as browser:
        await scene.log_in(browser)
        await browser.until(says("5 healthy"))
        scene.agent.tell(uid, state=InstanceState.BACKOFF, reason="exit 3 after 2 s", failures=2)
        await browser.until(says("4 healthy"))
        await click_square(browser, "shop/web.1")
        await browser.until(says("exit 3 after 2 s", of("detail")))
        assert "backoff" in await browser.run("document.getElementById('detail').innerText")
        await browser.until("!!document.querySelector('.ends > li')")
        pushing = asyncio.create_task(scene.push_lines(b"cannot reach the database"))
        try:
            await browser.until(says("cannot reach the database", of("detail")))
        finally:
            pushing.cancel()
            await asyncio.gather(pushing, return_exceptions=True)
        await browser.run(
            "[...document.querySelectorAll('#detail summary')].forEach((s) => s.click())"
        )
        await browser.until(says("fits, no. 1", of("detail")))
        await browser.until(says("initial quantity", of("detail")))
        await browser.press("Host a")
        await browser.until(says("5, 4 work", of("detail")))
        await browser.press("Open shop/web.2")
        await browser.until(says("shop/web.2", of("detail-title")))
        await browser.key("Escape")
        await browser.until("document.getElementById('detail').hidden")
        assert not browser.said


async def test_with_keys_alone_one_gets_to_an_instance_and_back(scene: Scene) -> None:
    await scene.scale(4)
    async with Browser() as browser:
        await scene.log_in(browser)
        await browser.until(says("4 healthy"))
        await browser.run("document.getElementById('map').focus()")
        await browser.key("ArrowRight")
        await browser.until(says("shop/web.1 healthy on a", of("map-said")))
        await browser.key("ArrowRight")
        await browser.until(says("shop/web.2 healthy on a", of("map-said")))
        await browser.key("Enter")
        await browser.until(says("shop/web.2", of("detail-title")))
        assert await browser.run("document.activeElement.id") == "detail"
        await browser.key("Escape")
        await browser.until("document.activeElement.id === 'map'")
        await browser.key("h")
        await browser.until(says("4, 4 work", of("detail")))
        await browser.key("Escape")
        # From an app's type to its instances, and to one of them.
        await browser.run(
            "document.querySelector('[aria-label=\"Instances of shop/web\"]').focus()"
        )
        await browser.key("Enter")
        await browser.until("document.activeElement.type === 'search'")
        await browser.until(says("1–4 of 4", of("view-instances")))
        for _ in range(4):
            await browser.key("Tab")
        name = "document.activeElement.getAttribute('aria-label')"
        assert str(await browser.run(name)).startswith("Open shop/web.")
        await browser.key("Enter")
        await browser.until("!document.getElementById('detail').hidden")


async def test_everything_that_can_be_used_has_a_name_and_can_be_reached(scene: Scene) -> None:
    async with Browser() as browser:
        await scene.log_in(browser)
        for tab in ("Map", "Instances", "Hosts"):
            await browser.press(tab)
            nameless = await browser.run("""
              [...document.querySelectorAll('button, input, select, meter, progress, [role]')]
                .filter((e) => e.checkVisibility() && !(e.getAttribute('aria-label')
                  || e.getAttribute('aria-labelledby') || e.textContent.trim()
                  || e.labels?.length) && e.getAttribute('role') !== 'status')
                .map((e) => e.outerHTML.slice(0, 90))""")
            assert [item for item in nameless if "banners" not in item] == []
        heads = await browser.run(
            "[...document.querySelectorAll('th')].every((e) => e.getAttribute('scope') === 'col')"
        )
        assert heads


# As WCAG reckons it.
CONTRAST = """((one, other) => {
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    const probe = document.createElement('canvas').getContext('2d');
    probe.fillStyle = style.getPropertyValue(name).trim();
    const value = parseInt(probe.fillStyle.slice(1), 16);
    const [r, g, b] = [value >> 16, (value >> 8) & 255, value & 255].map((v) => {
      v /= 255;
      return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [a, b] = [light(one), light(other)].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
})"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_what_is_written_can_be_read_and_squares_be_told_apart(
    scene: Scene, dark: bool
) -> None:
    texts = [
        (name, "--part") for name in ("--fore", "--soft", "--good", "--busy", "--bad", "--link")
    ]
    texts += [(f"--{kind}", f"--{kind}-back") for kind in ("good", "busy", "bad")]
    texts += [("--on-first", "--first"), ("--fore", "--field"), ("--soft", "--back")]
    squares = [(f"--map-{kind}", "--map-box") for kind in ("good", "old", "busy", "bad")]
    async with Browser() as browser:
        await browser.look(dark=dark)
        await scene.log_in(browser)
        for least, pairs in ((4.5, texts), (2.9, squares)):
            for one, other in pairs:
                found = await browser.run(f"{CONTRAST}('{one}', '{other}')")
                assert found >= least, (one, other, found)


async def test_a_host_is_drained_from_the_page_with_its_plan_first(scene: Scene) -> None:
    await scene.scale(4)
    await eventually(lambda: len(scene.agent.running) == 4)
    running = scene.running
    async with (
        HollowAgent(running.address, "b") as other,
        beating(other),
        Browser() as browser,
    ):
        await scene.log_in(browser)
        await browser.press("Hosts")
        await browser.press("Host a")
        await browser.press("Drain a")
        await browser.until(says("move 4", of("ask")))
        assert not other.running
        await browser.press("Drain")
        await eventually(lambda: len(other.running) == 4, deadline_s=30, what="all of it moved")
        await browser.until(says("draining", of("view-hosts")))
        await browser.until(says("Nothing runs here.", of("detail")))
        await browser.press("Uncordon a")
        await browser.press("Uncordon")
        await browser.until("!" + says("draining", of("view-hosts")))
        hosts = (await running.control.ListHosts(control_pb2.ListHostsRequest())).hosts
        assert not any(item.host.draining or item.host.cordoned for item in hosts)


async def test_a_change_that_is_under_way_shows_how_far_it_is_and_is_steered(scene: Scene) -> None:
    await scene.scale(4)
    await eventually(lambda: len(scene.agent.running) == 4)
    async with Browser() as browser:
        await scene.log_in(browser)
        change = control_pb2.ApplyRequest(app="shop", types=[web("false")], canary=1)
        await scene.running.control.Apply(change)
        await browser.until(says("v1 → v2", of("apps")))
        await browser.until(says("1 of 4 run v2 and work", of("apps")))
        await browser.until(says("canary of 1", of("apps")))
        await browser.press("Pause the change of shop")
        await browser.press("Pause")
        await browser.until(says("paused", of("apps")))
        await browser.press("Resume the change of shop")
        await browser.press("Resume")
        await browser.press("Abort the change of shop")
        await browser.until(says("It goes back to the release", of("ask")))
        await browser.press("Leave it")
        await browser.press("Promote the canary of shop")
        await browser.press("Promote")
        await browser.until("!" + says("v1 → v2", of("apps")))
        app = (await scene.running.control.ListApps(control_pb2.ListAppsRequest())).apps[0].app
        assert (app.release, app.stable_release) == (2, 2)


async def test_a_host_that_is_silent_is_a_banner_with_since_when(scene: Scene) -> None:
    async with Browser() as browser:
        async with HollowAgent(scene.running.address, "b"):
            await scene.log_in(browser)
            await browser.until(says("2 hosts"))
            assert await browser.run("document.getElementById('banners').childElementCount") == 0
        await browser.until(says("Hosts that do not answer", of("banners")))
        await browser.until(says("b lost, since ", of("banners")))
        async with HollowAgent(scene.running.address, "b"):
            await browser.until("!" + says("Hosts that do not answer", of("banners")))


async def test_the_brake_is_a_banner_until_the_hosts_are_back(scene: Scene) -> None:
    names = ("b", "c", "d")
    async with Browser() as browser:
        async with AsyncExitStack() as others:
            for name in names:
                await others.enter_async_context(HollowAgent(scene.running.address, name))
            await scene.log_in(browser)
            await scene.scale(4)
            await browser.until(says("4 hosts, 4 instances, 4 healthy"))
            assert not await browser.run(says("Placement stands still", of("banners")))
        await browser.until(says("Placement stands still", of("banners")))
        await browser.until(says("the brake is on", of("banners")))
        async with AsyncExitStack() as others:
            for name in names:
                await others.enter_async_context(HollowAgent(scene.running.address, name))
            await browser.until("!" + says("Placement stands still", of("banners")))


async def test_an_etcd_put_back_in_time_is_a_banner_until_the_word(tmp_path: Path) -> None:
    store = MemoryStore()
    async with scene_in(tmp_path, store) as scene, Browser() as browser:
        await scene.log_in(browser)
        earlier = store.backup()
        await scene.scale(3)
        await eventually(lambda: len(scene.agent.running) == 3)
        store.restore(earlier)
        await browser.until(says("Everything is held", of("banners")))
        await browser.until(says("a follows newer orders than etcd knows of", of("banners")))
        assert not await browser.run(says("Placement stands still", of("banners")))
        await scene.running.control.Reconcile(control_pb2.ReconcileRequest(who="ann"))
        await browser.until("!" + says("Everything is held", of("banners")))


async def test_what_has_no_host_is_a_banner_with_its_reason(scene: Scene) -> None:
    greedy = types_pb2.ProcessType(
        name="db", command="true", initial_quantity=2,
        where=types_pb2.Where(require=[types_pb2.Constraint(label="ssd")]),
    )  # fmt: skip
    await scene.running.control.Apply(control_pb2.ApplyRequest(app="store", types=[greedy]))
    async with Browser() as browser:
        await scene.log_in(browser)
        await browser.until(says("2 instances are not where they should be", of("banners")))
        await browser.until(says("2 × store/db: ", of("banners")))
        await click_square(browser, "store/db.1")
        await browser.until(says("pending", of("detail")))


async def test_the_time_line_shows_how_it_was_and_comes_back(scene: Scene) -> None:
    async with Browser() as browser:
        await scene.log_in(browser)
        await browser.until(says("1 instance, 1 healthy"))
        await scene.scale(6)
        await browser.until(says("6 instances, 6 healthy"))
        await slide(browser, 0)
        await browser.until("document.body.classList.contains('past')")
        await browser.until("!" + says("6 instances", of("summary")))
        assert "web: 1 -> 6" not in await browser.run("document.getElementById('events').innerText")
        # Nobody changes the past.
        assert await browser.run("document.querySelectorAll('#apps input').length") == 0
        await scene.scale(2)
        await slide(browser, 999)
        await browser.until(says("6 instances", of("summary")))
        await browser.press("Live")
        await browser.until(says("2 instances, 2 healthy", of("summary")))
        assert not browser.said


class Wire:
    """Between browser and page; it can be cut."""

    def __init__(self, target: int) -> None:
        self.target, self.port, self.cut = target, free_port(), False
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sever()
        self._server.close()

    def sever(self) -> None:
        self.cut = True
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        self._open |= {writer, back}
        try:
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        except OSError:
            pass
        finally:
            self._open -= {writer, back}
            writer.close()
            back.close()

    async def _pump(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            to.write(data)
            await to.drain()
        to.close()


async def test_a_connection_that_is_lost_is_told_and_comes_back_by_itself(tmp_path: Path) -> None:
    port = free_port()
    async with Wire(port) as wire:
        names = (f"127.0.0.1:{wire.port}",)
        async with (
            coordinator(
                MemoryStore(), tmp_path, http=f"127.0.0.1:{port}", http_names=names
            ) as running,
            HollowAgent(running.address, "a") as agent,
            Browser() as browser,
        ):
            spec = types_pb2.ProcessType(name="web", command="true", initial_quantity=1)
            await running.control.Apply(control_pb2.ApplyRequest(app="shop", types=[spec]))
            scene = Scene(running, f"http://127.0.0.1:{wire.port}/", agent)
            running.service._page._page._hosts |= {f"127.0.0.1:{wire.port}"}  # type: ignore[union-attr]
            await scene.log_in(browser)
            await browser.until(says("1 healthy"))
            wire.sever()
            await browser.until(says("The coordinator does not answer", of("banners")))
            assert await browser.run("document.body.classList.contains('lost')")
            await scene.scale(3)
            wire.cut = False
            await browser.until(says("3 instances, 3 healthy"))
            assert not await browser.run("document.body.classList.contains('lost')")
            assert "does not answer" not in await browser.run(f"{of('banners')}.innerText")


async def test_after_the_coordinator_was_started_anew_one_logs_in_and_goes_on(
    tmp_path: Path,
) -> None:
    store, port = MemoryStore(), free_port()
    async with Browser() as browser:
        async with scene_in(tmp_path, store, port) as scene:
            await scene.log_in(browser)
            await browser.until(says("1 healthy"))
        await browser.until(says("The coordinator does not answer", of("banners")))
        async with scene_in(tmp_path, store, port) as scene:
            await browser.until(says("You are not logged in any more", of("banners")))
            await browser.until(says("formctl login --web", of("login")))
            # What was seen last is still there, greyed.
            assert await browser.run("!document.getElementById('main').hidden")
            await browser.go(f"{scene.url}#ticket={await scene.ticket()}")
            await browser.until(says("1 host, 1 instance, 1 healthy"))


@pytest.mark.parametrize(
    ("role", "apps", "buttons"),
    [
        (Role.OPERATOR, (), {"Scale shop/web", "Scale blog/web", "Drain a"}),
        (Role.DEPLOYER, ("sh*",), {"Scale shop/web"}),
        (Role.VIEWER, (), set()),
    ],
)
async def test_each_role_sees_the_buttons_that_it_may_press(
    tmp_path: Path, role: Role, apps: tuple[str, ...], buttons: set[str]
) -> None:
    port, authority = free_port(), Authority()
    who = authority.issue(tmp_path / "who", role, "bob", apps)
    async with (
        coordinator(
            MemoryStore(), tmp_path, authority=authority, http=f"127.0.0.1:{port}"
        ) as running,
        Browser() as browser,
        AsyncExitStack() as stack,
    ):
        for name in ("shop", "blog"):
            spec = types_pb2.ProcessType(name="web", command="true", initial_quantity=1)
            await running.control.Apply(control_pb2.ApplyRequest(app=name, types=[spec]))
        host = authority.issue(tmp_path / "a", Role.AGENT, "a")
        channel = Dialler(lambda: host).channel(running.address)
        await stack.enter_async_context(HollowAgent(running.address, "a", channel=channel))
        async with Dialler(lambda: who).channel(running.address) as channel:
            stub: access_pb2_grpc.AccessAsyncStub = access_pb2_grpc.AccessStub(channel)
            made = await stub.CreateWebLogin(access_pb2.CreateWebLoginRequest())
        await browser.go(f"{made.url}#ticket={made.ticket}")
        await browser.until(says("bob"))
        await browser.until(says("shop", of("apps")))
        await browser.press("Hosts")
        await browser.press("Host a")
        await browser.until(says("State", of("detail")))
        labels = await browser.run(
            "[...document.querySelectorAll('button')].map((b) => b.getAttribute('aria-label'))"
        )
        known = {"Scale shop/web", "Scale blog/web", "Drain a"}
        assert known & set(labels) == buttons
