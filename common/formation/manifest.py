"""formation.toml → an app's description, or all of its problems with their key paths. Pure.

    app = "shop"
    workdir = "/srv/shop"
    [env]
    LOG_LEVEL = "info"
    [types.web]
    command = "gunicorn shop:app"
    quantity = 2                # only for the first time; `formctl scale` rules afterwards
    stop.signal = "INT"
    stop.grace = "30s"          # seconds, or text with ms, s, min, h
    ready.after = 1

A formation.toml alone defines the types: a Procfile beside it is not read.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field

from formation.model import APP_NAME, QUANTITY_MAX, TYPE_NAME, ProcessType
from formation.quantities import initial_quantity

STOP_SIGNALS = ("ABRT", "ALRM", "HUP", "INT", "KILL", "QUIT", "TERM", "USR1", "USR2", "WINCH")
DURATION_MAX_S = 24 * 3600.0
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|h)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_SYNTAX_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_DEFAULTS = ProcessType(name="default", command="true")

Table = Mapping[str, object]


class ManifestError(ValueError):
    """`problems`: one line each, `source: key.path: what is wrong`."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`app` and `workdir` are empty when the file does not say."""

    types: tuple[ProcessType, ...]
    app: str = ""
    workdir: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


def parse(text: str, source: str = "formation.toml") -> Manifest:
    try:
        # As in every text file, line ends and a byte order mark are not content.
        table = tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise ManifestError((_syntax_problem(str(error), source),)) from None
    reader = _Reader(source)
    manifest = reader.manifest(table)
    if reader.problems:
        raise ManifestError(tuple(reader.problems))
    return manifest


def duration_s(value: object) -> float | None:
    """Seconds of `1.5`, `"500ms"`, `"30s"`, `"5min"`, `"1h"`; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) and value >= 0 else None
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    return float(match[1]) * _UNIT_S[match[2]] if match else None


def _syntax_problem(message: str, source: str) -> str:
    place = _SYNTAX_PLACE.search(message)
    if not place:
        return f"{source}: {message}"
    return f"{source}:{place[1]}: {message[: place.start()]} (column {place[2]})"


class _Reader:
    """Goes through the tables and collects every problem instead of stopping at the first."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.problems: list[str] = []

    def manifest(self, table: Table) -> Manifest:
        self._known_only(table, "", ("app", "workdir", "env", "types"))
        types = self._table(table, "", "types")
        if not types and not self.problems:
            self._problem("types", 'no process types: add [types.web] with command = "…"')
        return Manifest(
            app=self._app(table),
            workdir=self._workdir(table),
            env=self._env(self._table(table, "", "env")),
            types=tuple(self._type(types, name) for name in types),
        )

    def _problem(self, path: str, what: str) -> None:
        self.problems.append(f"{self._source}: {path}: {what}")

    def _known_only(self, table: Table, path: str, known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                self._problem(_join(path, key), f"unknown key; {hint}")

    def _table(self, table: Table, path: str, key: str) -> Table:
        value = table.get(key, {})
        if isinstance(value, dict):
            return value
        self._problem(_join(path, key), f"must be a table, not {_kind(value)}")
        return {}

    def _text(self, table: Table, path: str, key: str) -> str:
        value = table.get(key, "")
        if not isinstance(value, str):
            self._problem(_join(path, key), f"must be a string, not {_kind(value)}")
            return ""
        if "\0" in value:
            self._problem(_join(path, key), "holds a NUL character")
        return value

    def _app(self, table: Table) -> str:
        app = self._text(table, "", "app")
        if isinstance(table.get("app"), str) and not APP_NAME.fullmatch(app):
            self._problem("app", f"{app!r} is no app name: lower case letters, digits and . _ -")
        return app

    def _workdir(self, table: Table) -> str:
        workdir = self._text(table, "", "workdir")
        if isinstance(table.get("workdir"), str) and not workdir.startswith("/"):
            self._problem(
                "workdir", f"{workdir!r} must be an absolute path: it is one on the hosts"
            )
        return workdir

    def _env(self, table: Table) -> dict[str, str]:
        for name in table:
            if not name or "=" in name or "\0" in name:
                self._problem(_join("env", name), "no name for an environment variable")
        return {name: self._text(table, "env", name) for name in table}

    def _type(self, types: Table, name: str) -> ProcessType:
        path = _join("types", name)
        if not TYPE_NAME.fullmatch(name):
            self._problem(path, "no name for a type: up to 63 letters, digits, _ and -")
        table = self._table(types, "types", name)
        if not isinstance(types[name], dict):
            return ProcessType(name=name, command="")
        self._known_only(table, path, ("command", "quantity", "stop", "ready"))
        stop, ready = self._table(table, path, "stop"), self._table(table, path, "ready")
        self._known_only(stop, f"{path}.stop", ("signal", "grace"))
        self._known_only(ready, f"{path}.ready", ("after",))
        return ProcessType(
            name=name,
            command=self._command(table, path),
            initial_quantity=self._quantity(table, path, initial_quantity(name)),
            stop_signal=self._signal(stop, f"{path}.stop"),
            stop_grace_s=self._duration(stop, f"{path}.stop", "grace", _DEFAULTS.stop_grace_s),
            ready_after_s=self._duration(ready, f"{path}.ready", "after", _DEFAULTS.ready_after_s),
        )

    def _command(self, table: Table, path: str) -> str:
        command = self._text(table, path, "command")
        if "command" not in table:
            self._problem(
                f"{path}.command",
                "missing; formation.toml alone defines types, a Procfile beside it is not read",
            )
        elif isinstance(table["command"], str) and not command.strip():
            self._problem(f"{path}.command", "is empty")
        return command

    def _quantity(self, table: Table, path: str, default: int) -> int:
        value = table.get("quantity", default)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= QUANTITY_MAX:
            return value
        self._problem(f"{path}.quantity", f"must be a whole number from 0 to {QUANTITY_MAX}")
        return default

    def _signal(self, stop: Table, path: str) -> str:
        text = self._text(stop, path, "signal")
        name = text.upper().removeprefix("SIG")
        if name in STOP_SIGNALS:
            return name
        if isinstance(stop.get("signal"), str):
            known = ", ".join(STOP_SIGNALS)
            self._problem(f"{path}.signal", f"unknown signal {text!r}; known are {known}")
        return _DEFAULTS.stop_signal

    def _duration(self, table: Table, path: str, key: str, default: float) -> float:
        if key not in table:
            return default
        seconds = duration_s(table[key])
        if seconds is not None and seconds <= DURATION_MAX_S:
            return seconds
        self._problem(
            _join(path, key),
            'must be seconds or text such as "500ms", "30s", "5min", at most "24h"',
        )
        return default


def _join(path: str, key: str) -> str:
    shown = key if _BARE_KEY.fullmatch(key) else repr(key)
    return f"{path}.{shown}" if path else shown


def _kind(value: object) -> str:
    """The name that TOML's own documentation gives to this value."""
    names = {bool: "a boolean", int: "an integer", float: "a float", list: "an array"}
    names |= {dict: "a table", str: "a string"}
    return names.get(type(value), "a date or time")
