"""`formctl attach`: what one process of an instance writes from now on, until it ends."""

from __future__ import annotations

import click

from formctl.settings import (
    Settings,
    app_option,
    coordinator_option,
    examples,
    parse_instance,
    pass_settings,
    run,
)


@click.command("attach")
@click.argument("instance", metavar="TYPE.N")
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl attach web.3                what web.3 writes from now on; Ctrl-C leaves it running",
    "formctl attach import.1 && echo ok  its exit code becomes this command's",
)
def command(settings: Settings, instance: str) -> int:
    """Follow the output of one instance until its process ends; exit with its exit code.

    Nothing is typed into it: instances have no standard input. formctl logs -f goes on across
    restarts, formctl exec runs a shell beside it.
    """
    type_name, ordinal = parse_instance(instance)
    from formctl.attachfollow import attach

    return run(attach(settings, type_name, ordinal))
