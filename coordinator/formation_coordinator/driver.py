"""The leader's loop: hint or period → world → reconcile → fenced commit. Decides nothing itself.

Runs only inside `Election`, which cancels it when leadership ends; a write of a deposed leader
fails all the same, since every transaction compares the leader key's create_revision.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from formation.model import AuditRecord
from formation_coordinator.book import Book
from formation_coordinator.live import LiveWorld
from formation_coordinator.plan import Decision, Plan
from formation_coordinator.reconcile import reconcile
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import (
    Compare,
    CreateRevision,
    Delete,
    KeyValue,
    ModRevision,
    OutcomeUnknown,
    Put,
    Span,
    Store,
    StoreError,
    split,
)
from formation_coordinator.store.mirror import Mirror
from formation_coordinator.world import Change, World

log = logging.getLogger(__name__)

PERIOD_S = 10.0
# What comes together is one pass.
GATHER_S = 0.02
# Between two passes, so many times what the one before took.
PASSES_APART, PASSES_APART_MAX_S = 5, 0.2
RETRY_S = 0.5
# As long as that a plan counts as made now.
FRESH_S = 0.1
IDLE = Plan()
LEADER = "the leader"
MIRROR_WAIT_S = 5.0
AUDIT_PERIOD_S = 600.0
AUDIT_RECORDS_MAX = 5_000
# Of them, what autoscaling did: it must not push out what people did.
AUDIT_AUTOSCALE_MAX = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought:
    """What a plan was made on, and when. The same world has the same plan, but for the time."""

    world: World
    epoch: int
    at_s: float

    def holds(self, world: World, epoch: int, now_s: float, plan: Plan) -> bool:
        same = world is self.world and epoch == self.epoch
        due = plan.wake_at_s is not None and plan.wake_at_s <= now_s
        return same and not due and now_s < self.at_s + FRESH_S


class Driver:
    def __init__(
        self,
        *,
        store: Store,
        mirror: Mirror,
        live: LiveWorld,
        clock: Callable[[], float],
        now_ms: Callable[[], int],
        new_id: Callable[[], str],
        replace_after_s: float,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._live = live
        self._clock = clock
        self._now_ms = now_ms
        self._new_id = new_id
        self._replace_after_s = replace_after_s
        self._book = Book()
        self._planning = asyncio.Lock()
        # What the last plan was made on. Whatever comes while it is made it does not know.
        self._known: Mapping[str, KeyValue] = {}
        # What was decided in the last pass, or thought of for somebody who asked; and on what.
        self.last = IDLE
        self._thought = Thought(world=live.world, epoch=0, at_s=-math.inf)
        self._leading = 0
        self.sentence = self._unwritten = ""

    async def lead(self, epoch: int) -> None:
        """Keep the cluster on course until cancelled; never on a view from before we led."""
        while self._mirror.revision < epoch:
            with suppress(TimeoutError):
                await self._mirror.wait_for(epoch, MIRROR_WAIT_S)
        self._live.restamp()
        hint, self._leading = self._live.subscribe(), epoch
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._loop(epoch, hint))
                tasks.create_task(self._bound_audit(epoch))
        finally:
            self._live.unsubscribe(hint)
            self._leading = 0

    async def _loop(self, epoch: int, hint: asyncio.Event) -> None:
        while True:
            hint.clear()
            await self._let_hosts_speak()
            started_s = self._clock()
            plan = await self.plan()
            next_s = next_pass_s(started_s, self._clock())
            if plan.sentence != self.sentence:
                log.log(logging.INFO if plan != IDLE else logging.DEBUG, "%s", plan.sentence)
                self.sentence = plan.sentence
            try:
                wait_s = self._wait_s(plan)
                if plan.writes:
                    await self._commit(plan, epoch)
                    self._unwritten = ""
                    continue
            except (StoreError, TimeoutError) as error:
                if str(error) != self._unwritten:
                    log.warning("the plan was not written: %s; trying again", error)
                self._unwritten, wait_s = str(error), RETRY_S
            await self._wait(hint, wait_s, next_s)

    async def _wait(self, hint: asyncio.Event, wait_s: float, next_s: float) -> None:
        """Until a hint, then a moment more so that a burst is one pass, and never before `next_s`;
        or until `wait_s` is over."""
        try:
            async with asyncio.timeout(wait_s):
                await hint.wait()
        except TimeoutError:
            return
        await asyncio.sleep(max(GATHER_S, next_s - self._clock()))

    async def _let_hosts_speak(self) -> None:
        """An etcd that went back in time still has the sessions and statuses of that time. Each
        host is heard anew before anything is decided."""
        left_s = self._mirror.went_back_at_s + self._replace_after_s - self._clock()
        if left_s > 0:
            log.info("etcd went back in time: for %.1f s nothing is decided", left_s)
            await asyncio.sleep(left_s)

    async def plan(self) -> Plan:
        """What would be done now; changes nothing.

        In a thread: the first look at a hundred thousand instances takes a second, and our lease
        lasts three. One at a time: all share the book. Who asks just after another one, who watches
        after the leader or the other way round, is told the same.
        """
        async with self._planning:
            now_s, world, epoch = self._clock(), self._live.world, self._leading
            if self._thought.holds(world, epoch, now_s, self.last):
                return self.last
            self._known = dict(self._mirror.records)
            plan = await asyncio.to_thread(
                reconcile,
                world,
                now_s=now_s,
                wall_ms=self._now_ms(),
                epoch=epoch,
                replace_after_s=self._replace_after_s,
                new_stem=self._new_id,
                book=self._book,
                progress=self.last.progress,
            )
            self.last, self._thought = plan, Thought(world=world, epoch=epoch, at_s=now_s)
        return plan

    def _wait_s(self, plan: Plan) -> float:
        if plan.wake_at_s is None:
            return PERIOD_S
        return min(PERIOD_S, max(0.0, plan.wake_at_s - self._clock()))

    async def _commit(self, plan: Plan, epoch: int) -> None:
        """Write all documents, then wait until our own mirror has them.

        A refused or unknown write is never retried as it is: the caller plans again on what is.
        """
        try:
            await self._mirror.wait_for(await self._write(plan, epoch), MIRROR_WAIT_S)
        finally:
            self._live.written.clear()
            self._thought = replace(self._thought, at_s=-math.inf)  # it was carried out, or failed

    async def _write(self, plan: Plan, epoch: int) -> int:
        """The revision of the last one."""
        revision, known = 0, self._known
        for batch, extra in self._batches(plan):
            fence = CreateRevision(keys.leader(), epoch)
            seen = [ModRevision(item.key, _revision_of(known.get(item.key))) for item in batch]
            try:
                outcome = await self._store.commit([fence, *seen, *extra], batch)
            except OutcomeUnknown:
                revision = (await self._store.ranges([Span.prefix(keys.LEADER)])).revision
                break
            revision = outcome.revision
            if not outcome.succeeded:
                log.info("the world changed under the plan; planning again")
                break
        return revision

    def _batches(self, plan: Plan) -> Iterator[tuple[list[Put | Delete], list[Compare]]]:
        """Transactions that fit etcd's limits; the first holds what belongs together."""
        absent: list[Compare] = [ModRevision(keys.session(host), 0) for host in plan.absent]
        documents = {d.host: self._put(keys.assignments(d.host), d) for d in plan.documents}
        first: list[Put | Delete] = [self._record(change) for change in plan.records]
        first += [self._audit(decision) for decision in plan.decisions]
        first += [documents.pop(host) for host in plan.together]
        if first:
            yield first, absent
        for batch in split([*documents.values()]):
            yield list(batch), absent

    def _record(self, change: Change) -> Put | Delete:
        key = "/".join((change.kind, *change.names))
        return Delete(key) if change.record is None else self._put(key, change.record)

    def _put(self, key: str, record: codec.Record) -> Put:
        before = self._known.get(key)
        value = codec.encode(record, before.value if before else b"")
        self._live.written[key] = value, record
        return Put(key, value)

    def _audit(self, decision: Decision) -> Put:
        at_ms = self._now_ms()
        record = AuditRecord(
            at_ms=at_ms,
            who=LEADER,
            action=decision.action,
            subject=decision.app,
            detail=decision.detail,
            before=decision.before,
            after=decision.after,
            why=decision.why,
        )
        return Put(keys.audit(at_ms, self._new_id()), codec.encode(record))

    async def _bound_audit(self, epoch: int) -> None:
        """Keep the newest records only."""
        while True:
            try:
                found = [item.key for item in (await self._store.ranges([keys.AUDIT])).items]
                surplus = [Delete(key) for key in too_many_audits(found)]
                for batch in split(surplus):
                    await self._store.commit([CreateRevision(keys.leader(), epoch)], batch)
            except StoreError as error:
                log.warning("the audit trail was not trimmed: %s", error)
            await asyncio.sleep(AUDIT_PERIOD_S)


def too_many_audits(found: Sequence[str]) -> Iterator[str]:
    """`found`: keys of the trail, oldest first."""
    by_autoscale = [key for key in found if keys.AUDIT_AUTOSCALE in key]
    surplus = set(by_autoscale[:-AUDIT_AUTOSCALE_MAX])
    kept = [key for key in found if key not in surplus]
    yield from surplus
    yield from kept[:-AUDIT_RECORDS_MAX]


def _revision_of(record: KeyValue | None) -> int:
    return record.mod_revision if record else 0


def next_pass_s(began_s: float, ended_s: float) -> float:
    """The longer a pass takes, the more is gathered for the next. After a rest none has to wait."""
    return ended_s + min(PASSES_APART_MAX_S, PASSES_APART * (ended_s - began_s))
