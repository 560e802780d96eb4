"""formation.toml → an app's description, or all of its problems with their key paths. Pure.

    app = "shop"
    workdir = "/srv/shop"
    [env]
    LOG_LEVEL = "info"
    [types.web]
    command = "gunicorn shop:app"
    quantity = 2                # only for the first time; `formctl scale` rules afterwards
    ready.http = "/health"
    stop.grace = "30s"          # seconds, or text with ms, s, min, h
    limits.memory = "512MiB"

A formation.toml alone defines the types: a Procfile beside it is not read. All keys are in
`manifest_keys`, how a type is made of them in `manifest_type`, what they mean in docs/manifest.md.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from formation import tomltext
from formation.builds import BUILD, Build
from formation.manifest_keys import ELSEWHERE, FILE, STOP_SIGNALS
from formation.manifest_kinds import DURATION_MAX_S
from formation.manifest_type import read_type
from formation.manifest_values import Section, Table, did_you_mean, duration_s
from formation.model import ProcessType
from formation.releasecommand import RELEASE, ReleaseCommand

__all__ = ["DURATION_MAX_S", "STOP_SIGNALS", "Manifest", "ManifestError", "duration_s", "parse"]

_SYNTAX_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")


class ManifestError(ValueError):
    """`problems`: one line each, `source: key.path: what is wrong`."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`app` and `workdir` are empty when the file does not say; `build` is None. `command`: the
    release command."""

    types: tuple[ProcessType, ...]
    app: str = ""
    workdir: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    build: Build | None = None
    command: ReleaseCommand | None = None


def parse(text: str, source: str = "formation.toml") -> Manifest:
    try:
        table = tomltext.loads(text)
    except tomltext.TomlError as error:
        raise ManifestError((_syntax_problem(str(error), source),)) from None
    problems: list[tuple[str, str]] = []
    manifest = _manifest(table, problems)
    if problems:
        raise ManifestError(tuple(f"{source}: {path}: {what}" for path, what in problems))
    return manifest


def _manifest(table: Table, problems: list[tuple[str, str]]) -> Manifest:
    file = Section(table, "", problems, FILE)
    app, workdir, env = file.text("app"), file.text("workdir"), file.variables("env")
    others = file.names("types")
    types = tuple(
        read_type(spec, name, others, app) for name, spec in file.sections("types", ELSEWHERE)
    )
    if not types and not problems:
        file.problem("types", 'no process types: add [types.web] with command = "…"')
    if RELEASE in others:
        told = "that is no type but the release command: write [release] with its command"
        problems.append((f"types.{RELEASE}", told))
    command = _release_command(file, others) if "release" in file else None
    build = _build(file, types)
    return Manifest(app=app, workdir=workdir, env=env, types=types, build=build, command=command)


def _build(file: Section, types: tuple[ProcessType, ...]) -> Build | None:
    command, timeout_s = file.text("build"), file.duration("build_timeout")
    user, accounts = file.text("build_user"), {(spec.user, spec.group) for spec in types}
    if not command:
        return None
    if any(spec.name == BUILD for spec in types):
        file.problem(
            "types", f"{BUILD} is what the build is called in logs: name that type otherwise"
        )
    if user:
        return Build(command=command, timeout_s=timeout_s, user=user)
    if len(accounts) > 1:
        names = ", ".join(sorted(user or "the agent's own" for user, _ in accounts))
        file.problem("build", f"the types run as {names}: say whom it runs as with build_user")
    user, group = min(accounts, default=("", ""))
    return Build(command=command, timeout_s=timeout_s, user=user, group=group)


def _release_command(file: Section, types: Collection[str]) -> ReleaseCommand:
    table = file.section("release")
    like = table.text("type")
    if like and like not in types:
        hint = did_you_mean(like, types) or f"there is {', '.join(types)}"
        table.problem("type", f"no type {like} in this file; {hint}")
    return ReleaseCommand(
        command=table.text("command"), like=like, timeout_s=table.duration("timeout")
    )


def _syntax_problem(message: str, source: str) -> str:
    place = _SYNTAX_PLACE.search(message)
    if not place:
        return f"{source}: {message}"
    return f"{source}:{place[1]}: {message[: place.start()]} (column {place[2]})"
