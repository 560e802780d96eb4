"""Pictures of the page for docs/screenshots, of a live cluster in Chromium.

    python tools/screenshots.py [--out docs/screenshots]

One coordinator on an in-memory store with a page; three real agents whose instances write logs,
and a crowd of hosts without processes, which say what hosts say.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "harness"))

import grpc  # noqa: E402  the harness comes first
from agent_program import AgentProgram  # noqa: E402
from browser import Browser  # noqa: E402
from eventually import eventually  # noqa: E402
from hollow_agent import HollowAgent  # noqa: E402
from running import RunningCoordinator, coordinator, free_port  # noqa: E402
from scene import beating  # noqa: E402

from formation.model import InstanceState  # noqa: E402
from formation.v1 import access_pb2, access_pb2_grpc, control_pb2, types_pb2  # noqa: E402
from formation_coordinator.store.memory import MemoryStore  # noqa: E402

WEB = """python3 -uc 'import time, itertools
for n in itertools.count(1):
    print("GET /cart/%d 200 %d ms" % (n * 7 % 90, n * 13 % 40)); time.sleep(0.4)
    if n == 12: raise SystemExit("cannot reach the database: connection refused")'"""
ZONES = ("east", "west", "north")
HOLLOW = 45


def a_type(name: str, command: str, quantity: int, **more: object) -> types_pb2.ProcessType:
    return types_pb2.ProcessType(name=name, command=command, initial_quantity=quantity, **more)  # type: ignore[arg-type]


class Stage:
    def __init__(self, running: RunningCoordinator, url: str, out: Path) -> None:
        self.running, self.url, self.out = running, url, out
        self.agents: list[HollowAgent] = []

    async def apply(self, app: str, *types: types_pb2.ProcessType, reason: str = "") -> None:
        await self.running.control.Apply(
            control_pb2.ApplyRequest(app=app, types=types, reason=reason, who="ann")
        )

    async def log_in(self, browser: Browser) -> None:
        options = [("grpc.default_authority", "localhost")]
        async with grpc.aio.insecure_channel(self.running.address, options) as channel:
            stub: access_pb2_grpc.AccessAsyncStub = access_pb2_grpc.AccessStub(channel)
            ticket = (await stub.CreateWebLogin(access_pb2.CreateWebLoginRequest())).ticket
        await browser.go(f"{self.url}#ticket={ticket}")
        await browser.until("!document.getElementById('main').hidden")

    async def shoot(
        self, browser: Browser, name: str, *, width: int = 1360, height: int = 900
    ) -> None:
        """Light and dark."""
        for dark in (False, True):
            await browser.look(dark=dark, width=width, height=height)
            await browser.run("new Promise((done) => setTimeout(done, 1200))")
            path = self.out / f"{name}{'-dark' if dark else ''}.png"
            await browser.picture(path)
            print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


async def settled(stage: Stage) -> None:
    async def all_there() -> bool:
        apps = (await stage.running.control.ListApps(control_pb2.ListAppsRequest())).apps
        return sum(a.wanted for a in apps) <= sum(a.healthy for a in apps) + 20

    await eventually(all_there, deadline_s=60, what="what is wanted runs")


def only(label: str, *, negated: bool = False) -> types_pb2.Where:
    patterns = () if negated else ("yes",)
    return types_pb2.Where(
        require=[types_pb2.Constraint(label=label, negated=negated, patterns=patterns)]
    )


REAL, CALM = only("real"), only("real", negated=True)
SLOW = types_pb2.RolloutRules(surge=types_pb2.Share(count=12), healthy_s=2.0, deadline_s=600)
INDEX = a_type("index", "index", 160, where=CALM)
API, API_NEW = (a_type("api", command, 420, where=CALM, rollout=SLOW) for command in ("v1", "v2"))


async def fill(stage: Stage, real: int) -> None:
    """Apps on all hosts, when all of them are there."""
    control = stage.running.control

    async def joined() -> bool:
        found = await control.ListHosts(control_pb2.ListHostsRequest())
        return len(found.hosts) == len(stage.agents) + real

    await eventually(joined, deadline_s=30, what="the agents join")
    steady = WEB.replace("if n == 12: raise", "if n == 0: raise")
    shop = a_type("web", steady, 9, where=REAL), a_type("flaky", WEB, 1, where=REAL)
    await stage.apply("shop", *shop)
    await stage.apply("search", API, INDEX)
    mail = a_type("out", "out", 240, where=CALM), a_type("in", "in", 90, where=CALM)
    await stage.apply("mail", *mail)
    await settled(stage)
    for number, agent in enumerate(stage.agents):
        for uid in sorted(agent.running)[: number % 2]:
            if number % 5 == 1:
                agent.tell(uid, state=InstanceState.STARTING)
            if number % 9 == 3:
                agent.tell(uid, state=InstanceState.UNREADY, reason="GET /health: 503")
    await control.SetHost(control_pb2.SetHostRequest(host="w04", cordoned=True))


CHOOSE = (
    "((select) => { select.value = '%s'; select.onchange(); })(document.getElementById('label'))"
)
OPEN_WHY = """document.querySelector('.ends details').open = true,
[...document.querySelectorAll('summary')].find((s) => s.textContent.startsWith('Why')).click()"""
SLIDE = """((when) => { when.value = '560'; when.dispatchEvent(new Event('input')); })
(document.getElementById('when'))"""


async def play(stage: Stage, browser: Browser) -> None:
    control = stage.running.control
    await stage.log_in(browser)
    await stage.shoot(browser, "map", height=1000)
    await browser.run(CHOOSE % "zone")
    await browser.press("Instances of shop/flaky")
    await browser.press("Open shop/flaky.1")
    await browser.press("Map")
    await browser.until("document.querySelectorAll('.ends > li').length > 0")
    await browser.run(OPEN_WHY)
    await stage.shoot(browser, "instance", height=1150)
    await browser.press("Close")
    await stage.apply("search", API_NEW, INDEX, reason="results by price")
    await browser.until("document.querySelector('.rollout progress')?.value > 90")
    pause = control_pb2.SteerRolloutRequest.ACTION_PAUSE
    await control.SteerRollout(control_pb2.SteerRolloutRequest(app="search", action=pause))
    await browser.run("document.getElementById('view-map').scrollIntoView(), scrollBy(0, 170)")
    await stage.shoot(browser, "rollout")
    for agent in stage.agents[20:24]:
        await agent.hang_up()
    await stage.apply("reports", a_type("nightly", "x", 6, where=only("gpu")))
    for name in ("hosts", "unplaced"):
        await browser.until(f"!!document.querySelector('[data-banner={name}]')")
    await browser.run("scrollTo(0, 0)")
    await stage.shoot(browser, "banner")
    await browser.run(SLIDE)
    await browser.until("document.body.classList.contains('past')")
    await stage.shoot(browser, "time")
    await browser.run(f"document.getElementById('live').click(), {CHOOSE % ''}")
    await stage.shoot(browser, "narrow", width=400)


async def join_real(stack: contextlib.AsyncExitStack, address: str, place: Path) -> None:
    for number, zone in enumerate(ZONES):
        (place / zone).mkdir()
        low = 20_000 + 1_000 * number
        words = ["--name", f"r{number + 1:02}", "--coordinator", address]
        words += ["--port-range", f"{low}-{low + 900}", "--label", "real=yes"]
        agent = AgentProgram(place / zone, *words, "--label", f"zone={zone}")
        await stack.enter_async_context(agent)


async def main(out: Path) -> None:
    port = free_port()
    page = f"127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="fmn-shots-") as directory:
        async with contextlib.AsyncExitStack() as stack:
            place = Path(directory)
            running = await stack.enter_async_context(
                coordinator(MemoryStore(), place, http=page, replace_after_s=20)
            )
            stage = Stage(running, f"http://{page}/", out)
            await join_real(stack, running.address, place)
            for number in range(HOLLOW):
                agent = HollowAgent(running.address, f"w{number + 1:02}")
                stage.agents.append(await stack.enter_async_context(agent))
                zone = {"zone": ZONES[number % len(ZONES)]}
                word = control_pb2.SetHostRequest(host=agent.host, labels=zone)
                await running.control.SetHost(word)
            await stack.enter_async_context(beating(*stage.agents))
            await fill(stage, len(ZONES))
            browser = await stack.enter_async_context(Browser())
            await play(stage, browser)
            assert not browser.said, browser.said


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "screenshots")
    asyncio.run(main(parser.parse_args().out))
