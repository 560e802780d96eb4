"""The desired state of a whole cluster ⇄ the bytes of a file. Pure.

One line that says what it is, then a gzip of records in order of their keys, then the SHA-256 of
all before. A file holds what people and the leader have decided, never who is connected; values
are as they were in etcd, so what only a newer version knows of them is kept. It holds secrets.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from formation.model import Cluster
from formation.wire import WireError
from formation_coordinator.store import codec, keys
from formation_coordinator.store.base import KeyValue

MAGIC = b"formation-backup 1\n"
# What is decided; `rebalance` is a wish of the moment, and the audit trail is history.
KINDS = ("cluster", "apps", "releases", "hosts", "runs", "assignments", "autoscale", "webhooks")
SIZE_MAX = 1024**3
_DIGEST_BYTES = 32
_LENGTHS = struct.Struct("!II")


class BackupError(Exception):
    """One line: what is wrong with the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """`revision`: etcd's, at which all of it was read. `version`: of the coordinator that did."""

    cluster_id: str
    schema_version: int
    revision: int
    made_at_ms: int
    version: str


@dataclass(frozen=True, slots=True)
class Backup:
    about: About
    values: Mapping[str, bytes]

    @property
    def records(self) -> Mapping[str, codec.Record]:
        return {key: codec.decode(key, value) for key, value in self.values.items()}


def pack(items: Iterable[KeyValue], *, revision: int, made_at_ms: int, version: str) -> bytes:
    """Raises BackupError when there is no cluster in it."""
    values = {item.key: item.value for item in items if _kind(item.key) in KINDS}
    if keys.CLUSTER not in values:
        raise BackupError("there is no cluster in this store yet")
    cluster = codec.decode(keys.CLUSTER, values[keys.CLUSTER])
    assert isinstance(cluster, Cluster)
    about = About(
        cluster_id=cluster.id,
        schema_version=cluster.schema_version,
        revision=revision,
        made_at_ms=made_at_ms,
        version=version,
    )
    parts = [_record(b"", json.dumps(asdict(about)).encode())]
    parts += [_record(key.encode(), values[key]) for key in sorted(values)]
    body = MAGIC + gzip.compress(b"".join(parts), mtime=0)
    return body + hashlib.sha256(body).digest()


def unpack(data: bytes, *, schema_version: int) -> Backup:
    """Raises BackupError for what is no whole backup, or one that this version cannot read."""
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if not data.startswith(MAGIC[:-2]):
        raise BackupError("this is no backup of Formation")
    if not data.startswith(MAGIC):
        raise BackupError("this backup is of a newer form; restore it with a newer coordinator")
    if hashlib.sha256(body).digest() != digest:
        raise BackupError("the file is damaged or not whole: its checksum is another")
    try:
        parts = dict(_parts(gzip.decompress(body.removeprefix(MAGIC))))
        about = About(**json.loads(parts.pop("")))
    except (OSError, EOFError, KeyError, TypeError, ValueError, struct.error) as error:
        raise BackupError(f"the file cannot be read: {error}") from error
    if about.schema_version > schema_version:
        raise BackupError(
            f"the backup has schema {about.schema_version}, this coordinator knows"
            f" {schema_version}; restore it with a newer one"
        )
    return _checked(Backup(about, parts))


def _checked(backup: Backup) -> Backup:
    for key, value in backup.values.items():
        if _kind(key) not in KINDS:
            raise BackupError(f"the backup holds a key that is none of a desired state: {key!r}")
        try:
            codec.decode(key, value)
        except WireError as error:
            raise BackupError(f"the backup holds what cannot be read: {error}") from error
    if keys.CLUSTER not in backup.values:
        raise BackupError("the backup names no cluster")
    return backup


def _kind(key: str) -> str:
    parsed = keys.parse(key)
    return parsed.kind if parsed else ""


def _record(key: bytes, value: bytes) -> bytes:
    return _LENGTHS.pack(len(key), len(value)) + key + value


def _parts(data: bytes) -> Iterable[tuple[str, bytes]]:
    at = 0
    while at < len(data):
        key_bytes, value_bytes = _LENGTHS.unpack_from(data, at)
        start = at + _LENGTHS.size
        end = start + key_bytes + value_bytes
        if end > len(data):
            raise ValueError("a record is cut off")
        yield data[start : start + key_bytes].decode(), data[start + key_bytes : end]
        at = end
