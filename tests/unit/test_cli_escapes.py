"""The way out of a stuck session, and that nothing else that is typed is changed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formctl.escapes import Escapes, Wish, help_text


def read(*pieces: bytes, character: bytes = b"~") -> tuple[bytes, list[Wish]]:
    """All that is sent, and what is wished beside NOTHING."""
    state, sent = Escapes(character=character), b""
    wishes: list[Wish] = []
    for piece in pieces:
        more, wish, state = state.read(piece)
        sent += more
        if wish is not Wish.NOTHING:
            wishes.append(wish)
        if wish is Wish.END:
            break
    return sent, wishes


@pytest.mark.parametrize(
    ("typed", "sent", "wishes"),
    [
        (b"~.", b"", [Wish.END]),
        (b"ls\r~.ls", b"ls\r", [Wish.END]),
        (b"ls\n~.", b"ls\n", [Wish.END]),
        (b"x~.", b"x~.", []),
        (b"~~.", b"~.", []),
        (b"~~~.", b"~~.", []),
        (b"~x~.", b"~x~.", []),
        (b"~?~.", b"", [Wish.END]),
        (b"~?", b"", [Wish.HELP]),
        (b"~\r~.", b"~\r", [Wish.END]),
        (b"~", b"", []),
        (b"~/bin/ls\r", b"~/bin/ls\r", []),
    ],
)
def test_it_counts_at_the_beginning_of_a_line_alone(
    typed: bytes, sent: bytes, wishes: list[Wish]
) -> None:
    assert read(typed) == (sent, wishes)
    assert read(*(typed[i : i + 1] for i in range(len(typed))))[0] == sent


def test_it_may_be_another_character_or_none() -> None:
    assert read(b"~.\r!.", character=b"!") == (b"~.\r", [Wish.END])
    assert read(b"~.\r~.", character=b"") == (b"~.\r~.", [])


@given(st.lists(st.binary(max_size=20)))
def test_without_the_character_every_byte_is_sent_as_it_was(pieces: list[bytes]) -> None:
    clean = [piece.replace(b"~", b"-") for piece in pieces]
    assert read(*clean) == (b"".join(clean), [])


@given(st.binary(max_size=40), st.integers(0, 40))
def test_it_does_not_matter_how_what_is_typed_is_cut_into_pieces(typed: bytes, at: int) -> None:
    whole, _ = read(typed)
    cut, _ = read(typed[:at], typed[at:])
    assert whole == cut
    assert len(whole) <= len(typed)


def test_the_help_names_the_character() -> None:
    assert "!.  ends the session" in help_text("!")
