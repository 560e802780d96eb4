"""Log lines in the words of journald, syslog and OTLP: nothing that a process writes becomes more
than a text there."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation.gaps import Gap
from formation.model import Slot
from formation.settings import ConfigError
from formation_agent import shipping_journald, shipping_otlp, shipping_syslog
from formation_agent.config import load
from formation_agent.logfile_reader import Line
from formation_agent.shipping_targets import Kind, headers, parse

LINE = Line(
    slot=Slot("shop", "web", 1),
    host="a",
    at_us=1_795_314_825_123_456,
    stderr=False,
    text=b"hello",
)
GAP = replace(LINE, gap=Gap.ROTATED, missing=7, text=b"[formation] 7 lines", stderr=True)
# RFC 5424, section 6, in the parts that we use.
SYSLOG = re.compile(
    rb"<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) ([!-~]{1,255}) ([!-~]{1,48}) "
    rb"([!-~]{1,128}) ([!-~]{1,32}) "
    rb'\[formation@32473((?: [a-z]+="(?:[^"\\\]]|\\["\\\]])*")*)\] (.*)',
    re.DOTALL,
)


def parsed_journal(datagram: bytes) -> list[tuple[bytes, bytes]]:
    """As the protocol's page tells to read it."""
    fields = []
    while datagram:
        head, _, rest = datagram.partition(b"\n")
        if b"=" in head:
            name, _, value = head.partition(b"=")
        else:
            name, (length,) = head, struct.unpack("<Q", rest[:8])
            value = rest[8 : 8 + length]
            assert rest[8 + length : 9 + length] == b"\n"
            rest = rest[9 + length :]
        fields.append((name, value))
        datagram = rest
    return fields


def test_journald_is_told_the_text_and_whose_it_is() -> None:
    fields = dict(parsed_journal(shipping_journald.entry(LINE)))
    assert fields == {
        b"MESSAGE": b"hello",
        b"PRIORITY": b"6",
        b"SYSLOG_FACILITY": b"1",
        b"SYSLOG_IDENTIFIER": b"shop.web.1",
        b"FORMATION_APP": b"shop",
        b"FORMATION_TYPE": b"web",
        b"FORMATION_INSTANCE": b"web.1",
        b"FORMATION_HOST": b"a",
        b"FORMATION_STREAM": b"stdout",
        b"FORMATION_TIME": b"2026-11-22T02:33:45.123456Z",
    }
    error = dict(parsed_journal(shipping_journald.entry(replace(LINE, stderr=True, partial=True))))
    assert (error[b"PRIORITY"], error[b"FORMATION_PARTIAL"]) == (b"3", b"1")
    gap = dict(parsed_journal(shipping_journald.entry(GAP)))
    assert (gap[b"FORMATION_GAP"], gap[b"FORMATION_MISSING"]) == (b"rotated", b"7")


@given(st.binary(max_size=200))
def test_whatever_a_process_writes_is_one_field_of_the_journal_byte_for_byte(text: bytes) -> None:
    fields = parsed_journal(shipping_journald.entry(replace(LINE, text=text)))
    assert [name for name, _ in fields].count(b"MESSAGE") == 1
    assert dict(fields)[b"MESSAGE"] == text
    assert len(fields) == 10


def test_a_text_that_looks_like_fields_is_none() -> None:
    forged = b"x\nPRIORITY=0\n_UID=0\nMESSAGE\n" + struct.pack("<Q", 3)
    fields = dict(parsed_journal(shipping_journald.entry(replace(LINE, text=forged))))
    assert fields[b"PRIORITY"] == b"6"
    assert b"_UID" not in fields


def test_a_syslog_message_is_as_rfc_5424_has_it() -> None:
    found = shipping_syslog.message(LINE)
    assert found == (
        b"<14>1 2026-11-22T02:33:45.123456Z a shop web.1 stdout "
        b'[formation@32473 app="shop" type="web" instance="web.1" host="a"] hello'
    )
    assert shipping_syslog.message(replace(LINE, stderr=True)).startswith(b"<11>1 ")
    gap = shipping_syslog.message(GAP)
    assert gap.startswith(b"<12>1 ")
    assert b'gap="rotated" missing="7"]' in gap


@given(st.binary(max_size=300), st.text(max_size=60))
def test_no_text_and_no_name_makes_a_syslog_message_more_than_one(text: bytes, host: str) -> None:
    found = shipping_syslog.message(replace(LINE, text=text, host=host))
    match = SYSLOG.fullmatch(found)
    assert match is not None, found
    shown = match[8].decode()
    assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f]", shown)
    assert not re.search(rb"[\x00-\x1f\x7f]", match[7])


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"two\nlines", "two\\nlines"),
        (b"tab\tstays", "tab\tstays"),
        (b"\x1b[31mred", "\\x1b[31mred"),
        (b"\xff\xfe", "\\xff\\xfe"),
        (b"nul\x00", "nul\\x00"),
        (b"dos\r", "dos"),
        ("\u2028é日".encode(), "\\u2028é日"),
    ],
)
def test_control_characters_and_what_is_no_utf_8_are_shown(raw: bytes, shown: str) -> None:
    assert shipping_syslog.plain(raw) == shown


def test_names_in_structured_data_are_escaped() -> None:
    found = shipping_syslog.message(replace(LINE, host='a"]\\ b'))
    assert b'host="a\\"\\]\\\\ b"]' in found
    assert b' a"]\\?b shop ' in found  # the header knows no escapes, and no blanks either


def test_a_frame_has_the_length_in_octets_before_it() -> None:
    assert shipping_syslog.framed("é".encode()) == b"2 \xc3\xa9"


def test_a_datagram_that_would_be_too_long_is_cut_between_characters_and_says_so() -> None:
    found = shipping_syslog.message(replace(LINE, text="é".encode() * 10_000), 1000)
    assert 990 < len(found) <= 1000
    assert found.decode().endswith("é…")
    assert shipping_syslog.message(LINE, 8192) == shipping_syslog.message(LINE)


def test_otlp_has_a_resource_for_each_instance_and_lines_in_their_order() -> None:
    other = replace(LINE, slot=Slot("shop", "worker", 2), text=b"\xff")
    body = json.loads(json.dumps(shipping_otlp.request([LINE, other, GAP], 5)))
    web, worker = body["resourceLogs"]
    assert {
        item["key"]: item["value"]["stringValue"] for item in web["resource"]["attributes"]
    } == {
        "service.namespace": "shop",
        "service.name": "web",
        "service.instance.id": "web.1",
        "host.name": "a",
    }
    first, gap = web["scopeLogs"][0]["logRecords"]
    assert first == {
        "timeUnixNano": "1795314825123456000",
        "observedTimeUnixNano": "5000",
        "body": {"stringValue": "hello"},
        "attributes": [{"key": "log.iostream", "value": {"stringValue": "stdout"}}],
    }
    assert gap["severityNumber"] == 13
    assert {"key": "formation.missing", "value": {"intValue": "7"}} in gap["attributes"]
    (bytes_,) = worker["scopeLogs"][0]["logRecords"]
    assert bytes_["body"] == {"bytesValue": "/w=="}


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        ({}, 0),
        ({"partialSuccess": {}}, 0),
        ({"partialSuccess": {"rejectedLogRecords": "3"}}, 3),
        ({"partialSuccess": {"rejectedLogRecords": 3}}, 3),
        ({"partialSuccess": {"rejectedLogRecords": -3}}, 0),
        ({"partialSuccess": {"rejectedLogRecords": "many"}}, 0),
        ({"partialSuccess": []}, 0),
        ([], 0),
        (None, 0),
    ],
)
def test_what_a_receiver_did_not_take_is_counted_whatever_it_answers(
    answer: object, count: int
) -> None:
    assert shipping_otlp.rejected(answer) == count


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("journald", Kind.JOURNALD, "journald:/run/systemd/journal/socket"),
        ("journald:/tmp/x", Kind.JOURNALD, "journald:/tmp/x"),
        ("syslog", Kind.SYSLOG_UNIX, "syslog+unix:/dev/log"),
        ("syslog+unix:/tmp/x", Kind.SYSLOG_UNIX, "syslog+unix:/tmp/x"),
        ("syslog+udp://h", Kind.SYSLOG_UDP, "syslog+udp://h:514"),
        ("syslog+tcp://[::1]:5", Kind.SYSLOG_TCP, "syslog+tcp://[::1]:5"),
        ("syslog+tls://h", Kind.SYSLOG_TLS, "syslog+tls://h:6514"),
        ("otlp+http://h", Kind.OTLP_HTTP, "otlp+http://h:4318/v1/logs"),
        ("otlp+https://h:1/x", Kind.OTLP_HTTPS, "otlp+https://h:1/x"),
    ],
)
def test_a_destination_is_read_and_said_in_full(text: str, kind: Kind, shown: str) -> None:
    found = parse(text)
    assert (found.kind, str(found)) == (kind, shown)
    assert parse(shown) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kafka://h", "'kafka://h' is none of journald, syslog+unix"),
        ("syslog+tcp://", "is none of"),
        ("syslog+tcp://h/path", "is none of"),
        ("syslog+tcp://h:99999", "no such port"),
        ("journald:run", "must be absolute"),
        ("otlp+grpc://h", "OTLP over gRPC is not"),
        ("otlp+https://h?key=s3cret", "secrets go in a file"),
        ("otlp+https://u:s3cret@h", "secrets go in a file"),
        ("", "is none of"),
    ],
)
def test_a_destination_that_is_none_is_refused_without_repeating_secrets(
    text: str, said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        parse(text)
    assert "s3cret" not in str(caught.value)


def test_headers_are_read_and_a_bad_one_is_told_without_its_value() -> None:
    assert headers("# ours\nAuthorization: Bearer x:y\n\nX-Org: 1\n") == {
        "Authorization": "Bearer x:y",
        "X-Org": "1",
    }
    for bad in ("no colon s3cret", "Bad Name: s3cret", "X: s3c\x1bret", ": s3cret"):
        with pytest.raises(ValueError, match="line 1 is not 'Name: value'") as caught:
            headers(bad)
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--log-to", "kafka://h"], "--log-to"),
        (["--log-header-file", "x"], "--log-header-file is for --log-to otlp"),
        (
            ["--log-header-file", "x", "--log-to", "otlp+http://far:4318"],
            "others would read it along",
        ),
        (["--metrics", "0.0.0.0:9000"], "beyond loopback it needs --metrics-token-file"),
        (["--metrics", "10.0.0.1:9000", "--metrics-token-file", "x"], "beyond loopback"),
        (["--metrics-token-file", "x"], "need --metrics ADDR"),
        (["--metrics", "127.0.0.1:1", "--metrics-cert", "x"], "give both or neither"),
        (["--metrics", "unix:/x"], "is not HOST:PORT"),
    ],
)
def test_settings_that_do_not_fit_are_refused(argv: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        load(argv, {}, lambda _: "")


def test_destinations_repeat_and_may_stand_in_the_file() -> None:
    given = load(["--log-to", "journald", "--log-to", "syslog+udp://h"], {}, lambda _: "")
    text = 'log_to = ["journald", "syslog+udp://h"]\nmetrics = "[::1]:9000"\n'
    in_file = load(["--config", "agent.toml"], {}, lambda _: text)
    assert given.log_to == in_file.log_to
    assert [item.kind for item in given.log_to] == [Kind.JOURNALD, Kind.SYSLOG_UDP]
