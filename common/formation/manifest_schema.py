"""formation.toml as a JSON Schema (draft 2020-12), for editors. Pure.

The reader is the judge: what a schema can say is said here with the reader's own bounds, and what
it cannot (two keys that exclude each other, a timeout longer than its period) is left to the reader.
Whatever the reader takes this takes too.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from formation import manifest_rules as rules
from formation import manifest_type as types
from formation import manifest_values as values
from formation.model import QUANTITY_MAX, Ability, RestartPolicy, StopTo
from formation.rules import Keep, LossAction, Missed, Overlap

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEXT: Schema = {"type": "string"}
_TRUE: Schema = {"const": True}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_DURATION: Schema = {
    "oneOf": [
        {"type": "number", "minimum": 0, "maximum": values.DURATION_MAX_S},
        {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(ms|s|min|h)\s*$"},
    ]
}
_SIZE: Schema = {
    "oneOf": [
        {"type": "integer", "minimum": 0, "maximum": values.BYTES_MAX},
        {
            "type": "string",
            "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(B|kB|MB|GB|KiB|MiB|GiB)\s*$",
        },
    ]
}
_ENV: Schema = {"type": "object", "additionalProperties": _TEXT}
_LABEL: Schema = {"type": "string", "pattern": f"^{rules.LABEL.pattern}$"}


def schema(said: Mapping[str, str] | None = None) -> Schema:
    """`said`: what a key means, by its dotted path as docs/manifest.md has it."""
    said = said or {}
    top = {
        "app": {"type": "string", "pattern": r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"},
        "workdir": {"type": "string", "pattern": "^/"},
        "env": _ENV,
        "types": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": r"^[A-Za-z0-9_-]{1,63}$"},
            "additionalProperties": _type(said),
        },
    }
    found = _table(top, said, "")
    return {"$schema": DIALECT, "title": "formation.toml", **found, "required": ["types"]}


def _type(said: Mapping[str, str]) -> Schema:
    return {**_table(_type_keys(said), said, ""), "required": ["command"]}


def _type_keys(said: Mapping[str, str]) -> Schema:
    return {
        "command": {"type": "string", "pattern": r"\S"},
        "quantity": _whole(0, QUANTITY_MAX),
        "restart": _word(RestartPolicy),
        "port": _whole(1, types.PORT_MAX),
        "user": _TEXT,
        "group": _TEXT,
        "workdir": {"type": "string", "minLength": 1},
        "umask": {"type": "string", "pattern": "^[0-7]{1,4}$"},
        "nice": _whole(types.NICE_MIN, types.NICE_MAX),
        "requires": {"type": "array", "items": _word(Ability), "uniqueItems": True},
        "env": _ENV,
        "exclusive": _TRUE,
        "per_host": _TRUE,
        "ready": _table(_ready_keys(), said, "ready."),
        "live": _table(_live_keys(), said, "live."),
        "stop": _table(_stop_keys(), said, "stop."),
        "limits": _table(_limit_keys(), said, "limits."),
        "resources": _table(_resource_keys(), said, "resources."),
        "placement": _table(_placement_keys(), said, "placement."),
        "rollout": _table(_rollout_keys(), said, "rollout."),
        "schedule": {
            **_table(_schedule_keys(), said, "schedule."),
            "required": ["cron"],
        },
        "on_host_loss": _table(_loss_keys(), said, "on_host_loss."),
    }


def _probe_keys() -> Schema:
    return {
        "http": {"type": "string", "pattern": "^/[!-~]*$"},
        "tcp": _TRUE,
        "exec": {"type": "string", "pattern": r"\S"},
        "grpc": {"oneOf": [_TRUE, {"type": "string", "pattern": "^[!-~]+$"}]},
        "port": _whole(1, types.PORT_MAX),
        "every": _DURATION,
        "timeout": _DURATION,
        "failures": _whole(1, types.ROW_MAX),
        "successes": _whole(1, types.ROW_MAX),
    }


def _ready_keys() -> Schema:
    return {"after": _DURATION, **_probe_keys(), "notify": _TRUE, "grace": _DURATION}


def _live_keys() -> Schema:
    return {**_probe_keys(), "watchdog": _DURATION}


def _stop_keys() -> Schema:
    return {"signal": _TEXT, "grace": _DURATION, "to": _word(StopTo)}


def _limit_keys() -> Schema:
    unlimited: Schema = {"const": "unlimited"}
    count = {"oneOf": [_whole(0, types.COUNT_MAX), unlimited]}
    return {
        "cpus": _number(types.CPUS_MIN, types.CPUS_MAX),
        "memory": _SIZE,
        "pids": _whole(1, types.COUNT_MAX),
        **{key: {"anyOf": [_SIZE, unlimited]} for key in types.SIZE_RLIMITS},
        **dict.fromkeys(types.COUNT_RLIMITS, count),
        **{key: {"anyOf": [_DURATION, unlimited]} for key in types.TIME_RLIMITS},
    }


def _resource_keys() -> Schema:
    return {"cpus": _number(rules.CPUS_MIN, rules.CPUS_MAX), "memory": _SIZE}


def _placement_keys() -> Schema:
    labels = {"type": "array", "items": _LABEL, "uniqueItems": True}
    return {
        "require": _TEXTS,
        "prefer": _TEXTS,
        "spread": {"oneOf": [_LABEL, labels]},
        "max_per_host": _whole(1, rules.PER_HOST_MAX),
        "apart_from": _TEXTS,
    }


def _rollout_keys() -> Schema:
    percent = {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*%\s*$"}
    share = {"oneOf": [_whole(0, rules.SHARE_MAX), percent]}
    return {
        "surge": share,
        "unavailable": share,
        "healthy": _DURATION,
        "deadline": _DURATION,
        "rollback": {"type": "boolean"},
    }


def _schedule_keys() -> Schema:
    return {
        "cron": {"type": "string", "pattern": r"^\s*\S+(\s+\S+){4}\s*$"},
        "zone": _TEXT,
        "overlap": _word(Overlap),
        "missed": _word(Missed),
        "keep": _whole(1, rules.KEEP_MAX),
    }


def _loss_keys() -> Schema:
    return {"action": _word(LossAction), "after": _DURATION, "keep": _word(Keep)}


def _table(keys: Schema, said: Mapping[str, str], prefix: str) -> Schema:
    """A table that has these keys and no others."""
    described = {
        name: {**found, "description": said[prefix + name]} if prefix + name in said else found
        for name, found in keys.items()
    }
    return {"type": "object", "properties": described, "additionalProperties": False}


def _whole(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _number(low: float, high: float) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high}


def _word(words: type[StrEnum]) -> Schema:
    return {"enum": [word.value for word in words]}
