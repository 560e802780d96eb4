"""Generate common/formation/v1 from proto/, or with --check say what is stale.

The output is committed so that installing needs no compiler. Runs with the grpcio-tools and
mypy-protobuf versions that pyproject.toml pins.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
OUTPUT = ROOT / "common"


def generate(target: Path) -> list[Path]:
    """Write the generated files below `target`; returns their paths relative to it."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    plugins = [f"--{name}_out={target}" for name in ("python", "grpc_python", "mypy", "mypy_grpc")]
    if protoc.main(["protoc", f"-I{PROTO}", *plugins, *sources]) != 0:
        sys.exit("genproto: protoc failed, see above")
    return sorted(path.relative_to(target) for path in target.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when stale")
    check: bool = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch)
        names = generate(made)
        known = {p.relative_to(OUTPUT) for p in (OUTPUT / "formation/v1").glob("*_pb2*")}
        stale = [
            name
            for name in names
            if name not in known or not filecmp.cmp(made / name, OUTPUT / name, shallow=False)
        ]
        orphans = sorted(known - set(names))
        if check and (stale or orphans):
            listed = ", ".join(str(name) for name in [*stale, *orphans])
            sys.exit(f"genproto: stale: {listed}; run: make proto")
        if check:
            return
        for name in stale:
            shutil.copyfile(made / name, OUTPUT / name)
        for name in orphans:
            (OUTPUT / name).unlink()


if __name__ == "__main__":
    main()
