"""The program: finds the command, runs it, and turns every failure into a line and an exit code."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import sys
from typing import TYPE_CHECKING

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
    colour_option,
    coordinator_option,
    examples,
)

_GC_OBJECTS = 50_000
_UNWRITTEN = {errno.ENOSPC: "no space left", errno.EIO: "input/output error"}

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# In the order of --help: the first minutes first. What each does stands here in one line, so that
# --help and completion need to import none of them.
_COMMANDS = {
    "dev": "Run this project here, with a coordinator and agents of its own.",
    "init": "Write a first formation.toml, from the Procfile if there is one.",
    "check": "Say what would be applied, or all that is wrong.",
    "export": "Write the formation for another process manager.",
    "apply": "Make a new release of the app described here.",
    "deploy": "Bring code to the hosts, and make a release of it.",
    "scale": "Change how many instances of each type run; print it.",
    "autoscale": "Let a quantity follow a measure.",
    "ps": "List the instances: what runs where, and how it is.",
    "top": "Watch instances, hosts, apps and events live; act on them.",
    "show": "Show everything about one instance.",
    "logs": "Show the output of the instances, of all hosts as one.",
    "endpoints": "Show where healthy instances listen.",
    "run": "Run a command once on one of the hosts.",
    "exec": "Run a command beside an instance, in a terminal or not.",
    "attach": "Follow the output of one instance until it ends.",
    "restart": "Replace running instances by new ones.",
    "retry": "Try again now what backs off, has finished or failed.",
    "plan": "Show what a change would do, without doing it.",
    "explain": "Show why an instance is where it is, or nowhere.",
    "rollout": "Show or steer the change to the current release.",
    "rollback": "Go back to an earlier release.",
    "diff": "Show what differs between two releases.",
    "config": "List, set and unset environment variables of the app.",
    "secret": "List, set and unset what only its processes may see.",
    "apps": "List the apps.",
    "releases": "List the releases, newest first.",
    "runs": "List runs: by hand, and of types with a schedule.",
    "hosts": "List the hosts; label, forget and revoke them.",
    "cordon": "Let hosts take nothing new.",
    "uncordon": "Let hosts take instances again; ends a drain.",
    "drain": "Move everything off a host.",
    "rebalance": "Move instances from full hosts to empty ones.",
    "history": "Show who changed what, newest first.",
    "events": "Show what happens, as it happens.",
    "webhook": "Send events to URLs.",
    "login": "Become somebody in a cluster, by a token.",
    "token": "Let hosts, coordinators and people join.",
    "access": "Show who was given a certificate; cut somebody off.",
    "backup": "Write the whole desired state into a file.",
    "restore": "Put a backup in the place of what is there.",
    "reconcile": "Let an older state count, after seeing what comes of it.",
    "delete": "Stop all of an app and forget it.",
    "version": "Show the versions of formctl and of the coordinator.",
    "completion": "Print what makes the shell complete.",
}


class _Commands(click.Group):
    """Loads a command's module when it is needed, so that formctl starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"formctl.commands.{cmd_name}")
        command = getattr(module, "command")  # noqa: B009  a module has no such type
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        found = ((name, text) for name, text in _COMMANDS.items() if name.startswith(incomplete))
        return [CompletionItem(name, help=text) for name, text in found]


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="formctl")
@coordinator_option
@app_option
@colour_option
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
    # Starting makes many objects and no garbage: do not look for it after every few hundred.
    gc.set_threshold(_GC_OBJECTS)
    code = run(sys.argv[1:])
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    # All is done and told: taking the interpreter apart would make everybody wait a quarter longer.
    os._exit(code)


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
    except OSError as error:
        if error.errno not in _UNWRITTEN:
            raise
        with contextlib.suppress(OSError):  # the window that would show it may be gone
            why = _UNWRITTEN[error.errno]
            click.echo(f"formctl: the output could not be written: {why}", err=True)
        return 1
    return result if isinstance(result, int) else 0


def _in_one_line(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f" (see: {context.command_path} --help)" if context else ""
    return " ".join(error.format_message().split()) + hint


if __name__ == "__main__":
    main()
