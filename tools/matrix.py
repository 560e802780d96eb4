"""Run the unit tests on every Python from 3.11 on that this machine has, and say which it lacks.

Each has a virtual environment of its own below .venv/matrix, which the next run uses again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHERE = ROOT / ".venv" / "matrix"
# Those that are maintained now; a newer one is asked for when it is out.
MINORS = (11, 12, 13, 14, 15)


def found() -> tuple[dict[str, str], list[str]]:
    """Version → program, and the versions that are not there."""
    there = {f"3.{minor}": program_of(f"python3.{minor}") for minor in MINORS}
    return {v: p for v, p in there.items() if p}, [v for v, p in there.items() if not p]


def program_of(name: str) -> str:
    """The first that runs, on PATH or of pyenv, whose shims on PATH may run nothing; else ""."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    places = [*os.get_exec_path(), *map(str, pyenv.glob("versions/*/bin"))]
    sought = filter(None, (shutil.which(name, path=place) for place in places))
    return next((path for path in sought if runs(path)), "")


def runs(path: str) -> bool:
    done = subprocess.run([path, "-c", "import venv, ensurepip"], capture_output=True, check=False)
    return done.returncode == 0


def tested(version: str, program: str, words: list[str]) -> bool:
    """Whether it could be installed, and all is well."""
    python = WHERE / version / "bin" / "python"
    steps = [
        [program, "-m", "venv", str(WHERE / version)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "-e", f"{ROOT}[dev]"],
        [str(python), "-m", "pytest", "-q", *(words or ["tests/unit"])],
    ]  # fmt: skip
    return all(subprocess.run(step, cwd=ROOT, check=False).returncode == 0 for step in steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", metavar="TEST", help="for pytest; default: tests/unit")
    words: list[str] = parser.parse_args().words
    there, missing = found()
    results = {}
    for version, program in there.items():
        print(f"matrix: Python {version} ({program})", flush=True)
        results[version] = tested(version, program, words)
    for version, is_well in results.items():
        print(f"matrix: Python {version}: {'passed' if is_well else 'FAILED'}")
    for version in missing:
        print(f"matrix: Python {version}: not on this machine")
    sys.exit(not all(results.values()))


if __name__ == "__main__":
    main()
