"""What every store can do, in types: keys, transactions, watches, leases and their errors.

Keys are text relative to the store's prefix (`apps/shop`). Implemented by `etcd.EtcdStore` and by
its in-memory twin `memory.MemoryStore`; both pass the same contract tests. Decides nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

# etcd's own defaults: --max-request-bytes and --max-txn-ops.
REQUEST_BYTES_MAX = 1_536 * 1024
OPERATIONS_MAX = 128
# What `split` fills a transaction with; the rest of the room is for fences and framing.
BATCH_OPERATIONS_MAX = OPERATIONS_MAX - 1
BATCH_BYTES_MAX = 1024 * 1024
# Framing of one operation in a request, rounded up.
_OPERATION_BYTES = 32


class StoreError(Exception):
    """One line for people. Raised as itself it is final: asking again gives the same answer."""


class StoreUnavailable(StoreError):
    """Nothing was done; temporary. Names the endpoints and repeats etcd's words."""


class OutcomeUnknown(StoreError):
    """A write was sent and its answer was lost: it may or may not be done. Resolve by reading."""


class Compacted(StoreError):
    """The history a watch asked for is gone: list again, watch from there."""


class LeaseLost(StoreError):
    """The lease ran out or was revoked, and its keys are gone with it."""


class NoSpace(StoreError):
    """etcd's database is full; it refuses every write until an operator makes room."""


class TooLarge(StoreError):
    """A request over etcd's limit; never sent, or refused as a whole."""

    def __init__(self, size_bytes: int, subject: str) -> None:
        self.size_bytes = size_bytes
        self.limit_bytes = REQUEST_BYTES_MAX
        size = f"{size_bytes} bytes" if size_bytes else "larger than etcd allows"
        super().__init__(
            f"{subject} is {size}; etcd takes at most {REQUEST_BYTES_MAX} in one request:"
            " make it smaller (fewer or shorter config variables and commands)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyValue:
    """`create_revision` changes only when the key was deleted and made again. `lease` 0: none."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """Keys from `start` up to, not including, `end`; an empty `end` is the prefix's end."""

    start: str
    end: str

    @classmethod
    def prefix(cls, start: str) -> Span:
        return cls(start, start[:-1] + chr(ord(start[-1]) + 1) if start else "")

    def __contains__(self, key: str) -> bool:
        return self.start <= key and (not self.end or key < self.end)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything in the spans asked for, as it was at one revision."""

    revision: int
    items: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class CreateRevision:
    """Holds when the key was created at `revision`; 0: when there is no such key."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class ModRevision:
    """Holds when the key was last written at `revision`; 0: when there is no such key."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class UnchangedSince:
    """Holds when no key that is in the span was written after `revision`. Sees no deletion."""

    span: Span
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    key: str


Compare = CreateRevision | ModRevision | UnchangedSince
Operation = Put | Delete


@dataclass(frozen=True, slots=True)
class Outcome:
    """`revision` is that of the write, or, when a compare failed, the store's at that time."""

    succeeded: bool
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The key changed at `revision`; `value` is None when it was deleted."""

    key: str
    value: KeyValue | None
    revision: int


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Whole revisions, in order; `revision` is the last one."""

    revision: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Of the member that was asked. `size_bytes`: its file; `used_bytes`: of it in use. `alarms`:
    etcd's names of them, such as NOSPACE, of any member."""

    revision: int = 0
    size_bytes: int = 0
    used_bytes: int = 0
    alarms: tuple[str, ...] = ()


class Store(Protocol):
    """Reads are linearizable and may be retried inside; writes are sent once.

    Every method may raise StoreUnavailable; those that write OutcomeUnknown, too.
    """

    async def ranges(self, spans: Sequence[Span], *, timeout_s: float = 30.0) -> Snapshot:
        """All spans at one revision, in key order within each span."""

    async def get(self, key: str, *, timeout_s: float = 5.0) -> KeyValue | None: ...

    async def commit(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Outcome:
        """All operations at one revision if every compare holds, else none.

        Raises TooLarge, NoSpace, and LeaseLost for a Put on a lease that is gone.
        """

    def watch(self, span: Span, from_revision: int) -> AsyncGenerator[WatchBatch, None]:
        """Every change from that revision on, once, in order, until it raises.

        Raises Compacted when the history is gone, StoreUnavailable when the stream breaks, the
        peer is silent, or the store is older than `from_revision` says. It never just stops.
        """

    async def grant_lease(self, ttl_s: float) -> int:
        """A new lease of at least `ttl_s` (etcd rounds up to seconds, and to 2 of them)."""

    async def keep_lease(self, lease: int) -> float:
        """Renews; gives the seconds it now lasts, counted from before the call. Or LeaseLost."""

    async def revoke_lease(self, lease: int) -> None:
        """Ends it and deletes its keys at once; fine when it is gone already."""

    async def health(self) -> Health: ...

    async def forget(self, revision: int) -> None:
        """Compacts: no watch can begin at or before it any more. Fine when that is done already."""

    async def close(self) -> None: ...


def check(compares: Sequence[Compare], operations: Sequence[Operation]) -> None:
    """Refuses what etcd would refuse, before anything is sent, in words for people."""
    if max(len(compares), len(operations)) > OPERATIONS_MAX:
        raise StoreError(
            f"{max(len(compares), len(operations))} operations in one transaction;"
            f" etcd takes {OPERATIONS_MAX}: split them"
        )
    put: set[str] = set()
    for operation in operations:
        if isinstance(operation, Put):
            if operation.key in put:
                raise StoreError(f"{operation.key} is written twice in one transaction")
            put.add(operation.key)
    for operation in operations:
        if isinstance(operation, Delete) and operation.key in put:
            raise StoreError(f"{operation.key} is written and deleted in one transaction")
    size_bytes = sum(map(operation_bytes, operations))
    if size_bytes > REQUEST_BYTES_MAX:
        raise TooLarge(size_bytes, subject(operations))


def operation_bytes(operation: Operation) -> int:
    value_bytes = len(operation.value) if isinstance(operation, Put) else 0
    return _OPERATION_BYTES + len(operation.key) + value_bytes


def subject(operations: Sequence[Operation]) -> str:
    """What a refusal is about: the largest value written."""
    largest = max(operations, key=operation_bytes, default=None)
    if largest is None:
        return "the request"
    others = len(operations) - 1
    return largest.key if not others else f"{largest.key} with {others} more"


def split(operations: Sequence[Operation]) -> Iterator[tuple[Operation, ...]]:
    """Batches that fit one transaction each beside a fence, in order.

    A value too large for any transaction gets a batch of its own, for `commit` to refuse.
    """
    batch: list[Operation] = []
    room_bytes = BATCH_BYTES_MAX
    for operation in operations:
        size_bytes = operation_bytes(operation)
        if batch and (len(batch) == BATCH_OPERATIONS_MAX or size_bytes > room_bytes):
            yield tuple(batch)
            batch, room_bytes = [], BATCH_BYTES_MAX
        batch.append(operation)
        room_bytes -= size_bytes
    if batch:
        yield tuple(batch)
