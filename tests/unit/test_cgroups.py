"""Where our cgroup is, from what the kernel tells; what is written into one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation_agent import cgroups

_ROOT = "23 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"
_PURE = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
_HYBRID_1 = "36 31 0:33 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
_HYBRID_2 = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"
_CONTAINER = "88 70 0:30 /docker/c1 /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw"
_OUTSIDE = "88 70 0:30 /.. /sys/fs/cgroup ro - cgroup2 cgroup rw"
_BLANKS = r"35 24 0:30 /a\040b /mnt/my\040c\134groups rw - cgroup2 cgroup2 rw"

_SERVICE = "/system.slice/formation-agent.service"
_V1 = "9:name=systemd:/\n4:memory:/user.slice\n"


@pytest.mark.parametrize(
    ("mounts", "membership", "found"),
    [
        pytest.param([_PURE], f"0::{_SERVICE}", [f"/sys/fs/cgroup{_SERVICE}"], id="pure v2"),
        pytest.param([_PURE], "0::/", ["/sys/fs/cgroup"], id="the root, or a namespace's"),
        pytest.param(
            [_HYBRID_1, _HYBRID_2],
            f"{_V1}0::/x.scope",
            ["/sys/fs/cgroup/unified/x.scope"],
            id="hybrid",
        ),
        pytest.param([_HYBRID_1], _V1, [], id="v1 alone"),
        pytest.param([_HYBRID_1], f"{_V1}0::/", [], id="v2 not mounted"),
        pytest.param([_PURE], _V1, [], id="mounted, and we are in none"),
        pytest.param([], "", [], id="nothing"),
        pytest.param([_CONTAINER], "0::/docker/c1", ["/sys/fs/cgroup"], id="a container's part"),
        pytest.param([_CONTAINER], "0::/docker/c1/a", ["/sys/fs/cgroup/a"], id="below that part"),
        pytest.param([_CONTAINER], "0::/docker/c11", [], id="another's part of a like name"),
        pytest.param([_CONTAINER], "0::/", [], id="above that part"),
        pytest.param([_PURE], "0::/../c2", [], id="outside of our namespace"),
        pytest.param([_OUTSIDE], "0::/", [], id="a mount from outside of our namespace"),
        pytest.param([_BLANKS], "0::/a b/c", [r"/mnt/my c\groups/c"], id="blanks"),
        pytest.param([_PURE], "0::/a:b c", ["/sys/fs/cgroup/a:b c"], id="a colon"),
        pytest.param(
            [_PURE, _CONTAINER],
            "0::/docker/c1",
            ["/sys/fs/cgroup", "/sys/fs/cgroup/docker/c1"],
            id="the later mount lies over the earlier",
        ),
        pytest.param(["", "garbage", "1 2 - cgroup2"], "0::/", [], id="lines that say nothing"),
    ],
)
def test_our_directory_is_found_from_mounts_and_membership(
    mounts: list[str], membership: str, found: list[str]
) -> None:
    text = "\n".join([_ROOT, *mounts]) + "\n"
    directories = cgroups.directories(text, membership + "\n")
    assert [directory for directory, _ in directories] == found
    assert {shown for _, shown in directories} <= {cgroups.own_path(membership)}


@given(st.text(max_size=40), st.text(max_size=40))
def test_every_key_has_a_directory_of_its_own(one: str, other: str) -> None:
    assert (cgroups.safe_name(one) == cgroups.safe_name(other)) == (one == other)


@given(st.text(min_size=1, max_size=40))
def test_no_key_is_a_path_or_a_file_of_the_kernels(key: str) -> None:
    name = cgroups.safe_name(key)
    assert "/" not in name
    assert name not in {".", ".."}
    assert not name.startswith(("cgroup.", "memory.", "pids.", "cpu."))
    assert name.isascii()


def test_a_usual_key_stays_readable() -> None:
    assert cgroups.safe_name("f3a9-17_b") == "f3a9-17_b"
    assert cgroups.safe_name("f3a9:1") == "f3a9%3a.1"


def _files(directory: Path, *names: str) -> str:
    for name in names:
        (directory / name).touch()
    return str(directory)


def test_limits_are_written_where_there_are_controllers(tmp_path: Path) -> None:
    path = _files(tmp_path, "cpu.max", "memory.max", "memory.swap.max", "memory.oom.group")
    problems = cgroups.limit(path, {"cpus": 1.5, "memory_bytes": 1 << 30, "pids": 100})
    assert problems == []
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "cpu.max": "150000 100000",
        "memory.max": str(1 << 30),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
    }


def test_what_is_not_limited_is_not_written(tmp_path: Path) -> None:
    path = _files(tmp_path, "cpu.max", "memory.max", "memory.oom.group", "pids.max")
    assert cgroups.limit(path, {"pids": 7}) == []
    written = {file.name: file.read_text() for file in tmp_path.iterdir() if file.read_text()}
    assert written == {"pids.max": "7"}


def test_the_smallest_share_of_a_cpu_is_what_the_kernel_takes(tmp_path: Path) -> None:
    path = _files(tmp_path, "cpu.max")
    assert cgroups.limit(path, {"cpus": 0.0001}) == []
    assert (tmp_path / "cpu.max").read_text() == "1000 100000"


def test_a_limit_that_the_kernel_refuses_is_said(tmp_path: Path) -> None:
    (tmp_path / "pids.max").mkdir()
    [problem] = cgroups.limit(str(tmp_path), {"pids": 7})
    assert problem == "cannot set pids.max to 7: Is a directory"


@pytest.mark.parametrize(
    ("content", "was"),
    [("low 0\noom 3\noom_kill 1\n", True), ("oom 3\noom_kill 0\n", False), ("", False)],
)
def test_out_of_memory_is_what_the_kernel_has_killed(
    tmp_path: Path, content: str, was: bool
) -> None:
    (tmp_path / "memory.events").write_text(content)
    assert cgroups.out_of_memory(str(tmp_path)) is was


def test_without_a_memory_controller_nothing_is_out_of_memory(tmp_path: Path) -> None:
    assert not cgroups.out_of_memory(str(tmp_path))


def test_a_cgroup_that_is_gone_is_empty(tmp_path: Path) -> None:
    assert not cgroups.is_populated(cgroups.events(str(tmp_path / "gone")))
    assert cgroups.kill_and_remove(str(tmp_path / "gone"), 0)
