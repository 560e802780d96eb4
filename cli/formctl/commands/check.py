"""`formctl check`: is what this directory describes right? Asks no coordinator, changes nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import click

from formctl.errors import InputError
from formctl.settings import (
    Settings,
    app_option,
    examples,
    note,
    output_option,
    pass_settings,
    say,
    say_json,
    terminal_width,
)


@click.command("check")
@click.argument("path", default=".", type=click.Path(exists=True, file_okay=False))
@click.option(
    "-f", "--file", metavar="FILE", help="In PATH; Procfile, formation.toml, - for stdin."
)
@click.option("--env", "env_file", metavar="FILE", help="Default: .env beside it, if there is one.")
@click.option("--strict", is_flag=True, help="Warnings are errors.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of formation.toml instead.")
@output_option
@app_option
@pass_settings
@examples(
    "formctl check                                   formation.toml, else Procfile, and .env",
    "formctl check -f staging.toml --env staging.env",
    "formctl check --strict                          for CI: warnings fail too",
    "formctl check --schema > formation.schema.json  for editors",
)
def command(
    settings: Settings,
    path: str,
    file: str | None,
    env_file: str | None,
    strict: bool,
    schema: bool,
    output: str,
) -> None:
    """Say what would be applied, or all that is wrong, without a coordinator."""
    if schema:
        _print_schema()
        return
    try:
        _check(settings, path, file, env_file, strict=strict, output=output)
    except InputError as error:
        if output == "json":
            from formctl import checking

            say_json(checking.failure_as_json(str(error).splitlines()))
        raise


def _print_schema() -> None:
    from formation import manifest_schema

    say(json.dumps(manifest_schema.schema(), indent=2, ensure_ascii=False))


def _check(
    settings: Settings,
    path: str,
    file: str | None,
    env_file: str | None,
    *,
    strict: bool,
    output: str,
) -> None:
    from formctl import checking, spec

    found = spec.read(file, directory=path, env_file=env_file, strict=strict)
    app = spec.chosen_app(settings.named_app(), found)
    now = datetime.now(UTC)
    told = checking.warnings(found, now)
    if strict and told:
        raise InputError.of(told)
    if output == "json":
        say_json(checking.as_json(app, found, told))
        return
    say(checking.summary(app, found, now, terminal_width()))
    for line in told:
        note(f"formctl: warning: {line}")
