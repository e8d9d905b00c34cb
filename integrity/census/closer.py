"""What is asked only about some keys: how long the listed ones are, groups of streams, expiries of hash fields.

Unlike the questions about every key, these count as a use of the key on Redis (OBJECT IDLETIME, OBJECT FREQ).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from integrity.census.model import KeyFact
from integrity.census.questions import Columns
from integrity.endpoint import Endpoint
from integrity.kinds.field_expiry import expiry_command
from integrity.replies import Reply
from integrity.sizes import LENGTH_COMMANDS, memory_usage, sizes_by_length
from integrity.standby import Standby
from integrity.wire import Connection, argument

_GROUPS: Final = b"*3\r\n$5\r\nXINFO\r\n$6\r\nGROUPS\r\n"
_HKEYS: Final = b"*2\r\n$5\r\nHKEYS\r\n"
_LOOKED_INTO: Final = 1000
"""So many hashes made for field expiries are looked into; of the others it is enough to know how many there are."""
_AT_ONCE: Final = 500


class Closer:
    """A second look, over a connection of its own to each database.  A context manager.

    :param listed: how many examples are kept.
    """

    def __init__(self, source: Endpoint, listed: int) -> None:
        self._source = source
        self._listed = listed
        self._lines: dict[int, Standby] = {}
        self._open = ExitStack()
        self._left = _LOOKED_INTO
        self.made_for_expiries = 0
        self.live = 0
        self.former = 0
        self.live_examples: list[KeyFact] = []
        self.former_examples: list[KeyFact] = []
        self.streams_with_groups = 0
        self.streams_that_count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def _connection(self, database: int) -> Connection:
        line = self._lines.get(database)
        if line is None:
            line = self._open.enter_context(Standby(self._source, "census", database))
            self._lines[database] = line
        return line.connection()

    def _ask(self, database: int, commands: Sequence[bytes]) -> list[Reply]:
        if not commands:
            return []
        connection = self._connection(database)
        replies: list[Reply] = []
        for start in range(0, len(commands), _AT_ONCE):
            replies += connection.exchange(commands[start : start + _AT_ONCE])
        return replies

    def sizes(self, database: int, keys: Sequence[bytes], columns: Columns) -> list[int]:
        """Bytes of memory, about, where MEMORY USAGE of each key is dear or refused; 0 where nothing tells.

        :raises ServerError: the connection is lost.
        """
        return sizes_by_length(self._connection(database), keys, columns.types)

    def look_at_streams(self, database: int, keys: Sequence[bytes]) -> None:
        """Count those with groups.

        :raises ServerError: the connection is lost.
        """
        for reply in self._ask(database, [_GROUPS + argument(key) for key in keys]):
            if isinstance(reply, list) and reply:
                self.streams_with_groups += 1
                self.streams_that_count += any(_entries_read(group) is not None for group in reply)

    def look_at_hashes(self, database: int, keys: Sequence[bytes]) -> None:
        """Count hashes that are made for expiries of fields, and see of which of them a field does expire.

        :raises ServerError: the connection is lost.
        """
        self.made_for_expiries += len(keys)
        keys = keys[: self._left]
        self._left -= len(keys)
        fields = self._ask(database, [_HKEYS + argument(key) for key in keys])
        known = [
            (key, [name for name in names if isinstance(name, bytes)])
            for key, names in zip(keys, fields, strict=True)
            if isinstance(names, list) and names
        ]
        times = self._ask(database, [expiry_command(key, names) for key, names in known])
        for (key, names), reply in zip(known, times, strict=True):
            if not isinstance(reply, list):
                continue
            expiring = sum(isinstance(time, int) and time > 0 for time in reply)
            self.live += bool(expiring)
            self.former += not expiring
            examples = self.live_examples if expiring else self.former_examples
            if len(examples) < self._listed:
                detail = f"{expiring:,} of its fields expire" if expiring else "no field expires any more"
                examples.append(KeyFact(database, key, "hash", 0, len(names), detail))

    def with_memory(self, facts: Sequence[KeyFact]) -> list[KeyFact]:
        """The same keys with their memory use; 0 where the server does not tell.

        :raises ServerError: the connection is lost.
        """
        told: dict[KeyFact, int] = {}
        for database, its in _by_database(facts).items():
            sizes = memory_usage(self._connection(database), [fact.key for fact in its])
            told |= dict(zip(its, sizes, strict=True))
        return [replace(fact, bytes=told[fact]) for fact in facts]

    def lengths(self, facts: Sequence[KeyFact]) -> list[KeyFact]:
        """The same keys with the number of their elements, or bytes of a string; 0 where that cannot be told.

        :raises ServerError: the connection is lost.
        """
        told: dict[KeyFact, int] = {}
        for database, its in _by_database(facts).items():
            known = [fact for fact in its if fact.kind.encode() in LENGTH_COMMANDS]
            commands = [LENGTH_COMMANDS[fact.kind.encode()] + argument(fact.key) for fact in known]
            replies = self._ask(database, commands)
            told |= {
                fact: reply if isinstance(reply, int) else 0
                for fact, reply in zip(known, replies, strict=True)
            }
        return [replace(fact, elements=told.get(fact, fact.elements)) for fact in facts]


def _by_database(facts: Sequence[KeyFact]) -> dict[int, list[KeyFact]]:
    """In one go for each database: over a long line every question costs its way there and back."""
    found: dict[int, list[KeyFact]] = {}
    for fact in facts:
        found.setdefault(fact.database, []).append(fact)
    return found


def _entries_read(group: Reply) -> int | None:
    """What XINFO GROUPS tells of a group; Redis before 7.0 does not count."""
    if not isinstance(group, list):
        return None
    for name, value in zip(group[::2], group[1::2], strict=False):
        if name == b"entries-read":
            return value if isinstance(value, int) else None
    return None
