"""Metrics: what they say, who may read them, and a real Prometheus that reads them and alerts."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from eventually import eventually
from hollow_agent import HollowAgent
from prometheus_client.parser import text_string_to_metric_families
from running import RunningCoordinator, coordinator, free_port
from worlds import app, process_type, release

from formation.model import InstanceState
from formation.v1 import control_pb2, types_pb2
from formation_coordinator.metrics import OTHERS, TYPES_MAX, Sight, families
from formation_coordinator.plan import Plan
from formation_coordinator.store.memory import MemoryStore
from formation_coordinator.world import World

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "m3trics-token"
RULES = ROOT / "deploy" / "prometheus" / "formation.rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "formation.json"
PAGE = ROOT / "docs" / "metrics.md"


def sight(of: World, **fields: Any) -> Sight:
    plain = Sight(
        world=of, now_s=0.0, replace_after_s=5.0, leads=True, store_connected=True, sessions=0,
        plan=Plan(), certificate_expires_s=7.0,
    )  # fmt: skip
    return replace(plain, **fields)


def samples(found: Sight) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in families(found)
        for sample in family.samples
    }


def names(text: str) -> set[str]:
    found = set(re.findall(r"formation_[a-z_]+", text))
    return found - {"formation_calls"}


def test_every_metric_is_on_the_page_and_every_other_one_is_none() -> None:
    told = {family.name for family in families(sight(World()))} | {"formation_calls_total"}
    listed = set(re.findall(r"^\| `(formation_\w+)`", PAGE.read_text(), re.MULTILINE))
    assert listed == told
    assert names(DASHBOARD.read_text()) <= told
    assert names(RULES.read_text()) <= told


def test_however_many_types_there_are_the_labels_are_bounded() -> None:
    many = 2 * TYPES_MAX
    apps = {f"app{n:04d}": app({"web": 2}, name=f"app{n:04d}") for n in range(many)}
    releases = {(name, 1): release(process_type("web"), name=name) for name in apps}
    found = samples(sight(World(apps=apps, releases=releases)))
    wanted = {key: value for key, value in found.items() if key[0] == "formation_instances_wanted"}
    assert len(wanted) == TYPES_MAX + 1
    assert wanted["formation_instances_wanted", (OTHERS, OTHERS)] == 2 * (many - TYPES_MAX)


def test_who_does_not_lead_says_nothing_of_what_only_a_leader_knows() -> None:
    assert ("formation_brake", ()) not in samples(sight(World(), plan=None))
    assert samples(sight(World(), plan=Plan(brake=True)))["formation_brake", ()] == 1
    assert ("formation_certificate_expires_timestamp_seconds", ()) not in samples(
        sight(World(), certificate_expires_s=0.0)
    )


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[RunningCoordinator, str]]:
    port = free_port()
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(f"{TOKEN}\n")
    settings: dict[str, Any] = {
        "http": f"127.0.0.1:{port}",
        "metrics_token_file": str(token),
    }
    async with coordinator(MemoryStore(), tmp_path, **settings) as running:
        yield running, f"127.0.0.1:{port}"


async def scraped(address: str, **headers: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://{address}/metrics", headers=headers) as response,
    ):
        return response.status, await response.text()


async def crashing(running: RunningCoordinator, agent: HollowAgent) -> None:
    spec = types_pb2.ProcessType(name="web", command="true", initial_quantity=2)
    await running.control.Apply(control_pb2.ApplyRequest(app="shop", types=[spec]))
    await eventually(lambda: len(agent.running) == 2)
    agent.tell(min(agent.running), state=InstanceState.BACKOFF, crash_looping=True)


async def test_who_shows_the_token_is_told_and_nobody_else(
    served: tuple[RunningCoordinator, str],
) -> None:
    running, address = served
    async with HollowAgent(running.address, "a") as agent:
        await crashing(running, agent)
        for headers in ({}, {"Authorization": "Bearer guess"}, {"Authorization": TOKEN}):
            assert (await scraped(address, **headers))[0] == 401

        async def value(name: str, labels: Mapping[str, str]) -> float:
            status, text = await scraped(address, Authorization=f"Bearer {TOKEN}")
            assert status == 200
            return next(
                (
                    sample.value
                    for family in text_string_to_metric_families(text)
                    for sample in family.samples
                    if sample.name == name and labels.items() <= sample.labels.items()
                ),
                -1.0,
            )

        web = {"app": "shop", "type": "web"}

        async def counted() -> bool:
            return await value("formation_crash_looping", web) == 1

        await eventually(counted)
        assert await value("formation_instances_wanted", web) == 2
        assert await value("formation_instances_healthy", web) == 1
        assert await value("formation_instances", {**web, "state": "backoff"}) == 1
        assert await value("formation_hosts", {"state": "ready"}) == 1
        assert await value("formation_calls_total", {"method": "Apply", "code": "OK"}) == 1
        with pytest.raises(grpc.aio.AioRpcError):
            await running.control.Scale(control_pb2.ScaleRequest(app="blog"))
        assert await value("formation_calls_total", {"method": "Scale", "code": "NOT_FOUND"}) == 1
        assert await value("process_open_fds", {}) > 0


def prometheus() -> str:
    found = shutil.which("prometheus")
    if found is None:
        pytest.skip("no Prometheus: apt install prometheus")
    return found


def test_the_alerts_are_such_as_prometheus_takes() -> None:
    prometheus()
    checked = subprocess.run(
        ["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


async def test_a_real_prometheus_reads_them_and_the_alerts_fire(
    served: tuple[RunningCoordinator, str], tmp_path: Path
) -> None:
    program, (running, address) = prometheus(), served
    # As they are, but at once.
    (tmp_path / "rules.yml").write_text(re.sub(r"for: \w+", "for: 0s", RULES.read_text()))
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        "rule_files: [rules.yml]\n"
        "scrape_configs:\n"
        "  - job_name: formation\n"
        f"    authorization: {{credentials: {TOKEN}}}\n"
        f"    static_configs: [{{targets: ['{address}']}}]\n"
    )
    url = f"127.0.0.1:{free_port()}"
    log = (tmp_path / "prometheus.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        program, f"--config.file={tmp_path}/prometheus.yml", f"--web.listen-address={url}",
        f"--storage.tsdb.path={tmp_path}/data", stdout=log, stderr=log,
    )  # fmt: skip
    log.close()
    try:
        async with (
            HollowAgent(running.address, "a") as agent,
            aiohttp.ClientSession() as http,
        ):
            await crashing(running, agent)

            async def firing() -> set[str]:
                try:
                    async with http.get(f"http://{url}/api/v1/alerts") as response:
                        found = json.loads(await response.text())["data"]["alerts"]
                except (aiohttp.ClientError, json.JSONDecodeError):
                    return set()
                return {alert["labels"]["alertname"] for alert in found}

            async def told() -> bool:
                return {"FormationCrashLooping", "FormationInstancesMissing"} <= await firing()

            await eventually(told, deadline_s=40.0, what="the alerts fire")
            # And no other: all else is well, but for what Prometheus saw before it began.
            only = {"FormationCrashLooping", "FormationInstancesMissing"}

            async def settled() -> bool:
                return await firing() == only

            await eventually(settled, deadline_s=20.0, what="nothing else fires")
    finally:
        process.terminate()
        await process.wait()
