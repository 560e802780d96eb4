"""What panels say: help, and everything about one line. Pure."""

from __future__ import annotations

from formctl import details, render, renderchange, wording
from formctl.tables import printable
from formctl.top.seen import AppRow, EventLine, Item, Seen
from formctl.views import HostLine, Instance

HELP = (
    "1 2 3 4          instances, hosts, apps, events; Tab goes on to the next",
    "up down j k      choose a line; PgUp PgDn Home End (g G) go further",
    "Enter            everything about it, and why it is where it is",
    "l                its logs, as they come; End follows again after scrolling",
    "< >              sort by the column before or after; i turns the order round",
    "/                filter; every word must be in the line, and",
    "                 state:backoff host:a app:shop are looked for there alone",
    "Esc              no filter any more; back from a panel",
    "s                scale: type quantities (web=5 worker+1), see what it does, say y",
    "r                restart the instance, or all of the app; asks first",
    "?                this",
    "q                quit; Ctrl-C too, Ctrl-Z puts it into the background",
    "",
    "RST is restarts. CPU is of one core; it and memory are asked for every few",
    "seconds, more seldom the more instances there are. The line below the list is",
    "all of the note of the chosen line.",
)
_INSTANCES_MAX = 500


def about(item: Item, seen: Seen, now_ms: int, width: int) -> tuple[str, ...]:
    """Without what has to be asked for."""
    if isinstance(item, Instance):
        found = details.Details(instance=item, usage=seen.usage_of(item))
        text = details.instance(found, now_ms=now_ms, width=width)
        because = f"  placed     {printable(item.because)}" if item.because else ""
        return tuple(line for line in [*text.split("\n")[1:], because] if line)
    if isinstance(item, HostLine):
        return tuple(_host(item, seen))
    if isinstance(item, AppRow):
        instances = (i for i in seen.table.instances.values() if i.slot.app == item.name)
        return tuple(map(printable, renderchange.rollout(item.line, instances).split("\n")))
    return tuple(_event(item))


def _host(line: HostLine, seen: Seen) -> list[str]:
    status = line.status
    facts = [
        ("state", render.host_state(line)),
        ("note", render.host_note(line)),
        ("address", status.address),
        ("agent", status.agent_version),
        ("via", line.coordinator_id),
        ("labels", render.labels(line)),
        ("cannot", status.inability),
        ("healthy", f"{line.healthy} of {line.instances}"),
    ]
    here = [i for i in seen.table.instances.values() if i.host == status.host]
    here.sort(key=lambda i: i.slot)
    lines = [f"  {label:<9}{printable(text)}" for label, text in facts if text]
    lines += [f"  {i.slot} {wording.state(i)}" for i in here[:_INSTANCES_MAX]]
    if len(here) > _INSTANCES_MAX:
        lines.append(f"  and {len(here) - _INSTANCES_MAX} more")
    return [*map(printable, lines)]


def _event(item: EventLine) -> list[str]:
    facts = [
        ("when", render.local_time(item.at_ms)),
        ("what", item.what),
        ("of", item.subject),
        ("host", item.host),
        ("text", item.text),
    ]
    return [f"{label:<6}{printable(text)}" for label, text in facts if text]


def title(item: Item) -> str:
    if isinstance(item, Instance):
        return printable(str(item.slot))
    if isinstance(item, HostLine):
        return f"host {printable(item.status.host)}"
    return f"app {printable(item.name)}" if isinstance(item, AppRow) else "event"


def note(item: Item, now_ms: int) -> str:
    """All of what the last column may have had no room for."""
    if isinstance(item, Instance):
        said = wording.note(item, now_ms)
    elif isinstance(item, HostLine):
        said = render.host_note(item)
    elif isinstance(item, AppRow):
        said = item.line.app.rollout.reason
    else:
        said = item.text
    return printable(said)
