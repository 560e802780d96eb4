"""The program: finds the command, runs it, and turns every failure into a line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys

import click

from formation import __version__, grpcenv
from formctl.errors import (
    INTERRUPTED,
    CommandError,
    InterruptedByUserError,
    ReaderGoneError,
)
from formctl.settings import (
    Settings,
    app_option,
    coordinator_option,
    examples,
)

# In the order of --help: the first minutes first. Imported when asked for.
_COMMANDS = {
    "dev": "dev",
    "init": "init",
    "check": "check",
    "apply": "apply",
    "scale": "scale",
    "ps": "ps",
    "show": "show",
    "logs": "logs",
    "endpoints": "endpoints",
    "run": "run",
    "restart": "restart",
    "retry": "retry",
    "plan": "plan",
    "explain": "explain",
    "rollout": "rollout",
    "rollback": "rollback",
    "diff": "diff",
    "config": "config",
    "secret": "secret",
    "apps": "apps",
    "releases": "releases",
    "runs": "runs",
    "hosts": "hosts",
    "cordon": "cordon",
    "uncordon": "uncordon",
    "drain": "drain",
    "rebalance": "rebalance",
    "history": "history",
    "events": "events",
    "login": "login",
    "token": "token",
    "access": "access",
    "backup": "backup",
    "restore": "restore",
    "reconcile": "reconcile",
    "delete": "delete",
    "version": "version",
    "completion": "completion",
}


class _Commands(click.Group):
    """Loads a command's module when it is needed, so that formctl starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"formctl.commands.{_COMMANDS[cmd_name]}")
        command = getattr(module, "command")  # noqa: B009  a module has no such type
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="formctl")
@coordinator_option
@app_option
@click.pass_context
@examples(
    "formctl dev                       run this directory's Procfile here",
    "formctl apply                     make it an app of the cluster",
    "formctl scale web=5 worker+1      change its formation",
    "formctl ps --watch                see what runs where",
    "formctl logs -f web               follow one type on all hosts",
)
def cli(ctx: click.Context) -> None:
    """Runs the process formation of twelve-factor apps across your own machines."""
    ctx.ensure_object(Settings)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    grpcenv.prepare()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit code; never a traceback for what a person can cause."""
    try:
        result = cli.main(arguments, prog_name="formctl", standalone_mode=False)
        sys.stdout.flush()
    except CommandError as error:
        click.echo(f"formctl: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"formctl: {_in_one_line(error)}", err=True)
        return error.exit_code
    except (InterruptedByUserError, KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except (ReaderGoneError, BrokenPipeError):
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


def _in_one_line(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f" (see: {context.command_path} --help)" if context else ""
    return " ".join(error.format_message().split()) + hint


if __name__ == "__main__":
    main()
