"""What the page answers to whom, before anything is asked of the cluster."""

from __future__ import annotations

from itertools import count

import pytest

from formation.identity import Identity, Role
from formation.settings import ConfigError
from formation_coordinator.config import page_url, problem_with_page, read_config
from formation_coordinator.guard import Caller
from formation_coordinator.web import rules
from formation_coordinator.web.logins import SESSION_S, SESSIONS_MAX, TICKET_S, Logins

HOSTS = rules.hosts_of("127.0.0.1:7180", (), local=True)
JSON = {"Content-Type": "application/json"}
OURS = {"Host": "127.0.0.1:7180", "Origin": "http://127.0.0.1:7180", **JSON}
CHANGING = ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "X")


def problem(method: str, *, https: bool = False, **headers: str) -> str:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return rules.problem_with_request(method, {**OURS, **given}, HOSTS, https=https)


@pytest.mark.parametrize("method", ["GET", "HEAD", *CHANGING])
@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:7180", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:7180.evil"],
)
def test_a_name_that_is_not_ours_is_not_answered(method: str, host: str) -> None:
    """DNS may say that evil.example is 127.0.0.1: then its page is of our origin."""
    assert "is not called" in problem(method, Host=host)


@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://127.0.0.1:7180",
        "http://127.0.0.1:7181",
        "null",
        "http://127.0.0.1",
    ],
)
def test_no_other_origin_changes_anything_by_any_method(method: str, origin: str) -> None:
    assert "another site" in problem(method, Origin=origin)


@pytest.mark.parametrize("method", ["GET", *CHANGING])
@pytest.mark.parametrize("site", ["cross-site", "same-site", "x"])
def test_what_a_browser_says_of_another_site_is_believed(method: str, site: str) -> None:
    assert "another site" in problem(method, Sec_Fetch_Site=site)
    assert not problem(method, Sec_Fetch_Site="same-origin")


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_what_a_form_of_another_page_can_send_is_no_change(kind: str) -> None:
    assert "application/json" in problem("POST", Content_Type=kind)
    assert not problem("POST", Content_Type="application/json; charset=utf-8")


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, "must say its Origin"),
        ({"Origin": "x"}, "is missing or not that of this login"),
        ({"Origin": "x", rules.CSRF_HEADER: ""}, "is missing or not that of this login"),
        ({"Origin": "x", rules.CSRF_HEADER: "tokem"}, "is missing or not that of this login"),
        ({"Origin": "x", rules.CSRF_HEADER: "tok\udce4n"}, "is missing or not that of this login"),
        ({"Origin": "x", rules.CSRF_HEADER: "token"}, ""),
    ],
)
def test_a_cookie_alone_changes_nothing(headers: dict[str, str], said: str) -> None:
    assert said in rules.problem_with_change(headers, "token")
    assert bool(said) == bool(rules.problem_with_change(headers, "token"))


def test_nothing_but_our_own_files_is_run_or_loaded() -> None:
    policy = rules.HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "*" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy


def test_names_and_ports_that_we_are_called_by() -> None:
    assert rules.hosts_of("10.0.0.1:443", ("Forms.example",), local=False) == {
        "10.0.0.1:443", "10.0.0.1", "forms.example:443", "forms.example",
    }  # fmt: skip
    assert "[::1]:7180" in rules.hosts_of("localhost:7180", (), local=True)


# -- logins ----------------------------------------------------------------------------------------

ANN = Caller()


class Desk:
    def __init__(self) -> None:
        self.now_s = 0.0
        numbers = count(1)
        self.logins = Logins(clock=lambda: self.now_s, new_secret=lambda: f"secret{next(numbers)}")


def test_a_ticket_opens_one_session_soon() -> None:
    desk = Desk()
    ticket = desk.logins.ticket(ANN)
    made = desk.logins.redeem(ticket)
    assert made is not None
    cookie, session = made
    assert desk.logins.session(cookie) is session
    assert session.caller is ANN
    assert session.csrf not in (ticket, cookie)
    assert session.csrf not in repr(session)
    assert desk.logins.redeem(ticket) is None
    late = desk.logins.ticket(ANN)
    desk.now_s += TICKET_S
    assert desk.logins.redeem(late) is None


def test_a_session_ends_by_itself_and_by_its_holder() -> None:
    desk = Desk()
    first, second = (desk.logins.redeem(desk.logins.ticket(ANN)) for _ in range(2))
    assert first is not None
    assert second is not None
    desk.logins.leave(first[0])
    desk.logins.leave("nobody's")
    assert desk.logins.session(first[0]) is None
    assert desk.logins.session(second[0]) is not None
    desk.now_s += SESSION_S
    assert desk.logins.session(second[0]) is None


@pytest.mark.parametrize("guess", ["", "secret", "secret2", "\udce4", "x" * 10_000])
def test_a_guess_opens_nothing(guess: str) -> None:
    desk = Desk()
    desk.logins.ticket(ANN)
    assert desk.logins.redeem(guess) is None
    assert desk.logins.session(guess) is None


def test_however_many_log_in_they_are_bounded() -> None:
    desk = Desk()
    made = [desk.logins.redeem(desk.logins.ticket(ANN)) for _ in range(SESSIONS_MAX + 5)]
    cookies = [item[0] for item in made if item]
    assert sum(desk.logins.session(cookie) is not None for cookie in cookies) == SESSIONS_MAX
    assert desk.logins.session(cookies[-1]) is not None


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "url"),
    [
        (("127.0.0.1:7180",), "http://127.0.0.1:7180/"),
        (("10.0.0.1:7180",), "https://10.0.0.1:7180/"),
        (("0.0.0.0:7180", "--http-name", "forms.example"), "https://forms.example:7180/"),
        (("127.0.0.1:7180", "--http-cert", "/c", "--http-key", "/k"), "https://127.0.0.1:7180/"),
        (("10.0.0.1:7180", "--insecure"), "http://10.0.0.1:7180/"),
    ],
)
def test_where_the_page_is(words: tuple[str, ...], url: str) -> None:
    assert page_url(read_config(["--http", *words], {}, lambda _: "")) == url


def test_beyond_loopback_it_is_not_served_plainly() -> None:
    config = read_config(["--http", "10.0.0.1:7180"], {}, lambda _: "")
    assert "others would read along" in problem_with_page(config, certified=False)
    assert not problem_with_page(config, certified=True)
    local = read_config(["--http", "[::1]:7180"], {}, lambda _: "")
    assert not problem_with_page(local, certified=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--http", "unix:/x"], "browsers know no Unix sockets"),
        (["--http", "nonsense"], "--http"),
        (["--http-name", "x"], "need --http ADDR"),
        (["--http", "127.0.0.1:1", "--http-cert", "/c"], "give both or neither"),
    ],
)
def test_settings_that_cannot_be_are_told(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_config(words, {}, lambda _: "")


@pytest.mark.parametrize(
    ("who", "operates", "apps"),
    [
        (None, True, ["*"]),
        (Identity(cluster="c", role=Role.OPERATOR, name="ann"), True, ["*"]),
        (Identity(cluster="c", role=Role.DEPLOYER, name="dan", apps=("sh*",)), False, ["sh*"]),
        (Identity(cluster="c", role=Role.VIEWER, name="vic"), False, []),
        (Identity(cluster="c", role=Role.AGENT, name="a"), False, []),
    ],
)
def test_which_buttons_somebody_is_shown(
    who: Identity | None, operates: bool, apps: list[str]
) -> None:
    assert rules.allowed(who) == {"operate": operates, "apps": apps}
