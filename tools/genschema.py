"""Write docs/formation.schema.json from the reader's tables, or with --check say if it is stale.

It is published beside the documentation so that editors can take it from there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from formation import manifest_schema

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "formation.schema.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when stale")
    check: bool = parser.parse_args().check
    text = json.dumps(manifest_schema.schema(), indent=2, ensure_ascii=False) + "\n"
    if OUTPUT.exists() and OUTPUT.read_text() == text:
        return
    if check:
        sys.exit(f"genschema: stale: {OUTPUT.name}; run: make schema")
    OUTPUT.write_text(text)


if __name__ == "__main__":
    main()
