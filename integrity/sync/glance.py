"""A first look at many keys, on both sides and in all databases at once, which tells most of those that are equal.

A changed key is dirty in every database, and most databases do not have it: asking all of them in one go costs one
round trip where asking each in turn costs several each.  Whoever is not seen to be equal here, and whatever is large,
gets a careful look (:mod:`integrity.verify.look`), which alone says how two keys differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from integrity.expiry import NO_EXPIRY, NO_KEY, expiry_commands, take_expiries
from integrity.kinds import HASH, KINDS, STREAM, Kind, MalformedReply
from integrity.kinds.field_expiry import expiry_command, taken_expiries, unknown_command
from integrity.kinds.groups import KindGroups, group_kinds
from integrity.kinds.pieces import ValueChanged
from integrity.replies import Reply
from integrity.rules import Rules
from integrity.settings import FieldExpiryPolicy, Settings
from integrity.sizes import MEMORY_USAGE, asks_lengths_first, sizes_by_length
from integrity.standby import Standby
from integrity.sync.link import Link
from integrity.verify.classify import expiries_agree
from integrity.wire import Connection, arguments_of, every

_TYPE: Final = b"*2\r\n$4\r\nTYPE\r\n"
_SMALL_BYTES: Final = 64 * 1024
"""Larger values are left to the careful look, so that a batch stays small."""


@dataclass(slots=True)
class _Place:
    """One database: its two connections, and what is left of the keys that are looked at there."""

    source: Connection
    target: Connection
    keys: list[bytes]
    names: list[bytes]
    """Of the same keys on the target."""
    types: list[bytes] = field(default_factory=list)
    """Of those that may be equal, as ``keys`` and ``names`` are after the first look."""
    groups: KindGroups = field(default_factory=lambda: group_kinds([]))
    careful: list[bytes] = field(default_factory=list)

    def keep(self, positions: Sequence[int], types: Sequence[bytes]) -> None:
        self.keys = [self.keys[i] for i in positions]
        self.names = [self.names[i] for i in positions]
        self.types = [types[i] for i in positions]


class Glance:
    """Looks at keys by name; a context manager that keeps its connections."""

    def __init__(self, link: Link, settings: Settings) -> None:
        self._link = link
        self._rules = Rules.of(settings.rules)
        self._tolerance_ms = settings.verify.expiry_tolerance_ms
        self._policy = settings.verify.field_expiries
        self._small_bytes = min(_SMALL_BYTES, settings.big_values.threshold_bytes)
        self._source_absolute = link.source_identity.has_pexpiretime
        self._target_absolute = link.target_identity.has_pexpiretime
        self._lengths = asks_lengths_first(link.source_identity.engine)
        self._stack = ExitStack()
        self._open: dict[tuple[str, int], Standby] = {}
        self._fields: bool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def unequal(self, names: Sequence[bytes], databases: Sequence[int]) -> dict[int, list[bytes]]:
        """Those of *names*, by database of the source, that were not seen to be equal.

        :raises ServerError: a server is lost.
        """
        # Two databases may go to the same place, and a connection answers one question at a time.
        shared = len({self._rules.target_database(database) for database in databases}) < len(databases)
        if shared:
            parts = [self._look(names, [database]) for database in databases]
            return {database: keys for part in parts for database, keys in part.items()}
        return self._look(names, databases)

    def _look(self, names: Sequence[bytes], databases: Sequence[int]) -> dict[int, list[bytes]]:
        renamed = self._rules.rename_all(names)
        places = {
            database: _Place(
                self._connection("source", database),
                self._connection("target", self._rules.target_database(database)),
                list(names),
                renamed,
            )
            for database in databases
        }
        for place in places.values():
            self._ask_types(place)
        for place in places.values():
            self._take_types(place)
        for place in places.values():
            self._ask_values(place)
        for place in places.values():
            self._take_values(place)
        return {database: place.careful for database, place in places.items()}

    # -- types, expiries and sizes ----------------------------------------------------------------------------------

    def _ask_types(self, place: _Place) -> None:
        ours, theirs = arguments_of(place.keys), arguments_of(place.names)
        expiries, _ = expiry_commands(theirs, absolute=self._target_absolute)
        place.target.send(every(_TYPE, theirs) + expiries)
        expiries, _ = expiry_commands(ours, absolute=self._source_absolute)
        sizes = b"" if self._lengths else every(MEMORY_USAGE, ours)
        place.source.send(every(_TYPE, ours) + expiries + sizes)

    def _take_types(self, place: _Place) -> None:
        count = len(place.keys)
        our_types, our_expiries = self._taken(place.source, count, absolute=self._source_absolute)
        sizes = [] if self._lengths else place.source.receive_many(count)
        their_types, their_expiries = self._taken(place.target, count, absolute=self._target_absolute)
        types: list[bytes] = []
        candidates: list[int] = []
        for i, (left, right) in enumerate(zip(our_types, their_types, strict=True)):
            types.append(left if isinstance(left, bytes) else b"")
            if left == right == b"none":
                continue
            ours, theirs = our_expiries[i], their_expiries[i]
            size = sizes[i] if sizes else 0
            if (
                left == right
                and left in KINDS
                and isinstance(ours, int)
                and isinstance(theirs, int)
                and NO_KEY not in (ours, theirs)
                and expiries_agree(ours, theirs, self._tolerance_ms)
                and (not isinstance(size, int) or size <= self._small_bytes)
            ):
                candidates.append(i)
            else:
                place.careful.append(place.keys[i])
        place.keep(candidates, types)
        if self._lengths and place.keys:
            lengths = sizes_by_length(place.source, place.keys, place.types)
            place.careful += [
                key for key, n in zip(place.keys, lengths, strict=True) if n > self._small_bytes
            ]
            place.keep([i for i, n in enumerate(lengths) if n <= self._small_bytes], place.types)

    @staticmethod
    def _taken(connection: Connection, count: int, *, absolute: bool) -> tuple[list[Reply], list[Reply]]:
        types = connection.receive_many(count)
        return types, take_expiries(connection.receive_many(count + (not absolute)), absolute=absolute)

    # -- values -----------------------------------------------------------------------------------------------------

    def _ask_values(self, place: _Place) -> None:
        place.groups = group_kinds(place.types)
        if place.keys:
            place.target.send(place.groups.commands(arguments_of(place.names)))
            place.source.send(place.groups.commands(arguments_of(place.keys)))

    def _take_values(self, place: _Place) -> None:
        hashes: list[tuple[int, list[bytes]]] = []
        for kind, positions in place.groups.groups:
            ours = place.source.receive_many(len(positions))
            theirs = place.target.receive_many(len(positions))
            for i, left, right in zip(positions, ours, theirs, strict=True):
                if not _same(kind, left, right):
                    place.careful.append(place.keys[i])
                elif kind is HASH and isinstance(left, list) and left:
                    hashes.append((i, [name for name in left[::2] if isinstance(name, bytes)]))
        if hashes and self._compares_fields(place.source):
            self._compare_fields(place, hashes)

    def _compare_fields(self, place: _Place, hashes: Sequence[tuple[int, list[bytes]]]) -> None:
        place.target.send(b"".join(expiry_command(place.names[i], fields) for i, fields in hashes))
        place.source.send(b"".join(expiry_command(place.keys[i], fields) for i, fields in hashes))
        ours = place.source.receive_many(len(hashes))
        theirs = place.target.receive_many(len(hashes))
        for (i, fields), left, right in zip(hashes, ours, theirs, strict=True):
            none = (NO_EXPIRY,) * len(fields)
            try:
                a = taken_expiries(place.source, left, len(fields)) or none
                b = taken_expiries(place.target, right, len(fields)) or none
            except (MalformedReply, ValueChanged):
                place.careful.append(place.keys[i])
                continue
            if not all(expiries_agree(x, y, self._tolerance_ms) for x, y in zip(a, b, strict=True)):
                place.careful.append(place.keys[i])

    def _compares_fields(self, source: Connection) -> bool:
        """Whether single fields may expire: they cannot where the source does not know of such a thing."""
        if self._fields is None:
            known = not unknown_command(source.exchange([expiry_command(b"greenfly:probe", [b"f"])])[0])
            self._fields = self._policy is FieldExpiryPolicy.ALWAYS or (
                self._policy is FieldExpiryPolicy.AUTO
                and (known or self._link.target_identity.field_expiries == "some")
            )
        return self._fields

    def _connection(self, side: str, database: int) -> Connection:
        place = (side, database)
        if place not in self._open:
            endpoint = self._link.source if side == "source" else self._link.target
            self._open[place] = self._stack.enter_context(Standby(endpoint, "verify", database))
        return self._open[place].connection()


def _same(kind: Kind, left: Reply, right: Reply) -> bool:
    if left == right and kind is not STREAM:
        return isinstance(left, bytes | list)
    try:
        if kind.digest(left) != kind.digest(right):
            return False
        if kind is not STREAM:
            return True
        ours, theirs = STREAM.counters(left), STREAM.counters(right)
    except MalformedReply:
        return False
    return ours is None or theirs is None or ours == theirs
