"""What formctl knows of clusters: one file of contexts, and an identity for each beside it.

`~/.config/formation/context.toml` is people's own: it is only ever added to.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence

from formation import tomltext

# The file in it that holds key and certificate; see `formation.credentials`.
IDENTITY = "identity.pem"
CONTEXT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


class CredentialError(Exception):
    """A directory has no usable credential; one line."""


def directory(environ: Mapping[str, str]) -> str:
    base = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(base, "formation")


def context_path(environ: Mapping[str, str]) -> str:
    return os.path.join(directory(environ), "context.toml")


def identity_dir(environ: Mapping[str, str], name: str) -> str:
    """Where the identity of that context is, if it has one."""
    return os.path.join(directory(environ), "identities", name)


def identity_of(environ: Mapping[str, str], name: str) -> str:
    """The same, or "" when it has none."""
    found = identity_dir(environ, name) if name else ""
    return found if found and os.path.exists(os.path.join(found, IDENTITY)) else ""


def with_context(text: str, name: str, addresses: Sequence[str]) -> str:
    """The file's text with one context more, which becomes the current one when there is none.

    Raises ValueError when the text is no TOML, or knows that name with other addresses.
    """
    table = tomltext.loads(text)
    known = table.get("contexts", {}).get(name)
    listed = f"[{', '.join(json.dumps(address) for address in addresses)}]"
    if known is not None:
        if known.get("coordinator") != list(addresses):
            raise ValueError(f"contexts.{name} has other coordinators; give another name")
        return text
    first = "" if "current" in table else f"current = {json.dumps(name)}\n"
    apart = "\n" if text and not text.endswith("\n") else ""
    return f"{first}{text}{apart}\n[contexts.{name}]\ncoordinator = {listed}\n"


def add(environ: Mapping[str, str], name: str, addresses: Sequence[str]) -> bool:
    """Writes it; True when it is the current one now. Raises ValueError, OSError."""
    path = context_path(environ)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        text = ""
    changed = with_context(text, name, addresses)
    temporary = f"{path}.{os.getpid()}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(changed)
    os.replace(temporary, path)
    return bool(tomltext.loads(changed).get("current") == name)
