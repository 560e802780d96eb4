"""What users behind a load balancer notice of changes: failed requests, latencies, delays.

    python bench/discovery.py [--seconds 12] [--rounds 10] [--json FILE]

Debian's HAProxy before an app on three agents, told by `formctl endpoints --watch`, with wrk as the
users; all on this machine. Needs haproxy and wrk. What is measured stands in docs/bench.md.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "harness"))
from balancer import HAPROXY, SERVER, Balancer
from cluster import BIN, Cluster

MANIFEST = """\
app = "shop"
[types.web]
command = "exec python3 -I server.py"
quantity = 3
ready.http = "/"
rollout.surge = "100%"
rollout.healthy = "500ms"
stop.drain = "{drain}"
stop.grace = "5s"
"""
_UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
Row = dict[str, Any]


def measured(port: int, seconds: int, action: Callable[[], object]) -> Row:
    """What wrk counts while it is done."""
    words = ["wrk", "-t1", "-c8", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}/"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as wrk:
        time.sleep(1.0)
        action()
        said = wrk.communicate(timeout=seconds + 60)[0]
    errors = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    late = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    requests = re.search(r"(\d+) requests in", said)
    assert late is not None, said
    assert requests is not None, said
    return {
        "requests": int(requests[1]),
        "errors": sum(map(int, errors.groups())) if errors else 0,
        "not_2xx": int(refused[1]) if refused else 0,
        "p99_ms": float(late[1]) * _UNITS_MS[late[2]],
    }


class Watch:
    """When `formctl ps --watch` says first that there are so many to send requests to."""

    def __init__(self, cluster: Cluster) -> None:
        environment = {**cluster.environment(), "FORMATION_COORDINATOR": cluster.coordinators["c1"]}
        words = [str(BIN / "formctl"), "ps", "--watch", "-o", "json"]
        self._process = subprocess.Popen(
            words, stdout=subprocess.PIPE, text=True, env=environment, cwd=cluster.directory
        )
        self.count, self.since_s = 0, 0.0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            count = sum(
                row["state"] == "healthy" and not row["surplus"] for row in json.loads(line)
            )
            if count != self.count:
                self.count, self.since_s = count, time.monotonic()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def delays(cluster: Cluster, balancer: Balancer, rounds: int) -> dict[str, list[float]]:
    """From when a person could see it until HAProxy goes by it, in seconds."""
    watch = Watch(cluster)
    found: dict[str, list[float]] = {"new": [], "gone": []}
    try:
        for _ in range(rounds):
            for kind, count in (("new", 4), ("gone", 3)):
                cluster.formctl("scale", "--no-wait", f"web={count}")
                ends_s = time.monotonic() + 60.0
                while watch.count != count or len(balancer.servers() or ()) != count:
                    assert time.monotonic() < ends_s, (kind, watch.count)
                    time.sleep(0.002)
                found[kind].append(max(0.0, time.monotonic() - watch.since_s))
            cluster.wait(lambda: len(cluster.ps()) == 3, what="the fourth has stopped")
    finally:
        watch.end()
    return found


def story(seconds: int, rounds: int, drain: str) -> dict[str, Any]:
    rows: dict[str, Row] = {}
    with Cluster() as cluster:
        cluster.start_coordinator("c1", "--replace-after", "2")
        for name in "abc":
            cluster.start_agent(name)
        cluster.wait_hosts(3)
        files = {"server.py": SERVER, ".env": "VERSION=one\n"}
        cluster.app({"formation.toml": MANIFEST.format(drain=drain), **files})
        cluster.formctl("apply", "shop")
        with Balancer(cluster) as balancer:

            def during(name: str, *words: str) -> None:
                action = (lambda: cluster.formctl(*words)) if words else (lambda: None)
                rows[name] = measured(balancer.port, seconds, action)
                print(f"{name}: {rows[name]}", flush=True)

            during("nothing happens")
            during("scale 3 → 6", "scale", "web=6")
            during("scale 6 → 3", "scale", "web=3")
            (cluster.directory / "shop" / ".env").write_text("VERSION=two\n")
            during("a release", "apply", "shop")
            during("a restart of all", "restart", "web")
            during("a host is drained", "drain", "a")
            cluster.formctl("uncordon", "a")
            told = delays(cluster, balancer, rounds) if rounds else {}
            rows["a host is lost"] = measured(balancer.port, seconds, lambda: cluster.kill("b"))
            print(f"a host is lost: {rows['a host is lost']}", flush=True)
    return {"drain": drain, "phases": rows, "delays_s": told}


def shown(result: dict[str, Any]) -> str:
    lines = [
        f"stop.drain = {result['drain']}",
        "| | requests | failed | p99, ms |",
        "|---|---|---|---|",
    ]
    for name, row in result["phases"].items():
        failed = row["errors"] + row["not_2xx"]
        lines.append(f"| {name} | {row['requests']:,} | {failed} | {row['p99_ms']:.1f} |")
    for kind, times in result["delays_s"].items():
        median, worst = statistics.median(times), max(times)
        lines.append(f"{kind}: median {median:.2f} s, worst of {len(times)} {worst:.2f} s")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=12, help="of each phase")
    parser.add_argument("--rounds", type=int, default=10, help="of a scale up and down")
    parser.add_argument("--drain", action="append", help="stop.drain; may be repeated")
    parser.add_argument("--json", metavar="FILE")
    words = parser.parse_args()
    for program in ("wrk", HAPROXY or "haproxy"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is needed: apt install {Path(program).name}")
    results = [story(words.seconds, words.rounds, drain) for drain in words.drain or ["3s", "0s"]]
    print("\n\n".join(map(shown, results)))
    if words.json:
        Path(words.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
