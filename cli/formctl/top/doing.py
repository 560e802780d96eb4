"""What is asked for by a key: why something is where it is, logs, a plan, a change. Each call gives
text, or CommandError with what the coordinator said.
"""

from __future__ import annotations

from collections.abc import Callable

from formation import runtime, wire
from formation.discovery import Target
from formation.person import who
from formation.quantities import parse_changes, show
from formation.v1 import control_pb2 as pb
from formctl import details, following, renderchange
from formctl.client import Client, instance_from_pb
from formctl.following import Choice, LogFeed
from formctl.loglines import Line, clock, escaped
from formctl.top.look import Wish
from formctl.views import in_order

_LOG_LINES = 200
_COMMAND = "apply just this:"


async def why(target: Target, wish: Wish) -> list[str]:
    """Where it would go and why; what hosts lack."""
    request = pb.ExplainRequest(app=wish.app, type=wish.type, ordinal=wish.ordinal)
    async with Client(target) as client:
        found = await client.read(lambda stub: stub.Explain, request)
    instance = instance_from_pb(found.instance)
    text = renderchange.explanation(found, instance, all_checks=False, width=None)
    return text.split("\n")


async def settings_of(target: Target, wish: Wish, release: int) -> list[str]:
    """How its type is run, in the release that it runs."""
    async with Client(target) as client:
        releases = await client.releases(wish.app)
    spec = next((r.type_named(wish.type) for r in releases if r.number == release), None)
    return [] if spec is None else details.settings_lines(spec)


async def logs(target: Target, wish: Wish, write: Callable[[list[str]], None]) -> None:
    """Endless: what is kept, then what comes."""
    targets = ((wish.type, wish.ordinal),) if wish.type else ()
    feed = LogFeed(
        lambda lines: write([_log_line(line, named=not wish.ordinal) for line in lines]),
        lambda said: write([said]),
        tail_lines=_LOG_LINES,
        started_us=runtime.now_ms() * 1000,
    )
    async with Client(target, notice=lambda said: write([said])) as client:
        await following.follow(
            client, feed, app=wish.app, choice=Choice(targets=targets), live=True
        )


def _log_line(line: Line, *, named: bool) -> str:
    name = f"{line.name} | " if named else ""
    text = escaped(line.text, colour=False).decode().expandtabs()
    return f"{clock(line.at_us)} {name}{text}{'…' if line.partial else ''}"


async def plan(target: Target, wish: Wish) -> tuple[list[str], int]:
    """What a change of quantities would come to; and the revision that was looked at."""
    request = pb.PlanRequest(scale=_scale_request(wish))
    async with Client(target) as client:
        found = await client.read(lambda stub: stub.Plan, request)
    # Without its last line, which is a command to type.
    text = renderchange.plan(found, "")
    return [line for line in text.split("\n") if not line.startswith(_COMMAND)], found.revision


async def scale(target: Target, wish: Wish) -> str:
    request = _scale_request(wish)
    request.if_revision, request.who = wish.revision, who()
    async with Client(target) as client:
        response = await client.change(lambda stub: stub.Scale, request)
        found = next((line for line in await client.apps() if line.app.name == wish.app), None)
    after = in_order(response.after, found.types if found else ())
    return f"{wish.app}: {show(after)}"


def _scale_request(wish: Wish) -> pb.ScaleRequest:
    changes = [wire.quantity_change_to_pb(c) for c in parse_changes(wish.words.split())]
    return pb.ScaleRequest(app=wish.app, changes=changes)


async def restart(target: Target, wish: Wish) -> str:
    request = pb.RestartRequest(app=wish.app, type=wish.type, ordinal=wish.ordinal, who=who())
    async with Client(target) as client:
        response = await client.change(lambda stub: stub.Restart, request)
    names = sorted(f"{item.type}.{item.ordinal}" for item in response.replaced)
    return f"restarting {' '.join(names)}" if names else "nothing runs that could be restarted"
