"""`formctl init`: writes a first formation.toml, of a Procfile when there is one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from formctl.errors import CommandError, InputError
from formctl.settings import Settings, app_option, examples, note, pass_settings, say

if TYPE_CHECKING:
    from formation.model import ProcessType


@click.command("init")
@click.argument("path", default=".", type=click.Path(exists=True, file_okay=False))
@click.option("--force", is_flag=True, help="Overwrite the formation.toml that is there.")
@app_option
@pass_settings
@examples(
    "formctl init              formation.toml of this directory's Procfile",
    "formctl init apps/shop    in another directory",
    "formctl init --force      begin anew",
)
def command(settings: Settings, path: str, force: bool) -> None:
    """Write a formation.toml that says what the Procfile says, with the next keys as comments.

    Without a Procfile it has one type, web. From then on formation.toml alone defines the types.
    """
    from formctl import spec, starter

    app = settings.named_app() or spec.app_name(path)
    if app:
        spec.check_app(app)
    source = Path(path, spec.PROCFILE)
    types = _of_procfile(str(source)) if source.exists() else starter.MINIMAL
    text = starter.manifest(app, types)
    _check(text)
    target = Path(path, spec.MANIFEST)
    _write(target, text, force=force)
    of = f", as in {source}, which is not read any more" if source.exists() else ""
    say(f"{target}: {' '.join(item.name for item in types)}{of}")
    say("edit it, then: formctl check")


def _of_procfile(path: str) -> tuple[ProcessType, ...]:
    from formation.procfile import ProcfileError
    from formctl import spec

    try:
        types, warnings = spec.of_procfile(path)
    except ProcfileError as error:
        raise InputError.of(error.problems) from None
    for line in warnings:
        note(f"formctl: warning: {line}")
    return types


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
