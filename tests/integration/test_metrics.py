"""Metrics: what they say, who may read them, and a real Prometheus that reads them and alerts."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
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

from formation import wire
from formation.automation import Autoscale, Delivery, Measure, MeasureKind
from formation.model import InstanceState
from formation.requests import ChangeKind, QuantityChange
from formation.v1 import control_pb2, types_pb2
from formation_agent import metrics as agent_metrics
from formation_coordinator.autoscale import Reading
from formation_coordinator.metrics import OTHERS, TYPES_MAX, Sight, families
from formation_coordinator.metrics_automation import AutomationSight
from formation_coordinator.plan import Plan
from formation_coordinator.store.base import Health
from formation_coordinator.store.memory import MemoryStore
from formation_coordinator.world import World

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "m3trics-token"
RULES = ROOT / "deploy" / "prometheus" / "formation.rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "formation.json"
PAGE = ROOT / "docs" / "metrics.md"


def sight(of: World, **fields: Any) -> Sight:
    plain = Sight(
        world=of, now_s=0.0, replace_after_s=5.0, leads=True, store_connected=True,
        store=Health(), sessions=0, plan=Plan(), certificate_expires_s=7.0,
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
    told = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in (
            *families(sight(World())),
            *agent_metrics.families(agent_metrics.Sight(host="a", connected=True, alone_s=0)),
        )
    } | {"formation_calls_total"}
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


def test_what_autoscaling_measures_and_webhooks_wait_for_is_told() -> None:
    cpu = Measure(kind=MeasureKind.CPU, target=50)
    queue = Measure(kind=MeasureKind.METRIC, target=10, url="http://q/")
    rule = Autoscale(app="shop", type="web", minimum=2, maximum=9, measures=(cpu, queue))
    key = ("shop", "web")
    found = samples(
        sight(
            World(),
            automation=AutomationSight(
                rules={key: rule},
                quantities={key: 4},
                readings={
                    key: (
                        Reading(measure=cpu, values=(50.0, 100.0)),
                        Reading(measure=queue, values=(20.0,)),
                    ),
                    ("shop", "worker"): (Reading(measure=queue, problem="status 500"),),
                },
                changes={("shop", "web", "up"): 3},
                deliveries={"ops": Delivery(name="ops", delivered=5, failed=4, dropped=3)},
            ),
        )
    )
    told = {k: v for k, v in found.items() if "autoscale" in k[0] or "webhook" in k[0]}
    assert told == {
        ("formation_autoscale_min", key): 2,
        ("formation_autoscale_max", key): 9,
        ("formation_autoscale_ratio", (*key, "cpu")): 1.5,
        ("formation_autoscale_ratio", (*key, "metric")): 0.5,
        ("formation_autoscale_unknown", key): 0,
        ("formation_autoscale_unknown", ("shop", "worker")): 1,
        ("formation_autoscale_changes_total", (*key, "up")): 3,
        ("formation_webhook_waiting", ("ops",)): 0,
        ("formation_webhook_delivered_total", ("ops",)): 5,
        ("formation_webhook_failures_total", ("ops",)): 4,
        ("formation_webhook_dropped_total", ("ops",)): 3,
    }


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


async def discovered(address: str, path: str, **headers: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://{address}/sd{path}", headers=headers) as response,
    ):
        return response.status, await response.json()


async def test_what_runs_is_discovered_by_who_shows_the_token_and_nobody_else(
    served: tuple[RunningCoordinator, str],
) -> None:
    running, address = served
    async with HollowAgent(running.address, "a", reached_at="10.0.0.1") as agent:
        await crashing(running, agent)
        for headers in ({}, {"Authorization": "Bearer guess"}):
            assert (await discovered(address, "/shop", **headers))[0] == 401
        token = {"Authorization": f"Bearer {TOKEN}"}
        first, second = sorted(agent.running)
        agent.tell(first, state=InstanceState.HEALTHY, pid=7, port=20001)
        agent.tell(second, state=InstanceState.UNREADY, pid=8, port=20002)

        async def both() -> Any:
            status, found = await discovered(address, "/shop/web", **token)
            assert status == 200
            return found if len(found) == 2 else None

        found = await eventually(both)
        assert found[0]["targets"] == ["10.0.0.1:20001"]
        assert found[0]["labels"] == {
            "formation_app": "shop", "formation_type": "web", "formation_instance": "web.1",
            "formation_host": "a", "formation_release": "v1", "__meta_formation_state": "healthy",
        }  # fmt: skip
        assert found[1]["labels"]["__meta_formation_state"] == "unready"
        for path in ("", "/shop"):
            assert await discovered(address, path, **token) == (200, found)
        for path in ("/blog", "/shop/worker"):
            assert await discovered(address, path, **token) == (200, [])
        assert (await discovered(address, "/shop/web/1", **token))[0] == 404


def prometheus() -> str:
    found = shutil.which("prometheus")
    if found is None:
        pytest.skip("no Prometheus: apt install prometheus")
    return found


@asynccontextmanager
async def program_of(program: str, directory: Path, url: str) -> AsyncIterator[None]:
    """Prometheus with the `prometheus.yml` of this directory."""
    with (directory / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program, f"--config.file={directory}/prometheus.yml", f"--web.listen-address={url}",
            f"--storage.tsdb.path={directory}/data", stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


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
    async with (
        program_of(program, tmp_path, url),
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


async def test_a_real_prometheus_discovers_what_runs_and_scrapes_it(
    served: tuple[RunningCoordinator, str], tmp_path: Path
) -> None:
    program, (running, address) = prometheus(), served
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n"
        "  - job_name: shop\n"
        f"    authorization: {{credentials: {TOKEN}}}\n"
        "    http_sd_configs:\n"
        f"      - url: http://{address}/sd/shop\n"
        # Debian's 2.42 sends no type here that was left out.
        f"        authorization: {{type: Bearer, credentials: {TOKEN}}}\n"
        "        refresh_interval: 1s\n"
        "    relabel_configs:\n"
        "      - {source_labels: [__meta_formation_state], regex: healthy, action: keep}\n"
    )
    url = f"127.0.0.1:{free_port()}"
    async with (
        program_of(program, tmp_path, url),
        HollowAgent(running.address, "a", reached_at="127.0.0.1") as agent,
        aiohttp.ClientSession() as http,
    ):
        await crashing(running, agent)
        first, second = sorted(agent.running)
        # What listens there is the coordinator's page itself, which has metrics to be scraped.
        port = int(address.rpartition(":")[2])
        agent.tell(first, state=InstanceState.HEALTHY, pid=7, port=port)
        agent.tell(second, state=InstanceState.STARTING, pid=8, port=port + 1)

        async def targets() -> list[dict[str, Any]]:
            try:
                async with http.get(f"http://{url}/api/v1/targets") as response:
                    found = json.loads(await response.text())
            except (aiohttp.ClientError, json.JSONDecodeError):
                return []
            active: list[dict[str, Any]] = found["data"]["activeTargets"]
            return active

        async def scraped_one() -> bool:
            found = await targets()
            return [item["health"] for item in found] == ["up"]

        await eventually(scraped_one, deadline_s=40.0, what="web.1 is discovered and scraped")
        (found,) = await targets()
        assert found["labels"] == {
            "instance": f"127.0.0.1:{port}", "job": "shop", "formation_app": "shop",
            "formation_type": "web", "formation_instance": "web.1", "formation_host": "a",
            "formation_release": "v1",
        }  # fmt: skip
        nothing = wire.quantity_change_to_pb(
            QuantityChange(type="web", kind=ChangeKind.SET, quantity=0)
        )
        await running.control.Scale(control_pb2.ScaleRequest(app="shop", changes=[nothing]))

        async def gone() -> bool:
            return not await targets()

        await eventually(gone, deadline_s=40.0, what="no target is left")
