"""Where healthy instances listen, in the words of those who send requests there. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from formation.model import InstanceState
from formctl.tables import table
from formctl.views import Instance


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    app: str
    type: str
    ordinal: int
    host: str
    address: str
    port: int

    @property
    def name(self) -> str:
        return f"{self.type}.{self.ordinal}"

    @property
    def target(self) -> str:
        """IPv6 in brackets."""
        shown = f"[{self.address}]" if ":" in self.address else self.address
        return f"{shown}:{self.port}"


def endpoints(
    instances: Iterable[Instance], addresses: Mapping[str, str], types: Collection[str]
) -> list[Endpoint]:
    """Of those that are healthy and wanted. `types` empty: all.

    One on a host that just does not answer the coordinator stays: whether requests get there is
    seen by whoever sends them, and all of a coordinator's hosts are silent while it starts.
    """
    found = [
        Endpoint(
            item.slot.app, item.slot.type, item.slot.ordinal, item.host,
            addresses[item.host], item.status.port,
        )
        for item in instances
        if item.state is InstanceState.HEALTHY
        and not item.surplus
        and item.status.port
        and addresses.get(item.host)
        and (not types or item.slot.type in types)
    ]  # fmt: skip
    return sorted(found)


Kinds = Mapping[tuple[str, str], list[Endpoint]]


def _by_type(found: Iterable[Endpoint], wanted: Iterable[tuple[str, str]]) -> Kinds:
    """Those without any endpoint, too, in order: a block that is missing is an error elsewhere."""
    kinds: dict[tuple[str, str], list[Endpoint]] = {key: [] for key in sorted(wanted)}
    for key, group in groupby(sorted(found), key=lambda item: (item.app, item.type)):
        kinds[key] = list(group)
    return kinds


def _json(kinds: Kinds) -> str:
    return json.dumps(
        [
            {
                "app": item.app, "type": item.type, "instance": item.name, "host": item.host,
                "address": item.address, "port": item.port,
            }
            for group in kinds.values()
            for item in group
        ]
    )  # fmt: skip


def _haproxy(kinds: Kinds) -> str:
    blocks = [
        "\n".join(
            (f"backend {app}_{kind}", *(f"    server {e.name} {e.target} check" for e in group))
        )
        for (app, kind), group in kinds.items()
    ]
    return "\n\n".join(blocks)


def _nginx(kinds: Kinds) -> str:
    blocks = []
    for (app, kind), group in kinds.items():
        servers = [f"    server {item.target};" for item in group]
        # An upstream without servers is refused as a whole.
        lines = servers or ["    server 127.0.0.1:9 down;  # none is healthy"]
        blocks.append("\n".join((f"upstream {app}_{kind} {{", *lines, "}")))
    return "\n\n".join(blocks)


def _caddy(kinds: Kinds) -> str:
    """Snippets, to import within reverse_proxy."""
    blocks = []
    for (app, kind), group in kinds.items():
        targets = " ".join(item.target for item in group)
        inner = f"\tto {targets}" if targets else "\t# none is healthy"
        blocks.append(f"({app}_{kind}) {{\n{inner}\n}}")
    return "\n\n".join(blocks)


def _env(kinds: Kinds) -> str:
    lines = []
    for (app, kind), group in kinds.items():
        name = "".join(c if c.isalnum() else "_" for c in f"{app}_{kind}").upper()
        lines.append(f"{name}_ENDPOINTS={','.join(item.target for item in group)}")
    return "\n".join(lines)


def _prometheus(kinds: Kinds) -> str:
    """For file_sd_configs."""
    found = [
        {
            "targets": [item.target],
            "labels": {
                "formation_app": item.app,
                "formation_type": item.type,
                "formation_instance": item.name,
                "formation_host": item.host,
            },
        }
        for group in kinds.values()
        for item in group
    ]
    return json.dumps(found, indent=1)


def _text(kinds: Kinds) -> str:
    rows = [(f"{e.app}/{e.name}", e.target, e.host) for group in kinds.values() for e in group]
    return table(("INSTANCE", "ENDPOINT", "HOST"), rows) if rows else "no instance is healthy"


_FORMS: Mapping[str, Callable[[Kinds], str]] = {
    "text": _text,
    "json": _json,
    "haproxy": _haproxy,
    "nginx": _nginx,
    "caddy": _caddy,
    "env": _env,
    "prometheus": _prometheus,
}
FORMS = tuple(_FORMS)


def rendered(form: str, found: Iterable[Endpoint], wanted: Iterable[tuple[str, str]]) -> str:
    """`wanted`: (app, type) of all that shall have a block, with endpoints or without."""
    return _FORMS[form](_by_type(found, wanted)) + "\n"
