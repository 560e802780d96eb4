"""What an artifact is, and which entries of one are unpacked. Pure: names, numbers and sentences.

docs/design/artifacts.md says why each rule is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

DIGEST = re.compile(r"[0-9a-f]{64}")
PART_BYTES = 256 * 1024
# Of a release whose code is an artifact, for agents that know of none: they shall not run anything
# somewhere else instead.
NO_WORKDIR = "/nonexistent/this-agent-is-too-old-for-deployed-code"

_CONTROL_END, _DELETE = 0x20, 0x7F


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An app's files as one tar.gz. `digest`: SHA-256 of its bytes."""

    digest: str
    size_bytes: int

    def __str__(self) -> str:
        return f"{self.digest[:12]} ({size_text(self.size_bytes)})"


def problem_with(artifact: Artifact) -> str:
    """Why it cannot be one; or ""."""
    if not DIGEST.fullmatch(artifact.digest):
        return f"bad digest {artifact.digest[:80]!r}: 64 hexadecimal digits"
    return "" if artifact.size_bytes > 0 else "an artifact without any bytes"


def size_text(size_bytes: float) -> str:
    """For people: 812 B, 3.4 MiB, 80 MiB."""
    value, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if value < 1024:  # noqa: PLR2004
            break
        value, unit = value / 1024, larger
    digits = 1 if unit != "B" and value < 10 else 0  # noqa: PLR2004
    return f"{value:.{digits}f} {unit}"


def done_text(done_bytes: int, of_bytes: int) -> str:
    """`34 of 80 MiB`: how far something has come, in the unit of the whole."""
    whole = size_text(of_bytes)
    unit = whole.rpartition(" ")[2]
    done = done_bytes / {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[unit]
    digits = 1 if "." in whole else 0
    return f"{done:.{digits}f} of {whole}"


# -- what is unpacked ------------------------------------------------------------------------------


class Kind(Enum):
    FILE = auto()
    DIRECTORY = auto()
    LINK = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of an archive as it says itself. `what`: for people, of OTHER."""

    name: str
    kind: Kind
    size_bytes: int = 0
    mode: int = 0o644
    target: str = ""
    what: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`ratio_max`: how much more the unpacked bytes may be than the archive's, beyond `floor_bytes`
    of them. `header_bytes_max`: of what says an entry's name and the like."""

    bytes_max: int = 2 << 30
    entries_max: int = 100_000
    ratio_max: int = 200
    floor_bytes: int = 64 << 20
    header_bytes_max: int = 1 << 20
    name_bytes_max: int = 1024
    component_bytes_max: int = 255
    target_bytes_max: int = 1024

    def bytes_allowed(self, archive_bytes: int) -> int:
        """What may come out of so many."""
        return min(self.bytes_max, max(self.floor_bytes, archive_bytes * self.ratio_max))


class UnsafeArchive(Exception):
    """It is not unpacked; one line that names the entry and what is wrong with it."""


class Admission:
    """Judges the entries of one archive in their order, each by all that came before it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kinds: dict[str, Kind] = {}
        # Directories that no entry names, but that something lies in.
        self._implied: set[str] = set()
        self._entries = 0

    def admit(self, entry: Entry) -> str:
        """The name below the directory that is unpacked to, "" for that itself. Raises
        `UnsafeArchive`."""
        self._entries += 1
        if self._entries > self._limits.entries_max:
            raise UnsafeArchive(f"more than {self._limits.entries_max} entries")
        parts = self._parts(entry)
        name = "/".join(parts)
        if wrong := self._wrong(entry, name) or self._misplaced(parts, entry.kind):
            raise UnsafeArchive(f"{_shown(entry.name)}: {wrong}")
        if name:
            self._kinds[name] = entry.kind
            self._implied.update("/".join(parts[:end]) for end in range(1, len(parts)))
        return name

    def _parts(self, entry: Entry) -> list[str]:
        limits, name = self._limits, entry.name
        raw = name.encode("utf-8", "surrogateescape") if _is_text(name) else b""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        checks = {
            "no name": not name,
            "a name that is no text": not raw and bool(name),
            "an absolute name": name.startswith("/"),
            ".. in its name": ".." in parts,
            "a control character in its name": any(map(_is_control, name)),
            f"a name over {limits.name_bytes_max} bytes": len(raw) > limits.name_bytes_max,
            f"a part of its name over {limits.component_bytes_max} bytes": any(
                len(part) > limits.component_bytes_max for part in raw.split(b"/")
            ),
        }
        for what, failed in checks.items():
            if failed:
                raise UnsafeArchive(f"{_shown(name)}: {what}")
        return parts

    def _wrong(self, entry: Entry, name: str) -> str:
        if entry.kind is Kind.OTHER:
            return f"a {entry.what or 'special file'}"
        if entry.kind is Kind.FILE and entry.mode & 0o6000:
            return "a set-user-id or set-group-id file"
        if not name and entry.kind is not Kind.DIRECTORY:
            return "in the place of the whole directory"
        if entry.kind is Kind.LINK:
            return self._wrong_target(name, entry.target)
        return ""

    def _wrong_target(self, name: str, target: str) -> str:
        """By its words; where it leads through other links is looked at when all are there."""
        too_long = not _is_text(target) or len(target) > self._limits.target_bytes_max
        if not target or too_long or any(map(_is_control, target)):
            return "a link to nothing that has a name"
        if target.startswith("/") or leads_out(name, target):
            return f"a link that leads out, to {_shown(target)}"
        return ""

    def _misplaced(self, parts: list[str], kind: Kind) -> str:
        name = "/".join(parts)
        before = self._kinds.get(name)
        if before is not None and not (before is kind is Kind.DIRECTORY):
            return "it is there twice"
        if name in self._implied and kind is not Kind.DIRECTORY:
            return "in the place of a directory"
        for end in range(1, len(parts)):
            above = "/".join(parts[:end])
            if self._kinds.get(above, Kind.DIRECTORY) is not Kind.DIRECTORY:
                return f"below {_shown(above)}, which is no directory"
        return ""


def leads_out(name: str, target: str) -> bool:
    """Does a link of this name go above the top on its way? By its words alone."""
    depth = name.count("/")
    for part in target.split("/"):
        if part == "..":
            depth -= 1
        elif part not in ("", "."):
            depth += 1
        if depth < 0:
            return True
    return False


def common_top(names: Iterable[str]) -> str:
    """The one directory that everything lies in, as in what forges hand out; or ""."""
    tops = {name.partition("/")[0] for name in names}
    return tops.pop() if len(tops) == 1 else ""


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _is_control(character: str) -> bool:
    return ord(character) < _CONTROL_END or ord(character) == _DELETE


def _shown(name: str) -> str:
    return ascii(name[:80])[1:-1] + ("…" if len(name) > 80 else "")  # noqa: PLR2004
