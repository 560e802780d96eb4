"""Release commands and candidates ⇄ protobuf, a part of `formation.wire`."""

from __future__ import annotations

from formation.releasecommand import TIMEOUT_S, Candidate, CommandEnd, ReleaseCommand
from formation.v1 import types_pb2 as pb
from formation.wire_maps import in_order


def command_to_pb(command: ReleaseCommand | None) -> pb.ReleaseCommand | None:
    if command is None:
        return None
    return pb.ReleaseCommand(
        command=command.command, like=command.like, timeout_s=command.timeout_s
    )


def command_from_pb(message: pb.ReleaseCommand) -> ReleaseCommand | None:
    """None for one that says nothing."""
    if not message.command:
        return None
    return ReleaseCommand(
        command=message.command, like=message.like, timeout_s=message.timeout_s or TIMEOUT_S
    )


def command_end_to_pb(end: CommandEnd | None) -> pb.CommandEnd | None:
    if end is None:
        return None
    return pb.CommandEnd(passed=end.passed, how=end.how, at_ms=end.at_ms)


def command_end_from_pb(message: pb.Release) -> CommandEnd | None:
    if not message.HasField("command_end"):
        return None
    end = message.command_end
    return CommandEnd(passed=end.passed, how=end.how, at_ms=end.at_ms)


def candidate_to_pb(candidate: Candidate | None) -> pb.Candidate | None:
    if candidate is None:
        return None
    return pb.Candidate(
        release=candidate.release, canary=candidate.canary, formation=dict(candidate.formation)
    )


def candidate_from_pb(message: pb.App) -> Candidate | None:
    if not message.HasField("candidate"):
        return None
    found = message.candidate
    return Candidate(
        release=found.release, canary=found.canary, formation=in_order(found.formation)
    )
