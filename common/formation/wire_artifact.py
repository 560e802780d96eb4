"""Artifacts ⇄ protobuf, a part of `formation.wire`."""

from __future__ import annotations

from formation.artifacts import NO_WORKDIR, Artifact
from formation.v1 import control_pb2 as control
from formation.v1 import types_pb2 as pb


def artifact_to_pb(artifact: Artifact | None) -> pb.Artifact | None:
    if artifact is None:
        return None
    return pb.Artifact(digest=artifact.digest, size_bytes=artifact.size_bytes)


def artifact_from_pb(message: pb.Release | control.ApplyRequest) -> Artifact | None:
    """That of a release, or None."""
    if not message.HasField("artifact"):
        return None
    found = message.artifact
    return Artifact(digest=found.digest, size_bytes=found.size_bytes)


def workdir_to_pb(workdir: str, artifact: Artifact | None) -> str:
    return workdir if artifact is None else NO_WORKDIR


def workdir_from_pb(message: pb.Release) -> str:
    return "" if message.HasField("artifact") else message.workdir
