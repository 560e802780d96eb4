"""What an app is called when nobody says it: by its formation.toml, or like its directory.

Reads no more than that, since nearly every command asks: what else a project says is in `spec`.
"""

from __future__ import annotations

import os
import re
import sys

from formation import tomltext
from formation.names import APP_NAME
from formctl.errors import InputError

STDIN = "-"
MANIFEST = "formation.toml"
_NAME_MAX = 63


def app_name(directory: str) -> str:
    """The directory's name as far as it can be an app's; "" when nothing of it can."""
    name = os.path.basename(os.path.abspath(directory)).lower()
    name = re.sub(r"[^a-z0-9._-]+", "-", name)[:_NAME_MAX].strip("._-")
    return name if APP_NAME.fullmatch(name) else ""


def named_app(directory: str) -> str:
    """The `app =` of a formation.toml in this directory; "" when there is none."""
    path = os.path.join(directory, MANIFEST)
    if not os.path.isfile(path):
        return ""
    try:
        # Only the name is asked for: other mistakes in the file are for `apply` to tell.
        app = tomltext.loads(text_of(path)).get("app", "")
    except tomltext.TomlError as error:
        raise InputError(f"{path}: {error}; --app NAME goes on without this file") from None
    return app if isinstance(app, str) else ""


def text_of(path: str) -> str:
    """`-` is standard input."""
    try:
        return _bytes_of(path).decode()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def _bytes_of(path: str) -> bytes:
    if path == STDIN:
        return sys.stdin.buffer.read()
    with open(path, "rb") as file:
        return file.read()
