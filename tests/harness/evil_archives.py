"""tar.gz files as nobody of ours makes them."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path


def member(
    name: str,
    data: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o644,
    target: str = "",
    size: int | None = None,
) -> tuple[tarfile.TarInfo, bytes]:
    """`size`: what the header says, whatever there is."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname = kind, mode, target
    info.size = len(data) if size is None else size
    return info, data


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind=tarfile.SYMTYPE, target=target)


def directory(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind=tarfile.DIRTYPE, mode=mode)


def archive(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    plain = io.BytesIO()
    for info, data in members:
        plain.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        plain.write(data)
        plain.write(b"\0" * (-len(data) % tarfile.BLOCKSIZE))
    plain.write(b"\0" * (2 * tarfile.BLOCKSIZE))
    return gzip.compress(plain.getvalue(), mtime=0)


def written(path: Path, members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> Path:
    path.write_bytes(archive(members))
    return path


def tree(top: Path) -> dict[str, str]:
    """Everything below, with what it is."""
    found = {}
    for path in sorted(top.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(top))] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[str(path.relative_to(top))] = "/"
        else:
            found[str(path.relative_to(top))] = path.read_bytes().decode("latin-1")
    return found
