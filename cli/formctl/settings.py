"""What every command is told: which coordinator, which app, how to print. Light: click only.

`--coordinator` and `--app` work before and after the command's name.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import click

from formation.model import TYPE_NAME
from formctl.errors import InputError, InterruptedByUserError, ReaderGoneError

if TYPE_CHECKING:
    from formctl.discovery import Target

_ORDINAL = re.compile(r"[1-9][0-9]{0,6}")

Function = TypeVar("Function", bound=Callable[..., Any])
Result = TypeVar("Result")


@dataclass(slots=True, kw_only=True)
class Settings:
    coordinator: str | None = None
    app: str | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    directory: str = "."

    def target(self) -> Target:
        from formctl.discovery import find_target

        return find_target(self.coordinator, self.environ, self.directory)

    def named_app(self) -> str:
        """The app that the caller named; "" when it has to be found out."""
        return self.app or self.environ.get("FORMATION_APP", "")


pass_settings = click.make_pass_decorator(Settings, ensure=True)


def _keep(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        if not value.strip():
            raise click.BadParameter("is empty", context, parameter)
        settings = context.find_root().ensure_object(Settings)
        setattr(settings, str(parameter.name), value)


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Seconds(click.FloatRange):
    """A finite number: `nan` and `inf` are floats, but no times."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


class Duration(Seconds):
    """`90`, `15m`, `1h`, `2d` → seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value)
        unit = _UNITS.get(text[-1:], 0)
        number = super().convert(text[:-1] if unit else text, param, ctx)
        return number * (unit or 1)


def coordinator_option(function: Function) -> Function:
    return click.option(
        "--coordinator",
        metavar="ADDR",
        expose_value=False,
        is_eager=True,
        callback=_keep,
        help="host:port, [v6]:port or unix:/path; several separated by commas.",
    )(function)


def app_option(function: Function) -> Function:
    return click.option(
        "--app",
        metavar="NAME",
        expose_value=False,
        is_eager=True,
        callback=_keep,
        help="The app; default: this directory's or the only one.",
    )(function)


def output_option(function: Function) -> Function:
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="json has stable keys, see docs/cli.md.",
    )(function)


def colour_option(function: Function) -> Function:
    return click.option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        show_default=True,
        help="auto: on a terminal, unless NO_COLOR is set.",
    )(function)


def wait_options(function: Function) -> Function:
    function = click.option(
        "--timeout",
        type=Seconds(min=0, min_open=True),
        default=300.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait; the change stays also afterwards.",
    )(function)
    return click.option("--wait/--no-wait", default=True, help="Wait until it has arrived.")(
        function
    )


def canary_option(function: Function) -> Function:
    return click.option(
        "--canary",
        type=click.IntRange(min=0),
        default=0,
        metavar="N",
        help="Only N of each type that changes, until formctl rollout promote.",
    )(function)


def if_revision_option(function: Function) -> Function:
    return click.option(
        "--if-revision",
        type=click.IntRange(min=0),
        default=0,
        metavar="R",
        help="Of a plan: refuse when something was decided since.",
    )(function)


def why_option(function: Function) -> Function:
    return click.option("--why", default="", metavar="TEXT", help="For the history.")(function)


def examples(*lines: str) -> Callable[[Function], Function]:
    """Adds them to the command's help, one a line as typed."""

    def add(function: Function) -> Function:
        shown = "\n".join(f"  {line}" for line in lines)
        text = inspect.cleandoc(function.__doc__ or "")
        function.__doc__ = f"{text}\n\n\b\nExamples:\n{shown}\n"
        return function

    return add


def run(work: Coroutine[Any, Any, Result]) -> Result:
    import asyncio

    try:
        return asyncio.run(work)
    except (KeyboardInterrupt, BrokenPipeError, BaseExceptionGroup) as error:
        raise _told(error) from None


def _told(error: BaseException) -> BaseException:
    """A task group wraps what stopped it; people are told the reason itself.

    Two are renamed, since click would answer them in its own way.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, KeyboardInterrupt):
        return InterruptedByUserError()
    return ReaderGoneError() if isinstance(error, BrokenPipeError) else error


def say(text: str) -> None:
    """A line of the answer, on stdout."""
    click.echo(text)


def say_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def note(text: str) -> None:
    """For the person, beside the answer: on stderr, so that pipes stay clean."""
    click.echo(text, err=True)


def is_terminal() -> bool:
    return sys.stdout.isatty()


def terminal_width() -> int | None:
    """None where a line may be as long as it is."""
    return shutil.get_terminal_size().columns if is_terminal() else None


def parse_target(text: str | None) -> tuple[str, int]:
    """`web` → ("web", 0), `web.3` → ("web", 3), nothing → ("", 0): every type."""
    if not text:
        return "", 0
    name, dot, number = text.partition(".")
    if not TYPE_NAME.fullmatch(name) or (dot and not _ORDINAL.fullmatch(number)):
        raise InputError(f"{text!r} is neither a type (web) nor an instance (web.3)")
    return name, int(number or 0)


def parse_instance(text: str) -> tuple[str, int]:
    """`web.3` alone: for what is about one instance."""
    name, ordinal = parse_target(text)
    if not ordinal:
        raise InputError(f"{text!r} is no instance; name one as in {name or 'web'}.1")
    return name, ordinal


def who() -> str:
    """`user@host`, for the audit; a user without a name (a container's uid) counts too."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
