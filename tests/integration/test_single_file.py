"""The agent and formctl in one file, made of what is installed here (`make single` asks PyPI)."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from agent_program import AgentProgram
from eventually import eventually
from fake_coordinator import FakeCoordinator
from packaging.requirements import Requirement

from formation import __version__
from formation.model import Assignment, InstanceState, ProcessType, Release, Slot

ROOT = Path(__file__).parents[2]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
UID = f"single-{secrets.token_hex(4)}"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


makesingle, single_main = tool("makesingle"), tool("single_main")


def needed() -> set[str]:
    """The distributions that those that are asked for need, here."""
    found: set[str] = set()
    todo = [Requirement(text).name for text in makesingle.requirements()]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            for text in metadata.requires(name) or ():
                wanted = Requirement(text)
                if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                    todo.append(wanted.name)
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pip would fill it."""
    top = tmp_path_factory.mktemp("tree")
    for name in needed():
        for file in metadata.files(name) or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (top / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), top / file)
    for package in ("common/formation", "agent/formation_agent", "cli/formctl"):
        shutil.copytree(
            ROOT / package,
            top / Path(package).name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return top


@pytest.fixture(scope="module")
def single(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("single") / "formation-agent.pyz"
    makesingle.pack({HERE: tree}, path, level=1)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def said(cache: Path, *words: str | Path) -> str:
    """By a Python that knows nothing but its standard library."""
    env = {"FORMATION_UNPACK_DIR": str(cache), "PATH": os.defpath, "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-I", "-S", *words], env=env, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_it_is_three_programs_by_name_and_by_module(
    single: Path, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "formctl").symlink_to(single)
    assert said(cache, single, "--version") == f"formation-agent {__version__}\n"
    assert said(cache, tmp_path / "formctl", "--version") == f"formctl, version {__version__}\n"
    assert said(cache, single, "-m", "formctl", "--version").startswith("formctl")
    assert "formation-agent join" in said(cache, single, "join", "--help")
    assert len(list(cache.iterdir())) == 1, "unpacked once"


def test_what_holds_it_is_in_no_standard_descriptors_place(single: Path, cache: Path) -> None:
    script = (
        "import os, runpy, sys; os.close(0); sys.argv = sys.argv[1:] + ['--version'];"
        "import atexit; atexit.register(lambda: print(os.path.exists('/proc/self/fd/0')));"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    text = said(cache, "-c", script, single)
    assert text == f"formation-agent {__version__}\nFalse\n"


def test_another_python_is_told_so(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "formation-agent.pyz"
    (tmp_path / "none").mkdir()
    makesingle.pack({"3.1": tmp_path / "none"}, path)
    assert said(tmp_path / "cache", path) == (
        f"formation-agent.pyz: made for Python 3.1; this is {HERE}\n"
    )


def test_a_cluster_of_its_own_takes_more_than_is_in_there(single: Path, cache: Path) -> None:
    text = said(cache, single, "-m", "formctl", "dev", ROOT / "examples" / "hello")
    assert "formctl dev takes a coordinator, which is not in this file" in text


async def test_a_running_agent_becomes_the_file_that_replaced_it(
    single: Path, tree: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORMATION_UNPACK_DIR", str(cache))
    path = tmp_path / "formation-agent"
    shutil.copy(single, path)
    type_ = ProcessType(name="web", command="sleep 1000", stop_grace_s=1.0, ready_after_s=0.0)
    release = Release(app="shop", number=1, types=(type_,), workdir="/")
    stay = Assignment(uid=UID, slot=Slot("shop", "web", 1), release=1)
    async with (
        FakeCoordinator(f"unix:{tmp_path / 'c.sock'}") as coordinator,
        AgentProgram(
            tmp_path, "--coordinator", coordinator.address, "--name", "b", program=path
        ) as agent,
    ):
        await coordinator.assign(stay, releases=[release])
        before = await coordinator.sees(UID, InstanceState.HEALTHY)
        old = await agent.brain()
        (tree / "formation" / "next_version.py").write_text("")
        makesingle.pack({HERE: tree}, tmp_path / "next", level=1)
        (tmp_path / "next").rename(path)
        text = said(cache, path, "reexec", "--state-dir", agent.state_dir)
        assert f"process {agent.pid} is the new program" in text, text + agent.text
        brain = await agent.brain()
        assert brain.pid != old.pid
        maps = Path(f"/proc/{brain.pid}/maps").read_text()
        newest = max(cache.iterdir(), key=lambda place: place.stat().st_mtime)
        assert (newest / "formation" / "next_version.py").exists()
        assert f"{newest}/grpc/" in maps
        await eventually(lambda: len(coordinator.hellos) == 2)
        after = await coordinator.sees(UID, InstanceState.HEALTHY)
        assert after.pid == before.pid


# -- the cache -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "uid", "expected"),
    [
        ({}, 0, "/var/cache/formation"),
        ({}, 7, "/home/ann/.cache/formation"),
        ({"XDG_CACHE_HOME": "/c"}, 7, "/c/formation"),
        ({"FORMATION_UNPACK_DIR": "/u"}, 0, "/u"),
    ],
)
def test_where_it_unpacks(environ: dict[str, str], uid: int, expected: str) -> None:
    assert single_main.cache(environ, uid, "/home/ann") == expected


def test_where_others_could_write_nothing_is_unpacked(single: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert said(tmp_path, single, "--version") == (
        f"formation-agent.pyz: cannot unpack into {tmp_path}: others could write there; "
        "FORMATION_UNPACK_DIR says where\n"
    )


def test_old_ones_go_when_nobody_runs_from_them(tmp_path: Path) -> None:
    for age, name in enumerate(("used", "older", "old", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "in-use").touch()
        os.utime(tmp_path / name, (age, age))
    (tmp_path / ".new").mkdir()
    with (tmp_path / "used" / "in-use").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        single_main._forget_old(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"used", "old", "new", ".new"}
