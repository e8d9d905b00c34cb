"""The engine's comparison in this process, without a run and a ledger around it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import SecretStr

from integrity.endpoint import Endpoint
from integrity.errors import Role
from integrity.ledger.store import NewFinding
from integrity.pace import FullSpeed
from integrity.partition import WHOLE
from integrity.rules import Rules
from integrity.settings import BigValueSettings, EndpointSettings, RuleSettings, VerifySettings
from integrity.verify.compare import Comparer
from integrity.verify.extra import ExtraFinder
from integrity.verify.totals import CompareTotals


@dataclass(slots=True)
class Compared:
    """What a comparison of one database came to, before anything is looked at again."""

    totals: CompareTotals
    findings: list[NewFinding] = field(default_factory=list)

    @property
    def found(self) -> set[tuple[str, bytes]]:
        """(class, key) of every finding."""
        return {(finding.finding_class.value, finding.key) for finding in self.findings}


def endpoint(role: Role, url: str) -> Endpoint:
    """An endpoint without a settings file."""
    return Endpoint.from_settings(role, EndpointSettings(url=SecretStr(url)))


def compare_database(
    source_url: str,
    target_url: str,
    database: int = 0,
    *,
    big_values: BigValueSettings | None = None,
    field_expiries: bool = False,
    batch_keys: int = 1000,
) -> Compared:
    """Compare one database of two servers, both ways."""
    source, target = endpoint("source", source_url), endpoint("target", target_url)
    ours, theirs = source.identify(), target.identify()
    big = big_values or BigValueSettings()
    pace, rules = FullSpeed(batch_keys), Rules.of(RuleSettings())
    findings: list[NewFinding] = []
    comparer = Comparer(
        source,
        target,
        ours,
        theirs,
        VerifySettings(),
        big,
        rules=rules,
        pace=pace,
        field_expiries=field_expiries,
        on_findings=findings.extend,
        on_checkpoint=lambda state: None,
        on_progress=lambda keys, size: None,
    )
    comparer.compare_range(database, WHOLE)
    finder = ExtraFinder(
        source,
        target,
        theirs,
        big,
        databases=[database],
        rules=rules,
        pace=pace,
        totals=comparer.totals,
        on_findings=findings.extend,
    )
    finder.search(database, WHOLE)
    return Compared(comparer.totals, findings)
