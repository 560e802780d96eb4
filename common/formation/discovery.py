"""Which coordinators to talk to, by what the caller's surroundings say. Reads files, dials nothing.

Order: an address that was given, FORMATION_COORDINATOR, FORMATION_CONTEXT, a running `formctl dev`,
the context file's current one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from formation import tomltext
from formation.addresses import addresses
from formation.contexts import context_path, identity_of
from formation.devclusters import DevCluster, running_clusters
from formation.errors import InputError

_WAYS = (
    "no coordinator is known; do one of: formctl dev (in a project), --coordinator HOST:PORT, "
    "FORMATION_COORDINATOR=HOST:PORT, formctl login ADDRESS TOKEN, or a context in {path}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """`origin` says who named the addresses; `app` is the dev cluster's. `identity`: the directory
    with our certificate for it, or "". `insecure`: plain TCP will do."""

    addresses: tuple[str, ...]
    origin: str
    app: str = ""
    identity: str = ""
    insecure: bool = False


def find_target(
    given: str | None,
    environ: Mapping[str, str],
    directory: str,
    *,
    flag: str = "--coordinator",
) -> Target:
    """`given`: addresses; `flag`: who gave them. Raises `InputError`."""
    target = _find(given, environ, directory, flag)
    if environ.get("FORMATION_INSECURE") == "1":
        return replace(target, insecure=True)
    return target


def _find(given: str | None, environ: Mapping[str, str], directory: str, flag: str) -> Target:
    if given is not None:
        return _named(given, flag, environ)
    if named := environ.get("FORMATION_COORDINATOR"):
        return _named(named, "FORMATION_COORDINATOR", environ)
    path = context_path(environ)
    if context := environ.get("FORMATION_CONTEXT"):
        return _from_context(environ, context, "FORMATION_CONTEXT")
    if cluster := _nearest(running_clusters(), directory):
        return _from_dev(cluster)
    if not os.path.exists(path):
        raise InputError(_WAYS.format(path=path))
    return _from_context(environ, None, path)


def _named(text: str, origin: str, environ: Mapping[str, str]) -> Target:
    """By address alone; who we are there is what FORMATION_CONTEXT or the current context says."""
    chosen = environ.get("FORMATION_CONTEXT") or ""
    path = context_path(environ)
    if not chosen and os.path.exists(path):
        current = _context_file(path).get("current")
        chosen = current if isinstance(current, str) else ""
    return Target(
        addresses=parse_addresses(text, origin),
        origin=origin,
        identity=identity_of(environ, chosen),
    )


def parse_addresses(text: str, origin: str) -> tuple[str, ...]:
    """Comma separated `host:port`, `[v6]:port` or `unix:/path`."""
    try:
        return addresses(text)
    except ValueError as error:
        raise InputError(f"{origin}: {error}") from None


def _nearest(clusters: Sequence[DevCluster], directory: str) -> DevCluster | None:
    """The dev cluster of this directory or the closest parent, else the only one there is."""
    here = os.path.realpath(directory)
    around = [c for c in clusters if os.path.commonpath([here, c.project]) == c.project]
    if around:
        return max(around, key=lambda cluster: len(cluster.project))
    if len(clusters) > 1:
        choices = "; ".join(f"{c.project} (--coordinator {c.coordinator})" for c in clusters)
        raise InputError(f"several dev clusters run, go to one's project or name it: {choices}")
    return clusters[0] if clusters else None


def _from_dev(cluster: DevCluster) -> Target:
    return Target(
        addresses=(cluster.coordinator,),
        origin=f"formctl dev in {cluster.project}",
        app=cluster.app,
    )


def _from_context(environ: Mapping[str, str], name: str | None, origin: str) -> Target:
    path = context_path(environ)
    table = _context_file(path)
    contexts = table.get("contexts", {})
    chosen = name or table.get("current")
    if not isinstance(contexts, dict) or not isinstance(chosen, str) or not chosen:
        raise InputError(f'{path}: no current context: add current = "NAME" and [contexts.NAME]')
    context = contexts.get(chosen)
    if not isinstance(context, dict):
        known = ", ".join(contexts) or "none"
        raise InputError(f"{origin}: no context {chosen!r} in {path}; there is {known}")
    addresses = _address_list(context.get("coordinator"))
    place = f"{path}: contexts.{chosen}.coordinator"
    if addresses is None:
        raise InputError(f'{place}: must be a list such as ["a:7100", "b:7100"]')
    return Target(
        addresses=parse_addresses(",".join(addresses), place),
        origin=f"context {chosen}",
        identity=identity_of(environ, chosen),
        insecure=context.get("insecure") is True,
    )


def _address_list(value: object) -> list[str] | None:
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list) or not entries:
        return None
    texts = [entry for entry in entries if isinstance(entry, str)]
    return texts if len(texts) == len(entries) else None


def _context_file(path: str) -> dict[str, object]:
    try:
        with open(path, encoding="utf-8") as file:
            return tomltext.loads(file.read())
    except (tomltext.TomlError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from None
