"""zip files as nobody of ours makes them."""

from __future__ import annotations

import io
import stat
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

UNIX, DOS = 3, 0


@dataclass(frozen=True, slots=True)
class Item:
    name: str
    data: bytes = b""
    mode: int = stat.S_IFREG | 0o644
    system: int = UNIX
    method: int = zipfile.ZIP_DEFLATED


def zip_link(name: str, target: str) -> Item:
    return Item(name, target.encode(), stat.S_IFLNK | 0o777)


def zip_bytes(items: Iterable[Item]) -> bytes:
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w") as file:
        warnings.simplefilter("ignore")  # a name twice
        for item in items:
            info = zipfile.ZipInfo("x")
            info.filename = info.orig_filename = item.name
            info.create_system, info.compress_type = item.system, item.method
            info.external_attr = item.mode << 16
            file.writestr(info, item.data)
    return made.getvalue()


def zipped(path: Path, items: Iterable[Item]) -> Path:
    path.write_bytes(zip_bytes(items))
    return path
