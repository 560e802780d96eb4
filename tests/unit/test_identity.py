"""Names in certificates and tokens as text: what goes in comes out, and rubbish is told kindly."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation.identity import (
    AUTHORITY_KEY_BYTES,
    SECRET_BYTES,
    Identity,
    Role,
    TokenText,
    identity_of,
    problem_with_apps,
    read_token,
    token_text,
)

names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True)
patterns = st.from_regex(r"[a-z0-9*?][a-z0-9*?._-]{0,10}", fullmatch=True)
tokens = st.builds(
    TokenText,
    authority_key=st.binary(min_size=AUTHORITY_KEY_BYTES, max_size=AUTHORITY_KEY_BYTES),
    secret=st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES),
)


@st.composite
def identities(draw: st.DrawFn) -> Identity:
    role = draw(st.sampled_from(Role))
    apps = draw(st.lists(patterns, min_size=1, max_size=3)) if role is Role.DEPLOYER else []
    return Identity(cluster=draw(names), role=role, name=draw(names), apps=tuple(apps))


@given(identities())
def test_an_identity_is_its_uri(who: Identity) -> None:
    assert identity_of(who.uri) == who


@given(st.text() | st.text(alphabet=string.printable).map("formation://c/agent/".__add__))
def test_any_other_text_names_nobody(text: str) -> None:
    try:
        found = identity_of(text)
    except ValueError:
        return
    assert found.uri == text


@pytest.mark.parametrize(
    "uri",
    [
        "formation://c/agent",
        "formation://c/agent/a/b",
        "formation://c/root/a",
        "formation://c/agent/../a",
        "formation://c/agent/a?apps=x",
        "formation://c/deployer/a",
        "formation://c/deployer/a?apps=",
        "formation://c/deployer/a?apps=[x]",
        "formation://c/deployer/a?role=operator",
        "formation://c/operator/a#x",
        "FORMATION://c/operator/a",
        "https://c/operator/a",
    ],
)
def test_a_uri_that_is_not_written_as_ours_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        identity_of(uri)


@given(tokens)
def test_a_token_survives_being_pasted(token: TokenText) -> None:
    text = token_text(token)
    assert read_token(text) == token
    assert len(text) == 76
    assert set(text) <= set(string.ascii_letters + string.digits + "-_")


@given(tokens, st.data())
def test_a_token_that_lost_or_changed_a_character_is_damaged(
    token: TokenText, data: st.DataObject
) -> None:
    text = token_text(token)
    at = data.draw(st.integers(len("FORM1"), len(text) - 1))
    with pytest.raises(ValueError, match="damaged"):
        read_token(text[:at] + text[at + 1 :])
    other = data.draw(st.sampled_from(string.ascii_letters).filter(lambda c: c != text[at]))
    changed = text[:at] + other + text[at + 1 :]
    try:
        assert read_token(changed) == token  # the last character has bits that mean nothing
    except ValueError as error:
        assert "damaged" in str(error)  # noqa: PT017


@given(st.text())
def test_rubbish_is_no_token_and_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"no token|damaged") as caught:
        read_token(text)
    assert len(text) < 8 or text not in str(caught.value)


def test_only_a_deployer_has_apps() -> None:
    assert not problem_with_apps(Role.DEPLOYER, ("shop-*", "blog"))
    assert "needs the apps" in problem_with_apps(Role.DEPLOYER, ())
    assert "no apps of its own" in problem_with_apps(Role.VIEWER, ("shop",))
    assert "'Sh op'" in problem_with_apps(Role.DEPLOYER, ("Sh op",))


def test_a_pattern_owns_whole_names_only() -> None:
    who = Identity(cluster="c", role=Role.DEPLOYER, name="ci", apps=("shop-*", "blog"))
    assert [app for app in ("shop-eu", "blog", "blog2", "shop", "myshop-eu", "") if who.owns(app)] \
        == ["shop-eu", "blog"]  # fmt: skip
