"""What a key does: a look and a key in, the next look and perhaps a wish out. Pure.

Keys have prompt_toolkit's names: `up`, `pagedown`, `c-m` for Enter, and a character for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from formation.quantities import QuantityError, parse_changes
from formctl.tables import printable
from formctl.top.columns import COLUMNS
from formctl.top.look import (
    Listing,
    Look,
    Mode,
    Panel,
    Question,
    Tab,
    What,
    Wish,
    chosen,
    panel_top,
    slot_wish,
)
from formctl.top.seen import AppRow, EventLine, View, key_of
from formctl.top.texts import HELP
from formctl.views import Instance

_TYPED_MAX = 200
_ENTER = ("c-m", "c-j")
_BACK = ("c-h", "delete")
_CANCEL = ("escape", "c-g")
_PASTE = "<bracketed-paste>"
_VIEWS = {str(number): view for number, view in enumerate(View, 1)}

Pressed = tuple[Look, Wish | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What a key was pressed at: the rows as they are, and how many of them are in sight."""

    shown: Listing
    rows: int


def pressed(look: Look, key: str, at: Before, *, data: str = "") -> Pressed:
    if key in ("c-c", "<sigint>"):
        return look, Wish(what=What.QUIT, words="interrupted")
    if key == "c-z":
        return look, Wish(what=What.SUSPEND)
    look = look.saying("")
    if look.mode in (Mode.FILTER, Mode.WORDS):
        return _typing(look, key, data)
    if look.mode is Mode.ASK:
        return _answered(look, key, at)
    if look.mode is Mode.PANEL:
        return _in_panel(look, key, at)
    return _in_list(look, key, at)


# -- the list --------------------------------------------------------------------------------------


def _in_list(look: Look, key: str, at: Before) -> Pressed:
    if key in _VIEWS:
        return replace(look, view=_VIEWS[key]), None
    if key in _MOVES:
        return _moved(look, _MOVES[key](look.tab.index, at), at), None
    if key in _LIST:
        return _LIST[key](look, at)
    return look, None


_MOVES: dict[str, Callable[[int, Before], int]] = {
    "up": lambda place, at: place - 1,
    "k": lambda place, at: place - 1,
    "down": lambda place, at: place + 1,
    "j": lambda place, at: place + 1,
    "pageup": lambda place, at: place - at.rows,
    "pagedown": lambda place, at: place + at.rows,
    "home": lambda place, at: 0,
    "g": lambda place, at: 0,
    "end": lambda place, at: len(at.shown.items) - 1,
    "G": lambda place, at: len(at.shown.items) - 1,
}


def _moved(look: Look, place: int, at: Before) -> Look:
    if not at.shown.items:
        return look
    place = max(0, min(place, len(at.shown.items) - 1))
    key = key_of(at.shown.items[place])
    return look.with_tab(replace(look.tab, chosen=key, index=place))


def _turned(look: Look, by: int) -> Look:
    views = list(View)
    return replace(look, view=views[(views.index(look.view) + by) % len(views)])


def _sorted(look: Look, by: int) -> Look:
    columns = COLUMNS[look.view]
    sort = (look.tab.sort + by) % len(columns)
    return look.with_tab(replace(look.tab, sort=sort, backwards=columns[sort].high_first))


def sorted_by(look: Look, column: int) -> Look:
    """By that column, in the direction in which one mostly looks for something there."""
    return _sorted(look.with_tab(replace(look.tab, sort=0)), column)


def _inverted(look: Look) -> Look:
    return look.with_tab(replace(look.tab, backwards=not look.tab.backwards))


def _help(look: Look) -> Look:
    return replace(look, mode=Mode.PANEL, panel=Panel(title="help", lines=HELP))


def _cleared(look: Look) -> Look:
    return look.with_tab(replace(look.tab, filter=""))


def _details(look: Look, at: Before) -> Pressed:
    item = chosen(look, at.shown)
    if item is None:
        return look, None
    panel = Panel(title="", key=key_of(item))
    return replace(look, mode=Mode.PANEL, panel=panel), Wish(what=What.DETAILS, key=key_of(item))


def _target(look: Look, at: Before, what: What) -> Wish | None:
    """An instance, or all of an app; nothing else can be restarted, scaled or has logs."""
    item = chosen(look, at.shown)
    if isinstance(item, Instance):
        return slot_wish(what, item)
    if isinstance(item, AppRow):
        return Wish(what=what, app=item.name)
    return _of_event(item, what) if isinstance(item, EventLine) else None


def _of_event(item: EventLine, what: What) -> Wish | None:
    app, slash, slot = item.subject.partition("/")
    name, _, number = slot.rpartition(".")
    if slash and name and number.isdigit():
        return Wish(what=what, app=app, type=name, ordinal=int(number))
    return Wish(what=what, app=item.app) if item.app else None


def _named(wish: Wish) -> str:
    return f"{wish.app}/{wish.type}.{wish.ordinal}" if wish.ordinal else wish.app


def _logs(look: Look, at: Before) -> Pressed:
    wish = _target(look, at, What.LOGS)
    if wish is None:
        return look.saying("choose an instance or an app to see its logs", bad=True), None
    panel = Panel(title=f"logs of {_named(wish)}", follows=True, key="logs")
    return replace(look, mode=Mode.PANEL, panel=panel), wish


def _restart(look: Look, at: Before) -> Pressed:
    wish = _target(look, at, What.RESTART)
    if wish is None:
        return look.saying("choose an instance or an app to restart", bad=True), None
    every = "" if wish.ordinal else "every instance of "
    question = Question(text=f"restart {every}{_named(wish)}?", wish=wish)
    return replace(look, mode=Mode.ASK, question=question), None


def _scale(look: Look, at: Before) -> Pressed:
    wish = _target(look, at, What.PLAN)
    if wish is None:
        return look.saying("choose an instance or an app to scale", bad=True), None
    typed = f"{wish.type}=" if wish.type else ""
    return replace(look, mode=Mode.WORDS, typed=typed, target=wish), None


_LIST: dict[str, Callable[[Look, Before], Pressed]] = {
    "q": lambda look, at: (look, Wish(what=What.QUIT)),
    "?": lambda look, at: (_help(look), None),
    "h": lambda look, at: (_help(look), None),
    "f1": lambda look, at: (_help(look), None),
    "c-i": lambda look, at: (_turned(look, 1), None),
    "right": lambda look, at: (_turned(look, 1), None),
    "s-tab": lambda look, at: (_turned(look, -1), None),
    "left": lambda look, at: (_turned(look, -1), None),
    ">": lambda look, at: (_sorted(look, 1), None),
    ".": lambda look, at: (_sorted(look, 1), None),
    "<": lambda look, at: (_sorted(look, -1), None),
    ",": lambda look, at: (_sorted(look, -1), None),
    "i": lambda look, at: (_inverted(look), None),
    "/": lambda look, at: (replace(look, mode=Mode.FILTER, typed=look.tab.filter), None),
    "escape": lambda look, at: (_cleared(look), None),
    "l": _logs,
    "r": _restart,
    "s": _scale,
    **dict.fromkeys(_ENTER, _details),
}


# -- something is typed ----------------------------------------------------------------------------


def _typing(look: Look, key: str, data: str) -> Pressed:
    if key in _ENTER:
        return _typed(look)
    if key in _CANCEL:
        return replace(look, mode=Mode.LIST, typed="", target=None), None
    if key in _BACK:
        return replace(look, typed=look.typed[:-1]), None
    if key == "c-u":
        return replace(look, typed=""), None
    text = data if key == _PASTE else key if len(key) == 1 else ""
    return replace(look, typed=(look.typed + printable(text))[:_TYPED_MAX]), None


def _typed(look: Look) -> Pressed:
    if look.mode is Mode.FILTER:
        tab: Tab = replace(look.tab, filter=look.typed.strip())
        return replace(look.with_tab(tab), mode=Mode.LIST, typed=""), None
    assert look.target is not None, "quantities are typed for something"
    try:
        parse_changes(look.typed.split())
    except QuantityError as error:
        return look.saying("; ".join(error.problems), bad=True), None
    if not look.typed.split():
        return look.saying("type quantities, as in web=5 worker+1", bad=True), None
    wish = replace(look.target, words=" ".join(look.typed.split()))
    panel = Panel(title=f"plan of {wish.app}: {wish.words}", key="plan")
    return replace(look, mode=Mode.PANEL, typed="", target=None, panel=panel, message=""), wish


# -- a panel, a question ---------------------------------------------------------------------------


def _in_panel(look: Look, key: str, at: Before) -> Pressed:
    assert look.panel is not None, "a panel is shown"
    if key in ("q", "?", *_CANCEL, *_ENTER, "left", "c-h"):
        return closed(look), Wish(what=What.CLOSE)
    if key == "l" and look.panel.key not in ("logs", "plan", ""):
        return _logs(look, at)
    if key not in _MOVES:
        return look, None
    rows = at.rows
    last = max(0, len(look.panel.lines) - rows)
    lines = Before(shown=Listing(items=look.panel.lines), rows=rows)  # type: ignore[arg-type]
    top = max(0, min(_MOVES[key](panel_top(look.panel, rows), lines), last))
    # At its end it goes on following what grows.
    follows = look.panel.key == "logs" and top == last
    return replace(look, panel=replace(look.panel, top=top, follows=follows)), None


def closed(look: Look) -> Look:
    return replace(look, mode=Mode.LIST, panel=None, question=None)


def _answered(look: Look, key: str, at: Before) -> Pressed:
    assert look.question is not None, "something is asked"
    if look.panel is not None and key in _MOVES:
        moved, _ = _in_panel(replace(look, mode=Mode.PANEL), key, at)
        return replace(moved, mode=Mode.ASK), None
    if key in ("y", "Y"):
        return closed(look).saying("asking…"), look.question.wish
    if key in ("n", "N", "q", *_CANCEL, *_ENTER):
        return closed(look).saying("nothing was changed"), None
    return look, None
