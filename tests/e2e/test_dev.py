"""formctl dev: one terminal, a whole cluster, and nothing left when it ends."""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from dev import Dev

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def free_base() -> str:
    """A base port whose hundred is free now; dev moves an instance whose port is taken."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return str(min(port, 60000))


@pytest.fixture(scope="module")
def hello() -> Iterator[Dev]:
    flags = ("--agents", "3", "-m", "web=3,worker=2,clock=1", "--port", free_base())
    with Dev(EXAMPLES / "hello", *flags) as dev:
        dev.wait_line("ready: ")
        yield dev


def test_the_example_runs_on_three_agents_and_prints_what_to_try_next(hello: Dev) -> None:
    assert "web=3 worker=2 clock=1" in hello.wait_line("ready: ")
    assert "http://127.0.0.1:" in hello.wait_line("web.1 answers at")
    assert "formctl ps" in hello.wait_line("in a second terminal")
    hosts = hello.formctl("hosts").stdout.splitlines()[1:]
    assert [line.split()[1] for line in hosts] == ["ready"] * 3


def test_web_answers_over_http_on_its_port(hello: Dev) -> None:
    for line in [line for line in hello.lines if " answers at " in line]:
        port = int(line.rsplit(":", 1)[1])
        assert line.split()[3] in hello.get(port)


def test_output_is_merged_as_foreman_prints_it(hello: Dev) -> None:
    line = hello.wait_line("worker.1 did job")
    clock, _, rest = line.partition(" ")
    assert len(clock.split(":")) == 3
    assert rest.startswith("worker.1 | ")


def test_scaling_from_a_second_terminal_shows_in_both(hello: Dev) -> None:
    done = hello.formctl("scale", "web=6")
    assert done.stdout.splitlines()[-1].startswith("web=6: 6 healthy in ")
    hello.wait_line("web.6    | ")
    assert hello.formctl("scale", "web=3").returncode == 0


def test_logs_of_all_hosts_are_merged_in_time(hello: Dev) -> None:
    hello.wait_line("worker.2 did job 1")
    done = hello.formctl("logs", "--tail", "200", "worker")
    lines = done.stdout.splitlines()
    assert {"worker.1", "worker.2"} <= {line.split()[1] for line in lines}
    assert [line.split()[0] for line in lines] == sorted(line.split()[0] for line in lines)


def test_a_second_dev_of_the_same_project_is_refused(hello: Dev) -> None:
    done = hello.formctl("dev", check=False)
    assert done.returncode == 2
    assert "already" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_ctrl_c_stops_everything_and_removes_the_run_directory(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("web: sleep 1000\nworker: sh -c 'sleep 1000 & wait'\n")
    with Dev(tmp_path, "--agents", "2") as dev:
        dev.wait_line("ready: ")
        assert dev.interrupt() == 0
        assert dev.leftovers.running() == []
        assert list((dev.directory / "formation" / "dev").iterdir()) == []
        assert dev.lines[-1].endswith("stopped")
        # That agents go and leave nobody a place is no news now.
        said = "\n".join(dev.lines[-12:])
        assert "does not answer" not in said
        assert "waits for a place" not in said


def test_a_killed_dev_takes_everything_along(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("web: sleep 1000\n")
    with Dev(tmp_path) as dev:
        dev.wait_line("ready: ")
        dev.leftovers.note(dev.process.pid)
        dev.process.send_signal(signal.SIGKILL)
        dev.process.wait(timeout=10)
        assert dev.leftovers.running() == []


def test_a_crash_is_restarted_and_said(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("web: sh -c 'echo up; sleep 0.2; exit 3'\n")
    with Dev(tmp_path) as dev:
        dev.wait_line("web.1 exited with code 3")
        dev.wait(lambda: sum(line.endswith("| up") for line in dev.lines) >= 2)


@pytest.mark.parametrize(("how", "code"), [("any", 0), ("failure", 7)])
def test_exit_on_ends_everything_with_the_code(tmp_path: Path, how: str, code: int) -> None:
    (tmp_path / "Procfile").write_text(f"once: sh -c 'sleep 0.5; exit {code}'\nweb: sleep 1000\n")
    with Dev(tmp_path, "--exit-on", how) as dev:
        assert dev.process.wait(timeout=60) == code
        dev.wait(lambda: dev.process.stdout is not None and dev.process.stdout.closed)
        assert dev.text().count("once.1 started with pid") == 1


def test_an_end_without_failure_is_no_reason_to_end_all(tmp_path: Path) -> None:
    lines = ("once: sh -c 'exit 0'", "later: sh -c 'sleep 2; exit 7'")
    (tmp_path / "Procfile").write_text("\n".join(lines))
    with Dev(tmp_path, "--exit-on", "failure") as dev:
        assert dev.process.wait(timeout=60) == 7
        dev.wait(lambda: "once.1 exited with code 0" in dev.text())


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "Procfile"),
        ({"Procfile": ""}, "no processes defined"),
        ({"Procfile": "web: a\nweb: b\n"}, "web"),
        ({"formation.toml": "[types.web]\ncomand = 'x'\n"}, "command"),
        ({"Procfile": "web: a\n", ".env": "A='open\nB\n"}, ".env"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    tmp_path: Path, files: dict[str, str], said: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with Dev(tmp_path) as dev:
        assert dev.process.wait(timeout=30) in (1, 2)
        dev.wait(lambda: dev.process.stdout is not None and dev.process.stdout.closed)
    assert said in dev.text()
    assert "Traceback" not in dev.text()
    assert "starting" not in dev.text()


# -- apps as their authors made them ---------------------------------------------------------------


def ports_of(dev: Dev, process_type: str) -> list[int]:
    rows = [line.split() for line in dev.formctl("ps").stdout.splitlines()[1:]]
    return [int(row[3]) for row in rows if row[0].startswith(f"{process_type}.")]


def test_a_python_app_under_gunicorn(tmp_path: Path) -> None:
    project = tmp_path / "shop"
    shutil.copytree(EXAMPLES / "python-gunicorn", project)
    with Dev(project, "--agents", "2", "-m", "web=2", "--port", free_base()) as dev:
        dev.wait_line("ready: ")
        for index, port in enumerate(ports_of(dev, "web"), start=1):
            dev.wait(lambda port=port: reachable(port))  # type: ignore[misc]
            assert f"hello from web.{index}" in dev.get(port)
            assert "good day" in dev.get(port)


@pytest.mark.skipif(shutil.which("node") is None, reason="no node: apt install nodejs")
def test_a_node_server(tmp_path: Path) -> None:
    project = tmp_path / "node-server"
    shutil.copytree(EXAMPLES / "node-server", project)
    with Dev(project, "-m", "web=2", "--port", free_base()) as dev:
        dev.wait_line("ready: ")
        for index, port in enumerate(ports_of(dev, "web"), start=1):
            dev.wait(lambda port=port: reachable(port))  # type: ignore[misc]
            assert f"hello from web.{index} on node" in dev.get(port)
        dev.wait_line("GET /")


def test_a_plain_worker_in_shell_finishes_its_job_when_stopped(tmp_path: Path) -> None:
    project = tmp_path / "shell-worker"
    shutil.copytree(EXAMPLES / "shell-worker", project)
    with Dev(project, "-m", "worker=2,clock=1") as dev:
        dev.wait_line("tick ")
        dev.wait_line("worker worker.1: job 1 done")  # from here on it has its trap
        dev.wait_line("worker worker.2: job 1 done")
        dev.interrupt()
        assert "worker worker.1: finishing" in dev.text()
        assert "worker worker.2: finishing" in dev.text()
        assert "missing from here" not in dev.text()


def test_an_app_that_is_asked_for_its_health_and_says_it_itself(tmp_path: Path) -> None:
    project = tmp_path / "notify"
    shutil.copytree(EXAMPLES / "notify", project)
    with Dev(project, "--port", free_base()) as dev:
        dev.wait_line("ready: web=1 queue=1 migrate=1")
        dev.wait(lambda: "jobs done" in dev.formctl("show", "queue.1").stdout)
        assert "finished" in dev.formctl("ps").stdout
        (project / "broken").write_text("")
        dev.wait_line("web.1 not ready: HTTP 503 from /health")
        (project / "broken").unlink()
        dev.wait_line("web.1 is ready again")
        assert "retrying migrate.1" in dev.formctl("retry", "migrate").stdout


def reachable(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
