"""What every command is told: which coordinator, which app, how to print. Light: click only.

`--coordinator` and `--app` work before and after the command's name.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime, time
from typing import TYPE_CHECKING, Any, TypeVar

import click

from formation.targets import parse_target
from formctl.errors import InputError, InterruptedByUserError, ReaderGoneError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from formation.discovery import Target

_CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

Function = TypeVar("Function", bound=Callable[..., Any])
Result = TypeVar("Result")


@dataclass(slots=True, kw_only=True)
class Settings:
    """What was said before and after the command's name."""

    coordinator: str | None = None
    app: str | None = None
    color: str = "auto"
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    directory: str = "."

    def target(self) -> Target:
        from formation.discovery import find_target

        return find_target(self.coordinator, self.environ, self.directory)

    def colour(self) -> bool:
        """Whether what goes to standard output is coloured."""
        return wants_colour(self.color, terminal=is_terminal(), environ=self.environ)

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


class Moment(click.ParamType[int]):
    """`10m` ago, `14:30` of today or a date with a time, in local time unless it says otherwise →
    microseconds since 1970."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        from formation.runtime import now_ms

        text = str(value)
        now = datetime.fromtimestamp(now_ms() / 1000).astimezone()
        try:
            if _CLOCK.fullmatch(text):
                clock = time.fromisoformat(text.rjust(len(text) + (text[1] == ":"), "0"))
                return _micros(datetime.combine(now.date(), clock))
            if _DATE.match(text):
                return _micros(datetime.fromisoformat(text))
        except (ValueError, OverflowError, OSError) as error:
            self.fail(f"{text!r}: {error}", param, ctx)
        try:
            ago_s = Duration(min=0).convert(text, param, ctx)
        except click.BadParameter:
            self.fail(f"{text!r} is neither 10m nor 14:30 nor 2026-11-22T14:30", param, ctx)
        return max(0, int((now.timestamp() - ago_s) * 1_000_000))


def _micros(at: datetime) -> int:
    return max(0, int(at.astimezone().timestamp() * 1_000_000))


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
        expose_value=False,
        is_eager=True,
        callback=_keep,
        help="auto, the default: on a terminal, unless NO_COLOR is set.",
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


def _above() -> AbstractContextManager[None]:
    """Of the live line, if there can be one: who draws one has loaded it."""
    loaded = sys.modules.get("formctl.liveline")
    return loaded.above() if loaded else contextlib.nullcontext()


def say(text: str) -> None:
    """A line of the answer, on stdout."""
    with _above():
        # Colours are there because somebody wants them: click would take them out of a pipe.
        click.echo(text, color=True)


def say_json(value: object) -> None:
    import json

    with _above():
        click.echo(json.dumps(value, ensure_ascii=False))


def note(text: str) -> None:
    """For the person, beside the answer: on stderr, so that pipes stay clean."""
    with _above():
        click.echo(text, err=True)


def wants_colour(choice: str, *, terminal: bool, environ: Mapping[str, str]) -> bool:
    """`auto`: NO_COLOR says never, else FORCE_COLOR always (any text but an empty one); else it is
    on a terminal that is not a dumb one."""
    if choice != "auto":
        return choice == "always"
    if environ.get("NO_COLOR") or environ.get("FORCE_COLOR"):
        return not environ.get("NO_COLOR")
    return terminal and environ.get("TERM") != "dumb"


def is_terminal() -> bool:
    return sys.stdout.isatty()


def terminal_width() -> int | None:
    """None where a line may be as long as it is."""
    if not is_terminal():
        return None
    import shutil

    return shutil.get_terminal_size().columns


def parse_instance(text: str) -> tuple[str, int]:
    """`web.3` alone: for what is about one instance."""
    name, ordinal = parse_target(text)
    if not ordinal:
        raise InputError(f"{text!r} is no instance; name one as in {name or 'web'}.1")
    return name, ordinal
