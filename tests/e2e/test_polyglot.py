"""One app in four languages, deployed to three hosts: the real runtimes, each in its own way."""

from __future__ import annotations

import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "polyglot"
# By type: how to see that its runtime is there, what to install, what it says when it ends.
RUNTIMES = {
    "web": ("node --version", "nodejs", "stopping"),
    "api": ("test -f /usr/lib/apache2/modules/libphp*.so", "libapache2-mod-php",
            "caught SIGWINCH, shutting down gracefully"),
    "worker": ("ruby --version", "ruby", "stops after"),
    "clock": ("java --version", "openjdk-17-jdk-headless", "stopping"),
}  # fmt: skip
SAYS = {"web": "hello from web.{} on Node.js v", "api": '"from":"api.{}","on":"PHP '}


def missing() -> list[str]:
    return [
        package
        for check, package, _ in RUNTIMES.values()
        if subprocess.run(["sh", "-c", check], capture_output=True, check=False).returncode != 0
    ]


def answer(row: dict[str, Any]) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{row['port']}/", timeout=5) as response:
        text: str = response.read().decode()
    return text


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    if wanted := missing():
        pytest.skip(f"not on this machine: apt install {' '.join(wanted)}")
    with Cluster() as made:
        # Apache's children are another user, and what they serve lies below.
        made.directory.chmod(0o711)
        yield made


def test_one_formation_of_four_languages_on_three_hosts(cluster: Cluster) -> None:
    cluster.start_and_wait(3)
    app = cluster.directory / "work" / "polyglot"
    shutil.copytree(EXAMPLE, app)
    shown = cluster.formctl("deploy", cwd=app).stdout
    assert "web=3 api=1 worker=2 clock=1" in shown

    cluster.formctl("scale", "api=3", cwd=app)
    rows = cluster.healthy()
    assert sorted(rows) == [
        *(f"api.{n}" for n in (1, 2, 3)), "clock.1", *(f"web.{n}" for n in (1, 2, 3)),
        "worker.1", "worker.2",
    ]  # fmt: skip
    for name, text in SAYS.items():
        assert {rows[f"{name}.{n}"]["host"] for n in (1, 2, 3)} == {"h1", "h2", "h3"}
        for number in (1, 2, 3):
            assert text.format(number) in answer(rows[f"{name}.{number}"])
    cluster.wait(lambda: "did job" in cluster.formctl("logs", "worker", cwd=app).stdout)
    cluster.wait(lambda: "tick 1" in cluster.formctl("logs", "clock", cwd=app).stdout)

    # Each ends as it is used to, and says so itself.
    cluster.formctl("scale", "web=0", "api=0", "worker=0", "clock=0", cwd=app)
    assert cluster.ps() == []
    for name, (_, _, last_word) in RUNTIMES.items():
        assert last_word in cluster.formctl("logs", name, "--tail", "all", cwd=app).stdout
