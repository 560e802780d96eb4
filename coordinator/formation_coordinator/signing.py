"""Webhooks as receivers see them: the body, the headers that sign it, the queue. Pure.

Signed as the Standard Webhooks convention says (https://www.standardwebhooks.com): HMAC-SHA256 over
`id.timestamp.body` with the secret's bytes, in base64 behind `v1,`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from formation.automation import Webhook
from formation.secrets import Secret
from formation_coordinator.happened import Happening

SECRET_PREFIX = "whsec_"  # noqa: S105  of every secret
SECRET_BYTES = 32
_SECRET_BYTES_MIN, _SECRET_BYTES_MAX = 24, 64
# So many events wait for one receiver, and none for longer.
WAITING_MAX = 1_000
WAITING_MAX_S = 6 * 3_600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One event on its way to one webhook. `sequence`: one more with each that is for it, while one
    leader leads."""

    id: str
    sequence: int
    at_ms: int
    happening: Happening
    more: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who tells it: the cluster's id, the leader and its epoch."""

    cluster: str
    coordinator: str
    epoch: int


def place(hook: Webhook) -> tuple[str, str, int]:
    """What its secret is bound to: no app has that name."""
    return "", f"webhook {hook.name}", hook.version


def sealed_secret(hook: Webhook) -> Secret:
    return Secret(version=hook.version, key=hook.key, sealed=hook.sealed)


def secret_text(random: bytes) -> str:
    return SECRET_PREFIX + base64.b64encode(random).decode()


def problem_with_secret(text: str) -> str:
    """One line that repeats nothing of it, or ""."""
    try:
        number = len(_key(text))
    except ValueError:
        return f"the secret is not {SECRET_PREFIX} and base64"
    if not _SECRET_BYTES_MIN <= number <= _SECRET_BYTES_MAX:
        return (
            f"the secret has {number} bytes: from {_SECRET_BYTES_MIN} to {_SECRET_BYTES_MAX} it is"
        )
    return ""


def _key(text: str) -> bytes:
    if not text.startswith(SECRET_PREFIX):
        raise ValueError
    try:
        return base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError from error


def headers(secret: str, message_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """`at_s`: of this try; a receiver refuses what is too old."""
    signed = f"{message_id}.{at_s}.".encode() + body
    mac = hmac.new(_key(secret), signed, hashlib.sha256).digest()
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
    }


def body(letter: Letter, sender: Sender, dropped: int) -> bytes:
    """`dropped`: how many before this one it will never be told."""
    happening = letter.happening
    at = datetime.fromtimestamp(letter.at_ms / 1000, UTC)
    found = {
        "type": happening.what,
        "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "id": letter.id,
        "epoch": sender.epoch,
        "sequence": letter.sequence,
        "dropped": dropped,
        "cluster": sender.cluster,
        "coordinator": sender.coordinator,
        "data": {
            "subject": happening.subject,
            "app": happening.app,
            "host": happening.host,
            "text": happening.text,
            **letter.more,
        },
    }
    return json.dumps(found, ensure_ascii=False).encode()


def began(webhook: str, since_ms: int, reaches_ms: int) -> tuple[Happening, Mapping[str, object]]:
    """What a new leader tells first. Until `since_ms` the one before had told everything; we know
    what happened from `reaches_ms` on."""
    gap = reaches_ms > since_ms
    text = (
        "another leader goes on; between gap_from and gap_to something may have happened that "
        "nobody tells"
        if gap
        else "another leader goes on; what comes next may have been told already"
    )
    more: dict[str, object] = {"gap": gap}
    if gap:
        more |= {"gap_from": _iso(since_ms), "gap_to": _iso(reaches_ms)}
    return Happening(what="webhook.resumed", subject=webhook, text=text), more


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


class Queue:
    """Letters in order; the oldest goes when there are too many, and is counted."""

    def __init__(self, most: int = WAITING_MAX) -> None:
        self._letters: deque[Letter] = deque()
        self._most = most
        # Since the last one that arrived, and in all.
        self.dropped_now = self.dropped = 0

    def __len__(self) -> int:
        return len(self._letters)

    def put(self, letter: Letter) -> None:
        self._letters.append(letter)
        if len(self._letters) > self._most:
            self._drop()

    def first(self, now_ms: int) -> Letter | None:
        """What is too old by now is dropped."""
        while self._letters and now_ms - self._letters[0].at_ms > WAITING_MAX_S * 1000:
            self._drop()
        return self._letters[0] if self._letters else None

    def arrived(self, letter: Letter, told_dropped: int) -> None:
        """That one may have been dropped while it was on its way: then it was told all the same."""
        if self._letters and self._letters[0] is letter:
            self._letters.popleft()
        else:
            self.dropped -= 1
            self.dropped_now -= 1
        self.dropped_now -= told_dropped

    def lost(self, number: int) -> None:
        """So many were gone before we could keep them."""
        self.dropped += number
        self.dropped_now += number

    def _drop(self) -> None:
        self._letters.popleft()
        self.lost(1)
