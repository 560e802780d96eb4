"""`formctl init`: writes a first formation.toml, of a Procfile when there is one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from formctl.errors import CommandError, InputError
from formctl.settings import Settings, app_option, examples, note, pass_settings, say

if TYPE_CHECKING:
    from formation.model import ProcessType
    from formation.releasecommand import ReleaseCommand
    from formctl.importing import Found
    from formctl.spec import AppSpec


@click.command("init")
@click.argument("path", default=".", type=click.Path(exists=True, file_okay=False))
@click.option(
    "--from", "foreign", metavar="FILE",
    help="Begin with what docker-compose.yml, supervisord.conf or app.json says.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite the formation.toml that is there.")
@app_option
@pass_settings
@examples(
    "formctl init              formation.toml of this directory's Procfile",
    "formctl init apps/shop    in another directory",
    "formctl init --force      begin anew",
    "formctl init --from docker-compose.yml",
    "formctl init --from /etc/supervisor/supervisord.conf",
)
def command(settings: Settings, path: str, foreign: str | None, force: bool) -> None:
    """Write a formation.toml that says what the Procfile says, with the next keys as comments.

    An app.json beside it, as Heroku reads it, gives quantities and variables. Without a Procfile
    it has one type, web. From then on formation.toml alone defines the types.
    """
    from formctl import naming, spec, starter

    app = settings.named_app() or naming.app_name(path)
    if app:
        spec.check_app(app)
    begun = _of_foreign(foreign) if foreign else _of_directory(Path(path))
    text = starter.manifest(app, begun.types, begun.env, begun.notes, begun.command)
    _check(text)
    target = Path(path, naming.MANIFEST)
    _write(target, text, force=force)
    of = f", as in {begun.source}, which is not read any more" if begun.source else ""
    say(f"{target}: {' '.join(item.name for item in begun.types)}{of}")
    for name in begun.secrets:
        say(f"not in the file: formctl secret set {name}")
    say("edit it, then: formctl check")


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """`source`: the file that says so; "" when there was none."""

    types: tuple[ProcessType, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    source: str = ""
    command: ReleaseCommand | None = None


def _of_directory(path: Path) -> Begun:
    from formctl import importing, spec, starter

    source, app_json = path / spec.PROCFILE, path / importing.APP_JSON
    if not source.exists():
        return Begun(types=starter.MINIMAL)
    described = _of_procfile(str(source))
    types, command = described.types, described.command
    if not app_json.exists():
        return Begun(types=types, source=str(source), command=command)
    found = _read(app_json)
    asked = found.quantities
    sized = tuple(replace(t, initial_quantity=asked.get(t.name, t.initial_quantity)) for t in types)
    return Begun(
        types=sized,
        env=found.env,
        secrets=found.secrets,
        notes=found.notes,
        source=str(source),
        command=command,
    )


def _of_foreign(file: str) -> Begun:
    found = _read(Path(file))
    if not found.types:
        raise InputError(f"{file}: names no commands: formctl init reads it beside a Procfile")
    return Begun(
        types=found.types, env=found.env, secrets=found.secrets, notes=found.notes, source=file
    )


def _read(path: Path) -> Found:
    from formctl import importing

    reader = importing.reader_of(str(path))
    if reader is None:
        raise InputError(f"{path}: is neither docker-compose.yml, supervisord.conf nor app.json")
    try:
        found = reader(path.read_text("utf-8"), str(path))
    except importing.ForeignError as error:
        raise InputError.of(error.problems) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    for line in found.notes:
        note(f"formctl: {line}")
    return found


def _of_procfile(path: str) -> AppSpec:
    from formation.procfile import ProcfileError
    from formctl import spec

    try:
        found = spec.of_procfile(spec.AppSpec(source=path, directory="", types=()))
    except ProcfileError as error:
        raise InputError.of(error.problems) from None
    for line in found.notes:
        note(f"formctl: warning: {line}")
    return found


def _check(text: str) -> None:
    """A Procfile can hold what formation.toml refuses."""
    from formation import manifest

    try:
        manifest.parse(text)
    except manifest.ManifestError as error:
        raise InputError.of(error.problems) from None


def _write(target: Path, text: str, *, force: bool) -> None:
    flags = os.O_TRUNC if force else os.O_EXCL
    try:
        number = os.open(target, os.O_WRONLY | os.O_CREAT | flags, 0o666)
        with os.fdopen(number, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{target} is there already; --force overwrites it") from None
    except OSError as error:
        raise CommandError(f"{target}: {(error.strerror or str(error)).lower()}") from None
