"""`web=5 worker+1`: what the words mean, and when they are refused whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation.model import QUANTITY_MAX
from formation.quantities import (
    QuantityError,
    apply_changes,
    initial_quantity,
    parse_changes,
    parse_dev,
    parse_initial,
    show,
)
from formation.requests import ChangeKind, QuantityChange

SET, ADD, SUBTRACT = ChangeKind.SET, ChangeKind.ADD, ChangeKind.SUBTRACT


def change(name: str, kind: ChangeKind, quantity: int) -> QuantityChange:
    return QuantityChange(type=name, kind=kind, quantity=quantity)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("web=5", change("web", SET, 5)),
        ("web=0", change("web", SET, 0)),
        ("worker+1", change("worker", ADD, 1)),
        ("worker-2", change("worker", SUBTRACT, 2)),
        ("foo-bar-2", change("foo-bar", SUBTRACT, 2)),
        ("worker-2-3", change("worker-2", SUBTRACT, 3)),
        ("worker-2=3", change("worker-2", SET, 3)),
        ("-foo_bar=1", change("-foo_bar", SET, 1)),
        ("web2+10", change("web2", ADD, 10)),
        ("web=0005", change("web", SET, 5)),
    ],
)
def test_a_word_names_a_type_and_what_changes(word: str, expected: QuantityChange) -> None:
    assert parse_changes([word]) == (expected,)


@pytest.mark.parametrize(
    "word", ["web", "web=", "=5", "web=x", "web=-5", "web=1.5", "web:5", "web = 5", "", "web=٣"]
)
def test_a_bad_word_is_named(word: str) -> None:
    with pytest.raises(QuantityError) as caught:
        parse_changes(["ok=1", word])
    assert len(caught.value.problems) == 1
    assert repr(word) in caught.value.problems[0]


def test_every_bad_word_is_named_and_nothing_is_taken() -> None:
    with pytest.raises(QuantityError) as caught:
        parse_changes(["web=1", "nope", "worker=y"])
    assert [problem.split(" ")[0] for problem in caught.value.problems] == ["'nope'", "'worker=y'"]


@pytest.mark.parametrize("words", [["web=1", "web=2"], ["web=1", "web+1"]])
def test_a_type_is_named_at_most_once(words: list[str]) -> None:
    with pytest.raises(QuantityError, match="web is given twice"):
        parse_changes(words)


@pytest.mark.parametrize("number", [str(QUANTITY_MAX + 1), "9" * 5000])
def test_more_than_the_limit_is_refused(number: str) -> None:
    with pytest.raises(QuantityError, match=f"more than {QUANTITY_MAX}"):
        parse_changes([f"web={number}"])
    assert parse_changes([f"web={QUANTITY_MAX}"])[0].quantity == QUANTITY_MAX


def test_types_that_are_not_named_keep_their_quantity() -> None:
    changes = parse_changes(["web=5", "worker-1", "clock+2"])
    before = {"web": 1, "worker": 3, "mail": 4}
    after = apply_changes(before, changes, ["web", "worker", "mail", "clock"])
    assert after == {"web": 5, "worker": 2, "mail": 4, "clock": 2}
    assert before == {"web": 1, "worker": 3, "mail": 4}


def test_impossible_changes_are_all_named_with_their_numbers() -> None:
    changes = parse_changes(["wbe=1", "worker-4", f"web+{QUANTITY_MAX}"])
    with pytest.raises(QuantityError) as caught:
        apply_changes({"web": 1, "worker": 3}, changes, ["web", "worker"])
    assert caught.value.problems == (
        "no process type wbe: there is web, worker",
        "worker-4: there are only 3",
        f"web: {QUANTITY_MAX + 1} is more than {QUANTITY_MAX}",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all=1", {"web": 1, "worker": 1}),
        ("web=2", {"web": 2, "worker": 0}),
        ("all=1,web=3", {"web": 3, "worker": 1}),
        ("web=3, all=0", {"web": 3, "worker": 0}),
    ],
)
def test_dev_quantities_mean_what_foreman_means(text: str, expected: dict[str, int]) -> None:
    assert parse_dev(text, ["web", "worker"]) == expected


@pytest.mark.parametrize("text", ["web+1", "nope=1", "web", "", ",", "web=1,web=2"])
def test_dev_quantities_are_refused_whole(text: str) -> None:
    with pytest.raises(QuantityError):
        parse_dev(text, ["web", "worker"])


def test_initial_quantities_say_nothing_of_types_that_are_not_named() -> None:
    assert parse_initial("worker=2", ["web", "worker"]) == {"worker": 2}
    with pytest.raises(QuantityError, match="no process type all"):
        parse_initial("all=2", ["web", "worker"])
    assert (initial_quantity("web"), initial_quantity("worker")) == (1, 0)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_-]{1,63}", fullmatch=True), st.integers(0, QUANTITY_MAX)
    )
)
def test_what_is_shown_can_be_fed_back(formation: dict[str, int]) -> None:
    changes = parse_changes(show(formation).split())
    assert apply_changes({}, changes, list(formation)) == formation
