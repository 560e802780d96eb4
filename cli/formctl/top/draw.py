"""What it looks like: what is known and chosen → lines of (style, text). Pure.

Only what is in sight is turned into text, so that 10,000 instances cost no more than a screen.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from formctl.cells import fit, pad, width
from formctl.tables import printable
from formctl.top.columns import COLUMNS, Column, cells, style
from formctl.top.look import Listing, Look, Mode, chosen, panel_top
from formctl.top.seen import Seen, View
from formctl.top.texts import note

Fragment = tuple[str, str]
Line = list[Fragment]

# What is around the lines of the list: headline, tabs, titles; note, keys.
_ABOVE, _BELOW = 3, 2
_NAME_MIN, _REST_MIN = 5, 10
_STATE = "STATE"
_KEYS = {
    Mode.LIST: "? help  1-4 view  < > sort  / filter  Enter why  l logs  r restart  s scale  q",
    Mode.FILTER: "Enter keep  Esc leave as it was  state:… host:… app:… or any text",
    Mode.WORDS: "Enter see what would happen  Esc leave it",
    Mode.PANEL: "q Esc back  up down PgUp PgDn Home End scroll",
    Mode.ASK: "y yes, do it  n no",
}


@dataclass(frozen=True, slots=True)
class Size:
    columns: int
    rows: int

    @property
    def body(self) -> int:
        """Rows for lines."""
        return max(1, self.rows - _ABOVE - _BELOW)

    @property
    def panel(self) -> int:
        """A panel has a title alone above it."""
        return max(1, self.rows - 2 - _BELOW)


def screen(look: Look, seen: Seen, shown: Listing, size: Size, now_ms: int) -> list[Line]:
    """Just as many lines as the screen has, each as wide."""
    if look.panel is not None:
        middle = [_headline(seen), *_panel(look, size)]
    else:
        middle = [_headline(seen), _tabs(look, shown), *_list(look, seen, shown, size, now_ms)]
    lines = [*middle[: max(0, size.rows - _BELOW)]]
    lines += [[]] * (size.rows - _BELOW - len(lines))
    lines += [_said(look, seen, shown, now_ms), [("keys", _KEYS[look.mode])]]
    return [_cut(line, size.columns) for line in lines[: size.rows]]


def _headline(seen: Seen) -> Line:
    if seen.trouble:
        return [("bad", f"not live, trying again: {printable(seen.trouble)}")]
    return [("head", f"formctl top  {printable(seen.headline())}")]


def _tabs(look: Look, shown: Listing) -> Line:
    line: Line = []
    for number, view in enumerate(View, 1):
        line.append(("tab.on" if view is look.view else "tab", f" {number} {view} "))
    count = f"  {len(shown.items)} of {shown.total}" if look.filter else f"  {shown.total}"
    line.append(("tab", count))
    if look.filter and look.mode is not Mode.FILTER:
        line.append(("info", f"  filter: {look.filter}"))
    return line


# -- the list --------------------------------------------------------------------------------------


def _list(look: Look, seen: Seen, shown: Listing, size: Size, now_ms: int) -> list[Line]:
    tab = look.tab
    items = shown.items[tab.top : tab.top + size.body]
    table = [cells(look.view, item, seen, now_ms) for item in items]
    layout = _layout(COLUMNS[look.view], shown.wide, size.columns)
    lines = [_titles(look, layout)]
    place = shown.place_of(tab)
    for number, (item, row) in enumerate(zip(items, table, strict=True)):
        is_chosen = tab.top + number == place
        lines.append(_row(look.view, row, layout, style(item), is_chosen=is_chosen))
    if not items:
        lines.append([("dim", _nothing(look, seen))])
    return lines


def _layout(
    columns: Sequence[Column], names_wide: Mapping[int, int], room: int
) -> list[tuple[int, int]]:
    """(column, cells) of those that there is room for."""
    wide = {}
    for number, column in enumerate(columns):
        longest = names_wide.get(number, 0)
        wide[number] = column.cells or max(_NAME_MIN, longest, len(column.title) + 1)
    rest = next((n for n, column in enumerate(columns) if column.cells < 0), None)
    if rest is not None:
        wide[rest] = _REST_MIN
    for number in sorted(wide, key=lambda n: -columns[n].rank):
        if sum(wide.values()) + len(wide) - 1 <= room or not columns[number].rank:
            break
        del wide[number]
    if rest is not None and sum(wide.values()) + len(wide) - 1 > room:
        # It is below the list for the chosen line; a name that is cut is nobody's.
        del wide[rest]
        rest = None
    names = [n for n in wide if not columns[n].cells]
    over = sum(wide.values()) + len(wide) - 1 - room
    for number in names:
        if over > 0:
            less = min(over, wide[number] - _NAME_MIN)
            wide[number], over = wide[number] - less, over - less
    if rest is not None:
        others = sum(cells for number, cells in wide.items() if number != rest)
        wide[rest] = max(_REST_MIN, room - others - len(wide) + 1)
    return sorted(wide.items())


def _titles(look: Look, layout: Sequence[tuple[int, int]]) -> Line:
    columns, line = COLUMNS[look.view], []
    for number, room in layout:
        column = columns[number]
        text = column.title
        if number == look.tab.sort:
            text = fit(text, room - 1) + ("▼" if look.tab.backwards else "▲")
        line.append(pad(text, room, right=column.right))
    return [("column", " ".join(line))]


def _row(
    view: View,
    row: Sequence[str],
    layout: Sequence[tuple[int, int]],
    kind: str,
    *,
    is_chosen: bool,
) -> Line:
    columns, line = COLUMNS[view], []
    for number, room in layout:
        column = columns[number]
        of_state = column.title in (_STATE, "ROLLOUT", "WHAT") and not is_chosen
        text = pad(row[number], room, right=column.right)
        line.append(("chosen" if is_chosen else kind if of_state else "", text))
        line.append(("chosen" if is_chosen else "", " "))
    return line[:-1]


def _nothing(look: Look, seen: Seen) -> str:
    if look.filter:
        return "nothing has all of these words; Esc takes the filter away"
    if look.view is View.HOSTS:
        return "no hosts; let one join with: formctl token create --role agent"
    if look.view is View.EVENTS:
        return "nothing has happened since this coordinator started"
    return "no apps; add one with: formctl apply" if not seen.apps else "no instances"


# -- a panel ---------------------------------------------------------------------------------------


def wrapped(text: str, columns: int) -> list[str]:
    """Of a panel: nothing is cut off, what is too long goes on below."""
    fitting = textwrap.wrap(
        text, max(columns, 20), subsequent_indent="    ", drop_whitespace=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return fitting or [""]


def _panel(look: Look, size: Size) -> list[Line]:
    assert look.panel is not None, "there is one"
    top = panel_top(look.panel, size.panel)
    inside = look.panel.lines[top : top + size.panel]
    total = len(look.panel.lines)
    place = f"  {top + 1}-{top + len(inside)} of {total}" if total > size.panel else ""
    title: Line = [("tab.on", f" {printable(look.panel.title)} "), ("tab", place)]
    return [title, *([("", line)] for line in inside)]


# -- below -----------------------------------------------------------------------------------------


def _said(look: Look, seen: Seen, shown: Listing, now_ms: int) -> Line:
    if look.mode is Mode.ASK and look.question is not None:
        return [("ask", f"{printable(look.question.text)} y/n ")]
    said = ("message.bad" if look.is_bad else "message", printable(look.message))
    if look.mode is Mode.FILTER:
        return [("ask", f"filter: {look.typed}"), ("chosen", " ")]
    if look.mode is Mode.WORDS and look.target is not None:
        asked = f"scale {printable(look.target.app)}: {look.typed}"
        return [("ask", asked), ("chosen", " "), ("", " "), said]
    if look.message:
        return [said]
    item = chosen(look, shown) if look.mode is Mode.LIST else None
    about = note(item, now_ms) if item is not None else ""
    return [("note", about or _held_up(look, seen))]


def _held_up(look: Look, seen: Seen) -> str:
    """What holds placement up, or that nobody is asked who they are: for all to see."""
    held = seen.table.note if seen.table.standstill else ""
    return printable(held or seen.warning) if look.mode is Mode.LIST else ""


def _cut(line: Line, columns: int) -> Line:
    """Exactly one row of the screen."""
    found: Line = []
    room = columns
    for kind, text in line:
        if room <= 0:
            break
        shown = fit(text, room)
        found.append((kind, shown))
        room -= width(shown)
    last = line[-1][0] if line else ""
    filled = last if last in ("column", "head", "keys", "chosen") else ""
    return [*found, (filled, " " * room)] if room > 0 else found
