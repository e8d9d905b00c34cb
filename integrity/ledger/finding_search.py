"""Finding some of millions of findings, a page at a time, in a bounded time.

A page begins behind the last row of the one before it, never at an offset.  What an index answers (one key, how a key
begins, state and class) is found at once; everything else is looked for in stretches of rows until the page is full or
its time is up, and then the page says where the next one goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    and_,
    func,
    or_,
    select,
)
from sqlalchemy import union_all as union
from xxhash import xxh3_128_digest

from integrity.errors import ConfigurationError
from integrity.ledger.database import reading, repeated
from integrity.ledger.key_search import KeyWanted
from integrity.ledger.models import KEY_HEAD_BYTES, Finding, FindingClass, FindingState

KEY_BYTES_READ: Final = 4096
"""Of a longer key only the beginning is read for a list."""
_DETAIL_READ: Final = 2_000
_WINDOW: Final = 10_000
"""Rows that are looked through at a time."""
_SECONDS: Final = 0.06
_CURSOR: Final = re.compile(r"(?:([0-9a-f]{0,128})\.)?(\d{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class FindingQuery:
    """Which findings of a run are wanted; what is empty or None asks for nothing."""

    run_id: str
    classes: tuple[FindingClass, ...] = ()
    states: tuple[FindingState, ...] = ()
    database: int | None = None
    kind: str | None = None
    """Of either side."""
    seen_before: datetime | None = None
    """First seen at this moment or earlier."""
    seen_after: datetime | None = None
    key: KeyWanted | None = None


@dataclass(frozen=True, slots=True)
class FoundFinding:
    """A finding as a list shows it; see :class:`~integrity.ledger.models.Finding`."""

    id: int
    finding_class: FindingClass
    state: FindingState
    database: int
    key: bytes
    """Its first :data:`KEY_BYTES_READ` bytes."""
    key_bytes: int
    source_kind: str | None
    target_kind: str | None
    source_size: int | None
    target_size: int | None
    detail: str
    first_seen_at: datetime
    last_seen_at: datetime
    times_seen: int
    rule: str | None
    key_head: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class FindingPage:
    """Some findings, and where to go on."""

    rows: tuple[FoundFinding, ...]
    next: str | None
    """For the next page; None where there is nothing more."""
    out_of_time: bool = False
    """Whether the page ends because its time was up, and not because it is full."""


_COLUMNS: Final = (
    Finding.id,
    Finding.finding_class,
    Finding.state,
    Finding.database,
    func.substr(Finding.key, 1, KEY_BYTES_READ).label("key"),
    func.length(Finding.key).label("key_bytes"),
    Finding.source_kind,
    Finding.target_kind,
    Finding.source_size,
    Finding.target_size,
    func.substr(Finding.detail, 1, _DETAIL_READ).label("detail"),
    Finding.first_seen_at,
    Finding.last_seen_at,
    Finding.times_seen,
    Finding.rule,
    Finding.key_head,
)


@repeated
def search_findings(
    engine: Engine,
    query: FindingQuery,
    *,
    cursor: str | None = None,
    limit: int = 50,
    seconds: float = _SECONDS,
) -> FindingPage:
    """One page.

    :param cursor: the :attr:`FindingPage.next` of the page before it.
    :param seconds: how long to look where no index helps.
    :raises ConfigurationError: the cursor is none of this query's.
    """
    with reading(engine) as connection:
        if query.key is not None and query.key.exact is not None:
            return _by_key(connection, query, query.key.exact, limit)
        order = _ByHead(query) if query.key is not None and query.key.begins else _ById(query)
        return _walk(connection, query, order, cursor, limit, monotonic() + seconds)


@repeated
def count_findings(engine: Engine, run_id: str, state: FindingState, most: int) -> int:
    """How many findings of a run are in *state*; not counted any further than *most*."""
    rows = select(Finding.id).where(Finding.run_id == run_id, Finding.state == state).limit(most)
    with reading(engine) as connection:
        return int(connection.execute(select(func.count()).select_from(rows.subquery())).scalar_one())


@repeated
def databases_of(engine: Engine, run_id: str) -> list[int]:
    """The databases in which a run has findings."""
    with reading(engine) as connection:
        return list(_databases(connection, run_id))


def _databases(connection: Connection, run_id: str) -> Iterator[int]:
    """From one to the next by the index: all rows of a database are stepped over at once."""
    last = -1
    while True:
        beyond = select(func.min(Finding.database)).where(Finding.run_id == run_id, Finding.database > last)
        found = connection.execute(beyond).scalar()
        if found is None:
            return
        last = int(found)
        yield last


def _combinations(connection: Connection, query: FindingQuery) -> list[tuple[FindingState, FindingClass]]:
    """The states and classes that the run has findings in; none of them is counted."""
    found: list[tuple[FindingState, FindingClass]] = []
    mine = Finding.run_id == query.run_id
    state = connection.execute(select(func.min(Finding.state)).where(mine)).scalar()
    while state is not None:
        of_state = select(func.min(Finding.finding_class)).where(mine, Finding.state == state)
        kind = connection.execute(of_state).scalar()
        while kind is not None:
            found.append((FindingState(state), FindingClass(kind)))
            beyond = of_state.where(Finding.finding_class > kind)
            kind = connection.execute(beyond).scalar()
        next_state = select(func.min(Finding.state)).where(mine, Finding.state > state)
        state = connection.execute(next_state).scalar()
    return found


# -- one key -----------------------------------------------------------------------------------------------------------


def _by_key(connection: Connection, query: FindingQuery, key: bytes, limit: int) -> FindingPage:
    databases = list(_databases(connection, query.run_id))
    wanted = select(*_COLUMNS).where(
        Finding.run_id == query.run_id,
        Finding.database.in_(databases),
        Finding.key_digest == xxh3_128_digest(key),
        Finding.key == key,
        *_filters(query, with_class=True),
    )
    # Without an order: asked for one, a planner may walk all findings in it.
    rows = map(_found, connection.execute(wanted.limit(max(limit, 1_000))))
    return FindingPage(tuple(sorted(rows, key=lambda row: row.id)), None)


# -- many --------------------------------------------------------------------------------------------------------------


class _ById:
    """In the order in which they were found."""

    def __init__(self, query: FindingQuery) -> None:
        self._query = query
        self._drive: list[ColumnElement[bool]] | None = None
        self._pairs: list[tuple[FindingState, FindingClass]] = []

    def prepare(self, connection: Connection) -> bool:
        """Find out how to go; False where there is nothing."""
        query = self._query
        if not query.classes and not query.states:
            self._drive = [Finding.run_id == query.run_id]
            return True
        all_pairs = _combinations(connection, query)
        self._pairs = [
            (state, kind)
            for state, kind in all_pairs
            if (not query.states or state in query.states) and (not query.classes or kind in query.classes)
        ]
        if self._pairs == all_pairs:
            self._drive = [Finding.run_id == query.run_id]
        elif len(self._pairs) == 1:
            self._drive = self._of_pair(*self._pairs[0])
        return bool(self._pairs)

    def _of_pair(self, state: FindingState, kind: FindingClass) -> list[ColumnElement[bool]]:
        return [
            Finding.run_id == self._query.run_id,
            Finding.state == state,
            Finding.finding_class == kind,
        ]

    def start(self, cursor: tuple[bytes | None, int] | None) -> tuple[object, ...]:
        """The place behind which a page begins."""
        return (cursor[1] if cursor is not None else 0,)

    def ids(self, after: tuple[object, ...], count: int) -> Select[Any]:
        """Places of the next *count* rows."""
        if self._drive is not None:
            return (
                select(Finding.id)
                .where(*self._drive, Finding.id > after[0])
                .order_by(Finding.id)
                .limit(count)
            )
        parts = [
            select(
                select(Finding.id)
                .where(*self._of_pair(state, kind), Finding.id > after[0])
                .order_by(Finding.id)
                .limit(count)
                .subquery()
            )
            for state, kind in self._pairs
        ]
        merged = union(*parts).subquery()
        return select(merged.c.id).order_by(merged.c.id).limit(count)

    def rows(self, after: tuple[object, ...], end: tuple[object, ...] | None, count: int) -> Select[Any]:
        """The rows of a stretch."""
        upto = [Finding.id <= end[0]] if end is not None else []
        if self._drive is not None:
            wanted = select(*_COLUMNS).where(*self._drive, Finding.id > after[0], *upto)
        else:
            places = self.ids(after, count).subquery()
            wanted = select(*_COLUMNS).join(places, places.c.id == Finding.id).where(*upto)
        return wanted.order_by(Finding.id)

    def place(self, row: FoundFinding) -> tuple[object, ...]:
        """Where a row stands."""
        return (row.id,)

    def written(self, place: tuple[object, ...]) -> str:
        """A place as a cursor."""
        return str(place[0])

    filters_class = False
    """State and class are what drives it."""


class _ByHead:
    """In the order of how the keys begin."""

    filters_class = True

    def __init__(self, query: FindingQuery) -> None:
        begins = query.key.begins if query.key is not None else b""
        head = begins[:KEY_HEAD_BYTES]
        self._within: list[ColumnElement[bool]] = [Finding.run_id == query.run_id, Finding.key_head >= head]
        beyond = _successor(head)
        if beyond is not None:
            self._within.append(Finding.key_head < beyond)

    def prepare(self, connection: Connection) -> bool:
        """Nothing to find out."""
        return True

    def start(self, cursor: tuple[bytes | None, int] | None) -> tuple[object, ...]:
        """The place behind which a page begins."""
        if cursor is None:
            return (b"", 0)
        if cursor[0] is None:
            raise _no_cursor()
        return (cursor[0], cursor[1])

    def _behind(self, after: tuple[object, ...]) -> ColumnElement[bool]:
        # The first comparison is what the index can use, on either database.
        return and_(Finding.key_head >= after[0], or_(Finding.key_head > after[0], Finding.id > after[1]))

    def ids(self, after: tuple[object, ...], count: int) -> Select[Any]:
        """Places of the next *count* rows."""
        columns: tuple[ColumnElement[Any], ...] = (Finding.key_head.expression, Finding.id.expression)
        wanted = select(*columns).where(*self._within, self._behind(after))
        return wanted.order_by(Finding.key_head, Finding.id).limit(count)

    def rows(self, after: tuple[object, ...], end: tuple[object, ...] | None, count: int) -> Select[Any]:
        """The rows of a stretch."""
        wanted = select(*_COLUMNS).where(*self._within, self._behind(after))
        if end is not None:
            wanted = wanted.where(
                Finding.key_head <= end[0], or_(Finding.key_head < end[0], Finding.id <= end[1])
            )
        return wanted.order_by(Finding.key_head, Finding.id)

    def place(self, row: FoundFinding) -> tuple[object, ...]:
        """Where a row stands."""
        return (row.key_head, row.id)

    def written(self, place: tuple[object, ...]) -> str:
        """A place as a cursor."""
        head = place[0]
        if not isinstance(head, bytes):
            raise TypeError("a key begins with bytes")
        return f"{head.hex()}.{place[1]}"


def _walk(
    connection: Connection,
    query: FindingQuery,
    order: _ById | _ByHead,
    cursor: str | None,
    limit: int,
    until: float,
) -> FindingPage:
    after = order.start(_read_cursor(cursor))
    if not order.prepare(connection):
        return FindingPage((), None)
    filters = _filters(query, with_class=order.filters_class)
    matcher = query.key.pattern if query.key is not None else None
    if query.key is not None:
        filters += _prefilter(connection, query.key)
    if not filters and matcher is None:
        wanted = order.rows(after, None, limit + 1).limit(limit + 1)
        return _cut([_found(row) for row in connection.execute(wanted)], limit, order)
    rows: list[FoundFinding] = []
    while True:
        end = _end(connection, order, after)
        wanted = order.rows(after, end, _WINDOW).where(*filters)
        if matcher is None:
            wanted = wanted.limit(limit + 1 - len(rows))
        streamed = connection.execution_options(yield_per=200).execute(wanted)
        for found in map(_found, streamed):
            if matcher is None or matcher.match(_whole_key(connection, found)):
                rows.append(found)
            if len(rows) > limit:
                break
            if matcher is not None and monotonic() > until:
                streamed.close()
                return FindingPage(tuple(rows), order.written(order.place(found)), out_of_time=True)
        streamed.close()
        if len(rows) > limit or end is None:
            return _cut(rows, limit, order)
        after = end
        if monotonic() > until:
            return FindingPage(tuple(rows), order.written(after), out_of_time=True)


def _end(
    connection: Connection, order: _ById | _ByHead, after: tuple[object, ...]
) -> tuple[object, ...] | None:
    """Where the stretch behind *after* ends; None where it is the last."""
    places = order.ids(after, _WINDOW).subquery()
    columns = [places.c[name] for name in places.c.keys()]  # noqa: SIM118  (a collection of columns, no mapping)
    last = select(*columns).order_by(*columns).offset(_WINDOW - 1).limit(1)
    row = connection.execute(last).one_or_none()
    return tuple(row) if row is not None else None


def _cut(rows: Sequence[FoundFinding], limit: int, order: _ById | _ByHead) -> FindingPage:
    shown = tuple(rows[:limit])
    return FindingPage(shown, order.written(order.place(shown[-1])) if len(rows) > limit else None)


def _filters(query: FindingQuery, *, with_class: bool) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    if with_class and query.classes:
        wanted.append(Finding.finding_class.in_(query.classes))
    if with_class and query.states:
        wanted.append(Finding.state.in_(query.states))
    if query.database is not None:
        wanted.append(Finding.database == query.database)
    if query.kind is not None:
        wanted.append((Finding.source_kind == query.kind) | (Finding.target_kind == query.kind))
    if query.seen_before is not None:
        wanted.append(Finding.first_seen_at <= query.seen_before)
    if query.seen_after is not None:
        wanted.append(Finding.first_seen_at >= query.seen_after)
    return wanted


def _prefilter(connection: Connection, key: KeyWanted) -> list[ColumnElement[bool]]:
    """What the database can rule out by itself before a pattern is laid on the rest."""
    wanted: list[ColumnElement[bool]] = []
    if len(key.begins) > KEY_HEAD_BYTES:
        wanted.append(func.substr(Finding.key, 1, len(key.begins)) == key.begins)
    if key.pattern is not None and key.holds:
        if connection.dialect.name == "sqlite":
            wanted.append(func.instr(Finding.key, key.holds) > 0)
        else:
            escaped = re.sub(rb"([\\%_])", rb"\\\1", key.holds)
            wanted.append(Finding.key.op("LIKE", is_comparison=True)(b"%" + escaped + b"%"))
    return wanted


def _whole_key(connection: Connection, found: FoundFinding) -> bytes:
    if found.key_bytes <= KEY_BYTES_READ:
        return found.key
    return bytes(connection.execute(select(Finding.key).where(Finding.id == found.id)).scalar_one())


def _found(row: Row[Any]) -> FoundFinding:
    # SQLite makes NULL of the beginning of nothing.
    return FoundFinding(**{**row._mapping, "key": row.key or b"", "detail": row.detail or ""})


def _read_cursor(text: str | None) -> tuple[bytes | None, int] | None:
    if text is None:
        return None
    parts = _CURSOR.fullmatch(text)
    if parts is None or len(parts[1] or "") % 2:
        raise _no_cursor()
    return (bytes.fromhex(parts[1]) if parts[1] is not None else None, int(parts[2]))


def _no_cursor() -> ConfigurationError:
    return ConfigurationError("This is no place in the list of findings.", "Begin at the first page.")


def _successor(head: bytes) -> bytes | None:
    """The first bytes behind everything that begins with *head*; None where nothing is."""
    stripped = head.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else None
