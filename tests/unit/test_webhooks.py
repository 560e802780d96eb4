"""What a webhook is told, how it is signed, what waits for it, and where nothing is ever sent."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation.automation import (
    Delivery,
    Webhook,
    place_of,
    problem_with_url,
    problems_with_webhook,
)
from formation_coordinator import signing
from formation_coordinator.happened import Happening
from formation_coordinator.herald import is_news
from formation_coordinator.outgoing import (
    RETRY_MAX_S,
    VALUE_MAX,
    RubbishError,
    problem_with_address,
    read_value,
    retry_after_s,
)
from formation_coordinator.signing import WAITING_MAX_S, Letter, Queue, Sender

HOOK = Webhook(name="ops", url="https://hooks.example/x")
HAPPENING = Happening(what="host.silent", subject="a", host="a", text="does not answer")


def letter(number: int, at_ms: int = 0) -> Letter:
    return Letter(id=f"evt_{number}", sequence=number, at_ms=at_ms, happening=HAPPENING)


def test_it_is_signed_as_the_standard_webhooks_convention_says() -> None:
    """Its published example."""
    found = signing.headers(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert found == {
        "Content-Type": "application/json",
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_body_says_what_happened_and_how_many_are_missing() -> None:
    sender = Sender(cluster="c", coordinator="c1", epoch=9)
    found = json.loads(signing.body(letter(3, at_ms=1_764_363_600_123), sender, 2))
    assert found == {
        "type": "host.silent",
        "timestamp": "2025-11-28T21:00:00.123Z",
        "id": "evt_3",
        "epoch": 9,
        "sequence": 3,
        "dropped": 2,
        "cluster": "c",
        "coordinator": "c1",
        "data": {"subject": "a", "app": "", "host": "a", "text": "does not answer"},
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (signing.secret_text(bytes(32)), ""),
        (signing.secret_text(bytes(24)), ""),
        (signing.secret_text(bytes(8)), "the secret has 8 bytes"),
        (signing.secret_text(bytes(65)), "the secret has 65 bytes"),
        ("hunter2", "is not whsec_ and base64"),
        ("whsec_***", "is not whsec_ and base64"),
    ],
)
def test_a_secret_that_is_none_is_told_without_repeating_it(text: str, why: str) -> None:
    found = signing.problem_with_secret(text)
    assert why in found
    assert bool(why) == bool(found)
    assert text not in found


# -- what waits ------------------------------------------------------------------------------------


def test_the_oldest_goes_when_too_many_wait_and_is_counted_until_it_was_told() -> None:
    queue = Queue(most=3)
    for number in range(5):
        queue.put(letter(number))
    assert (queue.dropped, queue.dropped_now, len(queue)) == (2, 2, 3)
    first = queue.first(0)
    assert first is not None
    assert first.sequence == 2
    told = queue.dropped_now
    queue.put(letter(5))  # which drops the one that is on its way
    queue.put(letter(6))
    assert (queue.dropped, queue.dropped_now) == (4, 4)
    queue.arrived(first, told)
    assert (queue.dropped, queue.dropped_now) == (3, 1)
    assert [queue.first(0) is not None, len(queue)] == [True, 3]


def test_nothing_waits_for_longer_than_its_time() -> None:
    queue = Queue()
    queue.put(letter(1, at_ms=0))
    queue.put(letter(2, at_ms=60_000))
    late_ms = int(WAITING_MAX_S * 1000) + 1
    found = queue.first(late_ms)
    assert found is not None
    assert found.sequence == 2
    assert queue.first(late_ms + 60_000) is None
    assert queue.dropped == 2


@given(st.lists(st.sampled_from("paf"), max_size=200), st.integers(1, 5))
def test_each_is_told_or_counted_as_dropped_and_order_is_kept(steps: list[str], most: int) -> None:
    """`p`: one comes, `a`: the first arrives, `f`: the first is tried, and more come meanwhile."""
    queue, told, put, counted = Queue(most=most), [], 0, 0
    for step in steps:
        if step == "p":
            put += 1
            queue.put(letter(put))
            continue
        first, dropped = queue.first(0), queue.dropped_now
        if step == "f":
            for _ in range(2):
                put += 1
                queue.put(letter(put))
        if first is not None:
            queue.arrived(first, dropped)
            told.append(first.sequence)
            counted += dropped
        assert len(queue) <= most
    assert told == sorted(set(told))
    assert put == len(told) + queue.dropped + len(queue)
    assert queue.dropped == counted + queue.dropped_now


def test_another_leader_says_whether_there_is_a_gap() -> None:
    whole, more = signing.began("ops", since_ms=2_000, reaches_ms=1_000)
    assert (whole.what, more) == ("webhook.resumed", {"gap": False})
    _, more = signing.began("ops", since_ms=1_000, reaches_ms=2_000)
    assert more == {
        "gap": True,
        "gap_from": "1970-01-01T00:00:01.000+00:00",
        "gap_to": "1970-01-01T00:00:02.000+00:00",
    }


def test_how_far_it_has_come_is_written_when_it_is_news() -> None:
    written = Delivery(name="ops", epoch=1, seen_to_ms=0, delivered=5)
    assert is_news(written, None)
    assert not is_news(replace(written, seen_to_ms=30_000), written)
    assert is_news(replace(written, seen_to_ms=60_000), written)
    assert is_news(replace(written, delivered=6), written)
    assert is_news(replace(written, epoch=2), written)


# -- which -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "app", "event", "wanted"),
    [
        ((), "", ("host.silent", ""), True),
        (("host",), "", ("host.silent", ""), True),
        (("host",), "", ("hostile.x", ""), False),
        (("host.joined", "app"), "", ("host.silent", ""), False),
        (("instance.backoff",), "", ("instance.backoff", "shop"), True),
        ((), "shop-*", ("app.scaled", "shop-eu"), True),
        ((), "shop-*", ("app.scaled", "blog"), False),
        ((), "*", ("host.silent", ""), False),
    ],
)
def test_which_events_a_webhook_is_told(
    what: tuple[str, ...], app: str, event: tuple[str, str], wanted: bool
) -> None:
    assert replace(HOOK, what=what, app=app).wants(*event) is wanted


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": "Über"}, "small letters, digits and -"),
        ({"name": ""}, "small letters"),
        ({"url": "file:///etc/passwd"}, "must begin with https://"),
        ({"url": "https://"}, "must begin with https://"),
        ({"url": "https://a b/"}, "characters that belong into no URL"),
        ({"url": "https://a/\x1b[2J"}, "characters that belong into no URL"),
        ({"url": "https://u:p@a/"}, "a user or a password"),
        ({"url": "http://[::1/"}, "cannot be read"),
        ({"url": "http://a:99999/"}, "cannot be read"),
        ({"url": "https://a/" + "x" * 2000}, "longer than 2000 bytes"),
        ({"what": ("hots",)}, "begins with one of app, cluster, host, instance, run"),
        ({"what": ("host.",)}, "begins with one of"),
        ({"what": ("host",) * 21}, "more than 20 words"),
        ({"app": "x" * 201}, "no such pattern"),
    ],
)
def test_a_webhook_that_makes_no_sense_is_told_why(change: dict[str, str], why: str) -> None:
    assert why in "; ".join(problems_with_webhook(replace(HOOK, **change)))  # type: ignore[arg-type]
    assert not list(problems_with_webhook(HOOK))


def test_of_a_url_only_the_place_is_repeated() -> None:
    assert place_of("https://hooks.example:8443/T0/secret?x=1") == "https://hooks.example:8443"
    assert problem_with_url("http://[fe80::1%25eth0]/") == ""


# -- where to --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "169.254.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "100.100.100.200",
        "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "not an address", "",
    ],
)  # fmt: skip
def test_nothing_is_sent_where_clouds_keep_secrets_or_to_nobody(address: str) -> None:
    assert problem_with_address(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.2.3", "fd00::1", "93.184.216.34"])
def test_an_operators_own_network_is_fine(address: str) -> None:
    assert not problem_with_address(address)


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0, 1e9))
def test_waiting_for_the_next_try_is_bounded(failures: int, jitter: float, asked_s: float) -> None:
    assert 0.5 <= retry_after_s(failures, jitter, asked_s) <= RETRY_MAX_S


def test_each_failure_waits_twice_as_long_as_the_one_before() -> None:
    assert [retry_after_s(n, 1.0) for n in (1, 2, 3, 9, 10, 99)] == [1, 2, 4, 256, 300, 300]
    assert retry_after_s(1, 0.0) == 0.5
    assert retry_after_s(1, 1.0, asked_s=60) == 60


# -- what a metric says ----------------------------------------------------------------------------

VECTOR = '{"status":"success","data":{"resultType":"vector","result":[%s]}}'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42.0),
        (" 4.25e1\n", 42.5),
        ("0", 0.0),
        (VECTOR % '{"metric":{},"value":[1700000000.1,"17.5"]}', 17.5),
        ('{"status":"success","data":{"resultType":"scalar","result":[17,"3"]}}', 3.0),
    ],
)
def test_a_number_is_read(text: str, value: float) -> None:
    assert read_value(text.encode(), 1000) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "neither a number nor"),
        ("nan", "NaN"),
        ("-1", "less than nothing"),
        ("inf", "more than anything"),
        ("1e999", "more than anything"),
        ("1_000", "neither a number"),
        ("٤٢", "neither a number"),
        ("<html>", "neither a number"),
        ("[" * 900, "neither a number"),
        ("{}", "no answer to an instant query"),
        ("[1]", "no answer to an instant query"),
        ('"7"', "no answer to an instant query"),
        (VECTOR % "", "finds nothing"),
        (VECTOR % '{"value":[1,"1"]},{"value":[1,"2"]}', "finds 2 series"),
        (VECTOR % '{"value":[1,"NaN"]}', "NaN"),
        (VECTOR % '{"value":[1,"x"]}', "'x' is no number"),
        (VECTOR % '{"value":"x"}', "no answer to"),
        ('{"status":"error","error":"parse error"}', "Prometheus says: 'parse error'"),
        ("9" * 1001, "more than 1000 bytes"),
    ],
)
def test_rubbish_is_told_as_such(text: str, why: str) -> None:
    with pytest.raises(RubbishError, match=why):
        read_value(text.encode(), 1000)


@given(st.binary(max_size=300))
def test_whatever_comes_is_a_number_or_rubbish(body: bytes) -> None:
    with contextlib.suppress(RubbishError):
        assert 0 <= read_value(body, 200) <= VALUE_MAX
