"""`formctl endpoints`: where healthy instances listen, for load balancers and others."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from formctl import endpoints as forms
from formctl.errors import CommandError, InputError
from formctl.settings import (
    Settings,
    app_option,
    coordinator_option,
    examples,
    note,
    parse_target,
    pass_settings,
    run,
)
from formctl.views import Table

if TYPE_CHECKING:
    from formctl.client import Client

# A burst of changes is one.
_SETTLE_S = 0.1


@click.command("endpoints")
@click.argument("types", nargs=-1, metavar="[TYPE]...")
@click.option("-w", "--watch", is_flag=True, help="Stay, and tell every change.")
@click.option(
    "-o", "--output", type=click.Choice(forms.FORMS), default="text", show_default=True,
    help="In whose words.",
)  # fmt: skip
@click.option("--out", metavar="FILE", help="Write it there, whole or not at all.")
@click.option("--run", "command_", metavar="CMD", help="With --out: run this after each change.")
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl endpoints web",
    "formctl endpoints web -o env",
    "formctl endpoints web -w -o haproxy --out /etc/haproxy/conf.d/shop.cfg "
    "--run 'systemctl reload haproxy'",
)
def command(
    settings: Settings,
    types: tuple[str, ...],
    watch: bool,
    output: str,
    out: str | None,
    command_: str | None,
) -> None:
    """Show where healthy instances listen: those that are ready, and not on their way out.

    While no coordinator can be reached, what was told last stays.
    """
    for name in types:
        if parse_target(name)[1]:
            raise InputError(f"{name!r} is an instance; name types, as in web")
    if command_ and not out:
        raise InputError("--run is for what --out has written")
    teller = _Teller(
        form=output, types=types, out=out or "", words=tuple(shlex.split(command_ or ""))
    )
    run(_endpoints(settings, teller, watch=watch))


@dataclass(slots=True)
class _Teller:
    """Says what it is, if that is something else than before."""

    form: str
    types: tuple[str, ...]
    out: str
    words: tuple[str, ...]
    table: Table = field(default_factory=Table)
    addresses: Mapping[str, str] = field(default_factory=dict)
    told: str | None = None

    def tell(self, app: str) -> None:
        found = forms.endpoints(self.table.of_app(app), self.addresses, self.types)
        wanted = [
            (item.name, kind)
            for item in self.table.apps.values()
            if item.name == app
            for kind in item.formation
            if not self.types or kind in self.types
        ]
        text = forms.rendered(self.form, found, wanted)
        if text == self.told:
            return
        self.told = text
        if self.out:
            self._write(text)
        else:
            click.echo(text, nl=False)

    def _write(self, text: str) -> None:
        """Raises `CommandError`."""
        temporary = f"{self.out}.{os.getpid()}.new"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, self.out)
        except OSError as error:
            raise CommandError(f"{self.out}: {error.strerror}") from None
        if self.words:
            self._run()

    def _run(self) -> None:
        """What fails is told; the next change is another try."""
        try:
            done = subprocess.run(self.words, check=False)
        except OSError as error:
            raise CommandError(f"{self.words[0]}: {error.strerror}") from None
        if done.returncode != 0:
            note(f"formctl: {shlex.join(self.words)} ended with {done.returncode}")


async def _endpoints(settings: Settings, teller: _Teller, *, watch: bool) -> None:
    from formctl.appname import find_app, known_type
    from formctl.client import Client

    target = settings.target()
    async with Client(target) as client:
        app = (await find_app(client, settings, target)).app.name
        for name in teller.types:
            await known_type(client, app, name)
        if watch:
            await _follow(client, teller, app)
            return
        teller.table.apply(await client.instances(app))
        await _look_up(client, teller, app)
        teller.tell(app)


async def _look_up(client: Client, teller: _Teller, app: str) -> None:
    """Addresses of hosts, when there is one that is not known."""
    hosts = {item.host for item in teller.table.of_app(app) if item.host}
    if hosts - teller.addresses.keys():
        found, _ = await client.hosts()
        teller.addresses = {line.status.host: line.status.address for line in found}


async def _follow(client: Client, teller: _Teller, app: str) -> None:
    import asyncio

    changed = asyncio.Event()

    async def take() -> None:
        async for update in client.watch(app):
            teller.table.apply(update)
            changed.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(take())
        while True:
            await changed.wait()
            await asyncio.sleep(_SETTLE_S)
            changed.clear()
            await _look_up(client, teller, app)
            teller.tell(app)
