"""`formctl dev`: a Procfile on this machine, as the cluster would run it."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import replace

import click

from formation.manifest import DURATION_MAX_S
from formation.quantities import QuantityError, parse_dev
from formctl import naming, spec
from formctl.dev.plan import AGENTS_MAX, Plan, adapted
from formctl.errors import CommandError, InputError
from formctl.loglines import Painter
from formctl.settings import (
    Seconds,
    Settings,
    app_option,
    colour_option,
    examples,
    is_terminal,
    note,
    pass_settings,
    run,
)

_PORT_BASE_MAX = 60_000


@click.command("dev")
@click.argument("path", default=".", type=click.Path(exists=True, file_okay=False))
@click.option("-f", "--file", metavar="FILE", help="In PATH; default: formation.toml or Procfile.")
@click.option("-m", "--formation", metavar="web=3,…", help="all=1,web=3; default: one of each.")
@click.option(
    "--agents", type=click.IntRange(1, AGENTS_MAX), default=1, show_default=True, metavar="N",
    help="So many hosts, as it were, all on this machine.",
)  # fmt: skip
@click.option("--env", "env_file", metavar="FILE", help="Default: .env in PATH, if there is one.")
@click.option("--strict", is_flag=True, help="Lines of a Procfile that define nothing are errors.")
@click.option(
    "--exit-on",
    type=click.Choice(["any", "failure"]),
    help="End all with any exit, or with one that is not 0.",
)
@click.option(
    "--port",
    type=click.IntRange(0, _PORT_BASE_MAX),
    default=5000,
    show_default=True,
    metavar="BASE",
    help="First PORT, as foreman counts; 0: any free one.",
)
@click.option(
    "--grace",
    type=Seconds(min=0, max=DURATION_MAX_S),
    metavar="SECONDS",
    help="From the stop signal to KILL; default: each type's own, 30.",
)
@colour_option
@app_option
@pass_settings
@examples(
    "formctl dev                              one of each type of ./Procfile",
    "formctl dev -m web=3,worker=2            these, and none of the others",
    "formctl dev ../shop --agents 3           spread over three agents",
    "formctl dev --exit-on any                end when one of them ends, as foreman does",
)
def command(
    settings: Settings,
    path: str,
    file: str | None,
    formation: str | None,
    agents: int,
    env_file: str | None,
    strict: bool,
    exit_on: str | None,
    port: int,
    grace: float | None,
) -> int:
    """Run this project here: a coordinator and agents of its own, its output in this terminal.

    Instances that end are started again, if neither --exit-on nor formation.toml says otherwise.
    Ctrl-C stops everything; once more kills it. Meanwhile every other formctl command works from a
    second terminal.
    """
    if sys.platform != "linux":
        raise CommandError("formctl dev needs Linux; elsewhere talk to a cluster: formctl apply")
    if importlib.util.find_spec("formation_coordinator") is None:
        raise CommandError(
            "formctl dev takes a coordinator, which is not in this file: "
            "pip install 'formctl[embedded]'"
        )
    if settings.coordinator is not None:
        raise InputError("formctl dev starts a coordinator of its own: leave out --coordinator")
    found = spec.read(file, directory=path, env_file=env_file, strict=strict)
    for line in found.notes:
        note(f"formctl: warning: {line}")
    if found.command:
        note(f"formctl: release is not run here: formctl run -- {found.command.command}")
    adapted_types = adapted(found.types, grace_s=grace, exit_on=exit_on or "")
    plan = Plan(
        spec=replace(found, types=adapted_types, command=None),
        app=_app(settings, found),
        quantities=_quantities(formation, found),
        agents=agents,
        port_base=port,
        exit_on=exit_on or "",
    )
    return _run(settings, plan)


def _app(settings: Settings, found: spec.AppSpec) -> str:
    # A name that can be no directory's is still a name.
    name = settings.named_app() or found.app or naming.app_name(found.directory) or "app"
    spec.check_app(name)
    return name


def _quantities(text: str | None, found: spec.AppSpec) -> dict[str, int]:
    try:
        return parse_dev("all=1" if text is None else text, found.type_names)
    except QuantityError as error:
        raise InputError.of(f"-m: {problem}" for problem in error.problems) from None


def _run(settings: Settings, plan: Plan) -> int:
    from formation import runtime
    from formctl.dev.console import Console
    from formctl.dev.session import run_dev

    terminal = is_terminal()
    painter = Painter(
        colour=settings.colour(),
        terminal=terminal,
        names=plan.slots,
    )
    out = os.fdopen(sys.stdout.fileno(), "wb", closefd=False)
    return run(run_dev(plan, Console(out, painter, now_us=lambda: runtime.now_ms() * 1000)))
