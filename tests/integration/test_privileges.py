"""What a child may: nothing more than this machine's owner lets it have, seen from within it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from agent_program import AS_NOBODY, PROGRAM, AgentProgram, needs_nobody
from eventually import eventually
from running import RunningCoordinator, coordinator

from formation.model import InstanceState
from formation.v1 import control_pb2, types_pb2
from formation_coordinator.store.memory import MemoryStore

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may run it as somebody else")


@asynccontextmanager
async def host(
    tmp_path: Path, *rails: str
) -> AsyncIterator[tuple[RunningCoordinator, AgentProgram]]:
    async with (
        coordinator(MemoryStore(), tmp_path) as running,
        AgentProgram(
            tmp_path, "--name", "b", "--coordinator", running.address, rails=rails
        ) as agent,
    ):
        yield running, agent


async def apply(running: RunningCoordinator, command: str, workdir: Path) -> None:
    spec = types_pb2.ProcessType(name="job", command=command, restart="never")
    request = control_pb2.ApplyRequest(
        app="shop", types=[spec], formation={"job": 1}, workdir=str(workdir)
    )
    await running.control.Apply(request)


def reasons(running: RunningCoordinator) -> list[str]:
    entry = running.service.live.world.hosts.get("b")
    found = entry.status.instances if entry and entry.status else ()
    return [status.reason for status in found if status.reason]


async def written(path: Path, agent: AgentProgram) -> str:
    await eventually(lambda: path.exists() and path.read_text(), what=f"{path}\n{agent.text}")
    return path.read_text()


@pytest.fixture
def work() -> Iterator[Path]:
    """Where anybody may write; nobody but us may pass pytest's own directories."""
    with tempfile.TemporaryDirectory(prefix="fmn-") as made:
        Path(made).chmod(0o777)
        yield Path(made)


@pytest.mark.parametrize(
    ("rails", "no_new"), [((), "1"), (("--allow-new-privileges",), "0")], ids=["kept", "allowed"]
)
async def test_children_gain_no_privileges_and_have_no_lent_ones(
    tmp_path: Path, work: Path, rails: tuple[str, ...], no_new: str
) -> None:
    async with host(tmp_path, "--allow-user", "*", *rails) as (running, agent):
        await apply(running, "cp /proc/self/status status", work)
        text = await written(work / "status", agent)
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"] == no_new
    assert int(fields["CapAmb"], 16) == 0


@needs_root
async def test_root_is_refused_and_said_so(tmp_path: Path, work: Path) -> None:
    async with host(tmp_path) as (running, agent):
        await apply(running, "touch here", work)
        await eventually(lambda: reasons(running), what=agent.text)
        assert "would run as root: name a user in the type" in reasons(running)[0]
    assert not (work / "here").exists()


@needs_root
async def test_a_default_user_runs_what_names_none(tmp_path: Path, work: Path) -> None:
    async with host(tmp_path, "--default-user", "nobody") as (running, agent):
        await apply(running, "sh -c 'id -un > who'", work)
        assert (await written(work / "who", agent)).strip() == "nobody"


def spy(work: Path) -> Path:
    """A library that writes down as whom it is run."""
    source, library = work / "spy.c", work / "spy.so"
    source.write_text(
        "#include <stdio.h>\n#include <unistd.h>\n"
        "__attribute__((constructor)) static void seen(void) {\n"
        f'  FILE *f = fopen("{work}/seen", "a");\n'
        '  if (f) { fprintf(f, "%d\\n", (int)geteuid()); fclose(f); }\n}\n'
    )
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: apt install gcc")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library


@needs_root
async def test_what_a_deployer_puts_into_the_environment_never_runs_as_root(
    tmp_path: Path, work: Path
) -> None:
    """A library that is preloaded runs wherever the environment does: in no process of ours."""
    library = spy(work)
    (work / "seen").touch()
    (work / "seen").chmod(0o666)
    async with host(tmp_path) as (running, agent):
        spec = types_pb2.ProcessType(
            name="job", command="sleep 600", user="nobody", env={"LD_PRELOAD": str(library)}
        )
        spec.liveness.CopyFrom(
            types_pb2.Probe(
                kind="exec", target="true", period_s=1, timeout_s=1, failures=3, successes=1
            )
        )
        request = control_pb2.ApplyRequest(
            app="shop", types=[spec], formation={"job": 1}, workdir=str(work)
        )
        await running.control.Apply(request)
        # The process, and its probe at least once.
        await eventually(lambda: len((work / "seen").read_text().split()) > 2, what=agent.text)
    assert "0" not in (work / "seen").read_text().split()


async def test_a_directory_is_judged_by_where_it_leads(tmp_path: Path, work: Path) -> None:
    """A link in an allowed directory that leads out of it, whenever it was made."""
    allowed, outside = work / "allowed", work / "outside"
    for path in (allowed, outside):
        path.mkdir(mode=0o777)
        path.chmod(0o777)
    (allowed / "link").symlink_to(outside)
    rails = ("--allow-user", "*", "--allow-dir", str(allowed))
    async with host(tmp_path, *rails) as (running, agent):
        await apply(running, "touch here", allowed / "link")
        await eventually(lambda: reasons(running), what=agent.text)
        assert "may not run in" in reasons(running)[0]
        await apply(running, "touch here", allowed)
        await eventually((allowed / "here").exists, what=agent.text)
    assert not (outside / "here").exists()


@needs_nobody
async def test_an_instance_of_the_agents_own_user_cannot_look_into_it(work: Path) -> None:
    """Other instances' secrets come through both of its processes."""
    state = work / "home"
    state.mkdir()
    os.chown(state, 65534, 65534)
    async with (
        coordinator(MemoryStore(), work) as running,
        AgentProgram(
            state, "--name", "b", "--coordinator", running.address, before=AS_NOBODY, rails=()
        ) as agent,
    ):
        os.chmod(work / "c1.sock", 0o666)
        brain = await agent.brain()
        looks = [
            f"cat /proc/{pid}/{name}"
            for pid in (agent.pid, brain.pid)
            for name in ("environ", "maps")
        ]
        tries = " ; ".join(f"{look} >/dev/null 2>&1 && echo {look}" for look in looks)
        await apply(running, f"sh -c '{tries} ; echo done' > tried", work)
        text = await written(work / "tried", agent)
    assert text == "done\n"


# -- a view of the file system of its own ----------------------------------------------------------

NAME = f"fmn-{os.getpid()}"
OURS, SHM = Path("/srv", NAME), Path("/dev/shm", NAME)
BELOW = Path("/tmp", f"{NAME}.d", "below")
TRY = f"for d in /tmp /var/tmp /usr {OURS} {SHM}; do touch $d/{NAME} 2>/dev/null && echo $d; done"
SCRIPT = f"({TRY}; ls /tmp) > {SHM}/part; touch /tmp/up; mv {SHM}/part {SHM}/told; sleep 600"


@pytest.fixture
def places() -> Iterator[None]:
    """Directories that everybody may write, one on disk and one in memory."""
    for path in (OURS, SHM, BELOW):
        path.mkdir(parents=True)
        path.chmod(0o777)
    try:
        yield
    finally:
        for path in (OURS, SHM):
            shutil.rmtree(path)
        shutil.rmtree(BELOW.parent, ignore_errors=True)
        for path in (Path("/tmp", NAME), Path("/var/tmp", NAME), Path("/tmp/up")):
            path.unlink(missing_ok=True)


async def could_write(tmp_path: Path, *rails: str) -> list[str]:
    """Where a process of nobody's could write, then what it sees in /tmp. A probe that shares its
    view, as it must, finds it ready."""
    async with host(tmp_path, "--default-user", "nobody", *rails) as (running, agent):
        ready = types_pb2.Probe(
            kind="exec", target="test -e /tmp/up", period_s=0.2, timeout_s=0.2, failures=99,
            successes=1,
        )  # fmt: skip
        spec = types_pb2.ProcessType(name="job", command=f"sh -c '{SCRIPT}'", readiness=ready)
        request = control_pb2.ApplyRequest(
            app="shop", types=[spec], formation={"job": 1}, workdir="/"
        )
        await running.control.Apply(request)
        text = await written(SHM / "told", agent)
        await eventually(lambda: is_healthy(running), what=agent.text)
        assert not Path("/tmp/up").exists()
    return text.split()


def is_healthy(running: RunningCoordinator) -> bool:
    entry = running.service.live.world.hosts.get("b")
    found = entry.status.instances if entry and entry.status else ()
    return any(status.state is InstanceState.HEALTHY for status in found)


@needs_root
@pytest.mark.parametrize(
    ("rails", "places_written"),
    [
        ((), ["/tmp", "/var/tmp", str(OURS), str(SHM), NAME]),
        (("--read-only-system",), ["/tmp", "/var/tmp", str(SHM), NAME]),
        (
            ("--read-only-system", "--writable-dir", "/srv"),
            ["/tmp", "/var/tmp", str(OURS), str(SHM), NAME],
        ),
        # What may be written below the tmp that is hidden is there all the same.
        (
            ("--read-only-system", "--writable-dir", str(BELOW)),
            ["/tmp", "/var/tmp", str(SHM), NAME, BELOW.parent.name],
        ),
    ],
    ids=["private tmp", "read-only", "writable", "writable below tmp"],
)
@pytest.mark.usefixtures("places")
async def test_it_writes_where_the_machines_owner_lets_it_and_nobody_sees_its_tmp(
    tmp_path: Path, rails: tuple[str, ...], places_written: list[str]
) -> None:
    assert await could_write(tmp_path, "--private-tmp", *rails) == places_written
    assert not Path("/tmp", NAME).exists()
    assert not Path("/var/tmp", NAME).exists()


@needs_root
@pytest.mark.parametrize(
    ("rails", "user", "said"),
    [
        pytest.param(("--private-tmp",), "65534", "need an agent that is root", marks=needs_nobody),
        (("--read-only-system", "--writable-dir", "/no-such"), "0", "there is no such directory"),
        (("--writable-dir", "/srv"), "0", "means nothing without --read-only-system"),
    ],
)
def test_a_view_that_cannot_be_had_is_refused_at_the_start(
    work: Path, rails: tuple[str, ...], user: str, said: str
) -> None:
    words = ["setpriv", f"--reuid={user}", "--clear-groups", str(PROGRAM), *rails]
    state = ("--state-dir", str(work / "state"), "--coordinator", f"unix:{work}/none.sock")
    done = subprocess.run([*words, *state], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert said in done.stderr
