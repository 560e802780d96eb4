"""Secrets sealed: only with the key, only in their place, only whole."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation_coordinator.sealing import (
    KEY_BYTES,
    NONCE_BYTES,
    CannotOpenError,
    key_id,
    key_text,
    read_keys,
    seal,
    unseal,
)

KEY, OTHER = b"k" * KEY_BYTES, b"o" * KEY_BYTES
NONCE = b"n" * NONCE_BYTES
PLACE = ("shop", "DB_URL", 7)
text = st.text(st.characters(exclude_categories=["Cs"]))


@given(text, st.text("ab/\0", max_size=4), st.text("AB_", max_size=4), st.integers(0, 2**63))
def test_what_was_sealed_can_be_opened(value: str, app: str, name: str, version: int) -> None:
    place = (app, name, version)
    assert unseal(KEY, place, seal(KEY, place, value, NONCE)) == value


@pytest.mark.parametrize(
    "place",
    [("blog", "DB_URL", 7), ("shop", "DB_UR", 7), ("shop", "DB_URL", 8), ("shopD", "B_URL", 7)],
)
def test_in_another_place_it_cannot_be_opened(place: tuple[str, str, int]) -> None:
    with pytest.raises(CannotOpenError):
        unseal(KEY, place, seal(KEY, PLACE, "s3cret", NONCE))


@pytest.mark.parametrize("at", range(0, NONCE_BYTES + 6 + 16, 3))
def test_a_changed_or_cut_one_cannot_be_opened(at: int) -> None:
    sealed = seal(KEY, PLACE, "s3cret", NONCE)
    changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
    for bad in (changed, sealed[:at], b""):
        with pytest.raises(CannotOpenError):
            unseal(KEY, PLACE, bad)


def test_another_key_does_not_open_it_and_the_error_tells_nothing() -> None:
    with pytest.raises(CannotOpenError) as caught:
        unseal(OTHER, PLACE, seal(KEY, PLACE, "s3cret", NONCE))
    assert "s3cret" not in str(caught.value)


def test_a_key_is_known_by_an_id_that_does_not_tell_it() -> None:
    assert key_id(KEY) != key_id(OTHER)
    assert len(key_id(KEY)) == 16
    assert key_text(KEY) not in key_id(KEY)


def test_a_file_of_keys_is_one_a_line_the_first_seals() -> None:
    assert read_keys(f"{key_text(KEY)}\n\n {key_text(OTHER)} \n") == (KEY, OTHER)


@pytest.mark.parametrize(
    "bad", ["", "\n", "short", "ä" * 44, key_text(KEY)[:-4], key_text(KEY) + "="]
)
def test_a_file_that_is_none_is_told_without_repeating_it(bad: str) -> None:
    with pytest.raises(ValueError, match=r"no key|is no key") as caught:
        read_keys(bad)
    assert not bad.strip() or bad not in str(caught.value)


def test_random_nonces_do_not_repeat() -> None:
    sealed = {seal(KEY, PLACE, "s", os.urandom(NONCE_BYTES)) for _ in range(100)}
    assert len(sealed) == 100
