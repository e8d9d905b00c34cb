"""One key on both sides as it is now, for a person to look at.  Nothing of it is kept anywhere.

Values are masked unless they are asked for: of each part its length and a mark are told.  Two parts have the same mark
where they are the same; the marks of every look are others, so that nobody can work out a short value from one.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from integrity.address import mask_url
from integrity.endpoint import Endpoint
from integrity.errors import Refused
from integrity.kinds.base import MalformedReply
from integrity.kinds.stream_reply import reply_bytes, reply_list, reply_table
from integrity.ledger.models import FindingClass, Run
from integrity.replies import Reply
from integrity.rules import Rules
from integrity.settings import Settings
from integrity.verify.look import Look
from integrity.verify.present import Present

PARTS_SHOWN: Final = 200
BYTES_SHOWN: Final = 2_000
"""Of one part."""


@dataclass(frozen=True, slots=True)
class Masked:
    """What is told of bytes that are not shown."""

    length: int
    mark: str
    """The same for the same bytes, in this look alone."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Bytes that are shown, or how they begin."""

    data: bytes
    length: int


Part = Masked | Shown | None
"""None where the side does not have it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One part of the value on both sides: an element, a field, an entry."""

    name: Masked | Shown | str
    source: Part
    target: Part
    same: bool


@dataclass(frozen=True, slots=True)
class SideNow:
    """What one side holds."""

    present: bool
    kind: str | None
    expiry_ms: int | None
    """Absolute, −1 for none."""
    size: int | None
    """Bytes of a string, elements of everything else."""
    digest: str | None
    problem: str | None
    """Why the value could not be read."""
    whole: bool
    """Whether the value was read whole; one that is too large is only digested."""


@dataclass(frozen=True, slots=True)
class SideBySide:
    """One key on both sides."""

    source: SideNow
    target: SideNow
    differs: tuple[FindingClass, ...]
    """How the two differ now; empty where they do not."""
    rows: tuple[Row, ...]
    """Those that differ first."""
    parts: int
    """How many parts there are."""
    different: int
    """How many of them differ."""
    revealed: bool


def look_at_both(
    settings: Settings, run: Run, finding_class: FindingClass, database: int, key: bytes, *, reveal: bool
) -> SideBySide:
    """Read one key of a finding from both servers.

    :param settings: must name the servers that the run met.
    :param reveal: show the values instead of masking them.
    :raises ConfigurationError: a server is not configured.
    :raises Refused: other servers are configured than those that the run met.
    :raises ServerError: a server cannot be read.
    """
    source = Endpoint.from_settings("source", settings.reads_from)
    target = Endpoint.from_settings("target", settings.target)
    _require_same("source", str(Endpoint.from_settings("source", settings.source)), run.source_address)
    _require_same("target", str(target), run.target_address)
    identities = source.identify(), target.identify()
    rules = Rules.from_recorded(run.settings.get("rules"))
    databases = sorted(identities[0].databases)
    with Present(
        source,
        target,
        *identities,
        settings.verify,
        settings.big_values,
        databases=databases,
        rules=rules,
    ) as present:
        pair = present.now(finding_class, database, [key])[key]
    masker = _Masker(reveal=reveal)
    rows = _rows(pair.source, pair.target, masker)
    different = [row for row in rows if not row.same]
    same = [row for row in rows if row.same]
    return SideBySide(
        _side(pair.source),
        _side(pair.target),
        tuple(dict.fromkeys(found.finding_class for found in pair.findings)),
        tuple((different + same)[:PARTS_SHOWN]),
        len(rows),
        len(different),
        reveal,
    )


def _require_same(role: str, configured: str, recorded: str | None) -> None:
    if recorded is not None and configured != recorded:
        raise Refused(
            f"The run met the {role} {mask_url(recorded)}, and this page is configured for {configured}.",
            "Start `greenfly review` with the settings of that run.",
        )


class _Masker:
    def __init__(self, *, reveal: bool) -> None:
        self._reveal = reveal
        self._secret = secrets.token_bytes(32)

    def part(self, data: bytes) -> Masked | Shown:
        """As it may be shown."""
        if self._reveal:
            return Shown(data[:BYTES_SHOWN], len(data))
        return Masked(len(data), hmac.digest(self._secret, data, "sha256").hex()[:8])


def _side(look: Look) -> SideNow:
    return SideNow(
        look.present,
        look.kind_name,
        look.expiry_ms,
        look.size,
        look.digest.hex() if look.digest is not None else None,
        look.problem,
        look.value is not None,
    )


_Parts = Mapping[bytes | int | str, bytes]
"""Name → value; numbers and texts are names that are no secret."""


def _rows(source: Look, target: Look, masker: _Masker) -> list[Row]:
    if (source.present and source.value is None) or (target.present and target.value is None):
        return []
    try:
        ours, theirs = _parts(source), _parts(target)
    except ValueError:  # an answer of another shape; what was read of it is told all the same
        return []
    rows = []
    for name in dict.fromkeys((*ours, *theirs)):
        a, b = ours.get(name), theirs.get(name)
        rows.append(
            Row(
                masker.part(name) if isinstance(name, bytes) else str(name),
                masker.part(a) if a is not None else None,
                masker.part(b) if b is not None else None,
                a == b,
            )
        )
    return rows


def _parts(look: Look) -> _Parts:
    if not look.present:
        return {}
    value = look.value
    match look.kind_name:
        case "hash" | "zset":
            flat = _bytes(value)
            return dict(zip(flat[::2], flat[1::2], strict=True))
        case "list":
            return dict(enumerate(_bytes(value)))
        case "set":
            return dict.fromkeys(sorted(_bytes(value)), b"")
        case "stream":
            return _stream(value)
        case _:
            return {"value": value if isinstance(value, bytes) else repr(value).encode()}


def _stream(value: Reply) -> _Parts:
    table = reply_table(value)
    entries: dict[bytes | int | str, bytes] = {}
    for entry in reply_list(table.get(b"entries"), "entries"):
        number, fields = reply_list(entry, "entry")
        pairs = (reply_bytes(field, "field") for field in reply_list(fields, "fields"))
        entries[reply_bytes(number, "id").decode("ascii", "replace")] = b" ".join(pairs)
    for name in (b"last-generated-id", b"entries-added", b"max-deleted-entry-id", b"length"):
        told = table.get(name)
        if told is not None:
            entries[name.decode()] = told if isinstance(told, bytes) else str(told).encode()
    groups = reply_list(table.get(b"groups"), "groups")
    if groups:
        entries["groups"] = repr(groups).encode()
    return entries


def _bytes(value: Reply) -> list[bytes]:
    if not isinstance(value, Iterable) or isinstance(value, bytes | str):
        raise MalformedReply("no list")
    return [reply_bytes(item, "element") for item in value]
