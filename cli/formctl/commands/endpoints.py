"""`formctl endpoints`: where healthy instances listen, for load balancers and others."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Never

import click

from formation.targets import parse_target
from formctl import damping, keeping
from formctl import endpoints as forms
from formctl.errors import CommandError, InputError, UnreachableError
from formctl.settings import (
    Duration,
    Settings,
    app_option,
    coordinator_option,
    examples,
    note,
    pass_settings,
    run,
)
from formctl.views import Instance, Table

if TYPE_CHECKING:
    from formation.discovery import Target
    from formctl.client import Client

# A disk that was full may have room again.
_AGAIN_S = 5.0
_STEP_S = 0.05
_CONNECT_AGAIN_S = 1.0
_SETTLE_MAX_S = 60.0


@click.command("endpoints")
@click.argument("types", nargs=-1, metavar="[TYPE]...")
@click.option("-w", "--watch", is_flag=True, help="Stay, and tell every change.")
@click.option(
    "-o", "--output", type=click.Choice(forms.FORMS), default="text", show_default=True,
    help="In whose words.",
)  # fmt: skip
@click.option("--template", metavar="FILE", help="In your own words: a Jinja template.")
@click.option("--out", metavar="FILE", help="Write it there, whole or not at all.")
@click.option("--run", "command_", metavar="CMD", help="With --out: run this after each change.")
@click.option(
    "--settle", type=Duration(min=0, max=_SETTLE_MAX_S), default=damping.SETTLE_S,
    show_default=True, metavar="SECONDS", help="A change is told when so long no other came.",
)  # fmt: skip
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl endpoints web",
    "formctl endpoints web -o env",
    "formctl endpoints web -w -o haproxy --out /etc/haproxy/shop.cfg --run 'haproxy-reload'",
    "formctl endpoints web api -w --template upstreams.j2 --out /etc/nginx/conf.d/shop.conf "
    "--run 'nginx -s reload'",
)
@click.pass_context
def command(
    context: click.Context,
    settings: Settings,
    types: tuple[str, ...],
    watch: bool,
    output: str,
    template: str | None,
    out: str | None,
    command_: str | None,
    settle: float,
) -> None:
    """Show where healthy instances listen: those that are ready, and not on their way out.

    While no coordinator can be reached, what was told last stays.
    """
    for name in types:
        if parse_target(name)[1]:
            raise InputError(f"{name!r} is an instance; name types, as in web")
    if command_ is not None and not out:
        raise InputError("--run is for what --out has written")
    chosen = context.get_parameter_source("output")
    if template and chosen is click.core.ParameterSource.COMMANDLINE:
        raise InputError("--template and --output are two ways to say it: give one")
    teller = _Teller(
        render=_renderer(output, template), types=types, out=out or "", words=_words(command_)
    )
    if watch:
        run(_watch(settings, teller, settle))
    run(_once(settings, teller))


def _words(command_: str | None) -> tuple[str, ...]:
    if command_ is None:
        return ()
    try:
        words = tuple(shlex.split(command_))
    except ValueError as error:
        raise InputError(f"--run {command_!r}: {error}") from None
    if not words:
        raise InputError("--run: no command")
    return words


def _renderer(output: str, template: str | None) -> Callable[[str, forms.Kinds], str]:
    if template:
        from formctl import templating

        return templating.compiled(template)
    return lambda _, kinds: forms.rendered(output, kinds)


class _DoubtfulError(CommandError):
    """It cannot be known now."""


@dataclass(slots=True)
class _Teller:
    """Says what it is, if that is something else than before."""

    render: Callable[[str, forms.Kinds], str]
    types: tuple[str, ...]
    out: str
    words: tuple[str, ...]
    table: Table = field(default_factory=Table)
    addresses: Mapping[str, str] = field(default_factory=dict)
    told: str | None = None
    _known: set[str] = field(default_factory=set)
    _told_of: frozenset[forms.Endpoint] = frozenset()

    async def tell(self, app: str) -> bool:
        """Whether something new was told. Raises `CommandError`."""
        text = self._text(app)
        if text == self.told:
            return False
        if self.out:
            changed = keeping.replace(self.out, text)
            self.told = text
            if changed and self.words:
                await keeping.run(self.words)
            return changed
        self.told = text
        click.echo(text, nl=False)
        return True

    def instances(self, app: str) -> list[Instance]:
        chosen = self.table.of_app(app)
        return [item for item in chosen if not self.types or item.slot.type in self.types]

    def goes(self, app: str) -> bool:
        """Whether of those that were told one is no endpoint any more."""
        found = forms.endpoints(self.instances(app), self.addresses, self.types)
        return not self._told_of <= set(found)

    def _text(self, app: str) -> str:
        """Raises `_Doubtful` where nobody can know it now: nobody's endpoints go for that."""
        instances = self.instances(app)
        found = forms.endpoints(instances, self.addresses, self.types)
        doubt = forms.doubt(instances, self.addresses, found)
        had, have = {e.type for e in self._told_of}, {e.type for e in found}
        if not doubt and self.table.standstill and had - have:
            doubt = self.table.note or "nothing is decided now"
        if doubt:
            raise _DoubtfulError(f"what was told last stays: {doubt}")
        self._told_of = frozenset(found)
        # A block that was there once stays, empty: without it the rest would be refused.
        known = self.table.apps.get(app)
        self._known |= set(self.types or (known.formation if known else ()))
        return self.render(app, forms.by_type(found, [(app, kind) for kind in self._known]))


async def _once(settings: Settings, teller: _Teller) -> None:
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        app = await _find(client, settings, target, teller)
        teller.table.apply(await client.instances(app))
        await _look_up(client, teller, app)
        await teller.tell(app)


async def _find(client: Client, settings: Settings, target: Target, teller: _Teller) -> str:
    from formctl.appname import find_app, known_type

    app = (await find_app(client, settings, target)).app.name
    for name in teller.types:
        await known_type(client, app, name)
    return app


async def _look_up(client: Client, teller: _Teller, app: str) -> None:
    """Addresses of hosts, from a coordinator that does not tell them with each instance."""
    hosts = {item.host for item in teller.instances(app) if item.host and not item.address}
    if hosts - teller.addresses.keys():
        found, _ = await client.hosts()
        teller.addresses = {line.status.host: line.status.address for line in found}


async def _watch(settings: Settings, teller: _Teller, settle_s: float) -> Never:
    """Until it is stopped: others rely on what it writes."""
    import asyncio

    from formation.calling import CONNECT_DEADLINE_S
    from formctl.client import Client

    target = settings.target()
    client, said = Client(target, patience_s=float("inf")), False
    try:
        while True:
            try:
                await client.connect(CONNECT_DEADLINE_S)
                app = await _find(client, settings, target, teller)
                break
            except UnreachableError as error:
                if not said:
                    note(f"formctl: {error}; trying again")
                said = True
                await asyncio.sleep(_CONNECT_AGAIN_S)
        await _Follower(client, teller, app, settle_s).run()
    finally:
        await client.close()


class _Follower:
    def __init__(self, client: Client, teller: _Teller, app: str, settle_s: float) -> None:
        import asyncio

        self._client, self._teller, self._app, self._settle_s = client, teller, app, settle_s
        self._changed = asyncio.Event()
        self._first_s = self._last_s = 0.0
        self._told_s: list[float] = []
        self._said = ""
        self._now_s = asyncio.get_running_loop().time

    async def run(self) -> Never:
        import asyncio

        async with asyncio.TaskGroup() as group:
            group.create_task(self._take())
            while True:
                await self._changed.wait()
                await self._settle()
                self._changed.clear()
                await self._tell()

    async def _take(self) -> None:
        async for update in self._client.watch(self._app):
            self._teller.table.apply(update)
            self._hint()

    def _hint(self) -> None:
        self._last_s = self._now_s()
        if not self._changed.is_set():
            self._first_s = self._last_s
            self._changed.set()

    async def _settle(self) -> None:
        import asyncio

        while True:
            settled_s = damping.settle_until_s(self._first_s, self._last_s, self._settle_s)
            goes = self._teller.goes(self._app)
            at_s = max(settled_s, damping.not_before_s(self._told_s, goes=goes))
            if self._now_s() >= at_s:
                return
            # In steps: what goes meanwhile has less time.
            await asyncio.sleep(min(at_s - self._now_s(), _STEP_S))

    async def _tell(self) -> None:
        """What goes wrong is told, once; what was written before stays."""
        teller, before = self._teller, self._teller.told
        try:
            await _look_up(self._client, teller, self._app)
            await teller.tell(self._app)
            self._said = ""
        except CommandError as error:
            temporary = isinstance(error, UnreachableError | _DoubtfulError)
            if teller.told is None and not temporary:
                raise  # from the beginning: somebody is there to see it
            self._again(str(error))
        if teller.told != before:
            self._told_s = [*self._told_s, self._now_s()][-damping.KEPT :]

    def _again(self, why: str) -> None:
        import asyncio

        if why != self._said:
            note(f"formctl: {why}")
        self._said = why
        asyncio.get_running_loop().call_later(_AGAIN_S, self._hint)
