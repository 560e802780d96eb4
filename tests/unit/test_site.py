"""The documentation as a site: links are put right, every page has one place, promises are true."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def gensite() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gensite", ROOT / "tools" / "gensite.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("path", "given", "made"),
    [
        ("docs/a.md", "[b](b.md)", "[b](b.md)"),
        ("docs/a.md", "[b](design/b.md#c)", "[b](design/b.md#c)"),
        ("docs/design/a.md", "[b](../b.md)", "[b](../b.md)"),
        ("docs/a.md", "[b](#c) [d](https://e.org/f.md)", "[b](#c) [d](https://e.org/f.md)"),
        ("docs/a.md", "![b](screenshots/b.png)", "![b](screenshots/b.png)"),
        ("docs/a.md", "[s](../SECURITY.md#x)", "[s](files/SECURITY.md#x)"),
        ("docs/design/a.md", "[s](../../SECURITY.md)", "[s](../files/SECURITY.md)"),
        ("docs/a.md", "[u](../deploy/a.service)", "[u](files/deploy/a.service.md)"),
        ("docs/a.md", "[e](../examples/hello)", "[e](files/examples/hello.md)"),
        ("README.md", "[a](docs/a.md)", "[a](../a.md)"),
        ("README.md", "[![p](docs/p.png)](docs/a.md)", "[![p](../p.png)](../a.md)"),
        ("examples/README.md", "[s](../SECURITY.md)", "[s](../SECURITY.md)"),
    ],
)
def test_links_lead_to_the_same_in_the_site(
    gensite: ModuleType, path: str, given: str, made: str
) -> None:
    assert gensite.relinked(given, path) == made


def test_bars_in_code_of_tables_are_bare_and_elsewhere_as_they_were(gensite: ModuleType) -> None:
    given = "| `a\\|b` | c\\|d |\n\n`e\\|f`\n"
    assert gensite.unescaped(given) == "| `a|b` | c\\|d |\n\n`e\\|f`\n"


def test_what_is_linked_to_outside_of_docs_becomes_a_page(
    gensite: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("[e](../app) [l](../LICENCE) [r](../README.md)\n")
    (tmp_path / "app" / "lib").mkdir(parents=True)
    (tmp_path / "app" / "Procfile").write_text("web: ./web\n")
    (tmp_path / "app" / "lib" / "x.py").write_text("pass\n")
    (tmp_path / "app" / ".env").write_text("SECRET=1\n")
    (tmp_path / "LICENCE").write_text("do as you like\n")
    (tmp_path / "README.md").write_text("[a](docs/a.md)\n")
    found = gensite.pages(tmp_path)
    assert found.keys() == {"a.md", "files/app.md", "files/LICENCE.md", "files/README.md"}
    assert "## Procfile\n\n`````text\nweb: ./web\n`````" in found["files/app.md"]
    assert "## lib/x.py\n\n`````python" in found["files/app.md"]
    assert "SECRET" not in found["files/app.md"]
    assert found["files/README.md"] == "[a](../a.md)\n"
    (tmp_path / "README.md").unlink()
    with pytest.raises(SystemExit, match=r"links to README\.md, which is not there"):
        gensite.pages(tmp_path)


@pytest.mark.parametrize(
    ("tag", "is_strange"),
    [
        ('<script src="https://cdn.example/x.js">', True),
        ("<link rel=stylesheet href=//fonts.example/a.css>", True),
        ('<img alt=x src="http://example.org/x.png">', True),
        ('<script src="assets/x.js">', False),
        ('<a href="https://example.org/">', False),
        ('<link rel="canonical" href="https://example.org/a.html">', False),
    ],
)
def test_what_a_browser_would_fetch_from_somebody_else_is_found(
    gensite: ModuleType, tmp_path: Path, tag: str, is_strange: bool
) -> None:
    (tmp_path / "a.html").write_text(f"<p>{tag}</p>")
    assert bool(list(gensite.fetched_from_elsewhere(tmp_path))) == is_strange


def places(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from places(item)


def test_every_page_has_one_place_in_the_sites_navigation() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    docs = ROOT / "docs"
    pages = sorted(str(page.relative_to(docs)) for page in docs.rglob("*.md"))
    assert sorted(place for place in places(nav) if place.endswith(".md")) == pages


def test_every_test_that_the_promises_name_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "promises.md").read_text()))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", path.read_text())
    }
    assert len(named) > 15
    assert named - defined == set()
