"""What people say about autoscaling and webhooks. A thin shell over etcd."""

from __future__ import annotations

from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from formation.automation import (
    Autoscale,
    Measure,
    MeasureKind,
    Webhook,
    place_of,
    problem_with_url,
    problems_with_rule,
    problems_with_webhook,
)
from formation.model import Release
from formation_coordinator import autoscale
from formation_coordinator.changing import (
    ATTEMPTS_MAX,
    Changing,
    Invalid,
    RaceLost,
    Refused,
    Unknown,
    race_lost,
)
from formation_coordinator.sealing import CannotOpenError
from formation_coordinator.signing import place, problem_with_secret, sealed_secret
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import Delete, KeyValue, ModRevision, Operation, Put, Span
from formation_coordinator.vault import Vault

RULES_MAX = 500
HOOKS_MAX = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscaleWish:
    """None: as it is, or the default of a new rule; so are no `measures`. `may_point`: whoever asks
    may make this coordinator ask any URL."""

    app: str
    type: str
    minimum: int | None = None
    maximum: int | None = None
    measures: tuple[Measure, ...] = ()
    up_window_s: float | None = None
    down_window_s: float | None = None
    every_s: float | None = None
    may_point: bool = True


class AutomationControl(Changing):
    """Raises what `Changing` does, and what `Vault` does."""

    # ------------------------------------------------------------------ autoscale

    async def set_autoscale(
        self, wish: AutoscaleWish, who: str, why: str = ""
    ) -> tuple[Autoscale, bool, int]:
        """The rule as it is now, whether it was so already, and the revision."""
        key = keys.autoscale(wish.app, wish.type)
        for _ in range(ATTEMPTS_MAX):
            app, release, seen = await self.read(wish.app)
            before, item = await self._rule(key)
            rule = replace(_wished(wish, before), who=who, at_ms=self.now_ms())
            _check_rule(rule, release)
            _check_urls(wish, before)
            if before and replace(before, who=who, at_ms=rule.at_ms) == rule:
                return before, True, seen.revision
            if before is None:
                await self._check_room(Span.prefix("autoscale/"), RULES_MAX, "autoscale rules")
            audit = self.audit(
                who,
                "set autoscale",
                app.name,
                f"{rule.type}, now {app.formation.get(rule.type, 0)}",
                before=_told(before) if before else "",
                after=_told(rule),
                why=why,
            )
            # The app is compared, too: a quantity set by hand meanwhile is seen, not overrun.
            compares = [
                ModRevision(key, item.mod_revision if item else 0),
                ModRevision(keys.app(app.name), seen.mod_revision),
            ]
            put = Put(key, codec.encode(rule, item.value if item else b""))
            if revision := await self.commit(compares, [put], audit):
                return rule, False, revision
        raise race_lost(wish.app)

    async def end_autoscale(
        self, app: str, type_name: str, who: str, why: str = ""
    ) -> tuple[Autoscale, int]:
        """The rule that was, and the revision. The quantity stays as it is."""
        key = keys.autoscale(app, type_name)
        for _ in range(ATTEMPTS_MAX):
            rule, item = await self._rule(key)
            if rule is None or item is None:
                raise Unknown(f"{type_name} of {app} is not autoscaled; see formctl autoscale")
            audit = self.audit(
                who, "end autoscale", app, type_name, before=_told(rule), after="", why=why
            )
            compare = ModRevision(key, item.mod_revision)
            if revision := await self.commit([compare], [Delete(key)], audit):
                return rule, revision
        raise race_lost(app)

    async def _rule(self, key: str) -> tuple[Autoscale | None, KeyValue | None]:
        item = await self.store.get(key)
        record = codec.decode(key, item.value) if item else None
        return (record if isinstance(record, Autoscale) else None), item

    async def _check_room(self, span: Span, most: int, what: str) -> None:
        if len((await self.store.ranges([span])).items) >= most:
            raise Refused(f"there are {most} {what} already: take one away first")

    # ------------------------------------------------------------------ webhooks

    async def add_webhook(
        self, wanted: Webhook, secret: str, vault: Vault, who: str, why: str = ""
    ) -> tuple[Webhook, int]:
        """`wanted` without what is made here. Raises `Invalid` for a name that is taken."""
        if wrong := problem_with_url(wanted.url):
            raise Invalid(wrong)
        name = wanted.name or _name_of(wanted.url)
        hook = replace(wanted, name=name, who=who, at_ms=self.now_ms())
        # The time is its version: a secret sealed for an earlier hook of that name opens nothing.
        hook = replace(hook, version=hook.at_ms)
        wrong = next(problems_with_webhook(hook), "") or problem_with_secret(secret)
        if wrong:
            raise Invalid(wrong)
        await self._check_room(Span.prefix("webhooks/"), HOOKS_MAX, "webhooks")
        sealed = vault.seal(*place(hook), secret)
        hook = replace(hook, key=sealed.key, sealed=sealed.sealed)
        detail = f"{place_of(hook.url)} {' '.join(hook.what) or 'everything'}"
        audit = self.audit(who, "add webhook", name, detail, why=why)
        key = keys.webhook(name)
        puts: list[Operation] = [Put(key, codec.encode(hook)), Delete(keys.delivery(name))]
        if revision := await self.commit([ModRevision(key, 0)], puts, audit):
            return hook, revision
        raise Invalid(f"there is a webhook {name} already: --name another, or remove it first")

    async def remove_webhook(self, name: str, who: str, why: str = "") -> int:
        key = keys.webhook(name)
        item = await self.store.get(key)
        if item is None:
            raise Unknown(f"no webhook {name!r}; see formctl webhook")
        audit = self.audit(who, "remove webhook", name, why=why)
        gone = [Delete(key), Delete(keys.delivery(name))]
        if revision := await self.commit([ModRevision(key, item.mod_revision)], gone, audit):
            return revision
        raise RaceLost(f"webhook {name}: others are changing it at the same time; try again")

    async def seal_webhooks_anew(self, vault: Vault) -> int:
        """How many. It may be called again after an interruption."""
        changed = 0
        for item in (await self.store.ranges([Span.prefix("webhooks/")])).items:
            hook = codec.decode(item.key, item.value)
            assert isinstance(hook, Webhook)
            if hook.key == vault.sealer:
                continue
            try:
                secret = vault.unseal(*place(hook)[:2], sealed_secret(hook))
            except CannotOpenError as error:
                raise Refused(
                    f"webhook {hook.name}: {error}; remove it, and add it again"
                ) from error
            sealed = vault.seal(*place(hook), secret)
            same = replace(hook, key=sealed.key, sealed=sealed.sealed)
            compare = ModRevision(item.key, item.mod_revision)
            await self.store.commit([compare], [Put(item.key, codec.encode(same, item.value))])
            changed += 1
        return changed


def _wished(wish: AutoscaleWish, before: Autoscale | None) -> Autoscale:
    if before is None and wish.maximum is None:
        raise Invalid("how many at most? --max N")
    base = before or Autoscale(app=wish.app, type=wish.type, minimum=1, maximum=1, measures=())
    given = {
        "minimum": wish.minimum,
        "maximum": wish.maximum,
        "measures": wish.measures or None,
        "up_window_s": wish.up_window_s,
        "down_window_s": wish.down_window_s,
        "every_s": wish.every_s,
    }
    changed = {name: value for name, value in given.items() if value is not None}
    return replace(base, **changed)  # type: ignore[arg-type]


def _check_rule(rule: Autoscale, release: Release) -> None:
    spec = release.type_named(rule.type)
    if wrong := autoscale.problem_with_type(spec, rule.type):
        known = ", ".join(s.name for s in release.types)
        raise Invalid(wrong if spec else f"{wrong}: there is {known}")
    assert spec is not None
    problems = [
        *problems_with_rule(rule),
        *filter(None, (autoscale.problem_with_measure(spec, m) for m in rule.measures)),
    ]
    if problems:
        raise Invalid(f"{rule.type}: {'; '.join(problems)}")


def _check_urls(wish: AutoscaleWish, before: Autoscale | None) -> None:
    """A coordinator reaches what a deployer may not: only operators say where it asks."""
    known = {measure.url for measure in before.measures} if before else set()
    strange = [m for m in wish.measures if m.kind is MeasureKind.METRIC and m.url not in known]
    if strange and not wish.may_point:
        raise Refused(
            "a coordinator asks the URL of a metric, from where it stands: only an operator may "
            "give another one; what was given may be kept"
        )


def _told(rule: Autoscale) -> str:
    measures = " ".join(f"{m} at {place_of(m.url)}" if m.url else str(m) for m in rule.measures)
    return f"{rule.type}={rule.bounds} {measures}"


def _name_of(url: str) -> str:
    host = (urlsplit(url).hostname or "").lower()
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in host).strip("-")
    return kept[:63].strip("-")
