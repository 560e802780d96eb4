"""Code that is deployed ⇄ protobuf, a part of `formation.wire`.

The artifact of what is built stands in the build: agents and coordinators that know of no builds
see neither, and say that the workdir does not exist instead of running what is not built.
"""

from __future__ import annotations

from typing import TypedDict

from formation.artifacts import NO_WORKDIR, Artifact
from formation.builds import Build
from formation.v1 import control_pb2 as control
from formation.v1 import types_pb2 as pb


class _Code(TypedDict):
    artifact: pb.Artifact | None
    build: pb.Build | None


def code_to_pb(artifact: Artifact | None, build: Build | None) -> _Code:
    """The fields of a release, or of an `ApplyRequest`."""
    found = None
    if artifact is not None:
        found = pb.Artifact(digest=artifact.digest, size_bytes=artifact.size_bytes)
    if build is None:
        return _Code(artifact=found, build=None)
    made = pb.Build(
        command=build.command,
        timeout_s=build.timeout_s,
        user=build.user,
        group=build.group,
        artifact=found,
    )
    return _Code(artifact=None, build=made)


def artifact_from_pb(message: pb.Release | control.ApplyRequest) -> Artifact | None:
    """That of a release, or None."""
    holder = message.build if message.build.HasField("artifact") else message
    if not holder.HasField("artifact"):
        return None
    found = holder.artifact
    return Artifact(digest=found.digest, size_bytes=found.size_bytes)


def build_from_pb(message: pb.Release | control.ApplyRequest) -> Build | None:
    if not message.HasField("build"):
        return None
    found = message.build
    return Build(
        command=found.command,
        timeout_s=found.timeout_s or Build(command="").timeout_s,
        user=found.user,
        group=found.group,
    )


def workdir_to_pb(workdir: str, artifact: Artifact | None) -> str:
    return workdir if artifact is None else NO_WORKDIR


def workdir_from_pb(message: pb.Release) -> str:
    return message.workdir if artifact_from_pb(message) is None else ""
