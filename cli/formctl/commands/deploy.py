"""`formctl deploy`: brings the code to the hosts, makes a release of it, waits until it runs."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import IO, TYPE_CHECKING

import click

from formctl import naming, spec
from formctl.applying import apply, initial_of, request, with_code
from formctl.errors import InputError
from formctl.settings import (
    Settings,
    app_option,
    canary_option,
    coordinator_option,
    examples,
    if_revision_option,
    note,
    pass_settings,
    run,
    say,
    wait_options,
)

if TYPE_CHECKING:
    from formation.artifacts import Artifact
    from formctl.client import Client
    from formctl.sources import Source


# What takes longer to pack than people wait without a word.
_LARGE_BYTES = 32 << 20


@click.command("deploy")
@click.argument("what", default=".", metavar="[PATH|REF|ARCHIVE|URL]")
@click.option("--ref", metavar="REF", help="A commit, tag or branch of the repository at PATH.")
@click.option("-f", "--file", metavar="FILE", help="In it; Procfile or formation.toml.")
@click.option("--env", "env_file", metavar="FILE", help="Default: .env beside it; else here.")
@click.option("--dry-run", is_flag=True, help="Only say what would be sent.")
@click.option("--strict", is_flag=True, help="Lines of a Procfile that define nothing are errors.")
@click.option("-m", "--formation", metavar="web=2,…", help="For types this app has not met yet.")
@click.option("--reason", default="", help="Kept with the release.")
@canary_option
@if_revision_option
@wait_options
@coordinator_option
@app_option
@pass_settings
@examples(
    "formctl deploy                      this directory, without what .gitignore leaves out",
    "formctl deploy --dry-run            how much that would be, and what is largest",
    "formctl deploy v1.2                 a tag, branch or commit of the repository here",
    "formctl deploy --ref main shop      of the one in another directory",
    "formctl deploy shop-1.2.tar.gz      what somebody else has packed; .zip and https://… too",
)
def command(
    settings: Settings,
    what: str,
    ref: str | None,
    file: str | None,
    env_file: str | None,
    dry_run: bool,
    strict: bool,
    formation: str | None,
    reason: str,
    canary: int,
    if_revision: int,
    wait: bool,
    timeout: float,
) -> None:
    """Upload the code here, make a release that runs it, and wait until it does.

    Takes everything that neither .gitignore nor .formationignore leaves out, never .env or .git.
    Hosts fetch it and start in it; nothing needs to lie there before. As `formctl apply` otherwise.

    A word that is neither a directory nor a file is taken for a git ref; --ref takes it for nothing
    else.
    """
    import tempfile

    from formctl import packing, packrules, sources

    with sources.opened(what, ref) as source, tempfile.TemporaryFile(prefix="formctl-") as archive:
        found = _described(source, file, env_file, strict=strict)
        initial = initial_of(formation, found)
        named = settings.named_app() or found.app
        name = named or (naming.app_name(source.app) if source.app else "")
        name = spec.chosen_app(name, found)
        contents = packing.contents_of(source.directory, use_gitignore=not source.fresh)
        for line in (*found.notes, *contents.notes):
            note(f"formctl: warning: {line}")
        if contents.size_bytes > _LARGE_BYTES:
            note(f"formctl: packs {packrules.counted(contents.files)} of {contents.size_text}…")
        artifact = packing.pack(source.directory, contents, archive)
        if source.note:
            say(source.note)
        if dry_run:
            say("\n".join(packrules.described(contents, artifact.digest, artifact.size_bytes)))
            return
        wanted = request(name, found, initial, reason)
        wanted.canary, wanted.if_revision = canary, if_revision
        with_code(wanted, artifact, found.build)
        timeout_s = timeout if wait else None
        work = apply(
            settings.target(),
            wanted,
            found,
            initial,
            timeout_s=timeout_s,
            before_it=lambda client: _send(client, name, artifact, archive),
        )
        run(work)


async def _send(client: Client, app: str, artifact: Artifact, archive: IO[bytes]) -> None:
    from formctl.uploading import send

    await send(client, app, artifact, archive)


def _described(
    source: Source, file: str | None, env_file: str | None, *, strict: bool
) -> spec.AppSpec:
    """Raises `InputError`."""
    if file == naming.STDIN:
        raise InputError("-f -: what is deployed has its file in it")
    directory = str(source.directory)
    if source.fresh and env_file is None and os.path.isfile(".env"):
        env_file = ".env"
    if source.fresh and env_file is not None:
        env_file = os.path.abspath(env_file)
    found = spec.read(file, directory=directory, env_file=env_file, strict=strict)
    if found.names_workdir:
        raise InputError(
            f"{found.source}: workdir = {found.workdir!r} says that the code lies on the hosts: "
            "take it out to deploy, or use formctl apply"
        )
    return replace(found, source=os.path.basename(found.source)) if source.fresh else found
