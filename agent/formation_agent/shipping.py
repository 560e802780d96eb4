"""Ships this host's log lines to where `--log-to` says.

Each destination follows the files as any reader does, at its own pace: no process and no other
destination ever waits for it, and in memory there is one batch. While it is down lines wait in the
files; what is rotated away before it was sent is missing, and the destination is told how much, at
its place. Where it was is written down, so that a restart of the agent goes on there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from formation.credentials import CredentialError, read_private
from formation.gaps import Gap
from formation.model import Slot
from formation.runtime import monotonic_s
from formation_agent.logchoice import LogChoice
from formation_agent.logfile_reader import Line
from formation_agent.logs import GAP_LINES_MAX, Logs, Place, Resume
from formation_agent.shipping_targets import Target, headers
from formation_agent.sinks import Sink, SinkDown, SinkRefused, sink_of
from formation_agent.statedir import RefusedError

BACK_OFF_S, BACK_OFF_MAX_S = 0.5, 30.0
REMEMBER_EVERY_S = 5.0
_PLACES_BYTES_MAX = 16 << 20

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Shipped:
    """How it goes, since the agent's brain began. `missing`: lines that were rotated away, as far
    as somebody counted; `gaps`: how often that was; `refused`: by the receiver."""

    up: bool = False
    lines: int = 0
    bytes: int = 0
    missing: int = 0
    gaps: int = 0
    refused: int = 0
    failures: int = 0
    last_us: int = 0  # the time of the last line that was taken


@dataclass(slots=True)
class _Places:
    """What has been sent: the last line of each slot, as a reader that comes back says it."""

    seen: dict[Slot, tuple[int, int]] = field(default_factory=dict)
    since_us: int = 0

    def after(self, lines: Sequence[Line]) -> None:
        for line in lines:
            if line.gap is Gap.NONE:
                at_us, count = self.seen.get(line.slot, (0, 0))
                self.seen[line.slot] = line.at_us, count + 1 if at_us == line.at_us else 1

    def resume(self) -> Resume:
        seen = {slot: Place(at_us=at, lines=count) for slot, (at, count) in self.seen.items()}
        return Resume(seen=seen, since_us=self.since_us)

    def text(self) -> str:
        seen = [[s.app, s.type, s.ordinal, at, count] for s, (at, count) in self.seen.items()]
        return json.dumps({"since_us": self.since_us, "seen": seen})


class Shipper:
    """`state_dir`: of the agent. `make` gives a sink that is not connected yet."""

    def __init__(
        self,
        target: Target,
        logs: Logs,
        state_dir: Path,
        make: Callable[[], Sink],
        *,
        now_us: Callable[[], int],
    ) -> None:
        self.target = target
        self.shipped = Shipped()
        self._logs, self._make, self._now_us = logs, make, now_us
        name = hashlib.sha256(str(target).encode()).hexdigest()[:16]
        self._path = state_dir / "shipping" / f"{name}.json"
        self._places = _read(self._path)
        self._written_s = 0.0
        self._owed = 0
        self._complaint = ""

    async def run(self) -> None:
        """For ever, or until the log room closes."""
        while True:
            try:
                await self._run()
                return
            except Exception:  # no destination may end an agent
                log.exception("--log-to %s: a bug; it is begun anew", self.target)
                self.shipped.up = False
                await asyncio.sleep(BACK_OFF_MAX_S)

    async def _run(self) -> None:
        sink = self._make()
        try:
            async with aclosing(self._lines()) as batches:
                async for lines, at_us in batches:
                    if lines:
                        await self._ship(sink, self._with_owed(lines))
                    if at_us and not self._places.since_us:
                        self._places.since_us = at_us
                    self._remember()
        finally:
            await sink.close()
            self._remember(now=True)

    async def _lines(self) -> AsyncGenerator[tuple[tuple[Line, ...], int], None]:
        """And, when all that was kept has been read, the time of that."""
        known = self._places.since_us > 0
        async with aclosing(
            self._logs.read(
                LogChoice(),
                tail_lines=GAP_LINES_MAX if known else 0,
                follow=True,
                resume=self._places.resume(),
            )
        ) as batches:
            async for batch in batches:
                yield batch.lines, batch.at_us

    async def _ship(self, sink: Sink, lines: Sequence[Line]) -> None:
        """Until they are taken, or never will be."""
        pause_s = BACK_OFF_S
        while True:
            try:
                await sink.send(lines)
            except SinkDown as down:
                self._is_down(str(down))
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
                pause_s = min(pause_s * 2, BACK_OFF_MAX_S)
            except SinkRefused as refused:
                self._is_up()
                self.shipped.refused += refused.lines
                self._owed += refused.lines
                self._complain(f"refuses lines: {refused}")
                self._places.after(lines)
                return
            else:
                self._is_up()
                self._count(lines)
                return

    def _is_down(self, why: str) -> None:
        self.shipped.up = False
        self.shipped.failures += 1
        self._complain(f"{why}; lines wait in their files")

    def _is_up(self) -> None:
        if not self.shipped.up:
            log.info("log lines go to %s", self.target)
        self.shipped.up, self._complaint = True, ""

    def _complain(self, what: str) -> None:
        """Once: an outage may last for days."""
        if what != self._complaint:
            log.warning("--log-to %s: %s", self.target, what)
        self._complaint = what

    def _count(self, lines: Sequence[Line]) -> None:
        shipped = self.shipped
        shipped.lines += len(lines)
        shipped.bytes += sum(len(line.text) for line in lines)
        shipped.gaps += sum(line.gap is not Gap.NONE for line in lines)
        shipped.missing += sum(line.missing for line in lines)
        shipped.last_us = max(shipped.last_us, lines[-1].at_us)
        self._places.after(lines)

    def _with_owed(self, lines: tuple[Line, ...]) -> tuple[Line, ...]:
        """What it refused before, it is told of."""
        if not self._owed:
            return lines
        first, said = lines[0], f"[formation] {self._owed} lines before this one were refused"
        self._owed = 0
        told = Line(
            slot=first.slot, host=first.host, at_us=first.at_us, stderr=True, text=said.encode(),
            gap=Gap.ROTATED,
        )  # fmt: skip
        return (told, *lines)

    def _remember(self, *, now: bool = False) -> None:
        if not now and monotonic_s() - self._written_s < REMEMBER_EVERY_S:
            return
        self._written_s = monotonic_s()
        kept = set(self._logs.kept())
        self._places.seen = {s: place for s, place in self._places.seen.items() if s in kept}
        try:
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            beside = self._path.with_suffix(".new")
            beside.write_text(self._places.text())
            os.replace(beside, self._path)
        except OSError as error:
            why = error.strerror or str(error)
            log.warning("%s: %s; a restart would send lines again", self._path, why)


def _read(path: Path) -> _Places:
    """What cannot be read was never written: it begins with what comes now."""
    try:
        if path.stat().st_size > _PLACES_BYTES_MAX:
            return _Places()
        found = json.loads(path.read_text())
        seen = {
            Slot(str(app), str(kind), int(ordinal)): (int(at_us), int(count))
            for app, kind, ordinal, at_us, count in found["seen"]
        }
        return _Places(seen=seen, since_us=int(found["since_us"]))
    except (OSError, ValueError, KeyError, TypeError):
        return _Places()


def shippers(
    targets: Sequence[Target],
    logs: Logs,
    state_dir: Path,
    *,
    header_file: str,
    ca_file: str,
    now_us: Callable[[], int],
) -> list[Shipper]:
    """Raises `RefusedError`."""
    headers = _headers(header_file)
    if ca_file and not os.access(ca_file, os.R_OK):
        raise RefusedError(f"--log-ca-file {ca_file}: cannot be read")
    try:
        return [
            Shipper(target, logs, state_dir, _maker(target, headers, ca_file), now_us=now_us)
            for target in targets
        ]
    except OSError as error:
        raise RefusedError(f"--log-ca-file {ca_file}: {error.strerror or error}") from error


def _maker(target: Target, headers: dict[str, str], ca_file: str) -> Callable[[], Sink]:
    sink_of(target, headers=headers, ca_file=ca_file)  # what is wrong is wrong now
    return lambda: sink_of(target, headers=headers, ca_file=ca_file)


def _headers(path: str) -> dict[str, str]:
    if not path:
        return {}
    try:
        return headers(read_private(path).decode())
    except CredentialError as error:
        raise RefusedError(f"--log-header-file {error}") from error
    except ValueError as error:
        raise RefusedError(f"--log-header-file {path}: {error}") from error
