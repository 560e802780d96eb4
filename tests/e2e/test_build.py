"""Code that is built on the hosts before it runs: real programs, three agents."""

from __future__ import annotations

import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster import Cluster

MANIFEST = """\
app = "hello"
build = "sh build.sh"
build_timeout = "20s"
[env]
NAME = "first"
[types.web]
command = "python3 web.py"
quantity = 3
ready.http = "/"
placement.spread = "host"
rollout = { healthy = "200ms", deadline = "6s" }
"""
# What a package manager would do: a directory beside the code that is not in the artifact.
BUILD = """\
echo "makes vendor in $PWD for $FORMATION_APP"
mkdir vendor
echo "TEXT = '$NAME'" > vendor/words.py
date +%s%N > vendor/when
"""
WEB = """\
import http.server, os, sys
sys.path.insert(0, "vendor")
import words
WHEN = open("vendor/when").read().strip()
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"VERSION {words.TEXT} {WHEN}".encode())
    def log_message(self, *_):
        pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page).serve_forever()
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        yield made


def project(cluster: Cluster, **files: str) -> Path:
    found = {"formation.toml": MANIFEST, "build.sh": BUILD, "web.py": WEB, **files}
    return cluster.app(found, "hello")


def said(cluster: Cluster) -> dict[str, list[str]]:
    """By host: version, what was built in, and when."""
    return {row["host"]: answer(row).split() for row in cluster.healthy().values()}


def answer(row: dict[str, Any]) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{row['port']}/", timeout=5) as found:
        text: str = found.read().decode()
    return text


def test_each_host_builds_once_and_again_only_for_what_makes_a_difference(
    cluster: Cluster,
) -> None:
    cluster.start_and_wait(3)
    app = project(cluster)
    first = cluster.formctl("deploy", cwd=app).stdout
    assert "build: sh build.sh" in first
    before = said(cluster)
    assert set(before) == {"h1", "h2", "h3"}
    assert len({when for _, _, when in before.values()}) == 3
    logs = cluster.formctl("logs", "build", "--app", "hello").stdout
    assert logs.count("makes vendor in ") == 3
    assert "builds v1: sh build.sh" in logs

    # Another release of the same code, with other settings of types: the same build.
    change(app / "formation.toml", "quantity = 3", 'quantity = 3\nenv.A = "1"')
    assert "hello v2" in cluster.formctl("apply", cwd=app).stdout
    assert said(cluster) == before
    # What it can see is another: another build, of the same artifact.
    cluster.formctl("config", "set", "--app", "hello", "NAME=second")
    after = said(cluster)
    assert {name for _, name, _ in after.values()} == {"second"}
    assert all(after[host][2] > before[host][2] for host in before)
    # Back: it is still there.
    cluster.formctl("config", "unset", "--app", "hello", "NAME")
    assert said(cluster) == before
    # Other code: built anew.
    change(app / "web.py", "VERSION", "VERSION2")
    cluster.formctl("deploy", cwd=app)
    assert {version for version, _, _ in said(cluster).values()} == {"VERSION2"}
    assert cluster.formctl("logs", "build", "--app", "hello").stdout.count("makes vendor") == 9


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_a_build_that_fails_leaves_the_old_release_running_and_is_taken_back(
    cluster: Cluster,
) -> None:
    cluster.start_and_wait(3)
    app = project(cluster)
    cluster.formctl("deploy", cwd=app)
    before = said(cluster)
    change(app / "build.sh", "mkdir vendor", "echo no such package: left-pad >&2; exit 3")
    # It is the build that takes it back, and no deadline.
    change(app / "formation.toml", '"6s"', '"10min"')
    cluster.formctl("deploy", "--no-wait", cwd=app)
    reason = "its build failed: exit 3: no such package: left-pad"
    cluster.wait(lambda: [row for row in cluster.ps() if reason in row["reason"]])
    assert said(cluster) == before
    cluster.wait(lambda: cluster.json("rollout", "--app", "hello")["undone"] == 2)
    assert reason in cluster.json("rollout", "--app", "hello")["reason"]
    cluster.wait(lambda: len(cluster.ps()) == 3)
    assert said(cluster) == before


def test_a_build_that_fails_before_a_release_command_ends_the_wait(cluster: Cluster) -> None:
    """The command has an hour; what it waits for will never come."""
    cluster.start_and_wait(3)
    app = project(cluster)
    change(app / "formation.toml", "[types.web]", '[release]\ncommand = "true"\n[types.web]')
    cluster.formctl("deploy", cwd=app)
    before = said(cluster)
    change(app / "build.sh", "mkdir vendor", "echo no such package: left-pad >&2; exit 3")
    done = cluster.formctl("deploy", cwd=app, check=False)
    assert done.returncode == 1
    assert "v2 was taken back: release.2 failed on " in done.stderr
    assert "its build failed: exit 3: no such package: left-pad" in done.stderr
    assert said(cluster) == before


@pytest.mark.parametrize("killed", ["agent", "brain"])
def test_who_is_killed_in_the_middle_of_a_build_builds_anew(cluster: Cluster, killed: str) -> None:
    cluster.start_and_wait(1)
    # The first one never ends, and leaves a mark outside that it was there.
    mark = cluster.directory / "mark"
    waits = f"test -e {mark} || {{ touch {mark} half; exec sleep 4320; }}\n"
    app = project(cluster, **{"build.sh": waits + BUILD + "test ! -e half\n"})
    cluster.formctl("deploy", "--no-wait", cwd=app)
    cluster.wait(mark.exists)
    if killed == "agent":
        cluster.kill("h1", signal.SIGKILL)
        cluster.start_agent("h1")
    else:
        os.kill(cluster.brain_of("h1"), signal.SIGKILL)
    cluster.wait(lambda: len(cluster.healthy()) == 3)
    assert not [p for p in psutil.process_iter(["cmdline"]) if "4320" in (p.info["cmdline"] or [])]
    trees = os.listdir(cluster.directory / "state-h1-releases" / "hello")
    assert len([name for name in trees if not name.startswith(".")]) == 1
