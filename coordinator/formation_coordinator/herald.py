"""The leader tells webhooks what happens: one task and one bounded queue each, so that a receiver
that hangs slows nobody. What it says and how it is signed: `signing` (pure).

At least once: how far each has come is written now and then, and another leader goes on a little
before that, with a first message that says so, and whether there is a gap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from formation.automation import Delivery, Webhook
from formation_coordinator.chronicle import Chronicle
from formation_coordinator.crew import Crew
from formation_coordinator.happened import Happening
from formation_coordinator.live import LiveWorld
from formation_coordinator.outgoing import retry_after_s
from formation_coordinator.outside import Outside, OutsideError
from formation_coordinator.sealing import CannotOpenError
from formation_coordinator.signing import (
    Letter,
    Queue,
    Sender,
    began,
    body,
    headers,
    place,
    sealed_secret,
)
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import (
    Compare,
    CreateRevision,
    ModRevision,
    Put,
    Store,
    StoreError,
)
from formation_coordinator.vault import Vault

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
WRITE_EVERY_S = 2.0
# While nothing happens, how far we have come is written so seldom.
WRITE_IDLE_S = 60.0
# Clocks of coordinators differ, and they do not hear of things at the same moment.
OVERLAP_MS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`word`: "204", or why nothing good came back."""

    good: bool
    word: str
    retry_after_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Post:
    """One webhook's, as long as this coordinator runs. `number`: the next event to read."""

    queue: Queue
    number: int
    sequence: int = 0
    epoch: int = 0
    delivered: int = 0
    failed: int = 0
    failures: int = 0
    last_at_ms: int = 0
    last_word: str = ""
    failing_since_ms: int = 0
    written: Delivery | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def record(self, name: str, now_ms: int) -> Delivery:
        first = self.queue.first(now_ms)
        return Delivery(
            name=name,
            epoch=self.epoch,
            seen_to_ms=first.at_ms - 1 if first else now_ms,
            delivered=self.delivered,
            failed=self.failed,
            dropped=self.queue.dropped,
            waiting=len(self.queue),
            last_at_ms=self.last_at_ms,
            last_word=self.last_word,
            failing_since_ms=self.failing_since_ms,
        )


class Herald:
    """`me`: this coordinator's id. `jitter()`: from 0 to 1."""

    def __init__(
        self,
        *,
        store: Store,
        live: LiveWorld,
        chronicle: Chronicle,
        vault: Vault,
        outside: Outside,
        me: str,
        now_ms: Callable[[], int],
        new_id: Callable[[], str],
        jitter: Callable[[], float],
    ) -> None:
        self._store, self._live, self._chronicle = store, live, chronicle
        self._vault, self._outside, self._me = vault, outside, me
        self._now_ms, self._new_id, self._jitter = now_ms, new_id, jitter
        self._run_id = new_id()
        self._epoch = 0
        self._posts: dict[str, tuple[Webhook, _Post]] = {}

    async def lead(self, epoch: int) -> None:
        self._epoch = epoch
        hint = self._live.subscribe()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(Crew(self._hooks, self._serve).run(hint))
                tasks.create_task(self._write_now_and_then())
        finally:
            self._live.unsubscribe(hint)

    def records(self) -> Mapping[str, Delivery]:
        """As it is now; only the leader's are true."""
        now_ms = self._now_ms()
        return {name: post.record(name, now_ms) for name, (_, post) in self._posts.items()}

    def _hooks(self) -> Mapping[str, Webhook]:
        hooks = self._live.world.webhooks
        for gone in self._posts.keys() - hooks.keys():
            del self._posts[gone]
        return hooks

    async def _serve(self, hook: Webhook) -> None:
        post = self._post_of(hook)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._gather(hook, post))
            tasks.create_task(self._send_in_order(hook, post))

    # ------------------------------------------------------------------ where to go on

    def _post_of(self, hook: Webhook) -> _Post:
        """The one of before when nobody else led in between; then nothing is told twice."""
        known, post = self._posts.get(hook.name, (None, None))
        written = self._live.world.deliveries.get(hook.name)
        epochs = [one.epoch if one else 0 for one in (written, post.written if post else None)]
        ours = written is None or epochs[0] == epochs[1]
        if known is None or post is None or known.version != hook.version or not ours:
            post = self._taken_over(hook, written)
        post.epoch = self._epoch
        self._posts[hook.name] = hook, post
        return post

    def _taken_over(self, hook: Webhook, written: Delivery | None) -> _Post:
        since_ms = written.seen_to_ms if written else hook.at_ms
        reaches_ms = self._chronicle.reaches_ms
        number = self._chronicle.number_after(since_ms - (OVERLAP_MS if written else 0))
        post = _Post(queue=Queue(), number=number, written=written)
        if written is not None:
            post.delivered, post.failed = written.delivered, written.failed
            post.last_at_ms, post.last_word = written.last_at_ms, written.last_word
            post.failing_since_ms = written.failing_since_ms
            post.queue.dropped = written.dropped
        if written is not None or reaches_ms > since_ms:
            happening, more = began(hook.name, since_ms, reaches_ms)
            self._put(post, f"begin_{self._epoch}", self._now_ms(), happening, more)
        return post

    def _put(
        self,
        post: _Post,
        message_id: str,
        at_ms: int,
        happening: Happening,
        more: Mapping[str, object],
    ) -> None:
        post.sequence += 1
        letter = Letter(
            id=f"evt_{self._run_id}_{message_id}",
            sequence=post.sequence,
            at_ms=at_ms,
            happening=happening,
            more=more,
        )
        post.queue.put(letter)
        post.news.set()

    async def _gather(self, hook: Webhook, post: _Post) -> None:
        def wanted(happening: Happening) -> bool:
            return hook.wants(happening.what, happening.app)

        async for events, missed in self._chronicle.read_from(post.number, wanted):
            post.queue.lost(missed)
            for event in events:
                self._put(post, str(event.number), event.at_ms, event.happening, {})
                post.number = event.number + 1

    # ------------------------------------------------------------------ telling

    async def _send_in_order(self, hook: Webhook, post: _Post) -> None:
        while True:
            post.news.clear()
            letter = post.queue.first(self._now_ms())
            if letter is None:
                await post.news.wait()
                continue
            told_dropped = post.queue.dropped_now
            outcome = await self.send(hook, letter, told_dropped)
            self._note(hook, post, outcome)
            if outcome.good:
                post.queue.arrived(letter, told_dropped)
            else:
                wait_s = retry_after_s(post.failures, self._jitter(), outcome.retry_after_s)
                await asyncio.sleep(wait_s)

    def _note(self, hook: Webhook, post: _Post, outcome: Outcome) -> None:
        post.last_at_ms, post.last_word = self._now_ms(), outcome.word
        if outcome.good:
            if post.failures:
                log.info("webhook %s: good again after %d failures", hook.name, post.failures)
            post.delivered, post.failures, post.failing_since_ms = post.delivered + 1, 0, 0
            return
        post.failed, post.failures = post.failed + 1, post.failures + 1
        post.failing_since_ms = post.failing_since_ms or post.last_at_ms
        if post.failures == 1:
            log.warning("webhook %s: %s; it is tried again", hook.name, outcome.word)

    async def test(self, hook: Webhook) -> Outcome:
        """One message beside all others, now."""
        happening = Happening(
            what="webhook.test", subject=hook.name, text="somebody tries this webhook"
        )
        message_id = f"evt_{self._run_id}_test_{self._new_id()}"
        now_ms = self._now_ms()
        letter = Letter(id=message_id, sequence=0, at_ms=now_ms, happening=happening)
        return await self.send(hook, letter, 0)

    async def send(self, hook: Webhook, letter: Letter, dropped: int) -> Outcome:
        cluster = self._live.world.cluster
        sender = Sender(
            cluster=cluster.id if cluster else "", coordinator=self._me, epoch=self._epoch
        )
        text = body(letter, sender, dropped)
        try:
            secret = self._vault.unseal(*place(hook)[:2], sealed_secret(hook))
            signed = headers(secret, letter.id, self._now_ms() // 1000, text)
            answer = await self._outside.post(hook.url, text, signed, TIMEOUT_S)
        except CannotOpenError as error:
            return Outcome(good=False, word=f"its secret: {error}")
        except OutsideError as error:
            return Outcome(good=False, word=str(error))
        if answer.status // 100 == 3:  # noqa: PLR2004  3xx
            return Outcome(good=False, word=f"{answer.status}: redirects are not followed")
        return Outcome(
            good=answer.status // 100 == 2,  # noqa: PLR2004  2xx
            word=str(answer.status),
            retry_after_s=answer.retry_after_s,
        )

    # ------------------------------------------------------------------ how far we have come

    async def _write_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            for name, (_, post) in tuple(self._posts.items()):
                record = post.record(name, self._now_ms())
                if post.epoch == self._epoch and is_news(record, post.written):
                    await self._write(post, record)

    async def _write(self, post: _Post, record: Delivery) -> None:
        hook_key = keys.webhook(record.name)
        known = self._live.revision_of(hook_key)
        if not known:
            return  # it was removed
        fence = CreateRevision(keys.leader(), self._epoch)
        compares: list[Compare] = [fence, ModRevision(hook_key, known)]
        put = Put(keys.delivery(record.name), codec.encode(record))
        try:
            outcome = await self._store.commit(compares, [put])
        except StoreError as error:
            log.warning("webhook %s: how far it has come is not written: %s", record.name, error)
            return
        if outcome.succeeded:
            post.written = record


def is_news(record: Delivery, written: Delivery | None) -> bool:
    """Worth a write? That nothing happened, seldom."""
    if written is None:
        return True
    moved_ms = record.seen_to_ms - written.seen_to_ms
    same = (
        record.epoch == written.epoch
        and (record.delivered, record.failed, record.dropped, record.waiting)
        == (written.delivered, written.failed, written.dropped, written.waiting)
    )  # fmt: skip
    return not same or moved_ms >= WRITE_IDLE_S * 1000
