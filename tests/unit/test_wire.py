"""wire: every record survives the way there and back, for any content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation import model as m
from formation import wire
from formation.artifacts import NO_WORKDIR, Artifact
from formation.builds import Build
from formation.requests import ChangeKind, QuantityChange
from formation.secrets import Secret
from formation.v1 import types_pb2 as pb
from formation_coordinator.store import codec

# Protobuf text is UTF-8: surrogates cannot be written.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
small = st.integers(0, 2**31 - 1)
big = st.integers(0, 2**53)
seconds = st.floats(0, 1e9, allow_nan=False)
name = st.from_regex(r"\A[a-z][a-z0-9-]{0,10}\Z")
table = st.dictionaries(text, text, max_size=3)

slots = st.builds(m.Slot, name, name, st.integers(1, 9999))
specs = st.builds(
    m.ProcessType,
    name=name,
    command=text,
    initial_quantity=small,
    stop_signal=st.sampled_from(["TERM", "INT"]),
    stop_grace_s=seconds,
    stop_drain_s=seconds,
    ready_after_s=seconds,
    secrets=st.none() | st.lists(name, max_size=2).map(tuple),
    secret_files=st.lists(name, max_size=2).map(tuple),
)
secrets = st.builds(Secret, version=big, key=text, sealed=st.binary(max_size=9), value=text)
releases = st.builds(
    m.Release,
    app=name,
    number=big,
    types=st.lists(specs, max_size=3).map(tuple),
    env=table,
    workdir=text,
    created_by=text,
    created_at_ms=big,
    reason=text,
    secrets=st.dictionaries(name, secrets, max_size=2),
    artifact=st.none() | st.builds(Artifact, digest=text, size_bytes=big),
).map(lambda made: replace(made, workdir="") if made.artifact else made)
counts = st.dictionaries(name, small, max_size=3)
apps = st.builds(
    m.App,
    name=name,
    formation=counts,
    release=big,
    latest_release=big,
    restart_marks=counts,
    created_at_ms=big,
)
uids = st.text("0123456789abcdef", min_size=16, max_size=16)
assignments = st.builds(m.Assignment, uid=uids, slot=slots, release=big, restart_mark=big)
bundles = st.builds(
    m.Bundle,
    st.builds(m.Terms, release=big, stem=uids, restart_mark=big),
    st.lists(st.integers(1, 9999), max_size=3).map(tuple),
)
documents = st.builds(
    m.AssignmentDocument,
    host=name,
    generation=big,
    epoch=big,
    bundles=st.lists(bundles, max_size=3).map(tuple),
)
statuses = st.builds(
    m.InstanceStatus,
    uid=uids,
    slot=slots,
    release=big,
    state=st.sampled_from(m.InstanceState),
    pid=small,
    port=st.integers(0, 65535),
    attempt=small,
    started_at_ms=big,
    reason=text,
    last_exit=text,
    retry_at_ms=big,
)
hosts = st.builds(
    m.HostStatus,
    host=name,
    agent_id=uids,
    boot_id=text,
    agent_version=text,
    capacity=st.builds(m.Capacity, instances_max=small, cpus=seconds, memory_bytes=big),
    labels=table,
    address=text,
    instances=st.lists(statuses, max_size=3).map(tuple),
    departed=st.booleans(),
    complaint=text,
)
changes = st.builds(QuantityChange, type=name, kind=st.sampled_from(ChangeKind), quantity=small)

WAYS: list[tuple[st.SearchStrategy[Any], Callable[[Any], Any], Callable[[Any], Any]]] = [
    (releases, wire.release_to_pb, wire.release_from_pb),
    (apps, wire.app_to_pb, wire.app_from_pb),
    (documents, wire.document_to_pb, wire.document_from_pb),
    (hosts, wire.host_status_to_pb, wire.host_status_from_pb),
    (changes, wire.quantity_change_to_pb, wire.quantity_change_from_pb),
]


@given(st.data())
def test_there_and_back_again_is_the_same(data: st.DataObject) -> None:
    strategy, to_pb, from_pb = data.draw(st.sampled_from(WAYS))
    record = data.draw(strategy)
    message = to_pb(record)
    assert from_pb(type(message).FromString(message.SerializeToString())) == record


def test_who_knows_of_no_draining_is_told_that_it_is_stopping() -> None:
    slot = m.Slot("shop", "web", 1)
    draining = m.InstanceStatus(uid="u", slot=slot, release=1, state=m.InstanceState.DRAINING)
    message = wire.instance_status_to_pb(draining)
    assert message.state == pb.INSTANCE_STATE_STOPPING
    assert wire.instance_status_from_pb(message) == draining
    message.draining = False
    assert wire.instance_status_from_pb(message).state is m.InstanceState.STOPPING


def test_an_older_message_without_the_newer_fields_is_understood() -> None:
    spec = wire.process_type_from_pb(pb.ProcessType(name="web", command="x"))
    assert spec.stop_signal == "TERM"


@pytest.mark.parametrize(
    "message", [pb.InstanceStatus(uid=""), pb.InstanceStatus(uid="x"), pb.InstanceAssignment()]
)
def test_what_no_version_of_ours_wrote_is_refused(message: Any) -> None:
    convert = (
        wire.assignment_from_pb
        if isinstance(message, pb.InstanceAssignment)
        else wire.instance_status_from_pb
    )
    with pytest.raises(wire.WireError):
        convert(message)


@given(st.binary(max_size=200))
def test_rubbish_bytes_in_etcd_are_a_wire_error_or_a_record(value: bytes) -> None:
    for key in ("apps/x", "status/h", "assignments/h", "releases/x/1", "leader", "cluster"):
        assert refusal(key, value) is None or key in str(refusal(key, value))


def refusal(key: str, value: bytes) -> wire.WireError | None:
    try:
        codec.decode(key, value)
    except wire.WireError as error:
        return error
    return None


def test_who_needs_which_secret_can_be_read_of_a_release_that_cannot_be_read_whole() -> None:
    spec = pb.ProcessType(
        name="web", command="x", restart="sometimes", secrets=pb.SecretNames(names=["A"])
    )
    message = pb.Release(app="shop", number=2, types=[spec], secrets={"A": pb.Secret(version=2)})
    with pytest.raises(wire.WireError):
        wire.release_from_pb(message)
    found = wire.as_far_as_secrets(message)
    assert (found.types[0].secrets, found.secrets["A"].version) == (("A",), 2)


def test_an_agent_that_knows_no_artifacts_runs_nothing_anywhere_else() -> None:
    release = m.Release(
        app="shop", number=1, types=(), artifact=Artifact(digest="ab" * 32, size_bytes=1)
    )
    message = wire.release_to_pb(release)
    assert message.workdir == NO_WORKDIR
    assert NO_WORKDIR.startswith("/nonexistent/")
    assert wire.release_from_pb(message) == release


def test_who_knows_no_builds_runs_nothing_that_is_not_built() -> None:
    artifact = Artifact(digest="ab" * 32, size_bytes=1)
    build = Build(command="make", timeout_s=9.0, user="shop", group="www")
    release = m.Release(app="shop", number=1, types=(), artifact=artifact, build=build)
    message = wire.release_to_pb(release)
    assert wire.release_from_pb(message) == release
    assert not message.HasField("artifact")
    message.ClearField("build")
    assert wire.release_from_pb(message) == replace(
        release, artifact=None, build=None, workdir=NO_WORKDIR
    )


def test_a_build_of_code_that_lies_on_the_hosts_comes_to_nothing_but_is_kept() -> None:
    release = m.Release(app="shop", number=1, types=(), workdir="/srv", build=Build(command="make"))
    assert wire.release_from_pb(wire.release_to_pb(release)) == release
