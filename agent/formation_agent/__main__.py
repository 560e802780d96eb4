"""`formation-agent`: becomes the keeper, which starts the brain with the same words.

Imports nothing that the keeper does not need: this process lives as long as the children.
"""

from __future__ import annotations

import sys

_COMMANDS = """Commands:
  join ADDRESS TOKEN        makes this host a member of a cluster; join --help says more
  reexec [--state-dir DIR]  the running agent becomes the program on disk; its instances run on"""


def main() -> int:
    argv = sys.argv[1:]
    if argv[:1] == ["reexec"]:
        from formation_agent import reexec

        return reexec.main(argv[1:])
    if argv[:1] == ["join"]:
        from formation_agent import joining

        return joining.main(argv[1:])
    if "--help" in argv or "-h" in argv:
        from formation_agent.config import help_text

        return _print(f"{help_text()}\n\n{_COMMANDS}")
    if "--version" in argv:
        from formation import __version__

        return _print(f"formation-agent {__version__}")
    from formation_agent import keeper

    return keeper.main(argv)


def _print(text: str) -> int:
    sys.stdout.write(f"{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
