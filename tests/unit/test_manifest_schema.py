"""The JSON Schema of formation.toml: it knows the reader's keys, takes all that the reader takes,
and refuses what a schema can refuse."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from formation import manifest, manifest_rules, manifest_schema, manifest_type

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = manifest_schema.schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
PAGES = [ROOT / "docs" / "manifest.md", ROOT / "docs" / "cli.md", ROOT / "README.md"]
EXAMPLES = [
    *(
        text
        for page in PAGES
        for text in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
        if "[types." in text
    ),
    *(path.read_text() for path in sorted(ROOT.glob("examples/*/formation.toml"))),
]
TABLES = {
    "ready": manifest_type.READY_KEYS,
    "live": manifest_type.LIVE_KEYS,
    "stop": manifest_type.STOP_KEYS,
    "limits": manifest_type.LIMIT_KEYS,
    "resources": manifest_rules.RESOURCE_KEYS,
    "placement": manifest_rules.PLACEMENT_KEYS,
    "rollout": manifest_rules.ROLLOUT_KEYS,
    "schedule": manifest_rules.SCHEDULE_KEYS,
    "on_host_loss": manifest_rules.LOSS_KEYS,
}
BAD = [
    "[types.web]\n",
    "[types.web]\ncommand = ' '\n",
    "[types.'a b']\ncommand = 'x'\n",
    "app = 'Shop'\n[types.web]\ncommand = 'x'\n",
    "workdir = 'srv'\n[types.web]\ncommand = 'x'\n",
    "typs = 1\n[types.web]\ncommand = 'x'\n",
    *(
        f"[types.web]\ncommand = 'x'\n{line}\n"
        for line in (
            "quantity = -1",
            "quantity = 1.5",
            "restart = 'sometimes'",
            "port = 70000",
            "exclusive = false",
            "umask = '999'",
            "requires = ['gpu']",
            "ready.every = '5 minutes'",
            "ready.http = 'health'",
            "ready.evry = 1",
            "stop.to = 'all'",
            "limits.memory = '5mb'",
            "limits.cpus = 0",
            "placement.max_per_host = 0",
            "placement.spread = 'a b'",
            "rollout.surge = '25'",
            "rollout.rollback = 'no'",
            "schedule.zone = 'UTC'",
            "schedule.cron = '* * *'",
            "schedule.cron = '* * * * *'\nschedule.keep = 0",
            "on_host_loss.keep = 'newest'",
            "env.A = 1",
        )
    ),
]


def type_schema() -> dict[str, Any]:
    found: dict[str, Any] = SCHEMA["properties"]["types"]["additionalProperties"]
    return found


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_it_knows_the_readers_keys_and_no_others() -> None:
    assert list(SCHEMA["properties"]) == list(manifest.FILE_KEYS)
    properties = type_schema()["properties"]
    assert set(properties) == set(manifest_type.TYPE_KEYS)
    for name, keys in TABLES.items():
        assert set(properties[name]["properties"]) == set(keys), name


@pytest.mark.parametrize("text", EXAMPLES)
def test_what_the_pages_show_is_valid(text: str) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(tomllib.loads(text))] == []


@pytest.mark.parametrize("text", BAD)
def test_what_a_schema_can_refuse_is_refused_by_both(text: str) -> None:
    assert not VALIDATOR.is_valid(tomllib.loads(text))
    with pytest.raises(manifest.ManifestError):
        manifest.parse(text)


def test_the_published_one_is_up_to_date_and_says_what_each_key_means() -> None:
    spec = importlib.util.spec_from_file_location("genschema", ROOT / "tools" / "genschema.py")
    assert spec is not None
    assert spec.loader is not None
    genschema = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(genschema)
    published = (ROOT / "docs" / "formation.schema.json").read_text()
    assert published == genschema.generated()
    found = json.loads(published)["properties"]["types"]["additionalProperties"]["properties"]
    silent = [
        f"{name}.{key}"
        for name in TABLES
        for key, value in found[name]["properties"].items()
        if not value.get("description")
    ]
    assert silent == []
