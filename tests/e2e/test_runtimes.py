"""One formation of every runtime: each gets its PORT, is scaled, is heard, and ends in its own way.

With the real programs of Debian and PyPI; what is missing on a machine is left out, with its name.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dev import Dev

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# By type: its example, whether it is there, what to install, and what it says of itself.
RUNTIMES = {
    "php": ("php-apache", "test -f /usr/lib/apache2/modules/libphp*.so",
            "libapache2-mod-php", "on PHP"),
    "java": ("java-server", "java --version", "openjdk-17-jdk-headless", "on Java"),
    "node": ("node-server", "node --version", "nodejs", "on node"),
    "twisted": ("python-twisted", "/usr/bin/python3 -c 'import twisted'",
                "python3-twisted", "on Twisted"),
    "eventmachine": ("ruby-eventmachine", "ruby -e 'require \"eventmachine\"'",
                     "ruby-eventmachine", "on EventMachine"),
    "gunicorn": ("python-gunicorn", "true", "", "hello"),
    "asgi": ("python-asgi", "true", "", "on ASGI"),
}  # fmt: skip
# Its last word, where it has one.
LAST_WORDS = {
    "php": "caught SIGWINCH, shutting down gracefully",
    "java": "stopping",
    "twisted": "stopping",
    "eventmachine": "stopping",
    "gunicorn": "Shutting down: Master",
    "asgi": "stopping",
    "worker": "Warm shutdown",
    "clock": "stopping",
}


def there(name: str) -> bool:
    check = RUNTIMES[name][1]
    return subprocess.run(["sh", "-c", check], capture_output=True, check=False).returncode == 0


PRESENT = {name for name in RUNTIMES if there(name)}


def example_types(name: str, directory: Path) -> str:
    """The type of one example, under another name, in its own directory."""
    manifest = directory / "formation.toml"
    if manifest.exists():
        text = manifest.read_text()
        text = text.replace("[types.web]", f"[types.{name}]")
    else:
        command = (directory / "Procfile").read_text().strip().partition(": ")[2]
        text = f"[types.{name}]\ncommand = {json.dumps(command)}\nquantity = 1\n"
    if name == "twisted":  # Debian's, not of our own environment
        text = text.replace("python3 ", "/usr/bin/python3 ")
    return text.replace("quantity = 1", f'quantity = 1\nworkdir = "{directory}"')


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("polyglot")
    parts = [example_types(name, EXAMPLES / RUNTIMES[name][0]) for name in sorted(PRESENT)]
    parts.append(example_types("worker", EXAMPLES / "python-celery"))
    queue = f'QUEUE_DIR = "{path / "queue"}"'
    (path / "formation.toml").write_text(f'app = "polyglot"\n[env]\n{queue}\n' + "\n".join(parts))
    return path


@pytest.fixture(scope="module")
def polyglot(project: Path) -> Iterator[Dev]:
    with Dev(project, "--agents", "3", "-m", "all=1") as dev:
        dev.wait_line("ready: ")
        dev.formctl("scale", *(f"{name}=2" for name in sorted(PRESENT)))
        yield dev


def instances(dev: Dev, *words: str) -> dict[str, dict[str, Any]]:
    listed = json.loads(dev.formctl("ps", "-o", "json", *words).stdout)
    return {f"{item['type']}.{item['ordinal']}": item for item in listed}


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_it_is_scaled_and_each_answers_on_its_port(polyglot: Dev, name: str) -> None:
    if name not in PRESENT:
        pytest.skip(f"not on this machine: apt install {RUNTIMES[name][2]}")
    found = instances(polyglot)
    ports = {found[f"{name}.{number}"]["port"] for number in (1, 2)}
    assert len(ports) == 2
    for number in (1, 2):
        port = found[f"{name}.{number}"]["port"]

        def answer(port: int = port) -> str:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as response:
                    return str(response.read().decode())
            except OSError:
                return ""

        assert RUNTIMES[name][3] in polyglot.wait(answer)


def test_children_of_apache_belong_to_its_instance(polyglot: Dev) -> None:
    if "php" not in PRESENT:
        pytest.skip("not on this machine: apt install libapache2-mod-php")
    used = instances(polyglot, "--usage")["php.1"]["usage"]
    assert used["processes"] >= 4


def test_a_celery_worker_does_what_its_clock_sends(polyglot: Dev) -> None:
    polyglot.wait_line("succeeded in")
    assert instances(polyglot)["clock.1"]["state"] == "healthy"


def test_everything_ends_in_its_own_words(polyglot: Dev) -> None:
    """The last test of this file: it ends them all."""
    names = sorted(PRESENT | {"worker", "clock"})
    polyglot.formctl("scale", *(f"{name}=0" for name in names))
    assert instances(polyglot) == {}
    for name in names:
        if name in LAST_WORDS:
            lines = [line for line in polyglot.lines if f" {name}." in line]
            assert any(LAST_WORDS[name] in line for line in lines), lines[-5:]
    assert shutil.which("java") is None or "java" in PRESENT
