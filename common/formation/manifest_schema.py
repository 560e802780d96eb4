"""formation.toml as a JSON Schema (draft 2020-12), for editors. Pure.

Made from the tables of `manifest_keys`, by which the reader reads too. It refuses nothing that the
reader takes; what goes beyond one table (a reservation above its limit, a name of a type) only
the reader refuses, as `formctl check` tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import assert_never

from formation.manifest_keys import FILE
from formation.manifest_kinds import (
    BYTES_MAX,
    BYTES_PATTERN,
    DURATION_MAX_S,
    DURATION_PATTERN,
    PERCENT_PATTERN,
    VARIABLE_PATTERN,
    CountOrPercent,
    Duration,
    Exclusion,
    Key,
    Keys,
    Kind,
    Named,
    Need,
    Number,
    OneWord,
    Rlimit,
    SignalName,
    Size,
    SomeWords,
    SubTable,
    Switch,
    Text,
    Texts,
    TrueOrText,
    Variables,
    Whole,
    YesNo,
)

Schema = dict[str, object]
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> Schema:
    """The whole document, ready for `json.dumps`."""
    return {
        "$schema": DIALECT,
        "title": "formation.toml",
        "description": "What an app is: its process types and how each of them runs.",
        **_table(FILE),
        "required": ["types"],
    }


def _table(keys: Keys) -> Schema:
    found: Schema = {
        "type": "object",
        "properties": {name: _described(key) for name, key in keys.keys.items()},
        "additionalProperties": False,
    }
    if keys.required:
        found["required"] = list(keys.required)
    if together := [_excluded(rule) for rule in keys.exclusions]:
        found["allOf"] = together
    if needs := {name: _any_of(need) for need in keys.needs for name in need.keys}:
        found["dependentSchemas"] = needs
    return found


def _excluded(rule: Exclusion) -> Schema:
    pairs = [{"required": list(pair)} for pair in combinations(rule.keys, 2)]
    said = rule.why or f"At most one of {', '.join(rule.keys)}."
    return {"description": said, "not": pairs[0] if len(pairs) == 1 else {"anyOf": pairs}}


def _any_of(need: Need) -> Schema:
    return {"anyOf": [{"required": [name]} for name in need.beside]}


def _described(key: Key) -> Schema:
    return {"description": key.meaning, **_kind(key.kind)}


def _kind(kind: Kind) -> Schema:
    match kind:
        case SubTable() | Named() | Variables():
            return _tables(kind)
        case Whole() | Number() | Duration() | Size() | CountOrPercent():
            return _number(kind)
        case Rlimit():
            return {"anyOf": [{"const": "unlimited"}, _number(kind.value)]}
        case Switch() | YesNo() | OneWord() | SomeWords() | SignalName():
            return _choice(kind)
        case Text() | TrueOrText() | Texts():
            return _text(kind)
    assert_never(kind)


def _tables(kind: SubTable | Named | Variables) -> Schema:
    match kind:
        case SubTable():
            return _table(kind.keys)
        case Named():
            names, of, least = kind.pattern, _table(kind.keys), 1
        case Variables():
            names, of, least = VARIABLE_PATTERN, {"type": "string"}, 0
    return {
        "type": "object",
        "minProperties": least,
        "propertyNames": {"pattern": _whole_text(names)},
        "additionalProperties": of,
    }


def _number(kind: Whole | Number | Duration | Size | CountOrPercent) -> Schema:
    match kind:
        case Whole():
            return {**_from("integer", kind.low, kind.high), **_default(kind.default, kind.low)}
        case Number():
            return {**_from("number", kind.low, kind.high), **_default(kind.default, kind.low)}
        case Duration():
            seconds = _from("number", kind.low_s, DURATION_MAX_S)
            return {**_or_text(seconds, DURATION_PATTERN), **_default(kind.default_s, kind.low_s)}
        case Size():
            return _or_text(_from("integer", kind.low, BYTES_MAX), BYTES_PATTERN)
        case CountOrPercent():
            return _or_text(_from("integer", 0, kind.high), PERCENT_PATTERN)
    assert_never(kind)


def _choice(kind: Switch | YesNo | OneWord | SomeWords | SignalName) -> Schema:
    match kind:
        case Switch():
            return {"const": True}
        case YesNo():
            return {"type": "boolean", "default": kind.default}
        case OneWord():
            words = [word.value for word in type(kind.default)]
            return {"enum": words, "default": kind.default.value}
        case SomeWords():
            words = [word.value for word in kind.words]
            return {"type": "array", "items": {"enum": words}, "uniqueItems": True}
        case SignalName():
            return {
                "anyOf": [
                    {"enum": list(kind.names)},
                    {"type": "string", "pattern": _whole_text(_any_case(kind.names))},
                ],
                "default": kind.default,
            }
    assert_never(kind)


def _text(kind: Text | TrueOrText | Texts) -> Schema:
    text: Schema = {"type": "string", "pattern": _whole_text(kind.pattern)}
    match kind:
        case Text():
            return text
        case TrueOrText():
            return {"anyOf": [{"const": True}, text]}
        case Texts():
            array: Schema = {"type": "array", "items": text, "uniqueItems": True}
            found: Schema = {"anyOf": [text, array]} if kind.one_alone else array
            return {**found, "default": list(kind.default)}
    assert_never(kind)


def _from(type_name: str, low: float, high: float) -> Schema:
    return {"type": type_name, "minimum": low, "maximum": high}


def _or_text(number: Schema, pattern: str) -> Schema:
    text = {"type": "string", "pattern": _whole_text(rf"\s*{pattern}\s*")}
    return {"anyOf": [number, text]}


def _default(default: float, low: float) -> Mapping[str, float]:
    """What cannot be written is no default, but that there is none."""
    return {"default": default} if default >= low else {}


def _any_case(names: tuple[str, ...]) -> str:
    either = "|".join("".join(_cases(letter) for letter in name) for name in names)
    return f"(?:{''.join(map(_cases, 'SIG'))})?(?:{either})"


def _cases(letter: str) -> str:
    return letter if letter.isdigit() else f"[{letter}{letter.lower()}]"


def _whole_text(pattern: str) -> str:
    return f"^(?:{pattern})$"
