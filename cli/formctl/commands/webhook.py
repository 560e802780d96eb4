"""`formctl webhook`: events are sent to URLs, signed."""

from __future__ import annotations

import sys

import click

from formation.person import who
from formctl import renderautomation
from formctl.errors import CommandError, InputError
from formctl.settings import (
    Settings,
    coordinator_option,
    examples,
    note,
    output_option,
    pass_settings,
    run,
    say,
    say_json,
    terminal_width,
    why_option,
)

_SECRET_MAX_CHARACTERS = 200


@click.group("webhook", invoke_without_command=True)
@output_option
@coordinator_option
@click.pass_context
@examples(
    "formctl webhook                                   all, and how it goes with each",
    "formctl webhook add https://hooks.example/x --what host,instance.backoff",
    "formctl webhook test hooks-example",
    "formctl webhook remove hooks-example",
)
def command(ctx: click.Context, output: str) -> None:
    """List the webhooks: where events are sent to, and whether they arrive."""
    if ctx.invoked_subcommand is not None:
        if output != "text":
            raise InputError("-o is for the list")
        return
    run(_list(ctx.ensure_object(Settings), output))


@command.command("add")
@click.argument("url")
@click.option(
    "--what", multiple=True, metavar="WORDS",
    help="Such as host or instance.backoff; several, with commas. Default: all.",
)  # fmt: skip
@click.option("--app", default="", metavar="PATTERN", help="Only of these apps: shop, shop-*.")
@click.option("--name", default="", help="Default: made of the URL's host.")
@click.option("--secret-stdin", is_flag=True, help="Sign with what comes on standard input.")
@why_option
@coordinator_option
@pass_settings
@examples(
    "formctl webhook add https://hooks.example/formation --what host,instance.backoff",
    "formctl webhook add http://127.0.0.1:9000/ --app 'shop-*' --name shop",
    "formctl webhook add https://hooks.example/x --secret-stdin < secret.txt",
)
def add(
    settings: Settings,
    url: str,
    what: tuple[str, ...],
    app: str,
    name: str,
    secret_stdin: bool,
    why: str,
) -> None:
    """Send events to a URL, signed with a secret that is shown once.

    Each is a POST with JSON, signed as the Standard Webhooks convention says: docs/webhooks.md.
    """
    words = [word.strip() for part in what for word in part.split(",") if word.strip()]
    secret = _secret() if secret_stdin else ""
    run(_add(settings, url, words, app=app, name=name, secret=secret, why=why))


@command.command("test")
@click.argument("name")
@coordinator_option
@pass_settings
@examples("formctl webhook test hooks-example")
def test(settings: Settings, name: str) -> None:
    """Send one event of type webhook.test now, and say what came back."""
    run(_test(settings, name))


@command.command("remove")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@why_option
@coordinator_option
@pass_settings
@examples("formctl webhook remove hooks-example")
def remove(settings: Settings, names: tuple[str, ...], why: str) -> None:
    """Send nothing there any more; what waits for it is dropped."""
    run(_remove(settings, names, why))


def _secret() -> str:
    """Raises `InputError`, which does not repeat it."""
    if sys.stdin.isatty():
        return str(click.prompt("secret", hide_input=True, err=True)).strip()
    text = sys.stdin.read(_SECRET_MAX_CHARACTERS).strip()
    if not text:
        raise InputError("--secret-stdin: nothing came on standard input")
    return text


async def _list(settings: Settings, output: str) -> None:
    from formation import wire_automation
    from formation.runtime import now_ms
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client

    async with Client(settings.target()) as client:
        answer = await client.read(lambda stub: stub.ListWebhooks, pb.ListWebhooksRequest())
    found = [
        renderautomation.WebhookLine(
            hook=wire_automation.webhook_from_pb(view.webhook),
            delivery=wire_automation.delivery_from_pb(view.delivery)
            if view.HasField("delivery")
            else None,
        )
        for view in answer.webhooks
    ]
    if output == "json":
        say_json([renderautomation.webhook_json(line) for line in found])
    else:
        say(renderautomation.webhooks(found, now_ms=now_ms(), width=terminal_width()))


async def _add(
    settings: Settings, url: str, what: list[str], *, app: str, name: str, secret: str, why: str
) -> None:
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client

    request = pb.AddWebhookRequest(
        url=url, what=what, app=app, name=name, secret=secret, who=who(), why=why
    )
    async with Client(settings.target()) as client:
        answer = await client.change(lambda stub: stub.AddWebhook, request)
    made, told = answer.webhook.name, " ".join(answer.webhook.what) or "everything"
    note(f"webhook {made} is told {told}; try it: formctl webhook test {made}")
    if answer.secret:
        note("its secret, which is not shown again:")
        say(answer.secret)


async def _test(settings: Settings, name: str) -> None:
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client

    async with Client(settings.target()) as client:
        request = pb.TestWebhookRequest(name=name, who=who())
        answer = await client.change(lambda stub: stub.TestWebhook, request)
    if not answer.good:
        raise CommandError(f"webhook {name}: {answer.word}")
    say(f"webhook {name}: {answer.word} in {answer.took_s:.2f} s")


async def _remove(settings: Settings, names: tuple[str, ...], why: str) -> None:
    from formation.v1 import control_pb2 as pb
    from formctl.client import Client

    async with Client(settings.target()) as client:
        for name in names:
            request = pb.RemoveWebhookRequest(name=name, who=who(), why=why)
            await client.change(lambda stub: stub.RemoveWebhook, request)
            say(f"webhook {name} removed")
