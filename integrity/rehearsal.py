"""What a rehearsal came to beside the one before it, from the ledger alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import select

from integrity.ledger import Ledger
from integrity.ledger.database import reading, repeated
from integrity.ledger.models import Event, FindingState, PhaseName, Run, RunState

REHEARSED: Final = "rehearsal.begun"
COMPARED: Final = "rehearsal.compared"
_SLOWER: Final = 1.25
"""A phase that takes this many times as long is worth a look …"""
_SECONDS: Final = 1.0
"""… unless it is only so many seconds."""
_NO_NEWS: Final = ("scratch", "target", "flows", "label", "state_dir", "ledger_url", "audit")
"""Settings that say nothing about what a rehearsal does."""


@dataclass(frozen=True, slots=True)
class RehearsalFacts:
    """One rehearsal as the ledger holds it."""

    run_id: str
    started_at: datetime
    state: str
    verdict: str | None
    greenfly: str
    source: str
    """``Redis 7.0.15``, or empty where it never answered."""
    target: str
    seconds: Mapping[str, float]
    """Phase → how long it took."""
    keys: Mapping[str, int]
    """``db 0 hash`` → keys."""
    bytes: int
    findings: Mapping[str, int]
    """``open missing`` → count."""
    settings: Mapping[str, object]
    """Dotted name → value, secrets masked."""

    @property
    def total_seconds(self) -> float:
        """All phases together."""
        return sum(self.seconds.values())

    @property
    def total_keys(self) -> int:
        """Keys of all databases and types."""
        return sum(self.keys.values())


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not as it was in the rehearsal before."""

    what: str
    before: str
    after: str
    notable: bool
    """Whether somebody should look at it."""

    @property
    def text(self) -> str:
        """``keys: 1,000 → 1,200 (+20 %)``"""
        return f"{self.what}: {self.before} → {self.after}"

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {"what": self.what, "before": self.before, "after": self.after, "notable": self.notable}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A rehearsal beside the one before it."""

    run_id: str
    previous_id: str | None
    """None for the first one."""
    changes: tuple[Change, ...]

    @property
    def notable(self) -> tuple[Change, ...]:
        """Those that somebody should look at."""
        return tuple(change for change in self.changes if change.notable)

    @property
    def text(self) -> str:
        """One sentence for people."""
        if self.previous_id is None:
            return "This is the first rehearsal from this source; the next one is compared with it."
        if not self.changes:
            return f"Nothing differs from rehearsal {self.previous_id}."
        return f"{len(self.changes)} things differ from rehearsal {self.previous_id}, {len(self.notable)} worth a look."

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {
            "run": self.run_id,
            "previous": self.previous_id,
            "text": self.text,
            "changes": [change.to_dict() for change in self.changes],
        }


def compare_with_previous(ledger: Ledger, run_id: str) -> Comparison:
    """Lay a rehearsal beside the newest earlier one from the same source that came to its end; recorded.

    :raises LedgerError: the ledger cannot be read or written.
    """
    run = ledger.find_run(run_id)
    previous = previous_rehearsal(ledger, run)
    changes: tuple[Change, ...] = ()
    if previous is not None:
        changes = tuple(changes_between(read_facts(ledger, previous), read_facts(ledger, run)))
    comparison = Comparison(run.id, previous.id if previous else None, changes)
    ledger.record_event(COMPARED, comparison.to_dict(), run.id)
    return comparison


def previous_rehearsal(ledger: Ledger, run: Run) -> Run | None:
    """The newest finished rehearsal from the same source that began before *run*."""
    earlier = [
        other
        for other in rehearsals(ledger)
        if other.started_at < run.started_at
        and other.state is RunState.FINISHED
        and other.source_address == run.source_address
    ]
    return max(earlier, key=lambda other: (other.started_at, other.id), default=None)


@repeated
def rehearsals(ledger: Ledger) -> list[Run]:
    """The newest rehearsals, newest first."""
    query = select(Event.run_id).where(Event.kind == REHEARSED).order_by(Event.sequence.desc()).limit(100)
    with reading(ledger.engine) as connection:
        ids = list(connection.scalars(query))
    return [ledger.find_run(run_id) for run_id in dict.fromkeys(ids) if run_id is not None]


def read_facts(ledger: Ledger, run: Run) -> RehearsalFacts:
    """One rehearsal, from the ledger."""
    phases = ledger.phases(run.id)
    tallies = ledger.tallies(run.id)
    copied = [tally for tally in tallies if tally.phase is PhaseName.STREAM]
    counted = copied or [tally for tally in tallies if tally.phase is PhaseName.VERIFY]
    return RehearsalFacts(
        run_id=run.id,
        started_at=run.started_at,
        state=run.state.value,
        verdict=run.verdict.value if run.verdict else None,
        greenfly=run.version,
        source=_title(run.source),
        target=_title(run.target),
        seconds={
            phase.name.value: (phase.ended_at - phase.started_at).total_seconds()
            for phase in phases
            if phase.ended_at is not None
        },
        keys={f"db {tally.database} {tally.kind}": tally.keys for tally in counted},
        bytes=sum(tally.bytes for tally in counted),
        findings={
            f"{state.value} {finding_class.value}": count
            for (finding_class, state), count in ledger.finding_counts(run.id).items()
            if state is not FindingState.SETTLED
        },
        settings=dict(_flat({n: v for n, v in run.settings.items() if n not in _NO_NEWS})),
    )


def changes_between(before: RehearsalFacts, after: RehearsalFacts) -> Iterator[Change]:
    """What differs, what matters most first."""
    if before.verdict != after.verdict:
        yield Change("verdict", before.verdict or "none", after.verdict or "none", notable=True)
    for name in sorted(before.findings.keys() | after.findings.keys()):
        old, new = before.findings.get(name, 0), after.findings.get(name, 0)
        if old != new:
            yield Change(f"findings, {name}", f"{old:,}", _grown(old, new), notable=new > old)
    for what, old_text, new_text in (
        ("source server", before.source, after.source),
        ("scratch server", before.target, after.target),
        ("Greenfly", before.greenfly, after.greenfly),
    ):
        if old_text != new_text:
            yield Change(what, old_text or "unknown", new_text or "unknown", notable=True)
    for name in sorted(before.settings.keys() | after.settings.keys()):
        ours, theirs = before.settings.get(name), after.settings.get(name)
        if ours != theirs:
            yield Change(f"setting {name}", _shown(ours), _shown(theirs), notable=True)
    if before.total_keys != after.total_keys:
        lost = after.total_keys < before.total_keys / 2
        yield Change(
            "keys", f"{before.total_keys:,}", _grown(before.total_keys, after.total_keys), notable=lost
        )
    for name in sorted(before.keys.keys() | after.keys.keys()):
        old, new = before.keys.get(name, 0), after.keys.get(name, 0)
        if old != new:
            yield Change(f"keys, {name}", f"{old:,}", _grown(old, new), notable=not old or not new)
    if before.bytes != after.bytes:
        yield Change("bytes", f"{before.bytes:,}", _grown(before.bytes, after.bytes), notable=False)
    yield from _pace("seconds of all phases", before.total_seconds, after.total_seconds)
    for phase in dict.fromkeys((*before.seconds, *after.seconds)):
        yield from _pace(f"seconds, {phase}", before.seconds.get(phase, 0.0), after.seconds.get(phase, 0.0))


def _pace(what: str, before: float, after: float) -> Iterator[Change]:
    slower = after > before * _SLOWER and after - before > _SECONDS
    faster = before > after * _SLOWER and before - after > _SECONDS
    if slower or faster:
        yield Change(what, f"{before:.1f}", f"{after:.1f}{_percent(before, after)}", notable=slower)


def _grown(old: int, new: int) -> str:
    return f"{new:,}{_percent(old, new)}"


def _percent(old: float, new: float) -> str:
    return f" ({(new - old) / old:+.0%})" if old else ""


def _title(identity: Mapping[str, object] | None) -> str:
    return f"{str(identity['engine']).capitalize()} {identity['version']}" if identity else ""


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: object) -> str:
    return "not set" if value is None else str(value)
