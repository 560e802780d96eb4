"""A first formation.toml: what a Procfile says, and the keys that are wanted next. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from formation.model import ProcessType

# What a file without a Procfile begins with.
MINIMAL = (ProcessType(name="web", command="./web", initial_quantity=1),)
_HEAD = """\
# What this app is: its process types, and how each of them runs.
# `formctl check` tells what is wrong here, `formctl apply` makes a release of it.
"""
_FILE = """\
# workdir = "/srv/shop"           # where the app's files are on the hosts

# [env]                           # for all types; .env goes before it
# LOG_LEVEL = "info"
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
_SCHEDULED_NAMES = ("backup", "nightly", "report")


def manifest(app: str, types: Sequence[ProcessType]) -> str:
    """`app` "": the file does not name it. The types stay in their order."""
    named = f"app = {toml_text(app)}" if app else '# app = "shop"'
    first = next((spec for spec in types if spec.name == "web"), types[0])
    parts = [_HEAD, f"{named}\n{_FILE}"]
    parts += [_type(spec, is_first=spec is first) for spec in types]
    taken = {spec.name for spec in types}
    free = [name for name in _SCHEDULED_NAMES if name not in taken]
    scheduled = _SCHEDULED.format(name=free[0]) if free else ""
    return "\n".join(parts) + scheduled


def _type(spec: ProcessType, *, is_first: bool) -> str:
    quantity = f"quantity = {spec.initial_quantity}"
    if is_first:
        quantity = f"{quantity.ljust(34)}# for the first time only; then `formctl scale` rules"
    command = f"command = {toml_text(spec.command)}"
    return f"[types.{spec.name}]\n{command}\n{quantity}\n{_SERVER if is_first else ''}"


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
