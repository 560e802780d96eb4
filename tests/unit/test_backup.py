"""What a backup holds, what no backup is, and what a restore writes."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import app, process_type, release

from formation.model import App, AssignmentDocument, Cluster, Host, Slot
from formation.requests import Run, RunState
from formation_coordinator import restoring
from formation_coordinator.backup import MAGIC, BackupError, pack, unpack
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Delete, KeyValue, Put, Snapshot

SHOP = app(
    {"web": 2},
)
RUN = Run(id="run.1", slot=Slot("shop", "run", 1), release=1, state=RunState.PLACED)
RECORDS: dict[str, codec.Record] = {
    "cluster": Cluster(id="c1", schema_version=1, epoch=2),
    "apps/shop": SHOP,
    "releases/shop/1": release(process_type("web")),
    "hosts/a": Host(name="a", cordoned=True),
    "assignments/a": AssignmentDocument(host="a", generation=3, epoch=1, bundles=()),
    "runs/shop/run.1": RUN,
}


def items(records: dict[str, codec.Record]) -> list[KeyValue]:
    return [
        KeyValue(key=key, value=codec.encode(record), create_revision=1, mod_revision=1)
        for key, record in records.items()
    ]


def packed(records: dict[str, codec.Record] = RECORDS) -> bytes:
    return pack(items(records), revision=7, made_at_ms=1_000, version="1.2.3")


def test_what_was_packed_comes_out_as_it_was() -> None:
    found = unpack(packed(), schema_version=1)
    assert found.records == RECORDS
    assert (found.about.cluster_id, found.about.revision, found.about.version) == ("c1", 7, "1.2.3")


def test_who_is_connected_and_history_are_no_part_of_it() -> None:
    more = [
        KeyValue(key=key, value=b"x", create_revision=1, mod_revision=1)
        for key in ("sessions/a", "status/a", "leader", "coordinators/c", "audit/1-x", "future/x")
    ]
    data = pack([*items(RECORDS), *more], revision=7, made_at_ms=1_000, version="1.2.3")
    assert data == packed()


def test_what_a_newer_version_wrote_into_a_record_is_kept() -> None:
    value = codec.encode(SHOP) + b"\xfa\xff\x0f\x03new"  # a field that nobody knows here
    wanted = {key: codec.encode(record) for key, record in RECORDS.items()} | {"apps/shop": value}
    listed = [
        KeyValue(key=key, value=v, create_revision=1, mod_revision=1) for key, v in wanted.items()
    ]
    data = pack(listed, revision=1, made_at_ms=0, version="")
    assert unpack(data, schema_version=1).values["apps/shop"] == value


def signed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no backup of Formation"),
        (b"web: sleep 1\n", "no backup of Formation"),
        (packed()[:-1], "damaged or not whole"),
        (packed()[: len(packed()) // 2], "damaged or not whole"),
        (packed().replace(b"backup 1", b"backup 2"), "of a newer form"),
        (signed(MAGIC + b"no gzip"), "cannot be read"),
        (signed(MAGIC + gzip.compress(b"\0\0\0\1", mtime=0)), "cannot be read"),
        (signed(MAGIC + gzip.compress(b"", mtime=0)), "cannot be read"),
    ],
)
def test_what_is_no_backup_is_refused_in_words(data: bytes, why: str) -> None:
    with pytest.raises(BackupError, match=why):
        unpack(data, schema_version=1)


@given(st.integers(0, len(packed()) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(at: int, by: int) -> None:
    data = bytearray(packed())
    data[at] = (data[at] + by) % 256
    with pytest.raises(BackupError):
        unpack(bytes(data), schema_version=1)


def test_a_newer_schema_and_records_that_cannot_be_read_are_refused() -> None:
    newer = {**RECORDS, "cluster": Cluster(id="c1", schema_version=2)}
    with pytest.raises(BackupError, match="has schema 2"):
        unpack(packed(newer), schema_version=1)
    broken = KeyValue(key="apps/bad", value=b"\xff", create_revision=1, mod_revision=1)
    data = pack([*items(RECORDS), broken], revision=1, made_at_ms=0, version="")
    with pytest.raises(BackupError, match="apps/bad"):
        unpack(data, schema_version=1)
    with pytest.raises(BackupError, match="no cluster"):
        pack([], revision=1, made_at_ms=0, version="")


# -- what is written -------------------------------------------------------------------------------


def written(now: dict[str, codec.Record]) -> dict[str, codec.Record | None]:
    given = unpack(packed(), schema_version=1)
    found: dict[str, codec.Record | None] = {}
    for operation in restoring.operations(given, Snapshot(9, tuple(items(now)))):
        if isinstance(operation, Delete):
            found[operation.key] = None
        elif isinstance(operation, Put):
            found[operation.key] = codec.decode(operation.key, operation.value)
    return found


def test_into_an_empty_store_goes_all_but_the_cluster_and_no_run_starts_again() -> None:
    lost = replace(
        RUN, state=RunState.LOST, reason="a backup was restored since: nobody knows its end"
    )
    expected = {**RECORDS, "runs/shop/run.1": lost}
    del expected["cluster"]
    assert written({"cluster": Cluster(id="other", schema_version=1)}) == expected


def test_apps_that_the_backup_does_not_know_go_and_hosts_stay() -> None:
    more: dict[str, codec.Record] = {
        **RECORDS,
        "apps/new": replace(SHOP, name="new"),
        "hosts/b": Host(name="b"),
        "assignments/a": AssignmentDocument(host="a", generation=8, epoch=1, bundles=()),
        "runs/shop/run.1": replace(RUN, state=RunState.FINISHED),
    }
    assert written(more) == {"apps/new": None}


def test_numbers_never_go_back() -> None:
    later = replace(SHOP, formation={"web": 9}, latest_release=4, runs_made=6,
                    restart_marks={"web": 2}, release=4)  # fmt: skip
    assert written({**RECORDS, "apps/shop": later}) == {
        keys.app("shop"): replace(SHOP, latest_release=4, runs_made=6, restart_marks={"web": 2})
    }
    assert isinstance(later, App)
