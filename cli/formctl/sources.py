"""What `formctl deploy` was told to deploy, as a directory: this one, or a temporary one with what
a git ref, a tar.gz, a zip or an https address holds.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from formation.artifacts import UnsafeArchive, common_top, size_text
from formation.unpacking import unpack
from formctl.errors import CommandError, InputError
from formctl.unzipping import unzip

_ZIP = ".zip"
_ARCHIVES = (".tar.gz", ".tgz", _ZIP)
DOWNLOAD_BYTES_MAX = 2 << 30
_TIMEOUT_S = 30.0
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """`note`: what it was taken for, for people; "" for a directory. `app`: the name of what has no
    directory of its own. `fresh`: made here, of files that somebody has chosen already."""

    directory: Path
    note: str = ""
    app: str = ""
    fresh: bool = False


@contextmanager
def opened(word: str, ref: str | None) -> Iterator[Source]:
    """`ref`: of the repository that `word`, a directory, is in. Raises `InputError`."""
    if ref is not None:
        if not os.path.isdir(word):
            raise InputError(f"--ref {ref}: {word} is no directory of a git repository")
        with _of_ref(word, ref) as source:
            yield source
    elif os.path.isdir(word):
        yield Source(directory=Path(word))
    elif word.startswith("https://"):
        with _of_address(word) as source:
            yield source
    elif os.path.isfile(word):
        with _of_archive(Path(word), word) as source:
            yield source
    else:
        with _of_word(word) as source:
            yield source


@contextmanager
def _of_word(word: str) -> Iterator[Source]:
    if "://" in word:
        raise InputError(f"{word}: https:// only: whoever is in between could change the code")
    if not _commit(".", word):
        raise InputError(f"{word}: no such directory or file, and no git ref of this repository")
    with _of_ref(".", word) as source:
        yield source


def _commit(directory: str, ref: str) -> str:
    """Its short hash; "" when there is none of that name."""
    if ref.startswith("-"):
        return ""
    done = _git(directory, "rev-parse", "--verify", "--quiet", "--short", f"{ref}^{{commit}}")
    return done.stdout.decode().strip() if done.returncode == 0 else ""


def _git(directory: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", directory, *words], capture_output=True, check=False)
    except FileNotFoundError:
        raise InputError(
            "git is not installed here; deploy a directory, a tar.gz or a zip"
        ) from None


@contextmanager
def _of_ref(directory: str, ref: str) -> Iterator[Source]:
    commit = _commit(directory, ref)
    if not commit:
        raise InputError(f"{ref}: no git ref of the repository at {os.path.abspath(directory)}")
    with tempfile.TemporaryDirectory(prefix="formctl-") as room:
        archive = Path(room) / "ref.tar.gz"
        done = _git(directory, "archive", "--format=tar.gz", f"--output={archive}", commit)
        if done.returncode != 0:
            raise InputError(f"git archive {ref}: {done.stderr.decode(errors='replace').strip()}")
        yield Source(
            directory=_unpacked(unpack, archive, room, ref),
            note=f"git ref {ref}, commit {commit}",
            app=os.path.basename(os.path.abspath(directory)),
            fresh=True,
        )


@contextmanager
def _of_archive(path: Path, name: str, note: str = "") -> Iterator[Source]:
    if not name.endswith(_ARCHIVES):
        raise InputError(f"{name}: no directory, and no {' or '.join(_ARCHIVES)}")
    with tempfile.TemporaryDirectory(prefix="formctl-") as room:
        how = unzip if name.endswith(_ZIP) else unpack
        directory = _unpacked(how, path, room, name)
        top = common_top(os.listdir(directory))
        # As forges make them: everything in one directory.
        inner = directory / top if top and (directory / top).is_dir() else directory
        stem = os.path.basename(name)
        for suffix in _ARCHIVES:
            stem = stem.removesuffix(suffix)
        yield Source(directory=inner, note=note, app=stem, fresh=True)


def _unpacked(how: Callable[[Path, Path], object], archive: Path, room: str, name: str) -> Path:
    directory = Path(room) / "files"
    try:
        how(archive, directory)
    except UnsafeArchive as error:
        raise InputError(f"{name}: {error}") from None
    except OSError as error:
        raise InputError(f"{name}: {(error.strerror or str(error)).lower()}") from None
    return directory


@contextmanager
def _of_address(address: str) -> Iterator[Source]:
    with tempfile.NamedTemporaryFile(prefix="formctl-") as file:
        try:
            _download(address, Path(file.name))
        except (urllib.error.URLError, ssl.SSLError, TimeoutError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise CommandError(f"{address}: {reason}") from None
        name = os.path.basename(urlsplit(address).path)
        with _of_archive(Path(file.name), name, note=address) as source:
            yield source


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if not newurl.startswith("https://"):
            raise InputError(f"{req.full_url} leads to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(address: str, path: Path) -> None:
    opener = urllib.request.build_opener(_NoDowngrade)
    with opener.open(address, timeout=_TIMEOUT_S) as answer, path.open("wb") as file:
        size = 0
        while data := answer.read(_COPY_BYTES):
            size += len(data)
            if size > DOWNLOAD_BYTES_MAX:
                raise InputError(f"{address}: more than {size_text(DOWNLOAD_BYTES_MAX)}")
            file.write(data)
