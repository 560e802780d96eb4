"""A first formation.toml: what a Procfile says, and the keys that are wanted next. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from formation.model import ProcessType
from formation.releasecommand import ReleaseCommand

# What a file without a Procfile begins with.
MINIMAL = (ProcessType(name="web", command="./web", initial_quantity=1),)
_HEAD = """\
# What this app is: its process types, and how each of them runs.
# `formctl check` tells what is wrong here, `formctl apply` makes a release of it.
"""
_WORKDIR = '# workdir = "/srv/shop"           # where the app\'s files are on the hosts\n'
_ENV = "[env]                             # for all types; .env goes before it\n"
_NO_ENV = """\
# [env]                           # for all types; .env goes before it
# LOG_LEVEL = "info"
"""
_RELEASE = """\
[release]                         # runs once for each release, before anything of it starts
command = {}
"""
_SERVER = """\
# ready.http = "/health"          # it is up when GET answers; a change waits for that
# live.http = "/health"           # started again when it no longer answers
# stop.grace = "10s"              # from TERM to KILL; default: 30 s
# limits.memory = "512MiB"        # more is answered by the OOM killer
# resources.memory = "256MiB"     # what a host keeps for each
# placement.require = ["!gpu"]    # labels of hosts
# rollout.surge = "50%"           # so many more while a change arrives; default: 25%
"""
_SCHEDULED = """
# [types.{name}]
# command = "./backup"
# schedule.cron = "30 2 * * *"    # a type that runs to its end at these times
# schedule.zone = "Europe/Berlin"
"""
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCHEDULED_NAMES = ("backup", "nightly", "report")


def manifest(
    app: str,
    types: Sequence[ProcessType],
    env: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    command: ReleaseCommand | None = None,
) -> str:
    """`app` "": the file does not name it. The types stay in their order. `notes`: what another
    file said and this one cannot, as comments. `command`: the release command."""
    named = f"app = {toml_text(app)}" if app else '# app = "shop"'
    first = next((spec for spec in types if spec.name == "web"), types[0])
    parts = [_HEAD + _noted(notes), f"{named}\n{_WORKDIR}\n{_environment(env or {})}"]
    parts += [_RELEASE.format(toml_text(command.command))] if command else []
    parts += [_type(spec, is_first=spec is first) for spec in types]
    taken = {spec.name for spec in types}
    free = [name for name in _SCHEDULED_NAMES if name not in taken]
    scheduled = _SCHEDULED.format(name=free[0]) if free else ""
    return "\n".join(parts) + scheduled


def _noted(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    shown = ("".join(c if c.isprintable() else " " for c in note) for note in notes)
    return "".join(("#\n# To look at:\n", *(f"# * {note}\n" for note in shown)))


def _type(spec: ProcessType, *, is_first: bool) -> str:
    quantity = f"quantity = {spec.initial_quantity}"
    if is_first:
        quantity = f"{quantity.ljust(34)}# for the first time only; then `formctl scale` rules"
    lines = [f"[types.{spec.name}]", f"command = {toml_text(spec.command)}", quantity]
    lines += _settings(spec)
    return "\n".join(lines) + f"\n{_SERVER if is_first else ''}"


def _environment(env: Mapping[str, str]) -> str:
    if not env:
        return _NO_ENV
    return _ENV + "".join(f"{_key(name)} = {toml_text(value)}\n" for name, value in env.items())


def _settings(spec: ProcessType) -> Iterator[str]:
    """What differs from a plain type, as far as other managers' files can say it."""
    plain = ProcessType(name=spec.name, command=spec.command)
    if spec.restart is not plain.restart:
        yield f'restart = "{spec.restart}"'
    yield from _starting_and_stopping(spec, plain)
    for key, text in (("user", spec.user), ("workdir", spec.workdir)):
        if text:
            yield f"{key} = {toml_text(text)}"
    if spec.umask >= 0:
        yield f'umask = "{spec.umask:03o}"'
    if spec.limits.memory_bytes:
        yield f'limits.memory = "{spec.limits.memory_bytes}B"'
    if spec.limits.cpus:
        yield f"limits.cpus = {spec.limits.cpus:g}"
    yield from (f"env.{_key(name)} = {toml_text(value)}" for name, value in spec.env.items())


def _starting_and_stopping(spec: ProcessType, plain: ProcessType) -> Iterator[str]:
    if spec.ready_after_s != plain.ready_after_s:
        yield f'ready.after = "{spec.ready_after_s:g}s"'
    if spec.stop_signal != plain.stop_signal:
        yield f'stop.signal = "{spec.stop_signal}"'
    if spec.stop_grace_s != plain.stop_grace_s:
        yield f'stop.grace = "{spec.stop_grace_s:g}s"'
    if spec.stop_to is not plain.stop_to:
        yield f'stop.to = "{spec.stop_to}"'


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else toml_text(name)


def toml_text(text: str) -> str:
    """As a TOML string on one line: literal where that spares escapes."""
    plain = all(c == "\t" or c.isprintable() for c in text)
    if plain and "'" not in text and ('"' in text or "\\" in text):
        return f"'{text}'"
    return f'"{"".join(_escaped(text))}"'


def _escaped(text: str) -> Iterator[str]:
    for character in text:
        if character in '"\\':
            yield f"\\{character}"
        else:
            yield character if character.isprintable() else f"\\U{ord(character):08x}"
