"""Comparing keys that were carried over, so that nothing is left to be proven when the fence goes up."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import time
from types import TracebackType
from typing import Self

from integrity.ledger.models import FindingClass, FindingState
from integrity.ledger.store import Ledger, NewFinding
from integrity.rules import Rules
from integrity.settings import Settings
from integrity.sync.glance import Glance
from integrity.sync.link import Link
from integrity.verify.exceptions import FindingRules
from integrity.verify.present import Pair, Present


@dataclass(slots=True)
class Proof:
    """What comparing some names came to."""

    equal: list[bytes] = field(default_factory=list)
    """Equal in every database, or different as a rule expects."""
    different: dict[bytes, list[NewFinding]] = field(default_factory=dict)
    """Name → how it differs, in whichever databases."""
    expected: list[NewFinding] = field(default_factory=list)
    """Differences that a rule excepts."""


class Prover:
    """Compares keys by name, in every database; a context manager that keeps its connections."""

    def __init__(
        self, link: Link, settings: Settings, ledger: Ledger, run_id: str, databases: Sequence[int]
    ) -> None:
        self._rules = Rules.of(settings.rules)
        self._tolerance_ms = settings.verify.expiry_tolerance_ms
        self._excepts = FindingRules(ledger, run_id, settings, link.target_identity)
        self._present = Present(
            link.source,
            link.target,
            link.source_identity,
            link.target_identity,
            settings.verify,
            settings.big_values,
            databases=databases,
            rules=self._rules,
        )
        self._glance = Glance(link, settings)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._present)
        self._stack.enter_context(self._glance)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def prove(self, names: Sequence[bytes], databases: Sequence[int]) -> Proof:
        """Look at both sides now.

        :raises ServerError: a server is lost or refuses.
        """
        found: list[NewFinding] = []
        selected = [name for name in names if self._rules.selects(name) is None]
        for database, unequal in self._glance.unequal(selected, databases).items():
            if not unequal:
                continue
            for pair in self._present.pairs(database, unequal).values():
                if pair.findings and self._in_scope(pair):
                    found += pair.findings
        proof = Proof()
        found = [finding for finding in found if not self._expired(finding)]
        for finding in self._excepts.apply(found):
            if finding.state is FindingState.EXCEPTION:
                proof.expected.append(finding)
            else:
                proof.different.setdefault(finding.key, []).append(finding)
        proof.equal = [name for name in names if name not in proof.different]
        return proof

    def _expired(self, finding: NewFinding) -> bool:
        """Whether the key is gone on both sides by what it is: a Dragonfly that is paused still shows expired keys."""
        at = finding.source_expiry_ms
        return (
            finding.finding_class is FindingClass.MISSING
            and at is not None
            and 0 <= at <= time() * 1000 + self._tolerance_ms
        )

    def _in_scope(self, pair: Pair) -> bool:
        kind = pair.source.kind_name or pair.target.kind_name or ""
        key = pair.findings[0].key
        return not self._rules.needs_types or self._rules.selects(key, kind.encode()) is None
