"""What the page says of its API is what it answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hollow_agent import HollowAgent
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from page_site import Site, apply, page_site

from formation_coordinator.web.calls import CHANGING, FOLLOWING, READING

STATIC = files("formation_coordinator.web") / "static"
DOCUMENT: dict[str, Any] = json.loads((STATIC / "openapi.json").read_text())
QUERIES = {
    "ListReleases": {"app": "shop"},
    "ListRuns": {"app": "shop"},
    "ListSecrets": {"app": "shop"},
    "Explain": {"app": "shop", "type": "web", "ordinal": "1"},
    "Plan": {"drain_host": "a"},
}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with page_site(tmp_path) as made, HollowAgent(made.running.address, "a") as agent:
        await apply(made.running)
        await agent.wait_for(lambda: bool(agent.running))
        yield made


def check(answer: object, name: str, path: str) -> None:
    method = DOCUMENT["paths"][path][name]
    content = next(iter(method["responses"]["200"]["content"].values()))
    schema = {**content["schema"], "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(answer)


def test_it_is_an_openapi_document_of_all_that_can_be_asked() -> None:
    validate(DOCUMENT)
    called = {f"/api/{name}" for name in READING | CHANGING}
    assert set(DOCUMENT["paths"]) == called | {f"/events/{name}" for name in FOLLOWING}


@pytest.mark.parametrize("name", sorted(READING))
async def test_what_is_read_is_what_it_says(site: Site, name: str) -> None:
    query = QUERIES.get(name, {})
    asked = "&".join(f"{key}={value}" for key, value in query.items())
    status, answer = await site.get(f"/api/{name}?{asked}")
    assert status == 200, answer
    assert answer or name in ("ListRuns", "ListSecrets", "Usage", "ListAutoscale", "ListWebhooks")
    check(answer, "get", f"/api/{name}")
    status, answer = await site.post(f"/api/{name}", query)
    assert status == 200
    check(answer, "post", f"/api/{name}")


async def test_a_change_is_what_it_says(site: Site) -> None:
    body = {"app": "shop", "changes": [{"type": "web", "kind": "KIND_SET", "quantity": 3}]}
    status, answer = await site.post("/api/Scale", body)
    assert (status, answer["after"]) == (200, {"web": 3})
    check(answer, "post", "/api/Scale")


@pytest.mark.parametrize("name", sorted(CHANGING))
async def test_no_get_changes_anything(site: Site, name: str) -> None:
    status, answer = await site.get(f"/api/{name}?app=shop")
    assert (status, answer["error"]) == (405, f"{name!r} is not read by GET")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/ListReleases?app=shop&x=1", "ListReleases has no 'x' that fits into a query"),
        ("/api/Plan?scale=1", "Plan has no 'scale' that fits into a query"),
        ("/api/Explain?app=shop&type=web&ordinal=x", "Failed to parse ordinal field"),
        ("/api/Usage?relayed=maybe", "relayed: 'maybe' is neither true nor false"),
        ("/events/WatchEvents?follow=1", "follow: '1' is neither true nor false"),
    ],
)
async def test_a_query_that_is_none_is_refused(site: Site, path: str, said: str) -> None:
    status, answer = await site.get(path)
    assert status == 400
    assert said in answer["error"]


async def test_both_forms_are_served(site: Site) -> None:
    for name in ("api.html", "openapi.json"):
        async with site.http.get(site.url + name) as response:
            assert response.status == 200
            assert await response.text() == (STATIC / name).read_text()
