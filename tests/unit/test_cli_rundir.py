"""The run directory of `formctl dev`: one holder, nobody else's, and nothing stale in the way."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from formation.devclusters import DevCluster, running_clusters
from formctl.dev import rundir
from formctl.errors import CommandError, InputError


@pytest.fixture
def base() -> Iterator[str]:
    """Short: sockets go below it, and pytest's own paths are long."""
    with tempfile.TemporaryDirectory(prefix="fc-") as short:
        yield os.path.join(short, "formation", "dev")


@pytest.fixture
def project(tmp_path: Path) -> str:
    (tmp_path / "shop").mkdir()
    return str(tmp_path / "shop")


def test_a_held_directory_is_private_and_gone_afterwards(base: str, project: str) -> None:
    run = rundir.acquire(project, base)
    assert stat.S_IMODE(os.stat(run.path).st_mode) == 0o700
    assert len(run.socket) <= rundir.SOCKET_PATH_BYTES_MAX
    run.release()
    assert not os.path.exists(run.path)


def test_a_project_runs_once_and_again_when_it_has_ended(base: str, project: str) -> None:
    run = rundir.acquire(project, base)
    with pytest.raises(InputError, match=r"already runs for .*shop"):
        rundir.acquire(project + "/../shop", base)
    run.release()
    rundir.acquire(project, base).release()


def test_what_a_killed_holder_left_is_cleared(base: str, project: str) -> None:
    run = rundir.acquire(project, base)
    Path(run.path, "etcd").mkdir()
    Path(run.path, "etcd", "x").touch()
    os.close(run.lock_fd)  # as the kernel does it
    again = rundir.acquire(project, base)
    assert os.listdir(again.path) == ["lock"]
    again.release()


def test_stale_directories_of_other_projects_go_and_held_ones_stay(
    base: str, project: str, tmp_path: Path
) -> None:
    held = rundir.acquire(project, base)
    (tmp_path / "dead").mkdir()
    dead = rundir.acquire(str(tmp_path / "dead"), base)
    os.close(dead.lock_fd)
    assert rundir.remove_stale(base) == [dead.path]
    assert os.listdir(base) == [os.path.basename(held.path)]
    held.release()


def test_a_published_cluster_is_found_while_it_runs(base: str, project: str) -> None:
    cluster = DevCluster(project=project, app="shop", coordinator="unix:/x", started_at="now")
    assert running_clusters(base) == ()
    run = rundir.acquire(project, base)
    assert running_clusters(base) == ()
    run.publish(cluster)
    assert running_clusters(base) == (cluster,)
    run.release()
    assert running_clusters(base) == ()


def test_a_directory_that_others_may_write_is_refused(base: str, project: str) -> None:
    os.makedirs(base)
    os.chmod(base, 0o777)
    with pytest.raises(CommandError, match="not a directory of this user alone"):
        rundir.acquire(project, base)
    assert running_clusters(base) == ()


def test_a_link_in_place_of_the_directory_is_refused(
    base: str, project: str, tmp_path: Path
) -> None:
    os.makedirs(os.path.dirname(base))
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", base)
    with pytest.raises(CommandError, match="not a directory of this user alone"):
        rundir.acquire(project, base)


def test_a_path_that_sockets_cannot_have_is_refused(project: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="set XDG_RUNTIME_DIR"):
        rundir.acquire(project, str(tmp_path / ("x" * 90) / "dev"))


def test_daemons_that_work_in_a_directory_are_known_by_their_command(
    base: str, project: str
) -> None:
    run = rundir.acquire(project, base)
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, "formation_agent", f"unix:{run.socket}"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        assert list(rundir.processes_naming(run.path)) == [process.pid]
        assert rundir.remove_stale(base) == []
        process.stdin.close()
    assert rundir.processes_naming(run.path) == {}
    run.release()
