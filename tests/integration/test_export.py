"""What `formctl export` writes, read by those for whom it is: what their processes see is what ours
see."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from formation.model import ProcessType, RestartPolicy
from formation.rules import Schedule
from formctl.exporting import WRITERS, Formation
from formctl.exporting.work import Work

BIN = Path(sys.executable).parent
DEADLINE_S = 20.0
HOSTILE = {
    "PLAIN": "info",
    "SPACES": "  two  words  ",
    "QUOTES": """it's "quoted" \\ and `this` $HOME ${X} %(x)s 100%""",
    "SIGNS": "a=b;c#d,e|f&g!h ; i # j",
    "ENDS": "'x'",
}
# It writes down its environment and where it is, and stays.
COMMAND = (
    """env -0 > "$PS.env"; pwd > "$PS.cwd"; echo '100% of "it"' > "$PS.said" ; exec sleep 60"""
)


def until(condition: Callable[[], bool], what: str) -> None:
    ends_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < ends_s, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.02)


def needs(program: str) -> str:
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"no {program} on this machine: .ci/run installs it")
    return found


def formation(directory: Path, env: dict[str, str]) -> Formation:
    web = ProcessType(name="web", command=COMMAND, env={"OF_TYPE": "t"})
    once = ProcessType(
        name="once", command='echo x >> "$PS.ran"; exit 0', restart=RestartPolicy.ON_FAILURE
    )
    works = (Work(spec=web, ordinal=1, port=5000), Work(spec=web, ordinal=2, port=5001))
    return Formation(
        app="shop", workdir=str(directory), works=(*works, Work(spec=once, ordinal=1)), env=env
    )


def written(manager: str, made: Formation, directory: Path) -> None:
    for file in WRITERS[manager](made).files:
        target = directory / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.text)
        target.chmod(file.mode)


def check(directory: Path, env: dict[str, str], *, honcho: bool = False) -> None:
    for number, port in ((1, 5000), (2, 5001)):
        name = f"web.{number}"
        until((directory / f"{name}.said").exists, f"{name} runs")
        content = (directory / f"{name}.env").read_bytes().decode()
        seen = dict(line.split("=", 1) for line in content.split("\0") if line)
        own = {} if honcho else {"PS": name, "OF_TYPE": "t"}
        expected = {**env, **own, "PORT": str(port)}
        assert {key: seen.get(key) for key in expected} == expected
        assert (directory / f"{name}.cwd").read_text().strip() == str(directory)
        assert (directory / f"{name}.said").read_text() == '100% of "it"\n'


def test_supervisord_runs_what_is_written(tmp_path: Path) -> None:
    written("supervisord", formation(tmp_path, HOSTILE), tmp_path)
    config = tmp_path / "supervisord.conf"
    config.write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={tmp_path}/log\npidfile={tmp_path}/pid\n"
        f"childlogdir={tmp_path}\n{'user=root' if os.geteuid() == 0 else ''}\n"
        f"[include]\nfiles={tmp_path}/etc/supervisor/conf.d/*.conf\n"
    )
    running = subprocess.Popen(
        [BIN / "supervisord", "-c", config], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        check(tmp_path, HOSTILE)
        until((tmp_path / "once.1.ran").exists, "once.1 ran")
    finally:
        running.terminate()
        running.wait(DEADLINE_S)
    # What succeeded is not started again.
    assert (tmp_path / "once.1.ran").read_text() == "x\n"


def over(service: Path) -> bool:
    """Down, and not to be up: before its first start runsv says that it is down, too."""
    status = (service / "supervise" / "status").read_bytes()
    return status[17:] == b"d\0\0"


def test_runit_runs_what_is_written(tmp_path: Path) -> None:
    runsv = needs("runsv")
    # An environment directory of chpst's takes no blanks at the end of a line.
    env = {**HOSTILE, "SPACES": "  two  words"}
    written("runit", formation(tmp_path, env), tmp_path)
    services = sorted((tmp_path / "etc" / "sv").iterdir())
    assert [path.name for path in services] == ["shop-once.1", "shop-web.1", "shop-web.2"]
    for path in services:
        log = path / "log" / "run"
        log.write_text(log.read_text().replace("/var/log", str(tmp_path)))
    running = [
        subprocess.Popen([runsv, path], start_new_session=True, stdout=subprocess.DEVNULL)
        for path in services
    ]
    try:
        check(tmp_path, env)
        until((tmp_path / "once.1.ran").exists, "once.1 ran")
        until(lambda: over(services[0]), "once.1 is over")
        assert (tmp_path / "once.1.ran").read_text() == "x\n"
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)  # runsv passes it on and ends
        for process in running:
            process.wait(DEADLINE_S)


def test_honcho_runs_what_is_written(tmp_path: Path) -> None:
    env = {"PLAIN": "info", "SPACES": "two  words", "QUOTES": 'it\'s "quoted" $HOME 100%'}
    written("foreman", formation(tmp_path, env), tmp_path)
    quantities = (tmp_path / ".foreman").read_text().splitlines()[0].partition(": ")[2]
    assert quantities == "web=2,once=1"
    procfile = (tmp_path / "Procfile").read_text().splitlines()[0]
    # honcho ends everything with the first that ends, and has a name of its own for PS.
    (tmp_path / "Procfile").write_text(procfile.replace(": ", ": PS=$HONCHO_PROCESS_NAME; ", 1))
    running = subprocess.Popen(
        [BIN / "honcho", "start", "-c", "web=2"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "PORT": "5000"},
    )  # fmt: skip
    try:
        until((tmp_path / "web.2.said").exists, "web.2 runs")
        check(tmp_path, env, honcho=True)
    finally:
        # How it ends is its own: one that began a moment ago may miss that it was told to.
        begun = psutil.Process(running.pid).children(recursive=True)
        running.kill()
        running.wait(DEADLINE_S)
        for process in begun:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    analyze = needs("systemd-analyze")
    spec = ProcessType(name="report", command="true", schedule=Schedule(cron="*/5 2 1 * mon-fri"))
    made = formation(tmp_path, HOSTILE)
    made = Formation(
        app="shop",
        workdir=made.workdir,
        works=(*made.works, Work(spec=spec, ordinal=1)),
        env=made.env,
        user="root",
    )
    written("systemd", made, tmp_path)
    units = sorted((tmp_path / "etc" / "systemd" / "system").iterdir())
    assert len(units) == 6
    done = subprocess.run(
        [analyze, "verify", "--man=no", *units], check=False, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    # It looks at the machine's own units too; of ours it must not say anything.
    assert "shop" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    timer = (tmp_path / "etc/systemd/system/shop-report.1.timer").read_text()
    for line in timer.splitlines():
        if line.startswith("OnCalendar="):
            time_ = line.partition("=")[2]
            subprocess.run([analyze, "calendar", time_], check=True, capture_output=True)
