"""Sends an artifact to a coordinator that lacks it, with how far it is for whoever looks."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from typing import IO

from formation.artifacts import PART_BYTES, Artifact, done_text
from formation.calling import CALL_DEADLINE_S
from formation.person import who
from formation.v1 import artifacts_pb2 as pb
from formctl import packrules
from formctl.client import Client
from formctl.settings import note, say

_DRAW_EVERY_S = 0.1
_LINE_EVERY_S = 10.0


async def send(client: Client, app: str, artifact: Artifact, file: IO[bytes]) -> None:
    """Returns when it is there, whole and verified. Goes on where a break left it. Raises
    CommandError."""
    shown = _Shown(artifact.size_bytes)
    reached = 0

    async def once() -> bool:
        """Was there anything to send?"""
        nonlocal reached
        asked = pb.BeginUploadRequest(
            app=app, digest=artifact.digest, size_bytes=artifact.size_bytes, who=who()
        )
        begun = await client.artifacts.BeginUpload(asked, timeout=CALL_DEADLINE_S)
        if begun.present:
            return False
        if begun.offset:
            note(f"formctl: goes on after {done_text(begun.offset, artifact.size_bytes)}")

        async def parts() -> AsyncIterator[pb.UploadPart]:
            nonlocal reached
            yield pb.UploadPart(ticket=begun.ticket)
            file.seek(begun.offset)
            done = begun.offset
            shown.begin(done)
            while data := file.read(PART_BYTES):
                yield pb.UploadPart(data=data)
                done += len(data)
                reached = max(reached, done)
                shown.at(done)

        answer = await client.artifacts.Upload(parts())
        if answer.warning:
            shown.end()
            note(f"formctl: warning: {answer.warning}")
        return True

    try:
        sent = await client.persistently(once, lambda: reached)
    finally:
        shown.end()
    say(f"code: {artifact} {'uploaded' if sent else 'is there already'}")


class _Shown:
    """A bar that moves on a terminal; now and then a line where nobody looks at once."""

    def __init__(self, size_bytes: int) -> None:
        self._size, self._is_terminal = size_bytes, sys.stderr.isatty()
        self._first, self._began_s, self._last_s, self._drawn = 0, 0.0, 0.0, False

    def begin(self, done: int) -> None:
        self._first, self._began_s = done, time.monotonic()
        self._last_s = self._began_s

    def at(self, done: int) -> None:
        now_s = time.monotonic()
        due_s = _DRAW_EVERY_S if self._is_terminal else _LINE_EVERY_S
        if now_s - self._last_s < due_s:
            return
        self._last_s = now_s
        line = packrules.bar(done, self._size, (done - self._first) / (now_s - self._began_s))
        if self._is_terminal:
            sys.stderr.write(f"\r{line}\x1b[K")
            sys.stderr.flush()
            self._drawn = True
        else:
            note(line)

    def end(self) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
