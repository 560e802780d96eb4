"""Heroku's app.json: quantities, variables, and which of them are secrets.

https://devcenter.heroku.com/articles/app-json-schema
"""

from __future__ import annotations

import json
from typing import Any

from formctl.importing.found import ForeignError, Found

_LEFT = ("addons", "buildpacks", "stack", "image", "scripts", "environments")


def read(text: str, source: str) -> Found:
    """Its processes are in the Procfile beside it. Raises `ForeignError`."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ForeignError([f"{source}:{error.lineno}: {error.msg}"]) from None
    except (ValueError, RecursionError) as error:
        raise ForeignError([f"{source}: {error}"]) from None
    if not isinstance(data, dict):
        raise ForeignError([f"{source}: must be an object"])
    problems: list[str] = []
    quantities = _quantities(data.get("formation", {}), source, problems)
    env, secrets, notes = _variables(data.get("env", {}), source, problems)
    if problems:
        raise ForeignError(problems)
    notes += [f"{source}: {key} is not taken over" for key in _LEFT if data.get(key)]
    return Found(quantities=quantities, env=env, secrets=tuple(secrets), notes=tuple(notes))


def _quantities(given: object, source: str, problems: list[str]) -> dict[str, int]:
    if not isinstance(given, dict):
        problems.append(f"{source}: formation: must be an object")
        return {}
    found = {}
    for name, said in given.items():
        quantity = said.get("quantity", 1) if isinstance(said, dict) else said
        if isinstance(quantity, bool) or not isinstance(quantity, int) or quantity < 0:
            problems.append(f"{source}: formation.{name}.quantity: must be a number")
        else:
            found[name] = quantity
    return found


def _variables(
    given: object, source: str, problems: list[str]
) -> tuple[dict[str, str], list[str], list[str]]:
    env: dict[str, str] = {}
    secrets: list[str] = []
    notes: list[str] = []
    if not isinstance(given, dict):
        problems.append(f"{source}: env: must be an object")
        return env, secrets, notes
    for name, said in given.items():
        settings: dict[str, Any] = said if isinstance(said, dict) else {"value": said}
        value = settings.get("value")
        if settings.get("generator") == "secret":
            secrets.append(name)
        elif value is not None:
            env[name] = value if isinstance(value, str) else json.dumps(value)
        elif settings.get("required", True):
            notes.append(f"{source}: env.{name} has no value: formctl config set {name}=…")
    return env, secrets, notes
