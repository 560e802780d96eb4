"""Settings of a program: flags, then variables, then a TOML file, then defaults.

Pure but for `read`, which is an argument: the same words in give the same settings out, or all
problems at once with their places. Does not touch the machine. A program brings its table of
`Setting`s and gets keyword arguments for its own frozen configuration back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from formation import tomltext
from formation.addresses import words
from formation.names import PINGS_S

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


class ConfigError(Exception):
    """Everything that is wrong with the settings, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


# -- kinds of values: text → value, ValueError with what is wrong ----------------------------------


def labels(text: str) -> dict[str, str]:
    """`zone=eu-1,ssd`; a name alone has the value "true"."""
    pairs = [word.partition("=") for word in words(text)]
    for key, equals, value in pairs:
        if not key or (equals and not value):
            raise ValueError(f"{key + equals!r} is not KEY=VALUE, or a name alone")
    return {key: value if equals else "true" for key, equals, value in pairs}


def filled(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("must not be empty")
    return text


def count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is not a whole number from 0")
    return int(text)


def size(text: str) -> int:
    """`512MiB`, `20GiB`, or a number of bytes; above 0."""
    unit = next((unit for unit in _UNITS if text.endswith(unit)), "")
    value = count(text.removesuffix(unit).strip()) * _UNITS.get(unit, 1)
    if not value:
        raise ValueError(f"{text!r} is not a size above 0")
    return value


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} is not a number of seconds above 0")
    return value


def ping_every(text: str) -> float:
    value = seconds(text)
    if not PINGS_S[0] <= value <= PINGS_S[1]:
        raise ValueError(f"{text!r} is not from {PINGS_S[0]:g} to {PINGS_S[1]:g} seconds")
    return value


def switch(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


# -- reading them from the three places ------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One flag `--name`; a `meta` of "" is a switch. Repeats are joined with commas."""

    name: str
    field: str
    parse: Callable[[str], Any]
    meta: str
    help: str
    repeats: bool = False


CONFIG = Setting(name="config", field="", parse=filled, meta="FILE", help="settings in TOML")


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A value as somebody wrote it, and where."""

    text: str
    place: str


Words = dict[str, Word]
ReadFile = Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What a program can be told. `prefix` is that of its environment variables."""

    name: str
    purpose: str
    prefix: str
    settings: tuple[Setting, ...]

    def by_name(self) -> dict[str, Setting]:
        return {setting.name: setting for setting in (*self.settings, CONFIG)}


def load(
    program: Program, argv: Sequence[str], environ: Mapping[str, str], read: ReadFile
) -> dict[str, Any]:
    """What was given, by field. `read` gives a file's text or raises OSError.

    Raises `ConfigError` with all problems.
    """
    problems: list[str] = []
    flags = _flags(program, argv, problems)
    variables = _variables(program, environ, problems)
    path = flags.pop("config", None) or variables.pop("config", None)
    variables.pop("config", None)
    in_file = _file(program, path.text, read, problems) if path else {}
    values = _values(program, {**in_file, **variables, **flags}, problems)
    if problems:
        raise ConfigError(problems)
    return values


def _values(program: Program, words: Words, problems: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    by_name = program.by_name()
    for name, word in words.items():
        setting = by_name[name]
        try:
            values[setting.field] = setting.parse(word.text)
        except ValueError as error:
            problems.append(f"{word.place}: {error}")
    return values


def _unknown(place: str, name: str, problems: list[str], known: Mapping[str, str]) -> None:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {known[near[0]]}?" if near else ""
    problems.append(f"{place}: unknown{hint}")


def _flags(program: Program, argv: Sequence[str], problems: list[str]) -> Words:
    words: Words = {}
    by_name = program.by_name()
    rest = deque(argv)
    while rest:
        word = rest.popleft()
        flag, equals, text = word.partition("=")
        setting = by_name.get(flag.removeprefix("--"))
        if not flag.startswith("--"):
            problems.append(f"{word}: unexpected; options begin with --")
        elif setting is None:
            _unknown(flag, flag, problems, {f"--{name}": f"--{name}" for name in by_name})
            if not equals:
                _value(rest)
        elif not setting.meta:
            _take(words, setting, Word(text=text if equals else "true", place=flag), problems)
        else:
            value = text if equals else _value(rest)
            if value is None:
                problems.append(f"{flag}: needs a value: {flag} {setting.meta}")
            else:
                _take(words, setting, Word(text=value, place=flag), problems)
    return words


def _value(rest: deque[str]) -> str | None:
    return None if not rest or rest[0].startswith("--") else rest.popleft()


def _take(words: Words, setting: Setting, word: Word, problems: list[str]) -> None:
    earlier = words.get(setting.name)
    if earlier is None:
        words[setting.name] = word
    elif setting.repeats:
        words[setting.name] = Word(text=f"{earlier.text},{word.text}", place=word.place)
    else:
        problems.append(f"{word.place}: given twice")


def _variables(program: Program, environ: Mapping[str, str], problems: list[str]) -> Words:
    by_variable = {program.prefix + _upper(name): name for name in program.by_name()}
    words: Words = {}
    for variable, text in environ.items():
        if not variable.startswith(program.prefix):
            continue
        if variable in by_variable:
            words[by_variable[variable]] = Word(text=text, place=variable)
        else:
            _unknown(variable, variable, problems, {known: known for known in by_variable})
    return words


def _upper(name: str) -> str:
    return name.upper().replace("-", "_")


def _file(program: Program, path: str, read: ReadFile, problems: list[str]) -> Words:
    try:
        table = tomltext.loads(read(path))
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return {}
    except (tomltext.TomlError, UnicodeDecodeError) as error:
        problems.append(f"{path}: {error}")
        return {}
    words: Words = {}
    known = {setting.name: setting.name for setting in program.settings}
    for key, value in table.items():
        place, name = f"{path}: {key}", key.replace("_", "-")
        if name not in known:
            _unknown(place, name, problems, known)
        else:
            _take_from_file(words, name, value, place, problems)
    return words


def _take_from_file(
    words: Words, name: str, value: object, place: str, problems: list[str]
) -> None:
    try:
        words[name] = Word(text=_toml_text(value), place=place)
    except ValueError as error:
        problems.append(f"{place}: {error}")


def _toml_text(value: object) -> str:
    """As it would stand in a flag."""
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int():
            return str(value)
        case list():
            return ",".join(_toml_text(item) for item in value)
        case dict():
            return ",".join(f"{key}={_toml_text(item)}" for key, item in value.items())
    raise ValueError(f"{value!r} is neither text, number, switch, list nor table")


def help_text(program: Program) -> str:
    lines = [
        f"Usage: {program.name} [OPTIONS]",
        "",
        program.purpose,
        f"Every option can also be {program.prefix}<NAME> in the environment or a key of --config.",
        "",
    ]
    extra = (("--version", "print the version"), ("--help", "print this"))
    rows = [(f"--{s.name} {s.meta}".rstrip(), s.help) for s in (*program.settings, CONFIG)]
    return "\n".join([*lines, *(f"  {left:24}  {right}" for left, right in (*rows, *extra))])
