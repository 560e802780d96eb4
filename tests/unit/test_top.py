"""What `formctl top` shows and what its keys do, without a terminal."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from formation.model import InstanceState, InstanceStatus, Slot, Usage
from formctl import cells
from formctl.top import draw
from formctl.top.keys import Before, pressed
from formctl.top.look import Listing, Look, Mode, What, Wish, chosen, listing, settled
from formctl.top.seen import Seen, View, key_of
from formctl.views import Instance, Update

SIZE = draw.Size(80, 24)


def instance(number: int, **changes: object) -> Instance:
    status = InstanceStatus(
        uid=f"u{number}",
        slot=Slot("shop", "web", number),
        release=1,
        state=changes.pop("state", InstanceState.HEALTHY),  # type: ignore[arg-type]
        attempt=1,
        told=str(changes.pop("told", "")),
    )
    return Instance(status=status, host=str(changes.pop("host", "a")))


@dataclass(slots=True)
class Counted(Seen):
    """Counts for how many lines the usage was looked up."""

    asked: list[str] = field(default_factory=list)

    def usage_of(self, item: Instance) -> Usage | None:
        self.asked.append(item.uid)
        return None


def seen(*instances: Instance) -> Seen:
    found = Seen()
    found.table.apply(Update(complete=True, changed=instances))
    return found


def text(look: Look, known: Seen, size: draw.Size = SIZE) -> list[str]:
    shown = listing(look, known)
    look = settled(look, shown, size.body)
    lines = draw.screen(look, known, shown, size, 0)
    return ["".join(part for _, part in line).rstrip() for line in lines]


def after(known: Seen, *keys: str) -> tuple[Look, Wish | None]:
    look, wish = Look(), None
    for key in keys:
        shown = listing(look, known)
        look = settled(look, shown, SIZE.body)
        look, wish = pressed(look, key, Before(shown=shown, rows=SIZE.body))
    return look, wish


def test_of_ten_thousand_instances_only_those_in_sight_become_text() -> None:
    known = Counted()
    many = tuple(instance(number) for number in range(1, 10_001))
    known.table.apply(Update(complete=True, changed=many))
    shown = listing(Look(), known)
    known.asked.clear()
    draw.screen(Look(), known, shown, SIZE, 0)
    assert set(known.asked) == {f"u{number}" for number in range(1, SIZE.body + 1)}
    assert listing(Look(), known, shown) is shown


@pytest.mark.parametrize("columns", [1, 7, 20, 40, 60, 80, 200])
@pytest.mark.parametrize("rows", [1, 3, 6, 24])
def test_the_screen_is_filled_and_never_overrun(columns: int, rows: int) -> None:
    known = seen(instance(1, host="漢字" * 30), instance(2, told="x" * 300))
    for look in (Look(), after(known, "?")[0], after(known, "s")[0], after(known, "r")[0]):
        for view in View:
            lines = text(Look(view=view) if look == Look() else look, known, size(columns, rows))
            assert len(lines) == rows
            assert max(map(cells.width, lines)) <= columns


def size(columns: int, rows: int) -> draw.Size:
    return draw.Size(columns, rows)


def test_a_name_keeps_its_number_on_a_narrow_screen() -> None:
    assert "shop/web.12" in "\n".join(text(Look(), seen(instance(12)), size(40, 10)))


def test_what_others_wrote_cannot_move_the_cursor() -> None:
    hostile = instance(1, told="\x1b[2J\x07\r\n\u202egone", host="a\x1b]0;x\x07")
    for look in (Look(), after(seen(hostile), "c-m")[0]):
        assert all(line.isprintable() for line in text(look, seen(hostile)))


def test_the_chosen_line_stays_chosen_when_others_come_and_the_order_changes() -> None:
    known = seen(instance(2), instance(3))
    look, _ = after(known, "down")
    known.table.apply(Update(changed=(instance(1),)))
    known.version += 1
    shown = listing(look, known)
    item = chosen(settled(look, shown, 19), shown)
    assert item is not None
    assert key_of(item) == "u3"


def test_when_the_chosen_line_goes_the_one_in_its_place_is_chosen() -> None:
    known = seen(instance(1), instance(2), instance(3))
    look, _ = after(known, "down", "up", "down")
    known.table.apply(Update(gone_uids=("u2",)))
    known.version += 1
    shown = listing(look, known)
    item = chosen(settled(look, shown, 19), shown)
    assert item is not None
    assert key_of(item) == "u3"


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (("q",), What.QUIT),
        (("c-c",), What.QUIT),
        (("/", "x", "c-c"), What.QUIT),
        (("c-m",), What.DETAILS),
        (("l",), What.LOGS),
        (("r", "y"), What.RESTART),
        (("s", "4", "c-m"), What.PLAN),
        (("c-m", "q"), What.CLOSE),
        (("c-z",), What.SUSPEND),
    ],
)
def test_keys_ask_for_this(keys: tuple[str, ...], what: What) -> None:
    _, wish = after(seen(instance(1)), *keys)
    assert wish is not None
    assert wish.what is what


@pytest.mark.parametrize("keys", [("r", "n"), ("r", "c-m"), ("r", "x"), ("s", "escape"), ("x",)])
def test_nothing_is_changed_by_anything_but_a_clear_yes(keys: tuple[str, ...]) -> None:
    _, wish = after(seen(instance(1)), *keys)
    assert wish is None


@pytest.mark.parametrize("key", ["l", "r", "s", "c-m", "up", "G", "pagedown", "escape", "<", "i"])
def test_every_key_does_no_harm_where_there_is_nothing(key: str) -> None:
    look, wish = after(Seen(), key)
    assert wish is None
    assert look.mode is Mode.LIST


def test_quantities_that_make_no_sense_are_said_before_anything_is_asked() -> None:
    look, wish = after(seen(instance(1)), "s", "x", "c-m")
    assert wish is None
    assert look.mode is Mode.WORDS
    assert "web=x" in text(look, seen(instance(1)))[-2]


def test_a_paste_is_one_line_and_bounded() -> None:
    at = Before(shown=Listing(), rows=19)
    look, _ = pressed(Look(mode=Mode.FILTER), "<bracketed-paste>", at, data="a\nb\x1b[2J" * 100)
    assert look.typed.isprintable()
    assert len(look.typed) <= 200


def test_sorting_by_what_is_not_known_puts_it_last() -> None:
    known = seen(instance(1), instance(2))
    known.usage = {"u2": Usage(uid="u2", cpu_share=0.0)}
    look = Look(tabs={View.INSTANCES: Look().tab})
    for _ in range(4):
        look, _wish = pressed(look, ">", Before(shown=listing(look, known), rows=19))
    assert [key_of(item) for item in listing(look, known).items] == ["u2", "u1"]


def test_a_trouble_is_said_above_all() -> None:
    known = seen(instance(1))
    known.trouble = "connection lost \x1b[2J"
    assert text(Look(), known)[0] == r"not live, trying again: connection lost \x1b[2J"


def test_text_is_cut_by_cells_and_not_by_characters() -> None:
    assert cells.fit("漢字漢字", 5) == "漢字…"
    assert cells.pad("漢", 4, right=True) == "  漢"
    assert cells.width("e\u0301") == 1
    assert cells.fit("abc", 0) == ""
