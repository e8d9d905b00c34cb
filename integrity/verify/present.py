"""Single keys on both sides, as they are now: what re-checks and repairs begin and end with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Self

from integrity.endpoint import Endpoint, Identity
from integrity.ledger.models import FindingClass
from integrity.ledger.store import NewFinding
from integrity.rules import Rules
from integrity.settings import BigValueSettings, VerifySettings
from integrity.sizes import asks_lengths_first
from integrity.standby import Standby
from integrity.verify.classify import classify
from integrity.verify.look import ABSENT, BigValues, Look, look
from integrity.wire import pack

_OVERWRITTEN: Final = frozenset({FindingClass.VALUE, FindingClass.TYPE, FindingClass.EXPIRY})


@dataclass(frozen=True, slots=True)
class Pair:
    """One key on both sides."""

    source: Look
    target: Look
    findings: tuple[NewFinding, ...]
    """How the two differ."""


class Present:
    """Looks at single keys; a context manager that keeps one connection per database and side.

    :param databases: the databases of the source that the run is about.
    :param on_piece: told of every piece of a big value; see :func:`~integrity.verify.look.look`.
    """

    def __init__(
        self,
        source: Endpoint,
        target: Endpoint,
        source_identity: Identity,
        target_identity: Identity,
        settings: VerifySettings,
        big_values: BigValueSettings,
        *,
        databases: Sequence[int],
        rules: Rules,
        on_piece: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._target = target
        self._source_absolute = source_identity.has_pexpiretime
        self._target_absolute = target_identity.has_pexpiretime
        self._source_lengths = asks_lengths_first(source_identity.engine)
        self._target_lengths = asks_lengths_first(target_identity.engine)
        self._tolerance = settings.expiry_tolerance_ms
        self._big = BigValues.of(big_values)
        self._databases = databases
        self._rules = rules
        self._on_piece = on_piece
        self._stack = ExitStack()
        self._sources: dict[int, Standby] = {}
        self._targets: dict[int, Standby] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def pairs(self, database: int, keys: Sequence[bytes]) -> dict[bytes, Pair]:
        """Keys of a database of the source, with what became of them.

        :raises ServerError: a server is lost or refuses.
        """
        names = self._rules.rename_all(keys)
        onto = self._rules.target_database(database)
        ours = look(
            self._on_source(database).connection(),
            keys,
            absolute=self._source_absolute,
            lengths_first=self._source_lengths,
            big=self._big,
            on_piece=self._on_piece,
        )
        theirs = look(
            self._on_target(onto).connection(),
            names,
            absolute=self._target_absolute,
            lengths_first=self._target_lengths,
            big=self._big,
            on_piece=self._on_piece,
        )
        return {
            key: Pair(a, b, tuple(self.mark_collisions(classify(database, key, a, b, self._tolerance))))
            for key, a, b in zip(keys, ours, theirs, strict=True)
        }

    def extras(self, database: int, keys: Sequence[bytes]) -> dict[bytes, Pair]:
        """Keys of a database of the target that were found to be there alone; no finding where they no longer are.

        :raises ServerError: a server is lost or refuses.
        """
        theirs = look(
            self._on_target(database).connection(),
            keys,
            absolute=self._target_absolute,
            lengths_first=self._target_lengths,
            big=self._big,
            on_piece=self._on_piece,
        )
        explained = self._explained(database, keys)
        pairs: dict[bytes, Pair] = {}
        for key, found in zip(keys, theirs, strict=True):
            extra = found.present and key not in explained
            findings = classify(database, key, ABSENT, found, self._tolerance) if extra else []
            pairs[key] = Pair(ABSENT, found, tuple(findings))
        return pairs

    def mark_collisions(self, findings: Sequence[NewFinding]) -> list[NewFinding]:
        """The same findings; those where another source key has the same place on the target become collisions."""
        if not self._rules.merges_over(self._databases):
            return list(findings)
        return [self._collision(finding) for finding in findings]

    def _collision(self, finding: NewFinding) -> NewFinding:
        if finding.finding_class not in _OVERWRITTEN:
            return finding
        onto, name = self._rules.target_database(finding.database), self._rules.rename(finding.key)
        others = [
            (database, key)
            for database, key in self._rules.sources(onto, name, self._databases)
            if (database, key) != (finding.database, finding.key)
            and self._on_source(database).connection().exchange([pack(b"EXISTS", key)])[0] == 1
        ]
        if not others:
            return finding
        places = ", ".join(f"database {database}" for database, _ in others)
        detail = f"another key of the source has the same place on the target ({places}): {finding.detail}"
        return replace(finding, finding_class=FindingClass.COLLISION, detail=detail)

    def _explained(self, database: int, keys: Iterable[bytes]) -> set[bytes]:
        """Those of *keys* that a key of the source can have become."""
        explained = set()
        for key in keys:
            for source_database, name in self._rules.sources(database, key, self._databases):
                connection = self._on_source(source_database).connection()
                if connection.exchange([pack(b"EXISTS", name)])[0] == 1:
                    explained.add(key)
        return explained

    def now(self, finding_class: FindingClass, database: int, keys: Sequence[bytes]) -> dict[bytes, Pair]:
        """:meth:`extras` or :meth:`pairs`, whichever fits findings of this class."""
        return (self.extras if finding_class is FindingClass.EXTRA else self.pairs)(database, keys)

    def _on_source(self, database: int) -> Standby:
        if database not in self._sources:
            self._sources[database] = self._stack.enter_context(Standby(self._source, "verify", database))
        return self._sources[database]

    def _on_target(self, database: int) -> Standby:
        if database not in self._targets:
            self._targets[database] = self._stack.enter_context(Standby(self._target, "verify", database))
        return self._targets[database]
