"""What an agent tells of itself, who may read it, and a real Prometheus that alerts on it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import ssl
from pathlib import Path

import aiohttp
import pytest
from agent_program import AgentProgram
from eventually import eventually
from fake_coordinator import FakeCoordinator
from prometheus_client.parser import text_string_to_metric_families
from receivers import otlp, server_for
from running import free_port

from formation.model import Assignment, InstanceState, ProcessType, Release, Slot
from formation_agent.logs import Written
from formation_agent.metrics import OTHERS, TYPES_MAX, Sight, families
from formation_agent.stays import Happened

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "formation.rules.yml"
TOKEN = "sc4pe"


def values(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_however_many_types_there_are_the_labels_are_bounded_and_nothing_is_lost() -> None:
    kinds = [(f"app{n:04d}", "web") for n in range(2 * TYPES_MAX)]
    sight = Sight(
        host="a", connected=True, alone_s=0.0,
        states=[(kind, "healthy") for kind in kinds],
        happened={(kind, Happened.RESTARTED): 2 for kind in kinds},
        written={kind: Written(lines=3) for kind in kinds},
    )  # fmt: skip
    for family in families(sight):
        if "app" in (family.samples[0].labels if family.samples else {}):
            assert len(family.samples) == TYPES_MAX + 1
            others = [s.value for s in family.samples if s.labels["app"] == OTHERS]
            total = sum(sample.value for sample in family.samples)
            assert others == [total / 2]


async def scraped(address: str, scheme: str = "http", **options: object) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{scheme}://{address}/metrics", **options) as response,  # type: ignore[arg-type]
    ):
        return response.status, await response.text()


WEB = (("app", "shop"), ("type", "web"))


def crashing(log: str = "") -> Release:
    kind = ProcessType(name="web", command=f"sh -c 'echo {log}; exit 1'", ready_after_s=0.0)
    return Release(app="shop", number=1, types=(kind,), workdir="/")


def stay() -> Assignment:
    return Assignment(uid="u1", slot=Slot("shop", "web", 1), release=1)


async def test_an_agent_tells_what_happens_on_its_host_and_how_its_lines_are_shipped(
    tmp_path: Path,
) -> None:
    address = f"127.0.0.1:{free_port()}"
    async with FakeCoordinator(f"unix:{tmp_path / 'c.sock'}") as coordinator, otlp() as received:
        argv = (
            "--coordinator", coordinator.address, "--name", "b", "--metrics", address,
            "--log-to", f"otlp+http://{received.address}",
        )  # fmt: skip
        async with AgentProgram(tmp_path, *argv) as agent:
            await coordinator.assign(stay(), releases=[crashing("oh no")])
            await coordinator.sees("u1", InstanceState.BACKOFF, attempt=2)
            destination = (("destination", f"otlp+http://{received.address}/v1/logs"),)

            async def told() -> bool:
                status, text = await scraped(address)
                found = values(text)
                return (
                    status == 200
                    and found.get(("formation_agent_restarts_total", WEB), 0) >= 1
                    and found.get(("formation_agent_failures_total", WEB), 0) >= 2
                    and found.get(("formation_agent_log_lines_total", WEB), 0) >= 2
                    and found.get(("formation_agent_shipping_lines_total", destination), 0) >= 2
                )

            await eventually(told, deadline_s=20.0, what=f"it is all counted {agent.text}")
            found = values((await scraped(address))[1])
            assert found["formation_agent_connected", ()] == 1
            assert found["formation_agent_alone_seconds", ()] == 0
            assert found["formation_agent_shipping_up", destination] == 1
            assert found["process_open_fds", ()] > 0
            if os.geteuid() == 0:  # nobody else may look at what a keeper has open
                assert found["formation_agent_keeper_process_open_fds", ()] > 0
            assert found["formation_agent_keeper_process_start_time_seconds", ()] > 0
            assert b"oh no" in received.texts
            await coordinator.stop()

            async def alone() -> bool:
                found = values((await scraped(address))[1])
                return found["formation_agent_alone_seconds", ()] > 0

            await eventually(alone, what="it says that it is alone")


async def test_beyond_loopback_only_who_shows_the_token_reads_it_over_tls(tmp_path: Path) -> None:
    port = free_port()
    server_for("localhost", tmp_path / "tls")
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(f"{TOKEN}\n")
    flags = (
        "--metrics", f"0.0.0.0:{port}", "--metrics-token-file", str(token), "--metrics-cert",
        str(tmp_path / "tls" / "certificate.pem"), "--metrics-key", str(tmp_path / "tls/key.pem"),
    )  # fmt: skip
    trusted = ssl.create_default_context(cafile=str(tmp_path / "tls" / "certificate.pem"))
    async with FakeCoordinator(f"unix:{tmp_path / 'c.sock'}") as coordinator:
        argv = ("--coordinator", coordinator.address, "--name", "b", *flags)
        async with AgentProgram(tmp_path, *argv):
            await eventually(lambda: coordinator.hellos)
            for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": TOKEN}):
                found = await scraped(f"localhost:{port}", "https", ssl=trusted, headers=headers)
                assert found[0] == 401
            shown = {"Authorization": f"Bearer {TOKEN}"}
            found = await scraped(f"localhost:{port}", "https", ssl=trusted, headers=shown)
            assert found[0] == 200
            with pytest.raises(aiohttp.ClientError):
                await scraped(f"127.0.0.1:{port}", headers=shown)


async def test_no_page_in_a_browser_and_no_rubbish_gets_anything_on_loopback(
    tmp_path: Path,
) -> None:
    port = free_port()
    async with FakeCoordinator(f"unix:{tmp_path / 'c.sock'}") as coordinator:
        argv = ("--coordinator", coordinator.address, "--name", "b")
        async with AgentProgram(tmp_path, *argv, "--metrics", f"127.0.0.1:{port}") as agent:
            await eventually(lambda: coordinator.hellos)
            for head, said in (
                (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"HTTP/1.1 401 "),
                (b"GET /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 401 "),
                (b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 404 "),
                (b"POST /metrics HTTP/1.1\r\nHost: [::1]:1\r\n\r\n", b"HTTP/1.1 405 "),
                (b"\xff\x00\r\n\r\n", b"HTTP/1.1 401 "),
                (b"x" * 100_000, b""),
            ):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(head)
                try:
                    answer = await asyncio.wait_for(reader.read(), 20)
                except ConnectionError:
                    answer = b""
                assert answer.startswith(said)
                writer.close()
            assert (await scraped(f"127.0.0.1:{port}"))[0] == 200
            assert "Traceback" not in agent.text


async def test_a_port_that_is_taken_is_told_before_anything_runs(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    argv = ("--coordinator", f"unix:{tmp_path / 'c'}", "--name", "b")
    async with taken, AgentProgram(tmp_path, *argv, "--metrics", f"127.0.0.1:{port}") as agent:
        assert await agent.ended() == 2
        assert f"--metrics 127.0.0.1:{port}: " in agent.text


async def test_a_real_prometheus_reads_an_agent_and_alerts_when_lines_are_not_shipped(
    tmp_path: Path,
) -> None:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no Prometheus: apt install prometheus")
    address, url = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    (tmp_path / "rules.yml").write_text(re.sub(r"for: \w+", "for: 0s", RULES.read_text()))
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        "rule_files: [rules.yml]\n"
        "scrape_configs:\n"
        f"  - {{job_name: agent, static_configs: [{{targets: ['{address}']}}]}}\n"
    )
    async with FakeCoordinator(f"unix:{tmp_path / 'c.sock'}") as coordinator:
        argv = (
            "--coordinator", coordinator.address, "--name", "b", "--metrics", address,
            "--log-to", f"syslog+tcp://127.0.0.1:{free_port()}",
        )  # fmt: skip
        log = (tmp_path / "prometheus.log").open("wb")
        async with AgentProgram(tmp_path, *argv), aiohttp.ClientSession() as http:
            process = await asyncio.create_subprocess_exec(
                program, f"--config.file={tmp_path}/prometheus.yml",
                f"--web.listen-address={url}", f"--storage.tsdb.path={tmp_path}/data",
                stdout=log, stderr=log,
            )  # fmt: skip
            log.close()

            async def firing() -> bool:
                try:
                    async with http.get(f"http://{url}/api/v1/alerts") as response:
                        alerts = json.loads(await response.text())["data"]["alerts"]
                except (aiohttp.ClientError, json.JSONDecodeError):
                    return False
                names = {alert["labels"]["alertname"] for alert in alerts}
                assert "FormationAgentBrainRestarts" not in names
                return "FormationLogsNotShipped" in names

            try:
                await coordinator.assign(stay(), releases=[crashing("lost")])
                await eventually(firing, deadline_s=40.0, what="the alert fires")
            finally:
                process.terminate()
                await process.wait()
