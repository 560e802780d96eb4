"""The page with a large cluster in a real browser, beside a small one, and beside bare drawing.

    python bench/page.py [--hosts 1000] [--instances 100] [--rate 1000] [--seconds 10]
        [--picture FILE]

The page's own server, in a process of its own, on a world that is made up: so many hosts with so
many instances each, of which `rate` a second change their state, on random hosts. Chromium,
headless and without a GPU, shows it. The floor: the same page, the same rate, 10 hosts; and in the
same tab, the same number of squares drawn by a canvas and nothing else.

The server's time per browser: that of its process with eight more readers of the stream, less that
with one, divided by how many more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import random
import statistics
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import psutil
from msgspec import structs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "harness"))

from browser import Browser
from running import free_port
from worlds import app, host, release, stay

from formation.model import HostStatus, InstanceState
from formation.runtime import monotonic_s, new_id, now_ms
from formation.v1 import control_pb2 as pb
from formation_coordinator import views
from formation_coordinator.guard import Caller, Guard
from formation_coordinator.live import LiveWorld
from formation_coordinator.metrics import Metrics
from formation_coordinator.plan import Plan
from formation_coordinator.planning import view_to_pb
from formation_coordinator.store.memory import MemoryStore
from formation_coordinator.store.mirror import Mirror
from formation_coordinator.web import rules
from formation_coordinator.web.calls import Calls, _json
from formation_coordinator.web.logins import Logins
from formation_coordinator.web.mapping import Mapping
from formation_coordinator.web.server import Page
from formation_coordinator.world import World

TYPES = ("web", "worker", "api", "mail")
READERS = 8
TICK_S = 0.05
EVENTS_AHEAD_S = 3_600


# ---------------------------------------------------------------------------- the server's process


def made_up(hosts: int, instances: int) -> World:
    entries = []
    for number in range(hosts):
        first = number * instances
        stays = [stay(f"{TYPES[n % len(TYPES)]}.{first + n + 1}") for n in range(instances)]
        entries.append(host(f"host{number:04}", *stays, zone=f"z{number % 4}"))
    quantity = hosts * instances // len(TYPES)
    apps = app(dict.fromkeys(TYPES, quantity))
    releases = (release(*TYPES),)
    return World(
        revision=1,
        apps={"shop": apps},
        releases={("shop", 1): releases[0]},
        hosts={entry.name: entry for entry in entries},
    )


class FakeControl:
    """Of the control service what the page follows beside its map."""

    async def WatchEvents(self, request: Any, context: Any) -> AsyncIterator[pb.EventsResponse]:  # noqa: N802
        yield pb.EventsResponse()
        await asyncio.sleep(EVENTS_AHEAD_S)


async def churn(live: LiveWorld, rate: float) -> None:
    """For ever: some instances are not healthy any more, or again."""
    dice, names = random.Random(1), sorted(live.world.hosts)
    owed, last_s = 0.0, monotonic_s()
    while True:
        await asyncio.sleep(TICK_S)
        now_s = monotonic_s()
        # What a busy machine has missed is not made up for: what arrives is counted anyway.
        owed, last_s = owed + rate * min(now_s - last_s, 2 * TICK_S), now_s
        while owed >= 1:
            owed -= 1
            status = cast("HostStatus", live.world.hosts[dice.choice(names)].status)
            at = dice.randrange(len(status.instances))
            was = status.instances[at]
            well = was.state is InstanceState.HEALTHY
            state = InstanceState.STARTING if well else InstanceState.HEALTHY
            now = structs.replace(was, state=state)
            told = (*status.instances[:at], now, *status.instances[at + 1 :])
            live.publish(structs.replace(status, instances=told))


def serve(port: int, hosts: int, instances: int, rate: float, said: Any) -> None:
    async def pending(_: World) -> Plan:
        return Plan()

    async def run() -> None:
        live = LiveWorld(Mirror(MemoryStore(), []), monotonic_s)
        live.world = made_up(hosts, instances)
        secrets = iter(range(1 << 30))
        logins = Logins(clock=monotonic_s, new_secret=lambda: f"secret{next(secrets)}")
        guard = Guard(
            world=lambda: live.world, authorities=tuple, now_ms=now_ms, clock=monotonic_s,
            insecure=True,
        )  # fmt: skip
        mapping = Mapping(
            live=live, pending=pending, said=lambda: {"leader": "c1"}, clock=monotonic_s,
            now_ms=now_ms, new_id=new_id, replace_after_s=5.0,
        )  # fmt: skip
        page = Page(
            guard=guard,
            calls=Calls(guard, cast("Any", FakeControl())),
            logins=logins,
            hosts=rules.hosts_of(f"127.0.0.1:{port}", (), local=True),
            https=False,
            about=lambda: {"coordinator": "c1", "version": "bench", "warning": ""},
            mapping=mapping,
            detail=lambda _host, _slot: {},
            targets=lambda _app, _type: [],
            metrics=cast("Metrics", None),
            metrics_token="",
        )
        await page.serve("127.0.0.1", port, None)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(mapping.run())
            tasks.create_task(churn(live, rate))
            said.put([logins.ticket(Caller()) for _ in range(2)])
            await asyncio.Event().wait()

    asyncio.run(run())


# ---------------------------------------------------------------------------- who looks at it


class Site:
    def __init__(self, hosts: int, instances: int, rate: float) -> None:
        self.port = free_port()
        context = multiprocessing.get_context("spawn")
        said = context.Queue()
        self.process = context.Process(
            target=serve, args=(self.port, hosts, instances, rate, said), daemon=True
        )
        self.process.start()
        self.tickets = said.get(timeout=120)
        self.url = f"http://127.0.0.1:{self.port}/"

    def close(self) -> None:
        self.process.kill()
        self.process.join()

    async def cpu(self, seconds: float) -> float:
        """Of one core, over that time."""
        process = psutil.Process(self.process.pid)
        before = sum(process.cpu_times()[:2])
        await asyncio.sleep(seconds)
        return (sum(process.cpu_times()[:2]) - before) / seconds

    async def log_in(self, http: aiohttp.ClientSession) -> None:
        headers = {"Origin": self.url.rstrip("/")}
        async with http.post(
            f"{self.url}login", json={"ticket": self.tickets.pop()}, headers=headers
        ) as response:
            assert response.status == 200


async def read_on(http: aiohttp.ClientSession, site: Site) -> None:
    """As a browser does, without showing it."""
    async with http.get(f"{site.url}map/whole") as response:
        body = await response.read()
    length = int.from_bytes(body[:4], "little")
    head = json.loads(body[4 : 4 + length])
    async with http.get(f"{site.url}map/changes?after={head['id']}-{head['n']}") as response:
        async for _ in response.content.iter_any():
            pass


PAN = """new Promise((done) => {
  const { map } = document.documentElement.formation, gaps = [], until = performance.now() + 4000;
  map.frames.length = 0;
  map.zoom(3);
  let last = performance.now(), step = 0;
  const next = (now) => {
    gaps.push(now - last);
    last = now;
    map.pan(Math.sin(step / 20) * 12, Math.cos(step / 30) * 12);
    if (step++ % 40 === 0) map.zoom(step % 80 ? 1.3 : 1 / 1.3);
    if (now < until) requestAnimationFrame(next);
    else { map.fit(); done({ gaps: gaps.slice(2), paints: map.frames.slice(2) }); }
  };
  requestAnimationFrame(next);
})"""

WHOLE = """new Promise((done) => {
  const { map } = document.documentElement.formation;
  map.fit();
  map.frames.length = 0;
  let left = 40;
  const next = () => {
    map.ask({ all: true });
    left-- ? requestAnimationFrame(next) : done(map.frames.slice(1));
  };
  requestAnimationFrame(next);
})"""

# As many squares, by the canvas's own means, and nothing else.
BARE = """new Promise((done) => {
  const canvas = document.createElement('canvas');
  canvas.width = 1100; canvas.height = 560;
  document.body.append(canvas);
  const context = canvas.getContext('2d', { alpha: false }), took = [];
  const next = () => {
    const began = performance.now();
    for (let n = 0; n < %d; n++) {
      context.fillStyle = n %% 50 ? '#2a9d87' : '#d0312d';
      context.fillRect((n * 3) %% 1100, Math.floor((n * 3) / 1100) * 3, 2, 2);
    }
    context.getImageData(0, 0, 1, 1);
    took.push(performance.now() - began);
    took.length < 20 ? requestAnimationFrame(next) : (canvas.remove(), done(took.slice(2)));
  };
  requestAnimationFrame(next);
})"""


def spread(values: list[float]) -> str:
    values = sorted(values)
    return f"{statistics.median(values):.1f} / {values[int(len(values) * 0.99)]:.1f}"


async def measured(
    hosts: int, instances: int, rate: float, seconds: float, picture: Path | None = None
) -> dict[str, str]:
    found: dict[str, str] = {}
    site = Site(hosts, instances, rate)
    try:
        async with contextlib.AsyncExitStack() as stack:
            jar = aiohttp.CookieJar(unsafe=True)
            timeout = aiohttp.ClientTimeout(total=None)
            http = await stack.enter_async_context(
                aiohttp.ClientSession(cookie_jar=jar, timeout=timeout, auto_decompress=True)
            )
            await site.log_in(http)
            found |= await over_http(http, site)
            browser = await stack.enter_async_context(Browser())
            found |= await in_browser(browser, site, hosts * instances, seconds)
            if picture:
                await browser.look(dark=True, width=1360)
                await asyncio.sleep(2.0)
                await browser.picture(picture)
            await reading(http, site, found, seconds)
    finally:
        site.close()
    return found


async def over_http(http: aiohttp.ClientSession, site: Site) -> dict[str, str]:
    async with http.get(f"{site.url}map/whole") as response:
        body = await response.read()
        sent = int(response.headers.get("Content-Length", 0))
    return {"snapshot, KiB": f"{sent / 1024:.1f} ({len(body) / 1024:.0f} unpacked)"}


async def in_browser(browser: Browser, site: Site, squares: int, seconds: float) -> dict[str, str]:
    await browser.go(f"{site.url}#ticket={site.tickets.pop()}")
    await browser.until("document.documentElement.formation?.map.first > 0")
    first_ms = await browser.run("document.documentElement.formation.map.first")
    await browser.run("document.documentElement.formation.map.frames.length = 0")
    stream = "document.documentElement.formation.stream"
    count = f"[{stream}.updates, {stream}.bytes, performance.now(), {stream}.looks]"
    before = await browser.run(count)
    await asyncio.sleep(seconds)
    after = await browser.run(count)
    took_s = (after[2] - before[2]) / 1000
    live = await browser.run("document.documentElement.formation.map.frames")
    moving = await browser.run(PAN)
    whole = await browser.run(WHOLE)
    bare = await browser.run(BARE % squares)
    await browser.send("HeapProfiler.enable")
    await browser.send("HeapProfiler.collectGarbage")
    heap = await browser.send("Runtime.getHeapUsage")
    kept = heap["usedSize"] + heap.get("backingStorageSize", 0)
    return {
        "first full map, ms after opening": f"{first_ms:.0f}",
        "updates/s": f"{(after[0] - before[0]) / took_s:.1f}",
        "changed squares/s in them": f"{(after[3] - before[3]) / took_s:.0f}",
        "KiB/s of updates": f"{(after[1] - before[1]) / took_s / 1024:.1f}",
        "painting what changed, ms p50 / p99": spread(live) if live else "none",
        "painting all of it, ms p50 / p99": spread(whole),
        "painting while zoomed and moved, ms p50 / p99": spread(moving["paints"]),
        "between frames meanwhile, ms p50 / p99": spread(moving["gaps"]),
        "floor: as many bare squares, ms p50 / p99": spread(bare),
        "heap of the tab with its columns, MiB": f"{kept / (1 << 20):.1f}",
        "tab's process, MiB RSS": str(renderer_bytes(browser) >> 20),
    }


def renderer_bytes(browser: Browser) -> int:
    """The largest one's: there may be a spare."""
    found = psutil.Process(browser.pid).children(recursive=True)
    return max(p.memory_info().rss for p in found if "--type=renderer" in p.cmdline())


async def reading(
    http: aiohttp.ClientSession, site: Site, found: dict[str, str], seconds: float
) -> None:
    tasks = [asyncio.create_task(read_on(http, site))]
    await asyncio.sleep(1.0)
    one = await site.cpu(seconds)
    tasks += [asyncio.create_task(read_on(http, site)) for _ in range(READERS)]
    await asyncio.sleep(2.0)
    more = await site.cpu(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    found["server, % of a core, first reader"] = f"{100 * one:.1f}"
    found["server, % of a core, each one more"] = f"{100 * (more - one) / READERS:.2f}"
    found["server, MiB RSS"] = f"{psutil.Process(site.process.pid).memory_info().rss >> 20}"


def as_before(hosts: int, instances: int) -> str:
    """What the first message of WatchInstances as JSON has: what the page was sent before."""
    world = made_up(1, instances)
    [entry] = world.hosts.values()
    one = [_json(view_to_pb(view)) for view in views.host_instances(entry, world)]
    text = json.dumps(one).encode() * hosts
    return f"{len(text) >> 10:,} KiB ({len(zlib.compress(text, 1)) >> 10:,} if it were packed)"


async def main(given: argparse.Namespace) -> None:
    small = await measured(10, given.instances, given.rate, given.seconds)
    large = await measured(given.hosts, given.instances, given.rate, given.seconds, given.picture)
    names = f"10 × {given.instances}", f"{given.hosts:,} × {given.instances}"
    print(f"| {given.rate:g} changes/s | {names[0]} | {names[1]} |\n|---|---|---|")
    for name, value in large.items():
        print(f"| {name} | {small[name]} | {value} |")
    print("as JSON, one message of everything:", as_before(given.hosts, given.instances))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=1_000)
    parser.add_argument("--instances", type=int, default=100)
    parser.add_argument("--rate", type=float, default=1_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--picture", type=Path, help="where to put one of the large cluster")
    asyncio.run(main(parser.parse_args()))
