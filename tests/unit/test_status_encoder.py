"""What is written of a host's status without encoding anew what has been said before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from formation import wire
from formation.model import HostStatus, InstanceState, InstanceStatus, Slot
from formation.v1 import types_pb2
from formation_coordinator.store import codec, keys

KEY = keys.status("a")


@st.composite
def statuses(draw: st.DrawFn) -> tuple[InstanceStatus, ...]:
    ordinals = draw(st.lists(st.integers(1, 5), unique=True))
    return tuple(
        InstanceStatus(
            uid=f"web.{ordinal}-a",
            slot=Slot("shop", "web", ordinal),
            release=1,
            state=draw(st.sampled_from([InstanceState.STARTING, InstanceState.HEALTHY])),
            reason=draw(st.text(max_size=3)),
        )
        for ordinal in ordinals
    )


@given(st.lists(st.tuples(statuses(), st.booleans())))
def test_it_reads_as_what_was_encoded(steps: list[tuple[tuple[InstanceStatus, ...], bool]]) -> None:
    encoder, host = codec.StatusEncoder(), HostStatus(host="a", agent_id="1")
    for said, as_sent in steps:
        if as_sent:
            encoder.take(said, map(wire.instance_status_to_pb, said))
        whole = structs.replace(host, instances=said)
        assert codec.decode(KEY, encoder.encode(whole)) == whole


def test_what_a_newer_agent_says_is_kept() -> None:
    status = InstanceStatus(
        uid="web.1-a", slot=Slot("shop", "web", 1), release=1, state=InstanceState.HEALTHY
    )
    unknown = b"\xc2\xb8\x02\x03new"  # field 4999, a text
    sent = types_pb2.InstanceStatus.FromString(
        wire.instance_status_to_pb(status).SerializeToString() + unknown
    )
    encoder = codec.StatusEncoder()
    encoder.take([wire.instance_status_from_pb(sent)], [sent])
    written = encoder.encode(HostStatus(host="a", agent_id="1", instances=(status,)))
    # The very same record is known to it; an equal one is another, and encoded anew.
    assert b"new" not in written
    item = wire.instance_status_from_pb(sent)
    encoder.take([item], [sent])
    written = encoder.encode(HostStatus(host="a", agent_id="1", instances=(item,)))
    assert b"new" in written
    assert codec.decode(KEY, written) == HostStatus(host="a", agent_id="1", instances=(item,))
