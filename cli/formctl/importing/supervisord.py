"""The programs of a supervisord.conf. http://supervisord.org/configuration.html"""

from __future__ import annotations

import configparser
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from formation.model import ProcessType, RestartPolicy, StopTo
from formctl.importing.found import ForeignError, Found, seconds, signal_name, twins, type_name

_SECTION = re.compile(r"(?:program|fcgi-program):(.+)")
_HEADER = re.compile(r"\[(.+?)\]")
_ENV = re.compile(r"%\(ENV_([A-Za-z_][A-Za-z0-9_]*)\)s")
_OTHER = re.compile(r"%\(\w+\)\w*")
_RESTART = {"true": RestartPolicy.ALWAYS, "unexpected": RestartPolicy.ON_FAILURE,
            "false": RestartPolicy.NEVER}  # fmt: skip
# What means something else here, or nothing; how much is logged and where is the agent's affair.
_LEFT = ("priority", "exitcodes", "serverurl", "stdin_capture", "events", "startretries",
         "stdout_syslog", "stderr_syslog", "socket")  # fmt: skip
_ASIDE = ("eventlistener:", "include", "group:")
_TRUE = ("true", "1", "on", "yes")


@dataclass(frozen=True, slots=True)
class _Program:
    """One section, and what is to be told of it."""

    name: str
    said: Mapping[str, str]
    place: str
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(f"{self.place}: {text}")


def read(text: str, source: str) -> Found:
    """Raises `ForeignError`."""
    parser, lines = _parsed(text, source), _lines(text)
    notes: list[str] = []
    types = []
    for section in parser.sections():
        place = f"{source}:{lines.get(section, 1)}: [{section}]"
        if (match := _SECTION.fullmatch(section)) and type_name(match[1]):
            found = _type(_Program(match[1], dict(parser[section]), place, notes))
            types += [found] if found else []
        elif match or section.startswith(_ASIDE):
            notes.append(f"{place} is not taken over")
    if not types:
        raise ForeignError([f"{source}: there is no [program:…] with a command in it"])
    if problems := twins(types, source):
        raise ForeignError(problems)
    env: dict[str, str] = {}
    if parser.has_option("supervisord", "environment"):
        place = f"{source}:{lines.get('supervisord', 1)}: [supervisord]"
        given = _Program("", {"environment": parser["supervisord"]["environment"]}, place, notes)
        env = dict(_environment(given))
    return Found(types=tuple(types), env=env, notes=tuple(notes))


def _parsed(text: str, source: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    try:
        parser.read_string(text, source)
    except configparser.MissingSectionHeaderError as error:
        raise ForeignError([f"{source}:{error.lineno}: stands before any [section]"]) from None
    except configparser.ParsingError as error:
        wrong = [f"{source}:{line}: is not of the form key = value" for line, _ in error.errors]
        raise ForeignError(wrong) from None
    except configparser.Error as error:
        raise ForeignError([f"{source}: {' '.join(str(error).split())}"]) from None
    return parser


def _lines(text: str) -> dict[str, int]:
    """Where each section begins."""
    return {
        match[1]: number
        for number, line in enumerate(text.split("\n"), start=1)
        if (match := _HEADER.match(line))
    }


def _type(program: _Program) -> ProcessType | None:
    said = program.said
    if not said.get("command"):
        program.note("has no command; left out")
        return None
    for key in _LEFT:
        if said.get(key):
            program.note(f"{key} is not taken over")
    mask = said.get("umask", "")
    as_group = said.get("stopasgroup", "false").lower() in _TRUE
    return ProcessType(
        name=type_name(program.name),
        command=_expanded(said["command"], program).replace("\n", " "),
        initial_quantity=_quantity(program),
        restart=_restart(program),
        stop_signal=_signal(program),
        stop_grace_s=_time(program, "stopwaitsecs", 10.0),
        stop_to=StopTo.GROUP if as_group else StopTo.MAIN,
        ready_after_s=_time(program, "startsecs", 1.0),
        workdir=_absolute(program),
        user=said.get("user", ""),
        umask=int(mask, 8) if re.fullmatch(r"[0-7]{1,4}", mask) else -1,
        env=dict(_environment(program)),
    )


def _quantity(program: _Program) -> int:
    """None of what supervisord does not start by itself."""
    numbers = program.said.get("numprocs", "1")
    if not (numbers.isascii() and numbers.isdecimal()):
        program.note(f"numprocs {numbers} is no number; 1 here")
        numbers = "1"
    if program.said.get("autostart", "true").lower() not in _TRUE:
        program.note("autostart is off: quantity 0")
        return 0
    return int(numbers)


def _restart(program: _Program) -> RestartPolicy:
    given = program.said.get("autorestart", "unexpected").lower()
    given = "true" if given in _TRUE else "false" if given in ("0", "off", "no") else given
    if given not in _RESTART:
        program.note(f"autorestart {given} is not known; always here")
    return _RESTART.get(given, RestartPolicy.ALWAYS)


def _signal(program: _Program) -> str:
    """Of several, which newer ones take in turn, the first."""
    given = program.said.get("stopsignal", "TERM")
    found = signal_name(given.split(",")[0])
    if found is None or "," in given:
        program.note(f"stopsignal {given}: {found or 'TERM'} here")
    return found or "TERM"


def _time(program: _Program, key: str, default_s: float) -> float:
    given = program.said.get(key)
    found_s = default_s if given is None else seconds(given)
    if found_s is None:
        program.note(f"{key} {given} is no number; {default_s:g} here")
    return default_s if found_s is None else found_s


def _absolute(program: _Program) -> str:
    path = program.said.get("directory", "")
    if not path or (path.startswith("/") and "%(" not in path):
        return path
    program.note(f"directory {path} is below supervisord's own; left out")
    return ""


def _expanded(text: str, program: _Program) -> str:
    """What supervisord puts in itself, as a shell does, or is told."""
    known = _ENV.sub(r"$\1", text.replace("%(program_name)s", program.name))
    for other in dict.fromkeys(_OTHER.findall(known.replace("%%", ""))):
        program.note(f"what is meant by {other}? PS and PORT tell instances apart here")
    return known.replace("%%", "%").strip()


def _environment(program: _Program) -> Iterator[tuple[str, str]]:
    lexer = shlex.shlex(program.said.get("environment", ""))
    lexer.wordchars += "/.+-():%"
    try:
        tokens = list(lexer)
    except ValueError:
        program.note("environment cannot be read; left out")
        return
    for start in range(0, len(tokens), 4):
        name, *rest = tokens[start : start + 3]
        match rest:
            case ["=", value] if _ENV.search(value):
                program.note(f"{name} is made of others' values: formctl config set {name}=…")
            case ["=", value]:
                yield name, _expanded(value.strip("'\""), program)
            case _:
                program.note(f"environment cannot be read from {name} on")
                return
