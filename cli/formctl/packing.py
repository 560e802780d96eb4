"""A directory as an artifact: a tar.gz whose bytes depend on nothing but its files.

Sorted, without times and owners, modes 0644 and 0755. Reads files, writes one.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from formation.artifacts import Artifact, leads_out
from formctl.errors import InputError
from formctl.packrules import FORMATIONIGNORE, GITIGNORE, Contents, Ignores, Item, ordered

_READ_BYTES = 1 << 20
_LEVEL = 6


def contents_of(directory: Path, *, use_gitignore: bool = True) -> Contents:
    """What would be packed of it. Raises `InputError`."""
    top = Path(os.path.realpath(directory))
    above = _above(top) if use_gitignore else ""
    ignores = _ignores_above(top, above) if use_gitignore else Ignores()
    walk = _Walk(top, above, use_gitignore=use_gitignore)
    try:
        walk.enter("", ignores)
    except OSError as error:
        raise InputError(f"{error.filename}: {(error.strerror or str(error)).lower()}") from None
    if not any(not item.is_directory for item in walk.items):
        raise InputError(f"{directory}: there is no file in it to deploy")
    return Contents(items=ordered(walk.items), left_out=walk.left_out, notes=tuple(walk.notes))


def pack(directory: Path, contents: Contents, archive: IO[bytes]) -> Artifact:
    """Into the file, from its beginning. Raises `InputError`."""
    top = Path(os.path.realpath(directory))
    out = _Summed(archive)
    try:
        with (
            gzip.GzipFile(
                filename="", mode="wb", compresslevel=_LEVEL, fileobj=out, mtime=0
            ) as zipped,
            tarfile.open(fileobj=zipped, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            for item in contents.items:
                _add(tar, top, item)
    except OSError as error:
        where = error.filename or directory
        raise InputError(f"{where}: {(error.strerror or str(error)).lower()}") from None
    archive.flush()
    return Artifact(digest=out.summed.hexdigest(), size_bytes=out.size)


class _Summed(io.RawIOBase):
    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.summed, self.size = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        self._file.write(view)
        self.summed.update(view)
        self.size += view.nbytes
        return view.nbytes


def _add(tar: tarfile.TarFile, top: Path, item: Item) -> None:
    info = tarfile.TarInfo(item.name)
    info.mode = 0o755 if item.is_program or item.is_directory else 0o644
    if item.target is not None:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, item.target, 0o777
        tar.addfile(info)
    elif item.is_directory:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    else:
        info.size = item.size_bytes
        with (top / item.name).open("rb") as file:
            if os.fstat(file.fileno()).st_size != item.size_bytes:
                raise InputError(f"{item.name} changed while it was packed; try again")
            tar.addfile(info, file)


class _Walk:
    def __init__(self, top: Path, above: str, *, use_gitignore: bool) -> None:
        self._top, self._above, self._use_gitignore = top, above, use_gitignore
        self.items: list[Item] = []
        self.notes: list[str] = []
        self.left_out = 0

    def enter(self, name: str, ignores: Ignores) -> int:
        """`name` below the top, "" is that itself; gives how many entries there are."""
        here = self._top / name
        below = f"{self._above}{name}/" if name else self._above
        if self._use_gitignore:
            ignores = _with(ignores, here / GITIGNORE, below, ours=False)
        ignores = _with(ignores, here / FORMATIONIGNORE, below, ours=True)
        seen = 0
        for entry in _entries(here):
            seen += 1
            inner = f"{name}/{entry.name}" if name else entry.name
            is_directory = entry.is_dir(follow_symlinks=False)
            if ignores.leaves_out(f"{self._above}{inner}", is_directory=is_directory):
                self.left_out += 1
            elif is_directory:
                if not self.enter(inner, ignores):
                    self.items.append(Item(name=inner, is_directory=True))
            else:
                self._take(entry, inner)
        return seen

    def _take(self, entry: os.DirEntry[str], name: str) -> None:
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            self._take_link(name, os.readlink(entry.path))
        elif not stat.S_ISREG(found.st_mode):
            self.notes.append(f"{name} is no file: left out")
            self.left_out += 1
        else:
            program = bool(found.st_mode & 0o100)
            self.items.append(Item(name=name, size_bytes=found.st_size, is_program=program))

    def _take_link(self, name: str, target: str) -> None:
        end = os.path.realpath(self._top / name)
        inside = end == str(self._top) or end.startswith(f"{self._top}/")
        if target.startswith("/") or leads_out(name, target) or not inside:
            self.notes.append(f"{name} is a link that leads out of here, to {target}: left out")
            self.left_out += 1
        else:
            self.items.append(Item(name=name, target=target))


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(directory) as found:
        yield from sorted(found, key=lambda entry: entry.name)


def _with(ignores: Ignores, path: Path, below: str, *, ours: bool) -> Ignores:
    try:
        lines = path.read_text("utf-8", "surrogateescape").splitlines()
    except (FileNotFoundError, IsADirectoryError):
        return ignores
    add = ignores.with_ours if ours else ignores.with_git
    return add(below, lines)


def _above(top: Path) -> str:
    """How git calls this directory in its repository, with a / at the end; "" for its top, or
    without one."""
    for directory in (top, *top.parents):
        if (directory / ".git").exists():
            inner = str(top.relative_to(directory))
            return "" if inner == "." else f"{inner}/"
    return ""


def _ignores_above(top: Path, above: str) -> Ignores:
    """Those of the repository's directories above this one."""
    ignores, below = Ignores(), ""
    repository = top.parents[above.count("/") - 1] if above else top
    for part in above.split("/")[:-1]:
        ignores = _with(ignores, repository / below / GITIGNORE, below, ours=False)
        below += f"{part}/"
    return ignores
