"""The key layout and its records, there and back."""

from __future__ import annotations

import pytest

from formation import model as m
from formation.requests import Move, Rebalance, Run, RunState
from formation.seen import Rollout
from formation.v1 import types_pb2 as pb
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
            bundles=(
                m.Bundle(m.Terms(app="shop", type="web", release=7, stem="s"), (1, 3)),
                m.Bundle(
                    m.Terms(
                        app="shop",
                        type="web",
                        release=6,
                        stem="t",
                        restart_mark=1,
                        retry_mark=2,
                        failures=3,
                        avoided_hosts=("a",),
                        surge=True,
                        ending=True,
                        moved_from="b",
                        after_loss=True,
                        revision=5,
                        reason="b was lost",
                        run="r",
                        command="ls",
                        like="web",
                    ),
                    (2,),
                ),
            ),
        ),
    ),
    (
        keys.run("shop", "run.7"),
        ParsedKey("runs", ("shop", "run.7")),
        Run(
            id="run.7",
            slot=m.Slot("shop", "run", 7),
            release=2,
            command="ls",
            like="web",
            who="ann",
            created_at_ms=5,
            tick_ms=6,
            state=RunState.FAILED,
            host="h",
            last_exit="exit 1",
            reason="exit 1 after 2 s",
            ended_at_ms=9,
        ),
    ),
    (
        keys.rebalance(),
        ParsedKey("rebalance", ()),
        Rebalance(moves=(Move(slot=SLOT, from_host="a", to_host="b"),), who="ann", at_ms=5),
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


# Fields that no version of ours has: number 2047, as a text.
STRANGE = b"\xfa\x7f\x03new"


@pytest.mark.parametrize(("key", "record"), [(key, record) for key, _, record in ROUND])
def test_what_a_newer_version_wrote_beside_a_record_outlives_its_change(
    key: str, record: Record
) -> None:
    before = codec.encode(record) + STRANGE
    assert STRANGE in codec.encode(record, before)
    assert codec.decode(key, codec.encode(record, before)) == record
    assert codec.encode(record, codec.encode(record)) == codec.encode(record)
    assert codec.encode(record, b"\xff\xff") == codec.encode(record), "no record was there"


def test_nothing_that_is_known_outlives_a_change_and_what_is_within_is_kept() -> None:
    old = pb.App(name="shop", release=1, formation={"web": 3}, retry_marks={"web": 1})
    old.rollout.paused, old.rollout.reason = True, "slow"
    old.rollout.MergeFromString(STRANGE)
    wanted = m.App(
        name="shop", formation={"web": 5}, release=2, latest_release=2, rollout=Rollout(canary=1)
    )
    written = codec.encode(wanted, old.SerializeToString())
    assert codec.decode("apps/shop", written) == wanted
    assert STRANGE in pb.App.FromString(written).rollout.SerializeToString()


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
    terms = m.Terms(app="shop", type="web", release=1, stem="")
    document = m.AssignmentDocument(
        host="h", generation=1, epoch=1, bundles=(m.Bundle(terms, (1,)),)
    )
    with pytest.raises(WireError, match=r"^assignments/h: a bundle of assignments without a stem"):
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
