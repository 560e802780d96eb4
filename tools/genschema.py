"""formation.toml's JSON Schema, with what docs/manifest.md says of each key → docs/.

python tools/genschema.py [--check]
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from formation import manifest_schema

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "manifest.md"
TARGET = ROOT / "docs" / "formation.schema.json"
_ROW = re.compile(r"^\| (`[^|]+`) \|(?:.*) \| ([^|]+) \|$", re.MULTILINE)


def said() -> dict[str, str]:
    """The last cell of each row, by the keys of its first; without links and backquotes."""
    found: dict[str, str] = {}
    for keys, text in _ROW.findall(PAGE.read_text("utf-8")):
        plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text).replace("`", "").strip()
        for key in re.findall(r"`([^`]+)`", keys):
            found[key] = plain
    return found


def generated() -> str:
    return json.dumps(manifest_schema.schema(said()), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    text = generated()
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text("utf-8") != text:
            sys.stderr.write("docs/formation.schema.json is stale: run python tools/genschema.py\n")
            return 1
        return 0
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
