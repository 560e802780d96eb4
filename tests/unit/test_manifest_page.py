"""docs/manifest.md says all that formation.toml can say, and nothing that it cannot."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from formation import manifest
from formation.manifest_keys import DEFAULTS, FILE, PROBE_DEFAULTS, SCHEDULE_DEFAULTS, TYPE, tables
from formation.releasecommand import TIMEOUT_S

ROOT = Path(__file__).resolve().parents[2]


def examples(page: str) -> list[str]:
    return re.findall(r"```toml\n(.*?)```", page, re.DOTALL)


PAGE = (ROOT / "docs" / "manifest.md").read_text()
EXAMPLES = examples(PAGE)
ELSEWHERE = [
    *(path.read_text() for path in sorted(ROOT.glob("examples/*/formation.toml"))),
    *examples((ROOT / "README.md").read_text()),
    *(e for e in examples((ROOT / "docs" / "cli.md").read_text()) if "[types." in e),
    *(e for path in sorted(ROOT.glob("docs/migrate/*.md")) for e in examples(path.read_text())),
]
TABLES = tables(TYPE)
OF_FILE = tables(FILE)
KEYS = {
    *FILE.keys,
    *(f"{table}.{key}" for table, keys in OF_FILE.items() for key in keys.keys),
    *(key for key in TYPE.keys if key not in TABLES),
    *(f"{table}.{key}" for table, keys in TABLES.items() for key in keys.keys),
}


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/**/*.md")), ids=lambda page: page.name)
def test_every_key_of_a_table_that_a_page_names_exists(page: Path) -> None:
    """In code, as `stop.grace` is; `stop.grace = "10s"` too."""
    table = "|".join(sorted({**TABLES, **OF_FILE}))
    named = re.findall(rf"`((?:{table})\.[a-z]\w*)(?: = [^`]*)?`", page.read_text())
    assert set(named) - KEYS == set()


def in_tables() -> set[str]:
    """The keys in the first cells of the page's tables."""
    cells = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    return {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}


def in_examples() -> set[str]:
    found: set[str] = set()
    for text in EXAMPLES:
        table = tomllib.loads(text)
        found |= set(table)
        found |= {f"{name}.{key}" for name in OF_FILE for key in table.get(name, {})}
        for spec in table["types"].values():
            found |= set(spec) - set(TABLES)
            found |= {f"{name}.{key}" for name in TABLES for key in spec.get(name, {})}
    return found


def test_every_key_has_a_row_and_every_row_is_a_key() -> None:
    assert in_tables() == KEYS


def test_every_key_stands_in_an_example() -> None:
    assert in_examples() == KEYS


def test_examples_stand_elsewhere_too() -> None:
    assert len(ELSEWHERE) >= 3


@pytest.mark.parametrize("text", [*EXAMPLES, *ELSEWHERE])
def test_every_example_is_read(text: str) -> None:
    assert manifest.parse(text).types


@pytest.mark.parametrize(
    ("key", "default"),
    [
        ("ready.after", DEFAULTS.ready_after_s),
        ("ready.every", PROBE_DEFAULTS.period_s),
        ("ready.timeout", PROBE_DEFAULTS.timeout_s),
        ("ready.failures", PROBE_DEFAULTS.failures),
        ("ready.successes", PROBE_DEFAULTS.successes),
        ("ready.grace", DEFAULTS.start_grace_s),
        ("stop.grace", DEFAULTS.stop_grace_s),
        ("stop.drain", DEFAULTS.stop_drain_s),
        ("nice", DEFAULTS.nice),
        ("release.timeout", TIMEOUT_S),
        ("rollout.healthy", DEFAULTS.rollout.healthy_s),
        ("schedule.keep", SCHEDULE_DEFAULTS.keep),
    ],
)
def test_a_number_that_is_given_as_the_default_is_the_default(key: str, default: float) -> None:
    row = re.search(rf"^\| `{re.escape(key)}` \| ([0-9.]+)", PAGE, re.MULTILINE)
    assert row is not None
    assert float(row[1]) == default


def test_the_words_that_are_given_as_defaults_are_the_defaults() -> None:
    spec, nightly = DEFAULTS, SCHEDULE_DEFAULTS
    for key, default in (
        ("restart", spec.restart.value),
        ("stop.signal", spec.stop_signal),
        ("stop.to", spec.stop_to.value),
        ("placement.spread", spec.where.spread[0]),
        ("schedule.zone", nightly.zone),
        ("schedule.overlap", nightly.overlap.value),
        ("schedule.missed", nightly.missed.value),
        ("on_host_loss.action", spec.on_host_loss.action.value),
        ("on_host_loss.keep", spec.on_host_loss.keep.value),
    ):
        assert f'| `{key}` | `"{default}"` |' in PAGE
