"""Known weaknesses of the packages in this environment, by pip-audit's look at PyPI's database.

Usage: python tools/audit.py — prints each and exits 1 when there are any. Where the database cannot
be reached it says what was not looked at, and exits 0: no network is no weakness.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

# Without a network each package takes a moment to give up on.
_WITHIN_S = 30
_OURS = "formctl"
_COMMAND = (
    *(sys.executable, "-m", "pip_audit", "--local", "--format", "json"),
    *("--timeout", "3", "--progress-spinner", "off"),
)


def look() -> list[dict[str, Any]] | None:
    """What pip-audit says of each package; None: nothing came."""
    try:
        done = subprocess.run(
            _COMMAND, capture_output=True, text=True, timeout=_WITHIN_S, check=False
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return None
    return found


def report(packages: list[dict[str, Any]]) -> tuple[list[str], bool]:
    """Lines for people, and whether there is a weakness."""
    others = [package for package in packages if package["name"] != _OURS]
    weak = [
        f"{package['name']} {package['version']}: {weakness['id']}, mended in "
        f"{', '.join(weakness['fix_versions']) or 'no version yet'}"
        for package in others
        for weakness in package.get("vulns", ())
    ]
    skipped = [package["name"] for package in others if "skip_reason" in package]
    lines = list(weak)
    if skipped:
        lines.append(f"not looked at, PyPI does not know them: {', '.join(skipped)}")
    if not weak:
        lines.append(f"{len(others) - len(skipped)} packages without known weaknesses")
    return lines, bool(weak)


def main() -> None:
    packages = look()
    if not packages or all("skip_reason" in package for package in packages):
        print("audit: nothing was looked at, PyPI's database cannot be reached")
        return
    lines, is_weak = report(packages)
    for line in lines:
        print(f"audit: {line}")
    if is_weak:
        sys.exit(1)


if __name__ == "__main__":
    main()
