"""Reading pages of keys from one place or several in turn, and asking about each key.

Each write carries the questions about one page and the SCAN of the next; while the server works on it, the answers to
the write before are counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic

from integrity.census.plan import Stretch
from integrity.census.questions import Columns, Questions
from integrity.keyspace import scan_command, scan_reply
from integrity.pace import Pace
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, arguments_of, pack


@dataclass(frozen=True, slots=True)
class _Page:
    database: int
    keys: list[bytes]


class Walker:
    """Walks stretches of databases over one connection.

    :param take: told of each page: database, keys, and what was asked about them.
    :param by_slots: of a cluster: a stretch goes on until it comes to the end of a slot.
    :param remember: pass over keys that were seen before; for samples, whose names are kept in memory.
    """

    def __init__(
        self,
        connection: Connection,
        questions: Questions,
        pace: Pace,
        take: Callable[[int, list[bytes], Columns], None],
        *,
        remember: bool,
        by_slots: bool = False,
    ) -> None:
        self._connection = connection
        self._questions = questions
        self._pace = pace
        self._take = take
        self._by_slots = by_slots
        self._seen: dict[int, set[bytes]] | None = {} if remember else None
        self.out_of_time = False
        """It ended because its time was over."""

    def walk(self, stretches: Iterable[Stretch], deadline: float) -> None:
        """Read a page of each in turn, until all are done or it is *deadline* (of ``monotonic()``).

        :raises ServerError: the connection is lost, or the server refuses.
        """
        connection, questions = self._connection, self._questions
        waiting = deque(stretches)
        scanned: _Page | None = None
        answered: tuple[_Page, list[Reply]] | None = None
        while waiting or scanned or answered:
            if waiting and monotonic() >= deadline:
                self.out_of_time = True
                waiting.clear()
            stretch = waiting.popleft() if waiting else None
            commands: list[bytes] = []
            if scanned is not None:
                self._pace.admit(len(scanned.keys), 0)
                commands.append(questions.commands(arguments_of(scanned.keys)))
            selects = stretch is not None and stretch.database != connection.database
            if stretch is not None:
                if selects:
                    commands.append(pack(b"SELECT", b"%d" % stretch.database))
                commands.append(scan_command(stretch.cursor, stretch.wanted(self._pace.batch_keys)))
            connection.send(b"".join(commands))
            if answered is not None:
                self._hand_over(*answered)
            answered = None
            if scanned is not None:
                answered = scanned, connection.receive_many(len(scanned.keys) * questions.per_key)
            scanned = None
            if stretch is not None:
                if selects:
                    self._selected(stretch.database)
                scanned = self._scanned(stretch)
                if not stretch.done and self._by_slots and stretch.inside_a_slot:
                    waiting.appendleft(stretch)
                elif not stretch.done:
                    waiting.append(stretch)

    def _selected(self, database: int) -> None:
        reply = self._connection.receive()
        if isinstance(reply, ErrorReply):
            raise self._connection.error_for(reply, "SELECT")
        self._connection.database = database

    def _scanned(self, stretch: Stretch) -> _Page | None:
        reply = self._connection.receive()
        if isinstance(reply, ErrorReply) and stretch.cursor and not stretch.taken:
            stretch.refused = stretch.done = True
            return None
        cursor, keys = scan_reply(self._connection, reply)
        if self._seen is not None:
            seen = self._seen.setdefault(stretch.database, set())
            keys = [key for key in dict.fromkeys(keys) if key not in seen]
            seen.update(keys)
        stretch.advance(cursor, len(keys))
        return _Page(stretch.database, keys) if keys else None

    def _hand_over(self, page: _Page, replies: list[Reply]) -> None:
        columns = self._questions.columns(self._connection, replies, len(page.keys))
        self._take(page.database, page.keys, columns)
