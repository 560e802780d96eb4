"""Assignments, and what is asked for once ⇄ protobuf: a part of `formation.wire`, through which
everybody else comes.
"""

from __future__ import annotations

from formation import model as m
from formation.requests import Move, Rebalance, Run, RunState
from formation.v1 import types_pb2 as pb
from formation.wire_maps import WireError


def assignment_to_pb(assignment: m.Assignment) -> pb.InstanceAssignment:
    slot = assignment.slot
    return pb.InstanceAssignment(
        uid=assignment.uid,
        app=slot.app,
        type=slot.type,
        ordinal=slot.ordinal,
        release=assignment.release,
        restart_mark=assignment.restart_mark,
        retry_mark=assignment.retry_mark,
        failures=assignment.failures,
        avoided_hosts=assignment.avoided_hosts,
        surge=assignment.surge,
        ending=assignment.ending,
        moved_from=assignment.moved_from,
        after_loss=assignment.after_loss,
        revision=assignment.revision,
        reason=assignment.reason,
        run=assignment.run,
        command=assignment.command,
        like=assignment.like,
    )


def assignment_from_pb(message: pb.InstanceAssignment) -> m.Assignment:
    if not message.uid:
        raise WireError("an assignment without a uid")
    return m.Assignment(
        uid=message.uid,
        slot=m.Slot(message.app, message.type, message.ordinal),
        release=message.release,
        restart_mark=message.restart_mark,
        retry_mark=message.retry_mark,
        failures=message.failures,
        avoided_hosts=tuple(message.avoided_hosts),
        surge=message.surge,
        ending=message.ending,
        moved_from=message.moved_from,
        after_loss=message.after_loss,
        revision=message.revision,
        reason=message.reason,
        run=message.run,
        command=message.command,
        like=message.like,
    )


def document_to_pb(document: m.AssignmentDocument) -> pb.AssignmentDocument:
    return pb.AssignmentDocument(
        host=document.host,
        generation=document.generation,
        epoch=document.epoch,
        cluster_epoch=document.cluster_epoch,
        bundles=[bundle_to_pb(bundle) for bundle in document.bundles],
    )


def document_from_pb(message: pb.AssignmentDocument) -> m.AssignmentDocument:
    return m.AssignmentDocument(
        host=message.host,
        generation=message.generation,
        epoch=message.epoch,
        cluster_epoch=message.cluster_epoch,
        bundles=tuple(bundle_from_pb(bundle) for bundle in message.bundles),
    )


def bundle_to_pb(bundle: m.Bundle) -> pb.Bundle:
    terms = bundle.terms
    return pb.Bundle(
        app=terms.app,
        type=terms.type,
        release=terms.release,
        stem=terms.stem,
        ordinals=bundle.ordinals,
        restart_mark=terms.restart_mark,
        retry_mark=terms.retry_mark,
        failures=terms.failures,
        avoided_hosts=terms.avoided_hosts,
        surge=terms.surge,
        ending=terms.ending,
        moved_from=terms.moved_from,
        after_loss=terms.after_loss,
        revision=terms.revision,
        reason=terms.reason,
        run=terms.run,
        command=terms.command,
        like=terms.like,
    )


def bundle_from_pb(message: pb.Bundle) -> m.Bundle:
    if not message.stem:
        raise WireError("a bundle of assignments without a stem")
    terms = m.Terms(
        app=message.app,
        type=message.type,
        release=message.release,
        stem=message.stem,
        restart_mark=message.restart_mark,
        retry_mark=message.retry_mark,
        failures=message.failures,
        avoided_hosts=tuple(message.avoided_hosts),
        surge=message.surge,
        ending=message.ending,
        moved_from=message.moved_from,
        after_loss=message.after_loss,
        revision=message.revision,
        reason=message.reason,
        run=message.run,
        command=message.command,
        like=message.like,
    )
    return m.Bundle(terms, tuple(message.ordinals))


def run_to_pb(run: Run) -> pb.Run:
    return pb.Run(
        id=run.id,
        app=run.slot.app,
        type=run.slot.type,
        ordinal=run.slot.ordinal,
        release=run.release,
        command=run.command,
        like=run.like,
        who=run.who,
        created_at_ms=run.created_at_ms,
        tick_ms=run.tick_ms,
        state=pb.RunState.ValueType(int(run.state)),
        host=run.host,
        last_exit=run.last_exit,
        reason=run.reason,
        ended_at_ms=run.ended_at_ms,
    )


def run_from_pb(message: pb.Run) -> Run:
    try:
        state = RunState(message.state)
    except ValueError as error:
        raise WireError(f"run {message.id}: unknown state {message.state}") from error
    return Run(
        id=message.id,
        slot=m.Slot(message.app, message.type, message.ordinal),
        release=message.release,
        command=message.command,
        like=message.like,
        who=message.who,
        created_at_ms=message.created_at_ms,
        tick_ms=message.tick_ms,
        state=state,
        host=message.host,
        last_exit=message.last_exit,
        reason=message.reason,
        ended_at_ms=message.ended_at_ms,
    )


def move_to_pb(move: Move) -> pb.Move:
    return pb.Move(
        app=move.slot.app,
        type=move.slot.type,
        ordinal=move.slot.ordinal,
        from_host=move.from_host,
        to_host=move.to_host,
    )


def move_from_pb(message: pb.Move) -> Move:
    return Move(
        slot=m.Slot(message.app, message.type, message.ordinal),
        from_host=message.from_host,
        to_host=message.to_host,
    )


def rebalance_to_pb(rebalance: Rebalance) -> pb.Rebalance:
    return pb.Rebalance(
        moves=[move_to_pb(move) for move in rebalance.moves],
        who=rebalance.who,
        at_ms=rebalance.at_ms,
    )


def rebalance_from_pb(message: pb.Rebalance) -> Rebalance:
    return Rebalance(
        moves=tuple(move_from_pb(move) for move in message.moves),
        who=message.who,
        at_ms=message.at_ms,
    )
