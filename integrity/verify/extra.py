"""Finding keys that only the target has: the target is scanned, and each page's keys are looked for on the source.

Without rules one EXISTS over a whole page tells whether all of them are there.  With rules a key of the target counts
as extra when nothing on the source can have become it; where only keys that the rules leave out could have, it is out
of the run's scope, like those keys themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from integrity.checksum import Fingerprint
from integrity.endpoint import Endpoint, Identity
from integrity.expiry import Commands
from integrity.keyspace import KeyspaceReader, Page
from integrity.ledger.models import FindingClass
from integrity.ledger.store import NewFinding
from integrity.pace import Pace
from integrity.partition import CursorRange
from integrity.rules import Rules
from integrity.settings import BigValueSettings, RuleSettings
from integrity.sizes import asks_lengths_first
from integrity.standby import Standby
from integrity.verify.classify import classify
from integrity.verify.compare import batches
from integrity.verify.look import ABSENT, BigValues, look
from integrity.verify.totals import CompareTotals
from integrity.wire import Connection, pack

_CAREFUL_KEYS: Final = 100


class ExtraFinder:
    """Finds keys that only the target has.

    :param databases: the databases of the source that the run is about.
    :param on_findings: told of each such key, under the target's database and name.
    """

    def __init__(
        self,
        source: Endpoint,
        target: Endpoint,
        target_identity: Identity,
        big_values: BigValueSettings,
        *,
        databases: Sequence[int],
        rules: Rules,
        pace: Pace,
        totals: CompareTotals,
        on_findings: Callable[[list[NewFinding]], None],
    ) -> None:
        self._source = source
        self._target = target
        self._absolute = target_identity.has_pexpiretime
        self._lengths_first = asks_lengths_first(target_identity.engine)
        self._big = BigValues.of(big_values)
        self._databases = databases
        self._rules = rules
        self._pace = pace
        self._totals = totals
        self._on_findings = on_findings
        self._plain = rules.selects_all and rules.maps_nothing

    def search(self, database: int, keys: CursorRange) -> None:
        """Search one range of one database of the target.

        :raises ServerError: a server is lost or refuses; the search is incomplete.
        """
        with ExitStack() as stack:
            target = stack.enter_context(self._target.connect("verify", database))
            again = stack.enter_context(Standby(self._target, "verify", database))
            reader = KeyspaceReader(
                target,
                keys=keys,
                cursor=None,
                pace=self._pace,
                batch_bytes=1,
                big_bytes=0,
                rules=_EVERYTHING,
                read=_nothing,
                with_types=False,
                with_sizes=False,
            )
            if self._plain:
                # The pipeline keeps this connection as busy as the target's.
                source = stack.enter_context(self._source.connect("verify", database))
                for page, _ in reader:
                    self._report(database, self._absent(source, page.keys), again)
                    self._totals.target_scanned += len(page.keys)
                return
            sources = {d: stack.enter_context(Standby(self._source, "verify", d)) for d in self._databases}
            for page, _ in reader:
                self._report(database, self._unexplained(database, page.keys, sources), again)
                self._totals.target_scanned += len(page.keys)

    @staticmethod
    def _absent(source: Connection, keys: Sequence[bytes]) -> list[bytes]:
        if not keys or source.command(b"EXISTS", *keys) == len(keys):
            return []
        replies = source.exchange([pack(b"EXISTS", key) for key in keys])
        return [key for key, reply in zip(keys, replies, strict=True) if reply != 1]

    def _unexplained(self, database: int, keys: Sequence[bytes], sources: dict[int, Standby]) -> list[bytes]:
        """Keys of the target that no key of the source, selected or not, can have become."""
        explained: set[bytes] = set()
        asked: dict[int, list[tuple[bytes, bytes]]] = {}
        for key in keys:
            places = self._rules.sources(database, key, self._databases)
            in_scope = [(d, name) for d, name in places if self._rules.selects(name) is None]
            if places and not in_scope:
                explained.add(key)
                self._totals.out_of_scope += 1
            for source_database, name in in_scope:
                asked.setdefault(source_database, []).append((key, name))
        for source_database, pairs in asked.items():
            replies = (
                sources[source_database].connection().exchange([pack(b"EXISTS", name) for _, name in pairs])
            )
            explained.update(key for (key, _), reply in zip(pairs, replies, strict=True) if reply == 1)
        return [key for key in keys if key not in explained]

    def _report(self, database: int, keys: Sequence[bytes], again: Standby) -> None:
        for part in batches(keys, _CAREFUL_KEYS):
            findings: list[NewFinding] = []
            looks = look(
                again.connection(),
                part,
                absolute=self._absolute,
                lengths_first=self._lengths_first,
                big=self._big,
                on_piece=lambda size: self._pace.admit(0, size),
            )
            for key, theirs in zip(part, looks, strict=True):
                if self._rules.needs_types and theirs.kind_name is not None:
                    name = next((n for _, n in self._rules.sources(database, key, self._databases)), key)
                    if self._rules.selects(name, theirs.kind_name.encode()) is not None:
                        self._totals.out_of_scope += 1
                        continue
                found = classify(database, key, ABSENT, theirs, 0)
                findings += [f for f in found if f.finding_class is FindingClass.EXTRA]
                if found and theirs.digest is not None:
                    self._totals.only_target.setdefault(database, Fingerprint()).add(key, theirs.digest)
            self._on_findings(findings)


def _nothing(page: Page) -> Commands:
    """A page of the target is read for its names alone."""
    return b"", 0


_EVERYTHING: Final = Rules.of(RuleSettings())
