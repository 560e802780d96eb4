"""A small public twelve-factor app comes to three hosts: app.json, two releases, config, back."""

from __future__ import annotations

import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "getting-started"
# What somebody adds after `formctl init`: when it is ready; a test waits less than people may.
EDITED = 'ready.http = "/health"\nrollout.healthy = "200ms"\n'


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        made.start_and_wait(3)
        yield made


def pages(cluster: Cluster) -> set[str]:
    """What all that are healthy answer, without their names."""
    found = set()
    for name, row in cluster.healthy().items():
        if row["type"] == "web":
            with urllib.request.urlopen(f"http://127.0.0.1:{row['port']}/", timeout=5) as answer:
                found.add(answer.read().decode().replace(name, "NAME"))
    return found


def test_init_two_releases_a_change_of_config_and_back(cluster: Cluster) -> None:
    app = cluster.directory / "work" / "getting-started"
    shutil.copytree(EXAMPLE, app, ignore=shutil.ignore_patterns("__pycache__"))
    begun = cluster.formctl("init", cwd=app)
    assert "formctl secret set SESSION_KEY" in begun.stdout
    assert "buildpacks is not taken over" in begun.stderr
    manifest = app / "formation.toml"
    text = manifest.read_text()
    for name in ("web", "worker"):
        head = f"[types.{name}]\n"
        added = EDITED if name == "web" else 'rollout.healthy = "200ms"\n'
        text = text.replace(head, head + added)
    manifest.write_text(text)

    assert "getting-started v1" in cluster.formctl("deploy", cwd=app).stdout
    rows = cluster.healthy()
    assert sorted(rows) == ["web.1", "web.2", "web.3", "worker.1"]
    assert {rows[f"web.{n}"]["host"] for n in (1, 2, 3)} == {"h1", "h2", "h3"}
    assert pages(cluster) == {"Hello Hello Hello! from NAME, version 1\n"}

    source = app / "gettingstarted" / "__init__.py"
    source.write_text(source.read_text().replace('"1"', '"2"'))
    assert "getting-started v2" in cluster.formctl("deploy", cwd=app).stdout
    assert pages(cluster) == {"Hello Hello Hello! from NAME, version 2\n"}

    cluster.formctl("config", "set", "TIMES=1", "GREETING=Servus", cwd=app)
    assert pages(cluster) == {"Servus! from NAME, version 2\n"}
    # Quantities are nobody's business but scale's.
    cluster.formctl("scale", "web=4", cwd=app)

    cluster.formctl("rollback", "v1", cwd=app)
    assert pages(cluster) == {"Hello Hello Hello! from NAME, version 1\n"}
    assert len(cluster.healthy()) == 5
    assert {row["release"] for row in cluster.healthy().values()} == {1}
    did = [entry["action"] for entry in cluster.json("history", "getting-started")]
    assert {"apply", "config", "rollback", "scale"} <= set(did), did
