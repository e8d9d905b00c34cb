"""Snapshots for tests: taken in this process, and broken on purpose."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pyrage
import xxhash

from integrity.endpoint import Endpoint
from integrity.pace import Pace
from integrity.settings import BigValueSettings, EndpointSettings
from integrity.snapshot.create import Snapshot, SnapshotTaker
from integrity.snapshot.header import Header
from integrity.snapshot.manifest import ManifestRow, ManifestWriter
from tests.servers import Store


def take_here(
    store: Store,
    folder: Path,
    *encrypt_to: str,
    databases: tuple[int, ...] = (0, 1, 2),
    big_values: BigValueSettings | None = None,
    pace: Pace | None = None,
) -> Snapshot:
    """A snapshot of *store* in *folder*."""
    endpoint = Endpoint.from_settings("source", EndpointSettings.model_validate({"url": store.url}))
    taker = SnapshotTaker(
        endpoint,
        endpoint.identify(),
        folder,
        batch_keys=50,
        encrypt_to=encrypt_to,
        big_values=big_values or BigValueSettings(),
        pace=pace,
        on_progress=lambda keys, size: None,
    )
    return taker.take(list(databases))


def new_key(path: Path) -> str:
    """Write a new identity to *path*; returns its recipient."""
    identity = pyrage.x25519.Identity.generate()
    path.write_text(f"{identity}\n")
    return str(identity.to_public())


def flip(path: Path, place: int) -> None:
    """Change one bit of the byte at *place*; from the end where it is negative."""
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def rewrite(
    folder: Path,
    rows: list[ManifestRow] | None = None,
    rdb: bytes | None = None,
    changed: Mapping[str, object] | None = None,
) -> None:
    """Change a plain snapshot, and write a header whose hashes of the files are right."""
    if rows is not None:
        (folder / "manifest.parquet").unlink()
        with ManifestWriter(folder / "manifest.parquet") as manifest:
            for r in rows:
                manifest.add(
                    r.database,
                    r.key,
                    r.kind,
                    r.rdb_type,
                    r.expiry_ms,
                    r.digest,
                    r.offset,
                    r.length,
                    r.body_xxh3,
                )
    if rdb is not None:
        (folder / "dump.rdb").write_bytes(rdb)
    values = json.loads((folder / "header.json").read_bytes())
    for name in ("dump.rdb", "manifest.parquet"):
        data = (folder / name).read_bytes()
        values["files"][name] = {"bytes": len(data), "xxh3_128": xxhash.xxh3_128_hexdigest(data)}
    header = Header.model_validate(values | dict(changed or {}))
    (folder / "header.json").write_bytes(header.to_bytes())


def changed_row(row: ManifestRow, **changed: object) -> ManifestRow:
    """The same row with other values."""
    values = {name: getattr(row, name) for name in row.__dataclass_fields__} | changed
    return ManifestRow(**values)
