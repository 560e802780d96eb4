"""The key layout and its records, there and back."""

from __future__ import annotations

import pytest

from formation import model as m
from formation.wire import WireError
from formation_coordinator.store import codec, keys
from formation_coordinator.store.codec import Record
from formation_coordinator.store.keys import ParsedKey

SLOT = m.Slot("shop", "web", 3)
STATUS = m.InstanceStatus(uid="u1", slot=SLOT, release=7, state=m.InstanceState.HEALTHY, pid=4)
ROUND = [
    (keys.cluster(), ParsedKey("cluster", ()), m.Cluster(id="c", schema_version=1)),
    (keys.leader(), ParsedKey("leader", ()), m.Coordinator(id="a", address="h:1")),
    (
        keys.coordinator("a"),
        ParsedKey("coordinators", ("a",)),
        m.Coordinator(id="a", address="unix:/x"),
    ),
    (
        keys.app("shop"),
        ParsedKey("apps", ("shop",)),
        m.App(name="shop", formation={"web": 3, "clock": 1}, release=7, latest_release=8),
    ),
    (
        keys.release("shop", 7),
        ParsedKey("releases", ("shop", "7")),
        m.Release(
            app="shop",
            number=7,
            types=(m.ProcessType(name="web", command="run"),),
            env={"B": "2", "A": "1"},
        ),
    ),
    (keys.host("h.example"), ParsedKey("hosts", ("h.example",)), m.Host(name="h.example")),
    (
        keys.session("h"),
        ParsedKey("sessions", ("h",)),
        m.Session(session_id="s", coordinator_id="a", agent_id="g"),
    ),
    (
        keys.assignments("h"),
        ParsedKey("assignments", ("h",)),
        m.AssignmentDocument(
            host="h",
            generation=2,
            epoch=9,
            instances=(m.Assignment(uid="u1", slot=SLOT, release=7),),
        ),
    ),
    (
        keys.status("h"),
        ParsedKey("status", ("h",)),
        m.HostStatus(host="h", agent_id="g", instances=(STATUS,)),
    ),
    (
        keys.audit(12, "r"),
        ParsedKey("audit", ("000000000000012-r",)),
        m.AuditRecord(at_ms=12, who="ann", action="scale", subject="shop"),
    ),
]


@pytest.mark.parametrize(("key", "parsed", "record"), ROUND, ids=[item[0] for item in ROUND])
def test_every_record_comes_back_as_its_key_says(
    key: str, parsed: ParsedKey, record: Record
) -> None:
    assert keys.parse(key) == parsed
    assert codec.decode(key, codec.encode(record)) == record


def test_equal_records_are_equal_bytes() -> None:
    one = m.Release(app="a", number=1, types=(), env={"A": "1", "B": "2"})
    two = m.Release(app="a", number=1, types=(), env={"B": "2", "A": "1"})
    assert codec.encode(one) == codec.encode(two)


@pytest.mark.parametrize(
    "key", ["", "future/x", "apps", "apps/", "apps/a/b", "leader/x", "releases/a/x", "releases//1"]
)
def test_a_key_of_no_known_form_is_not_parsed_and_its_value_is_an_error_that_names_it(
    key: str,
) -> None:
    assert keys.parse(key) is None
    with pytest.raises(WireError, match=f"^{key}: not a key of this version"):
        codec.decode(key, b"")


@pytest.mark.parametrize("key", ["apps/shop", "assignments/h", "status/h"])
def test_bytes_that_are_no_record_are_an_error_that_names_the_key(key: str) -> None:
    with pytest.raises(WireError, match=f"^{key}: 3 bytes that are no"):
        codec.decode(key, b"\xff\xff\xff")


def test_a_record_that_lacks_what_it_must_have_is_an_error_that_names_the_key() -> None:
    document = m.AssignmentDocument(
        host="h", generation=1, epoch=1, instances=(m.Assignment(uid="", slot=SLOT, release=1),)
    )
    with pytest.raises(WireError, match=r"^assignments/h: an assignment without a uid"):
        codec.decode("assignments/h", codec.encode(document))


@pytest.mark.parametrize("key", [item[0] for item in ROUND])
def test_everything_but_the_audit_trail_is_mirrored(key: str) -> None:
    assert any(key in span for span in keys.MIRRORED) == (not key.startswith("audit/"))


def test_the_audit_trail_is_in_the_order_of_time() -> None:
    times = [5, 99, 1_000, 1_700_000_000_000]
    assert [keys.audit(at, "x") for at in times] == sorted(keys.audit(at, "x") for at in times)


def test_the_releases_of_one_app_are_not_those_of_another() -> None:
    assert keys.release("shop", 12) in keys.releases("shop")
    assert keys.release("shop2", 12) not in keys.releases("shop")
