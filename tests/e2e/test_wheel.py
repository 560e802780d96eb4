"""The built wheel in a clean environment gives the same `formctl dev`, without a checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from dev import Dev

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(400)
def test_the_wheel_runs_an_app_in_a_clean_environment(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("formctl-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if "dist-info" not in name}
    assert tops == {"formation", "formation_agent", "formation_coordinator", "formctl"}

    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    install = [str(environment / "bin" / "pip"), "install", "--quiet", f"{wheel}[embedded]"]
    subprocess.run([*install, "--disable-pip-version-check"], check=True, capture_output=True)

    project = tmp_path / "project"
    project.mkdir()
    (project / "Procfile").write_text("web: sh -c 'echo serving $PORT; exec sleep 1000'\n")
    with Dev(project, "--agents", "2", bin_dir=environment / "bin") as dev:
        dev.wait_line("ready: web=1")
        dev.wait_line("serving ")
        assert dev.formctl("scale", "web=3").stdout.splitlines()[-1].startswith("web=3: 3 healthy")
