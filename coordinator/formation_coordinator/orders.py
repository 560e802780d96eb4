"""What an agent is sent of its document: all of it, or what differs from the one before. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from formation import wire
from formation.model import AssignmentDocument, Assignments, Bundle, Terms
from formation.v1 import agent_pb2, types_pb2


def message(
    document: AssignmentDocument,
    base: AssignmentDocument | None,
    releases: Sequence[types_pb2.Release],
    *,
    bundles: bool,
) -> agent_pb2.Assignments:
    """COMPLETE when there is no base, else the difference from it. `bundles`: the agent takes them;
    each instance by itself is ten times as much to send and to read."""
    listed, removed = _difference(document, base) if base else (document.bundles, ())
    needed = {(bundle.terms.app, bundle.terms.release) for bundle in listed}
    order = Assignments(
        complete=base is None,
        epoch=document.epoch,
        cluster_epoch=document.cluster_epoch,
        applies_to=base.generation if base else 0,
        results_in=document.generation,
        instances=() if bundles else tuple(s for bundle in listed for s in bundle.stays()),
        removed_uids=tuple(removed),
    )
    found = wire.assignments_to_pb(order)
    found.bundles.extend(wire.bundle_to_pb(bundle) for bundle in (listed if bundles else ()))
    found.releases.extend(r for r in releases if (r.app, r.number) in needed)
    return found


def _difference(
    document: AssignmentDocument, base: AssignmentDocument
) -> tuple[Sequence[Bundle], Sequence[str]]:
    """What is new or has changed, and the uids of what has gone. A uid is in one bundle of a
    document, so those that both have need no look inside."""
    old, new = set(base.bundles), set(document.bundles)
    before = [bundle for bundle in base.bundles if bundle not in new]
    now = [bundle for bundle in document.bundles if bundle not in old]
    known = _ordinals(before)
    listed = [
        Bundle(bundle.terms, ordinals)
        for bundle in now
        if (ordinals := tuple(o for o in bundle.ordinals if o not in known.get(bundle.terms, ())))
    ]
    uids = {bundle.uid(ordinal) for bundle in now for ordinal in bundle.ordinals}
    had = (bundle.uid(ordinal) for bundle in before for ordinal in bundle.ordinals)
    return listed, [uid for uid in had if uid not in uids]


def _ordinals(bundles: Iterable[Bundle]) -> dict[Terms, set[int]]:
    found: dict[Terms, set[int]] = {}
    for bundle in bundles:
        found.setdefault(bundle.terms, set()).update(bundle.ordinals)
    return found
