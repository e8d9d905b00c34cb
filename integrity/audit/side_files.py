"""The small files of a bundle: what it says about itself, public keys, the files that the run wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from integrity.audit.keys import PublicKey
from integrity.audit.model import Facts
from integrity.audit.texts import (
    Table,
    line_of,
    number_at,
    read_table,
    require_names,
    require_time,
    shown,
    text_at,
)

_FORMAT: Final = "greenfly-audit-facts 1"
_MOST_BYTES: Final = 64 * 1024 * 1024
_FACTS: Final = frozenset(
    {
        "format",
        "run",
        "ledger",
        "exported_at",
        "exported_by",
        "greenfly",
        "hides_other_runs",
        "events",
        "head",
        "findings",
    }
)
_RUN_ID: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,31}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_ARTIFACT: Final = frozenset({"kind", "name", "bytes", "sha256", "at", "file"})


@dataclass(frozen=True, slots=True)
class ArtifactRow:
    """A file that the run wrote."""

    kind: str
    name: str
    size: int
    sha256: str
    at: str
    file: str | None
    """Its name in the bundle; None where it is not included."""


def facts_line(facts: Facts) -> bytes:
    """The file that says what the bundle is."""
    return line_of(
        {
            "format": _FORMAT,
            "run": facts.run_id,
            "ledger": facts.ledger,
            "exported_at": facts.exported_at,
            "exported_by": facts.exported_by,
            "greenfly": facts.version,
            "hides_other_runs": facts.hides_other_runs,
            "events": facts.events,
            "head": facts.head,
            "findings": facts.findings,
        }
    )


def read_facts(file: BinaryIO) -> Facts:
    """From that file.

    :raises ValueError: it is of another form.
    """
    table = read_table(file.read(_MOST_BYTES))
    if table.get("format") != _FORMAT:
        raise ValueError(f"its format is {shown(table.get('format'))}, not {_FORMAT!r}")
    require_names(table, _FACTS)
    hides = table["hides_other_runs"]
    if not isinstance(hides, bool):
        raise ValueError("its hides_other_runs is neither true nor false")
    run_id, ledger, at, by, version, head = (
        text_at(table, name) for name in ("run", "ledger", "exported_at", "exported_by", "greenfly", "head")
    )
    if not _RUN_ID.fullmatch(run_id) or not _HASH.fullmatch(ledger) or not _HASH.fullmatch(head):
        raise ValueError("an id or a hash in it is none")
    require_time(at)
    return Facts(
        run_id, ledger, at, by, version, hides, number_at(table, "events"), head, number_at(table, "findings")
    )


def keys_line(keys: Iterable[PublicKey]) -> bytes:
    """The public keys that checkpoints and manifest were signed with, as far as they are known."""
    rows = [{"key_id": key.id, "public_key": str(key)} for key in sorted(set(keys), key=lambda key: key.id)]
    return line_of({"keys": rows})


def read_keys(file: BinaryIO) -> Mapping[str, PublicKey]:
    """From that file, by id.

    :raises ValueError: it is of another form.
    """
    keys = {}
    for row in _rows(read_table(file.read(_MOST_BYTES)), "keys"):
        key = PublicKey.parse(text_at(row, "public_key"))
        if row != {"key_id": key.id, "public_key": str(key)}:
            raise ValueError(f"the id of key {key} is not {shown(row.get('key_id'))}")
        keys[key.id] = key
    return keys


def artifacts_line(rows: Iterable[ArtifactRow]) -> bytes:
    """The files that the run wrote, oldest first."""
    return line_of(
        {
            "artifacts": [
                {
                    "kind": row.kind,
                    "name": row.name,
                    "bytes": row.size,
                    "sha256": row.sha256,
                    "at": row.at,
                    "file": row.file,
                }
                for row in rows
            ]
        }
    )


def read_artifacts(file: BinaryIO) -> Sequence[ArtifactRow]:
    """From that file.

    :raises ValueError: it is of another form.
    """
    found = []
    for row in _rows(read_table(file.read(_MOST_BYTES)), "artifacts"):
        require_names(row, _ARTIFACT)
        held = row["file"]
        if held is not None and not isinstance(held, str):
            raise ValueError("the file of an artifact is not a text")
        kind, name, sha256, at = (text_at(row, field) for field in ("kind", "name", "sha256", "at"))
        found.append(ArtifactRow(kind, name, number_at(row, "bytes"), sha256, at, held))
    return found


def _rows(table: Table, name: str) -> list[dict[str, object]]:
    rows = table.get(name)
    if table.keys() != {name} or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"it is not a list of {name}")
    return rows
