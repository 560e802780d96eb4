"""What goes on without anybody asking: quantities that follow a measure, events sent to URLs.

Data, and what may be asked for; no behaviour beyond naming and checking. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from formation.model import QUANTITY_MAX

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
URL_MAX_BYTES = 2_000
MEASURES_MAX = 4
TARGET_MAX = 1e12
WINDOW_MAX_S = 3_600.0
EVERY_MIN_S, EVERY_MAX_S = 5.0, 300.0
TOPICS = ("app", "cluster", "host", "instance", "run")
WHAT_MAX = 20
APP_PATTERN_MAX = 200
_WHAT = re.compile(r"[a-z]+(\.[a-z_]+)?")


class MeasureKind(StrEnum):
    CPU = "cpu"
    MEMORY = "memory"
    METRIC = "metric"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """`target`: what one instance should have of it; percent, but for METRIC. `averaged`: the
    number that `url` tells is an average instance's already, not that of all together."""

    kind: MeasureKind
    target: float
    url: str = ""
    averaged: bool = False

    @property
    def unit(self) -> str:
        return "" if self.kind is MeasureKind.METRIC else " %"

    def __str__(self) -> str:
        return f"{self.kind.value} {self.target:g}{self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscaleChange:
    at_ms: int
    before: int
    after: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscale:
    """Who owns the quantity of a type. Of several measures the one that asks for most counts.
    Down goes only what was too many for `down_window_s`, up what was too few for `up_window_s`."""

    app: str
    type: str
    minimum: int
    maximum: int
    measures: tuple[Measure, ...]
    up_window_s: float = 0.0
    down_window_s: float = 300.0
    every_s: float = 15.0
    who: str = ""
    at_ms: int = 0
    last: AutoscaleChange | None = None

    @property
    def bounds(self) -> str:
        return f"{self.minimum}..{self.maximum}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """`what`: words such as `host` or `instance.backoff`, none is everything. `app`: a pattern; ""
    is also what is about no app. `sealed`: the secret that signs, bound to name and version."""

    name: str
    url: str
    what: tuple[str, ...] = ()
    app: str = ""
    version: int = 1
    key: str = ""
    sealed: bytes = b""
    who: str = ""
    at_ms: int = 0

    def wants(self, what: str, app: str) -> bool:
        topic = not self.what or any(what == w or what.startswith(f"{w}.") for w in self.what)
        return topic and (not self.app or (bool(app) and fnmatchcase(app, self.app)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How far the leader has come with a webhook. `dropped`: events that it was never told."""

    name: str
    epoch: int = 0
    seen_to_ms: int = 0
    delivered: int = 0
    failed: int = 0
    dropped: int = 0
    waiting: int = 0
    last_at_ms: int = 0
    last_word: str = ""
    failing_since_ms: int = 0


# -- what is wrong with what was asked for ---------------------------------------------------------


def problem_with_url(url: str) -> str:
    """One line for people, or ""."""
    if len(url.encode()) > URL_MAX_BYTES:
        return f"the URL is longer than {URL_MAX_BYTES} bytes"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "the URL has characters that belong into no URL: write them as %20"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "the URL cannot be read"
    if parts.scheme not in ("http", "https") or not host:
        return "the URL must begin with https:// or http:// and name a host"
    if parts.username is not None or parts.password is not None:
        return "the URL holds a user or a password, which everybody who sees it would know"
    return ""


def place_of(url: str) -> str:
    """Enough to know where it goes, and no more: a path may be a secret. `https://hooks.example`"""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def problems_with_rule(rule: Autoscale) -> Iterator[str]:
    if rule.minimum > rule.maximum:
        yield f"min {rule.minimum} is more than max {rule.maximum}"
    if not 1 <= rule.maximum <= QUANTITY_MAX:
        yield f"max: must be from 1 to {QUANTITY_MAX}"
    yield from _problems_with_measures(rule.measures)
    if rule.minimum == 0 and not any(_counts_from_zero(m) for m in rule.measures):
        yield "min 0 needs a metric of all together: of no instance nothing can be measured"
    for name, value, low, high in (
        ("up-window", rule.up_window_s, 0.0, WINDOW_MAX_S),
        ("down-window", rule.down_window_s, 0.0, WINDOW_MAX_S),
        ("every", rule.every_s, EVERY_MIN_S, EVERY_MAX_S),
    ):
        if not low <= value <= high:  # also what is no number
            yield f"{name}: must be from {low:g} s to {high:g} s"


def _problems_with_measures(measures: Sequence[Measure]) -> Iterator[str]:
    if not measures:
        yield "say what it follows: --cpu 60%, --memory 70%, or --metric URL --target N"
    if len(measures) > MEASURES_MAX:
        yield f"more than {MEASURES_MAX} measures"
    kinds = [m.kind for m in measures if m.kind is not MeasureKind.METRIC]
    if len(set(kinds)) < len(kinds):
        yield "cpu and memory: each once"
    for measure in measures:
        if not (math.isfinite(measure.target) and 0 < measure.target <= TARGET_MAX):
            yield f"{measure.kind.value}: its target must be more than 0"
        if measure.kind is MeasureKind.METRIC:
            if wrong := problem_with_url(measure.url):
                yield f"metric: {wrong}"
        elif measure.url or measure.averaged:
            yield f"{measure.kind.value}: takes no URL"


def _counts_from_zero(measure: Measure) -> bool:
    return measure.kind is MeasureKind.METRIC and not measure.averaged


def problems_with_webhook(hook: Webhook) -> Iterator[str]:
    if not NAME.fullmatch(hook.name):
        yield f"name {hook.name!r}: small letters, digits and -, at most 63"
    if wrong := problem_with_url(hook.url):
        yield wrong
    if len(hook.what) > WHAT_MAX:
        yield f"what: more than {WHAT_MAX} words"
    for word in hook.what:
        if not _WHAT.fullmatch(word) or word.partition(".")[0] not in TOPICS:
            yield f"what {word[:40]!r}: begins with one of {', '.join(TOPICS)}"
    if len(hook.app) > APP_PATTERN_MAX or not hook.app.isprintable():
        yield "app: no such pattern"
