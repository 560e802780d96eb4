"""What a person has chosen to see: a view, its order, a filter, a line; and a panel before it.

Frozen; `keys` makes the next one of it, `draw` shows it. `Listing` is the rows in their order,
made anew only when what is known or chosen has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from formctl.cells import width
from formctl.tables import printable
from formctl.top.columns import COLUMNS, matches, tie
from formctl.top.seen import Item, Seen, View, key_of
from formctl.views import Instance

_NAME_MAX = 40


class Mode(Enum):
    LIST = auto()
    FILTER = auto()  # a filter is typed
    WORDS = auto()  # quantities are typed
    PANEL = auto()  # a text is before the list
    ASK = auto()  # a yes or no is waited for


class What(Enum):
    """What a key asks of the world outside."""

    QUIT = auto()
    SUSPEND = auto()
    DETAILS = auto()
    LOGS = auto()
    RESTART = auto()
    PLAN = auto()
    SCALE = auto()
    CLOSE = auto()  # of the panel: nothing more needs to be fetched for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    what: What
    app: str = ""
    type: str = ""
    ordinal: int = 0
    key: str = ""
    words: str = ""
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tab:
    """Of one view. `chosen`: the key of a line, "" is whichever comes first."""

    sort: int = 0
    backwards: bool = False
    filter: str = ""
    chosen: str = ""
    index: int = 0
    top: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """`follows`: its end stays in sight as it grows. `key`: of the item that it is about."""

    title: str
    lines: tuple[str, ...] = ()
    top: int = 0
    follows: bool = False
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    text: str
    wish: Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    view: View = View.INSTANCES
    tabs: Mapping[View, Tab] = field(default_factory=dict)
    mode: Mode = Mode.LIST
    typed: str = ""
    target: Wish | None = None
    panel: Panel | None = None
    question: Question | None = None
    message: str = ""
    is_bad: bool = False

    @property
    def tab(self) -> Tab:
        return self.tabs.get(self.view, FIRST[self.view])

    @property
    def filter(self) -> str:
        """Also while it is being typed."""
        return self.typed if self.mode is Mode.FILTER else self.tab.filter

    def with_tab(self, tab: Tab) -> Look:
        return replace(self, tabs={**self.tabs, self.view: tab})

    def saying(self, message: str, *, bad: bool = False) -> Look:
        return replace(self, message=message, is_bad=bad)


# The newest event is what one looks for.
FIRST: dict[View, Tab] = {view: Tab() for view in View}
FIRST[View.EVENTS] = Tab(backwards=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """`total`: without the filter. `wide`: of the columns that are as wide as the longest name."""

    items: Sequence[Item] = ()
    total: int = 0
    made_of: tuple[object, ...] = ()
    places: Mapping[str, int] = field(default_factory=dict)
    wide: Mapping[int, int] = field(default_factory=dict)

    def place_of(self, tab: Tab) -> int:
        """Of the chosen line; of the one that came into its place when it has gone."""
        last = max(0, len(self.items) - 1)
        if not tab.chosen:
            return 0
        return min(self.places.get(tab.chosen, tab.index), last)


def listing(look: Look, seen: Seen, before: Listing | None = None) -> Listing:
    tab = look.tab
    made_of = (seen.version, look.view, tab.sort, tab.backwards, look.filter)
    if before is not None and before.made_of == made_of:
        return before
    everything = seen.items(look.view)
    words = look.filter.lower().split()
    found = [item for item in everything if matches(item, words)] if words else everything
    column = COLUMNS[look.view][tab.sort]
    if column.title != "INSTANCE":
        found.sort(key=tie)
    # A sort that keeps the order of equals, also backwards.
    found.sort(key=lambda item: column.order(item, seen), reverse=tab.backwards)
    places = {key_of(item): place for place, item in enumerate(found)}
    return Listing(
        items=found,
        total=len(everything),
        made_of=made_of,
        places=places,
        wide=_widths(look.view, found, seen),
    )


def _widths(view: View, items: Sequence[Item], seen: Seen) -> dict[int, int]:
    """Of all of them, so that columns stay where they are while one scrolls."""
    return {
        number: min(
            _NAME_MAX, max((width(printable(column.cell(i, seen, 0))) for i in items), default=0)
        )
        for number, column in enumerate(COLUMNS[view])
        if not column.cells
    }


def settled(look: Look, shown: Listing, rows: int) -> Look:
    """With the chosen line in sight, on a screen that has so many rows for lines."""
    tab = look.tab
    place = shown.place_of(tab)
    top = min(tab.top, place, max(0, len(shown.items) - rows))
    top = max(top, place - max(1, rows) + 1, 0)
    chosen = tab.chosen
    if chosen and chosen not in shown.places and shown.items:
        chosen = key_of(shown.items[place])
    if (top, place, chosen) == (tab.top, tab.index, tab.chosen):
        return look
    return look.with_tab(replace(tab, top=top, index=place, chosen=chosen))


def chosen(look: Look, shown: Listing) -> Item | None:
    return shown.items[shown.place_of(look.tab)] if shown.items else None


def panel_top(panel: Panel, rows: int) -> int:
    last = max(0, len(panel.lines) - rows)
    return last if panel.follows else min(panel.top, last)


def slot_wish(what: What, item: Instance) -> Wish:
    slot = item.slot
    return Wish(what=what, app=slot.app, type=slot.type, ordinal=slot.ordinal, key=item.uid)


def app_of(look: Look) -> str:
    """The one app that is looked at, when the filter says so; or ""."""
    named = [word for word in look.tab.filter.split() if word.startswith("app:")]
    return named[0].removeprefix("app:") if len(named) == 1 else ""
