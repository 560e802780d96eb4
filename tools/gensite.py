"""Build the documentation site: docs/ as it lies there, strictly, into dist/site.

Pages link to each other, and to files elsewhere in the repository, as a repository's browser wants
it. For the site, what lies outside docs/ and is linked to becomes a page below files/ (a text as it
is, a directory as a list of what is in it), and links are put right; every other link must lead
somewhere, or nothing is built.
"""

from __future__ import annotations

import argparse
import posixpath
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
PAGES, SITE = ROOT / "dist" / "pages", ROOT / "dist" / "site"
_DOCS, _FILES = "docs", "files"
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|#|//")
# A bar in a cell of a table: escaped for GitHub, also in code, where the site wants it bare.
_ROW, _CODE = re.compile(r"^\|.*$", re.MULTILINE), re.compile(r"`[^`]+`")
_LANGUAGES = {".json": "json", ".js": "js", ".java": "java", ".php": "php", ".proto": "protobuf",
              ".py": "python", ".rb": "ruby", ".sh": "sh", ".toml": "toml", ".service": "ini",
              ".yml": "yaml"}  # fmt: skip
_FENCE = "`" * 5
_HIDDEN = re.compile(r"/(\.[^/]+|__pycache__|vendor|node_modules)(/|$)")
# What a browser would fetch by itself from somebody else.
_FETCHED = re.compile(
    r"<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)=\"?(https?:)?//[^>]*>"
)


def pages(root: Path) -> dict[str, str]:
    """What the site is made of, by path: docs/'s own pages, and what they lead to."""
    found: dict[str, str] = {}
    waiting = sorted(str(p.relative_to(root)) for p in (root / _DOCS).rglob("*.md"))
    while waiting:
        path = waiting.pop()
        if place(path) in found:
            continue
        text = text_of(root, path)
        found[place(path)] = relinked(unescaped(text), path)
        waiting += [target for target in targets(text, path) if not target.startswith(f"{_DOCS}/")]
    return found


def place(path: str) -> str:
    """Where a file of the repository is in the site, from the site's own root."""
    if path.startswith(f"{_DOCS}/"):
        return path.removeprefix(f"{_DOCS}/")
    named = path if path.endswith(".md") else f"{path}.md"
    return f"{_FILES}/{named}"


def targets(text: str, path: str) -> Iterator[str]:
    """What a page links to within the repository, from the repository's root."""
    for link in _LINK.findall(text):
        if not _ELSEWHERE.match(link):
            yield resolved(link, path)


def relinked(text: str, path: str) -> str:
    """The same text, with links as they have to be in the site."""

    def put_right(found: re.Match[str]) -> str:
        link = found[1]
        if _ELSEWHERE.match(link):
            return found[0]
        _, mark, anchor = link.partition("#")
        there = place(resolved(link, path))
        return f"]({posixpath.relpath(there, posixpath.dirname(place(path)))}{mark}{anchor})"

    return _LINK.sub(put_right, text)


def unescaped(text: str) -> str:
    def of_row(row: re.Match[str]) -> str:
        return _CODE.sub(lambda code: code[0].replace(r"\|", "|"), row[0])

    return _ROW.sub(of_row, text)


def resolved(link: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link.partition("#")[0]))


def text_of(root: Path, path: str) -> str:
    """A page as it is; another file, or a directory with its files, as a page."""
    there = root / path
    if not there.exists():
        sys.exit(f"gensite: a page links to {path}, which is not there")
    if there.suffix == ".md":
        return there.read_text()
    if there.is_dir():
        inside = sorted(str(p.relative_to(there)) for p in there.rglob("*") if p.is_file())
        names = [name for name in inside if not _HIDDEN.search(f"/{name}")]
        shown = [f"## {name}\n\n{fenced((there / name).read_text(), name)}" for name in names]
        return "\n".join([f"# {path}\n", *shown])
    return f"# {path}\n\n{fenced(there.read_text(), path)}"


def fenced(text: str, name: str) -> str:
    language = _LANGUAGES.get(PurePosixPath(name).suffix, "text")
    return f"{_FENCE}{language}\n{text.rstrip()}\n{_FENCE}\n"


def write(found: Mapping[str, str], root: Path) -> None:
    """Also what pages show or offer: pictures, the schema."""
    shutil.rmtree(PAGES, ignore_errors=True)
    for path, text in found.items():
        target = PAGES / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    for source in (root / _DOCS).rglob("*"):
        if source.is_file() and source.suffix != ".md":
            target = PAGES / source.relative_to(root / _DOCS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def fetched_from_elsewhere(site: Path) -> Iterator[str]:
    for page in site.rglob("*.html"):
        for tag in _FETCHED.finditer(page.read_text()):
            if 'rel="canonical"' not in tag[0]:
                yield f"{page.relative_to(site)}: {tag[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quiet", action="store_true", help="say something only when it is wrong")
    quiet: bool = parser.parse_args().quiet
    write(pages(ROOT), ROOT)
    words = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "--clean"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        sys.exit(f"{said.partition('Traceback')[0].rstrip()}\ngensite: not built")
    if strange := sorted(fetched_from_elsewhere(SITE)):
        sys.exit("\n".join([*strange, "gensite: it would fetch these, and nobody may be online"]))
    if not quiet:
        print(f"{SITE / 'index.html'}: {len(list(SITE.rglob('*.html')))} pages")
        print("with search: python3 -m http.server --bind 127.0.0.1 --directory dist/site")


if __name__ == "__main__":
    main()
