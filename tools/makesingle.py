"""`make single`: dist/formation-agent.pyz, the agent and formctl in one file, for every Python.

    python tools/makesingle.py dist/formctl-0.1.0-py3-none-any.whl dist/formation-agent.pyz [3.12 …]

For machines that have nothing but Python: no pip, no venv, no compiler. Native parts are those of
PyPI's wheels for glibc and this machine's architecture. The coordinator is left out, and with it
numpy, which would be more than half of the file.
"""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
LEFT_OUT = ("numpy", "etcd3aio")
_NOT_NEEDED = re.compile(
    r"^(formation_coordinator|bin)/|/__pycache__/|\.dist-info/(RECORD|INSTALLER|REQUESTED|WHEEL)$"
)
_PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the same file for the same content


def requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [
        text for text in project["dependencies"] if re.split(r"[<>=\[ ]", text)[0] not in LEFT_OUT
    ]


def files(tree: Path) -> Iterator[tuple[str, Path]]:
    """What goes in of what pip has installed there."""
    for path in sorted(tree.rglob("*")):
        name = path.relative_to(tree).as_posix()
        if path.is_file() and not _NOT_NEEDED.search(name):
            yield name, path


def pack(trees: Mapping[str, Path], target: Path, level: int = 9) -> None:
    """`trees`: version of Python → directory. What is the same for all is in the file once."""
    listed = {version: dict(files(tree)) for version, tree in trees.items()}
    digests = {
        version: {name: hashlib.sha256(path.read_bytes()).digest() for name, path in found.items()}
        for version, found in listed.items()
    }
    first, *others = digests.values()
    shared = {
        name for name, digest in first.items() if all(more.get(name) == digest for more in others)
    }
    members: dict[str, Path] = {}
    for version, found in listed.items():
        for name, path in found.items():
            members[f"{'all' if name in shared else version}/{name}"] = path
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
            digest = hashlib.sha256()
            for name in sorted(members):
                content = members[name].read_bytes()
                digest.update(f"{name} {len(content)}\n".encode() + content)
                archive.writestr(_member(name), content)
            main = (ROOT / "tools/single_main.py").read_bytes()
            digest.update(main)
            archive.writestr(_member("__main__.py"), main)
            about = f"VERSIONS = {list(trees)!r}\nDIGEST = {digest.hexdigest()[:16]!r}\n"
            archive.writestr(_member("about.py"), about)
    target.chmod(0o755)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EARLIEST)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


def installed(wheel: Path, version: str, tree: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--no-compile", "--target", str(tree)]
    machine = platform.machine()
    theirs = ["--python-version", version, "--implementation", "cp", "--only-binary=:all:"]
    for name in _PLATFORMS:
        theirs += ["--platform", f"{name}_{machine}"]
    subprocess.run([*pip, *theirs, *requirements()], check=True)
    subprocess.run([*pip, "--no-deps", "--upgrade", str(wheel)], check=True)


def main() -> int:
    if len(sys.argv) < 3:
        print("makesingle.py: usage: makesingle.py WHEEL TARGET [VERSION …]", file=sys.stderr)
        return 2
    wheel, target = Path(sys.argv[1]), Path(sys.argv[2])
    versions = sys.argv[3:] or VERSIONS
    with tempfile.TemporaryDirectory() as directory:
        trees = {version: Path(directory) / version for version in versions}
        for version, tree in trees.items():
            installed(wheel, version, tree)
        pack(trees, target)
    print(f"{target}: {target.stat().st_size / 1e6:.0f} MB, for Python {', '.join(versions)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
