"""Where healthy instances listen, in the words of those who send requests there. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from formation.seen import InstanceState
from formctl.tables import table
from formctl.views import Instance

# An agent says where it can be reached, and whoever holds one must not write our configuration.
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}|[0-9A-Fa-f:]{2,39}(%[A-Za-z0-9]{1,15})?")
# Last seen so on a host that is silent: it may serve by now.
_UNKNOWN = (InstanceState.WAITING, InstanceState.STARTING)


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    app: str
    type: str
    ordinal: int
    host: str
    address: str
    port: int
    release: int = 0

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
            address, item.status.port, item.status.release,
        )
        for item in instances
        if _serves(item, types) and (address := address_of(item, addresses))
    ]  # fmt: skip
    return sorted(found)


def _serves(item: Instance, types: Collection[str]) -> bool:
    wanted = not (item.surplus or item.run) and (not types or item.slot.type in types)
    return wanted and item.state is InstanceState.HEALTHY and item.status.port > 0


def address_of(item: Instance, addresses: Mapping[str, str]) -> str:
    """ "" when nobody has said it yet, or what was said cannot be one. `addresses`: by host, where
    a coordinator does not tell it with the instance."""
    address = item.address or addresses.get(item.host, "")
    return address if _ADDRESS.fullmatch(address) else ""


def doubt(
    instances: Iterable[Instance], addresses: Mapping[str, str], found: Iterable[Endpoint]
) -> str:
    """Why a type without endpoints may have some all the same; "" when it surely has none."""
    kinds = {(e.app, e.type) for e in found}
    for item in instances:
        slot = item.slot
        if item.surplus or (slot.app, slot.type) in kinds:
            continue
        if item.host_silent and item.state in _UNKNOWN:
            return f"{slot.short} is on {item.host}, which is silent, and may be healthy"
        if _serves(item, ()) and not address_of(item, addresses):
            return f"{slot.short} is healthy on {item.host}, whose address is not known"
    return ""


Kinds = Mapping[tuple[str, str], list[Endpoint]]


def by_type(found: Iterable[Endpoint], wanted: Iterable[tuple[str, str]]) -> Kinds:
    """Those without any endpoint, too, in order: a block that is missing is an error elsewhere.

    `wanted`: (app, type) of all that shall have a block.
    """
    kinds: dict[tuple[str, str], list[Endpoint]] = {key: [] for key in sorted(wanted)}
    for key, group in groupby(sorted(found), key=lambda item: (item.app, item.type)):
        kinds[key] = list(group)
    return kinds


def _json(kinds: Kinds) -> str:
    return json.dumps(
        [
            {
                "app": item.app, "type": item.type, "instance": item.name, "host": item.host,
                "address": item.address, "port": item.port, "release": item.release,
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
                "formation_release": f"v{item.release}",
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


def rendered(form: str, kinds: Kinds) -> str:
    return _FORMS[form](kinds) + "\n"
