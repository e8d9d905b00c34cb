"""Carrying keys over by their state: what the followed side holds now is written, what it no longer holds is deleted.

State, not operations: doing it twice is harmless, and whatever the order in which changes were announced, the last
look wins.  Nothing else may write these keys to the other side meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from integrity.ledger.store import NewFinding
from integrity.pace import FullSpeed
from integrity.rules import Rules
from integrity.settings import ConflictPolicy, Settings
from integrity.sync.link import Link
from integrity.transfer.copy import Copier, CopyTotals, Lines
from integrity.wire import arguments_of, every, pack

_UNLINK: Final = b"*2\r\n$6\r\nUNLINK\r\n"


@dataclass(frozen=True, slots=True)
class Carried:
    """What became of some keys of one database."""

    written: int
    removed: int
    """Keys of the target that were deleted."""
    streams: list[bytes]
    """Those that are streams, and those that are too big to tell."""
    again: list[bytes] = field(default_factory=list)
    """Other keys of the source that have the same place on the target as one that is gone."""


class Carrier:
    """Carries keys over; a context manager that keeps its connections open.

    :param owner: tells its temporary keys from those of any other: begins with the run's id.
    """

    def __init__(
        self,
        link: Link,
        settings: Settings,
        *,
        owner: str,
        on_findings: Callable[[list[NewFinding]], None],
        on_temporary: Callable[[], None],
    ) -> None:
        self._rules = Rules.of(settings.rules)
        self._copier = Copier(
            link.source,
            link.target,
            link.source_identity,
            link.target_identity,
            settings.copying.model_copy(update={"conflict": ConflictPolicy.REPLACE}),
            settings.big_values,
            owner=owner,
            rules=self._rules,
            pace=FullSpeed(1000),
            totals=CopyTotals(),
            on_checkpoint=lambda state: None,
            on_findings=on_findings,
            on_progress=lambda keys, size: None,
            on_temporary=on_temporary,
        )
        self._stack = ExitStack()
        self._lines: dict[int, Lines] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def carry(self, database: int, keys: Sequence[bytes], databases: Sequence[int]) -> Carried:
        """Make the target hold what the source holds under these keys.

        :param databases: those of the source that the run is about.
        :raises ServerError: a server is lost, full, read-only or refuses; some of the keys may be carried over.
        """
        lines = self._lines.get(database)
        if lines is None:
            lines = self._lines[database] = self._stack.enter_context(self._copier.opened(database))
        written = self._copier.totals.written
        copied = self._copier.copy_keys(lines, keys)
        removed, again = self._remove(lines, copied.gone, databases) if copied.gone else (0, [])
        return Carried(self._copier.totals.written - written, removed, copied.streams, again)

    def _remove(
        self, lines: Lines, gone: Sequence[bytes], databases: Sequence[int]
    ) -> tuple[int, list[bytes]]:
        again: list[bytes] = []
        if not self._rules.selects_all:
            gone = [key for key in gone if self._rules.selects(key) is None]
        if self._rules.merges_over(databases):
            kept = []
            for key in gone:
                others = self._others(lines, key, databases)
                again += others
                if not others:
                    kept.append(key)
            gone = kept
        if not gone:
            return 0, again
        lines.target.send(every(_UNLINK, arguments_of(self._rules.rename_all(gone))))
        replies = lines.target.receive_many(len(gone))
        for reply in replies:
            if isinstance(reply, Exception):
                raise lines.target.error_for(reply, "UNLINK")
        return sum(reply for reply in replies if isinstance(reply, int)), again

    def _others(self, lines: Lines, key: bytes, databases: Sequence[int]) -> list[bytes]:
        """Names of other keys of the source that go to the place that *key* went to."""
        onto, name = self._rules.target_database(lines.database), self._rules.rename(key)
        found = []
        for database, other in self._rules.sources(onto, name, databases):
            if (database, other) == (lines.database, key):
                continue
            lines.source.select(database)
            try:
                if lines.source.exchange([pack(b"EXISTS", other)])[0] == 1:
                    found.append(other)
            finally:
                lines.source.select(lines.database)
        return found
