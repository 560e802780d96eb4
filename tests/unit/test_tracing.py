"""Changes of the world become spans: of the change, of each instance, of its steps."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs
from worlds import app

from formation.model import (
    Assignment,
    HostStatus,
    InstanceState,
    InstanceStatus,
    Slot,
)
from formation.tracecontext import in_the_middle_of
from formation_coordinator.tracing import (
    CHANGES_MAX,
    GIVEN_UP_MS,
    SETTLED_MS,
    Span,
    Tracing,
    is_sampled,
    parent_of,
    request,
)
from formation_coordinator.world import Change, HostEntry, World

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Story:
    """A host `a`, an app `shop`, and what a coordinator sees of them."""

    def __init__(self, *, leads: bool = True, share: float = 1.0) -> None:
        numbers = itertools.count(1)
        self.tracing = Tracing(lambda digits: f"{next(numbers):0{digits}x}", share)
        self.leads = leads
        self.world = World(apps={"shop": app({"web": 1})})
        self.entry = HostEntry(name="a", status=HostStatus(host="a", agent_id="x", boot_id="b"))

    def see(self, kind: str, at_ms: int, **fields: object) -> None:
        self.entry = structs.replace(self.entry, **fields)  # type: ignore[arg-type]
        after = replace(self.world, hosts={**self.world.hosts, "a": self.entry})
        change = Change(kind=kind, names=("a",), record=None)
        self.tracing.hear(self.world, after, [change], at_ms, leads=self.leads)
        self.world = after

    def decide(self, at_ms: int, *ordinals: int, generation: int = 1) -> None:
        self.see("assignments", at_ms, document=_document(ordinals, generation))

    def say(self, at_ms: int, generation: int, **states: InstanceState) -> None:
        said = tuple(
            InstanceStatus(
                uid=uid, slot=Slot("shop", "web", int(uid[1:])), release=1, state=state, pid=7,
                last_exit="exit 1" if state is InstanceState.BACKOFF else "",
            )
            for uid, state in states.items()
        )  # fmt: skip
        assert self.entry.status is not None
        status = structs.replace(self.entry.status, instances=said, generation=generation)
        self.see("status", at_ms, status=status)

    def take(self, at_ms: int) -> dict[str, Span]:
        return {span.name: span for span in self.tracing.take(self.world, at_ms)}


def _document(ordinals: tuple[int, ...], generation: int) -> Any:
    """With stays u1, u2… of web.1, web.2…: all that is looked at of a document."""
    stays = tuple(Assignment(uid=f"u{n}", slot=Slot("shop", "web", n), release=1) for n in ordinals)
    return SimpleNamespace(generation=generation, instances=stays)


STARTING, HEALTHY, BACKOFF = InstanceState.STARTING, InstanceState.HEALTHY, InstanceState.BACKOFF


def test_a_scale_is_a_span_with_one_for_each_instance_and_each_of_its_steps() -> None:
    story = Story()
    token = story.tracing.begin("scale", "shop", parent_of(TRACEPARENT), 1_000)
    story.decide(1_050, 1)
    story.tracing.called(token, 1_060)
    story.say(1_100, 1)
    story.say(1_200, 1, u1=STARTING)
    story.say(2_200, 1, u1=HEALTHY)
    assert story.take(2_200 + SETTLED_MS - 1) == {}
    spans = story.take(2_200 + SETTLED_MS)
    root, start = spans["scale shop"], spans["start web.1"]
    assert (root.trace_id, root.parent_id) == (TRACEPARENT[3:35], TRACEPARENT[36:52])
    assert (root.begin_ms, root.end_ms, root.error) == (1_000, 2_200, "")
    assert (start.parent_id, start.begin_ms, start.end_ms) == (root.span_id, 1_050, 2_200)
    assert start.attributes["formation.host"] == "a"
    steps = {
        name: (span.begin_ms, span.end_ms)
        for name, span in spans.items()
        if span.parent_id == start.span_id
    }
    assert steps == {
        "decided until taken": (1_050, 1_100),
        "taken until started": (1_100, 1_200),
        "started until healthy": (1_200, 2_200),
    }
    assert {span.trace_id for span in spans.values()} == {root.trace_id}
    assert story.take(99_999) == {}


def test_a_stop_ends_when_it_is_gone_and_a_crash_is_an_error_until_it_is_healthy() -> None:
    story = Story()
    story.decide(1_000, 1)
    story.say(1_100, 1, u1=BACKOFF)
    story.decide(1_500, generation=2)
    story.say(1_600, 2, u1=InstanceState.STOPPING)
    story.say(1_700, 2)
    spans = story.take(1_700 + SETTLED_MS)
    assert spans["start web.1"].error == "taken away again"
    stop = spans["stop web.1"]
    assert (stop.begin_ms, stop.end_ms, stop.error) == (1_500, 1_700, "")
    assert spans["taken until stopped"].begin_ms == 1_600


def test_what_nobody_asked_for_is_traced_by_the_leader_alone() -> None:
    leader, other = Story(), Story(leads=False)
    for story in (leader, other):
        story.decide(1_000, 1)
        story.say(1_100, 1, u1=HEALTHY)
    assert "reconcile shop" in leader.take(10_000)
    assert other.take(10_000) == {}


def test_a_change_that_never_arrives_is_given_up_and_says_so() -> None:
    story = Story()
    token = story.tracing.begin("scale", "shop", None, 1_000)
    story.decide(1_050, 1)
    story.tracing.called(token, 1_060)
    story.say(1_100, 1, u1=BACKOFF)
    assert story.take(GIVEN_UP_MS) == {}
    spans = story.take(1_000 + GIVEN_UP_MS)
    assert spans["scale shop"].error == "not there after 10 minutes"
    assert spans["start web.1"].error == "exit 1"


def test_a_rollout_goes_on_between_its_steps() -> None:
    story = Story()
    rolling = replace(app({"web": 1}), release=2, stable_release=1)
    story.world = replace(story.world, apps={"shop": rolling})
    story.tracing.called(story.tracing.begin("apply", "shop", None, 1_000), 1_010)
    assert story.take(60_000) == {}
    story.world = replace(story.world, apps={"shop": replace(rolling, stable_release=2)})
    assert list(story.take(60_001)) == ["apply shop"]


def test_a_call_that_is_refused_leaves_what_is_on_its_way() -> None:
    story = Story()
    first = story.tracing.begin("scale", "shop", None, 1_000)
    story.decide(1_050, 1)
    story.tracing.called(first, 1_060)
    story.tracing.called(story.tracing.begin("apply", "shop", None, 1_070), 1_080, "Refused")
    story.say(1_100, 1, u1=HEALTHY)
    spans = story.take(1_100 + SETTLED_MS)
    assert spans["apply shop"].error == "Refused"
    assert spans["start web.1"].parent_id == spans["scale shop"].span_id
    # One that is taken ends the one before.
    second = story.tracing.begin("scale", "shop", None, 9_000)
    story.tracing.called(second, 9_010)
    story.tracing.called(story.tracing.begin("apply", "shop", None, 9_020), 9_030)
    assert story.take(9_040)["scale shop"].error == "another change came"


def test_changes_are_bounded_and_sampled_and_a_caller_decides_for_itself() -> None:
    story = Story(share=0.0)
    for number in range(CHANGES_MAX + 5):
        token = story.tracing.begin("scale", f"app{number}", None, 1_000)
        story.tracing.called(token, 1_001)
    assert story.tracing.untraced == 5
    assert story.take(9_000) == {}
    for flags, traced in (("01", True), ("00", False)):
        parent = parent_of(TRACEPARENT[:-2] + flags)
        story.tracing.called(story.tracing.begin("scale", "shop", parent, 1_000), 1_001)
        assert bool(story.take(20_000)) is traced
    assert is_sampled("7" + "f" * 31, 0.5)
    assert not is_sampled("80" + "0" * 30, 0.5)


@pytest.mark.parametrize(
    "text",
    [
        "", "rubbish", TRACEPARENT.upper(), TRACEPARENT[:-1], TRACEPARENT + "\n",
        "01" + TRACEPARENT[2:], f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
    ],
)  # fmt: skip
def test_what_is_no_trace_context_is_none(text: str) -> None:
    assert parent_of(text) is None


def test_formctl_passes_on_what_it_is_called_in_and_no_rubbish() -> None:
    assert in_the_middle_of({"TRACEPARENT": TRACEPARENT}) == (("traceparent", TRACEPARENT),)
    assert in_the_middle_of({"TRACEPARENT": "x\r\nadmin: 1"}) == ()
    assert in_the_middle_of({}) == ()


def test_spans_are_said_as_otlp_has_it() -> None:
    span = Span(
        trace_id="t" * 32, span_id="s" * 16, parent_id="", name="scale shop", begin_ms=5,
        end_ms=3, attributes={"formation.app": "shop"}, error="no",
    )  # fmt: skip
    body = request([span, replace(span, parent_id="p" * 16, error="")], "c1", "1")
    resource = json.loads(json.dumps(body))["resourceSpans"][0]
    first, second = resource["scopeSpans"][0]["spans"]
    assert (first["startTimeUnixNano"], first["endTimeUnixNano"]) == ("5000000", "5000000")
    assert first["status"] == {"code": 2, "message": "no"}
    assert "parentSpanId" not in first
    assert second["parentSpanId"] == "p" * 16
    assert second["status"] == {"code": 1}
