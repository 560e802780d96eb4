"""What goes into an artifact of a directory, and what is said of it. Pure but for pathspec, which
knows the patterns of .gitignore.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pathspec

from formation.artifacts import done_text, size_text

GITIGNORE, FORMATIONIGNORE = ".gitignore", ".formationignore"
# Never of use on a host, or secret.
_NEVER = frozenset({".git", ".hg", ".svn", ".venv", "__pycache__", ".env", ".DS_Store"})
_NEVER_SUFFIXES = (".pyc",)
_ENV_PREFIX = ".env."
_ENV_SAMPLES = frozenset({".env.example", ".env.sample", ".env.template", ".env.dist"})
_LARGEST = 5
_BAR_WIDTH = 24


@dataclass(frozen=True, slots=True)
class _Patterns:
    """Of one file; `below`: the directory that it lies in, with a / at its end, or ""."""

    below: str
    spec: pathspec.GitIgnoreSpec


@dataclass(frozen=True, slots=True)
class Ignores:
    """Of the files above and in one directory. What a nearer one says wins, and of all what
    .formationignore says: it can take in again what .gitignore leaves out."""

    of_git: tuple[_Patterns, ...] = ()
    of_us: tuple[_Patterns, ...] = ()

    def with_git(self, below: str, lines: Iterable[str]) -> Ignores:
        made = _Patterns(below, pathspec.GitIgnoreSpec.from_lines(lines))
        return Ignores((*self.of_git, made), self.of_us)

    def with_ours(self, below: str, lines: Iterable[str]) -> Ignores:
        made = _Patterns(below, pathspec.GitIgnoreSpec.from_lines(lines))
        return Ignores(self.of_git, (*self.of_us, made))

    def leaves_out(self, path: str, *, is_directory: bool) -> bool:
        """`path`: as the files' directories are named, from the same top."""
        if is_never_packed(path.rpartition("/")[2]):
            return True
        said = False
        for patterns in (*self.of_git, *self.of_us):
            if path.startswith(patterns.below):
                named = path[len(patterns.below) :] + ("/" if is_directory else "")
                verdict = patterns.spec.check_file(named).include
                said = said if verdict is None else verdict
        return said


def is_never_packed(name: str) -> bool:
    secret = name.startswith(_ENV_PREFIX) and name not in _ENV_SAMPLES
    return name in _NEVER or name.endswith(_NEVER_SUFFIXES) or secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """`target` of a link; a directory is named when nothing is in it."""

    name: str
    size_bytes: int = 0
    is_program: bool = False
    target: str | None = None
    is_directory: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """In the order of the archive. `notes`: what a person should see."""

    items: tuple[Item, ...]
    left_out: int = 0
    notes: tuple[str, ...] = field(default=())

    @property
    def files(self) -> int:
        return sum(not item.is_directory for item in self.items)

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes for item in self.items)

    @property
    def size_text(self) -> str:
        return size_text(self.size_bytes)


def described(contents: Contents, digest: str, packed_bytes: int) -> list[str]:
    """For `--dry-run`."""
    largest = sorted(contents.items, key=lambda item: (-item.size_bytes, item.name))[:_LARGEST]
    width = max((len(size_text(item.size_bytes)) for item in largest), default=0)
    return [
        (
            f"code: {digest[:12]}, {counted(contents.files)} of {contents.size_text}, "
            f"{size_text(packed_bytes)} packed; {contents.left_out} left out"
        ),
        "largest:",
        *(f"  {size_text(item.size_bytes):>{width}}  {item.name}" for item in largest),
    ]


def counted(files: int) -> str:
    return f"{files} file{'' if files == 1 else 's'}"


def bar(done_bytes: int, of_bytes: int, rate: float) -> str:
    """One line on its way. `rate`: bytes a second, 0 when it is not known yet."""
    filled = _BAR_WIDTH * done_bytes // max(1, of_bytes)
    drawn = "#" * filled + "." * (_BAR_WIDTH - filled)
    speed = f", {size_text(rate)}/s" if rate else ""
    return f"uploading [{drawn}] {done_text(done_bytes, of_bytes)}{speed}"


def ordered(items: Sequence[Item]) -> tuple[Item, ...]:
    return tuple(sorted(items, key=lambda item: item.name.encode("utf-8", "surrogateescape")))
