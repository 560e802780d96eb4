"""What a build may and what ends it: real programs on one host."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster import Cluster

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may run it as somebody else")
MANIFEST = """\
app = "shop"
build = "sh build.sh"
build_timeout = "{timeout}"
[types.web]
command = "sh web.sh"
{more}
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        yield made


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Where other users get to."""
    with tempfile.TemporaryDirectory(prefix="fmn-", dir="/var/lib") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def deploy(
    cluster: Cluster,
    build: str,
    web: str = "exec sleep 1000",
    *,
    more: str = "",
    timeout: str = "20s",
    words: tuple[str, ...] = (),
) -> Path:
    manifest = MANIFEST.format(timeout=timeout, more=more)
    app = cluster.app({"formation.toml": manifest, "build.sh": build, "web.sh": web})
    cluster.formctl("deploy", *words, cwd=app)
    return app


def start(cluster: Cluster, *flags: str) -> None:
    cluster.start_coordinator()
    cluster.start_agent("h1", *flags)
    cluster.wait_hosts(1)


def logs(cluster: Cluster, what: str) -> str:
    return cluster.formctl("logs", "--no-prefix", what, "--app", "shop").stdout


def waiting(cluster: Cluster, reason: str) -> dict[str, Any]:
    def seen() -> list[dict[str, Any]]:
        rows = cluster.ps()
        found = [row for row in rows if reason in row["reason"]]
        assert found, rows
        return found

    return cluster.wait(seen)[0]


# What it is, as `sh` can tell.
LOOK = """\
id -un
grep NoNewPrivs /proc/self/status
ps -o ni= -p $$
umask
env | grep PORT= && echo TOO MUCH
echo "$NAME" "$PS" "$FORMATION_APP" "$FORMATION_RELEASE" "$HOME"
test -d /tmp/fmn-seen || echo NOT SEEN
echo here > made; chmod 666 made; mkdir -m 777 place
"""
TRY = """\
cat made
touch made 2>&1 | head -1
touch place/new 2>&1 | head -1
touch new 2>&1 | head -1
exec sleep 1000
"""


@needs_root
@pytest.mark.root
def test_it_runs_as_the_user_under_the_same_guard_and_leaves_roots_files(
    open_directory: Path, cluster: Cluster
) -> None:
    releases = open_directory / "releases"
    seen = Path("/tmp/fmn-seen")
    seen.mkdir(exist_ok=True)
    try:
        start(
            cluster, "--release-dir", str(releases), "--private-tmp", "--read-only-system",
            "--allow-dir", "/srv",
        )  # fmt: skip
        more = 'user = "nobody"\nenv.NAME = "of the type"\n[env]\nNAME = "of the app"'
        deploy(cluster, LOOK, TRY, more=more)
    finally:
        seen.rmdir()
    said = logs(cluster, "build").splitlines()
    home = pwd.getpwnam("nobody").pw_dir
    expected = ["nobody", "NoNewPrivs:\t1", " 10", "0022", f"of the app build.1 shop  {home}"]
    assert [line for line in said if "[formation]" not in line] == [*expected, "NOT SEEN"]
    cluster.wait(lambda: logs(cluster, "web").count("\n") >= 4)
    first, *others = logs(cluster, "web").splitlines()
    assert first == "here"
    assert len(others) == 3
    # Read-only for the machine's owner, or not theirs: each was refused.
    assert all("touch: " in line for line in others)
    trees = [path for path in (releases / "shop").iterdir() if path.is_dir()]
    found = [path.lstat() for tree in trees for path in (tree, *tree.rglob("*"))]
    assert {(look.st_uid, look.st_mode & 0o022) for look in found} == {(0, 0)}


def test_what_it_leaves_running_is_ended_before_anything_is_started(cluster: Cluster) -> None:
    start(cluster)
    build = "sleep 4321 & setsid sleep 4321 &\necho begun"
    deploy(cluster, build)
    assert len(cluster.healthy()) == 1
    assert not sleeping("4321")
    assert "begun" in logs(cluster, "build")


def sleeping(seconds: str) -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if process.info["cmdline"] == ["sleep", seconds]]


def test_a_change_that_is_called_off_ends_what_builds_for_it(cluster: Cluster) -> None:
    start(cluster)
    deploy(cluster, "true")
    deploy(cluster, "trap '' TERM; setsid sleep 4323 & sleep 4323", words=("--no-wait",))
    cluster.wait(lambda: len(sleeping("4323")) == 2)
    waiting(cluster, "builds its code")
    cluster.formctl("rollout", "abort", "--app", "shop")
    cluster.wait(lambda: not sleeping("4323"))
    assert [row["release"] for row in cluster.healthy().values()] == [1]


def test_one_that_takes_too_long_is_ended_and_said_so(cluster: Cluster) -> None:
    start(cluster)
    deploy(cluster, "trap '' TERM; echo waits; sleep 4322", timeout="500ms", words=("--no-wait",))
    row = waiting(cluster, "its build failed: not done within 0.5 s (build_timeout): waits")
    assert row["state"] == "waiting"
    assert "tries again in" in row["reason"]


def test_a_program_that_is_not_there_is_named(cluster: Cluster) -> None:
    start(cluster)
    manifest = MANIFEST.format(timeout="9s", more="").replace("sh build.sh", "frobnicate")
    app = cluster.app({"formation.toml": manifest})
    lies_there = cluster.formctl("apply", "--no-wait", cwd=app)
    assert "nothing is built: the code lies on the hosts; use formctl deploy" in lies_there.stderr
    cluster.formctl("deploy", "--no-wait", cwd=app)
    waiting(cluster, "its build failed: command not found: frobnicate; tries again in")


@needs_root
@pytest.mark.root
def test_a_build_that_fills_the_disk_says_so_and_what_it_made_goes(cluster: Cluster) -> None:
    small = cluster.directory / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    try:
        start(cluster, "--release-dir", str(small / "releases"))
        deploy(cluster, "head -c 20M /dev/zero > weight", words=("--no-wait",))
        row = waiting(cluster, "its build failed: exit 1: ")
        assert "No space left on device" in row["reason"]
        assert f"; no room is left in {small}" in row["reason"]
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        cluster.wait(cluster.healthy)
    finally:
        cluster.kill("h1", signal.SIGTERM)
        subprocess.run(["umount", "-l", str(small)], check=True)
