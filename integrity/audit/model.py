"""What an examination of a bundle or a ledger found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal


class ProblemKind(StrEnum):
    """What kind of thing is broken."""

    CHANGED = "changed"
    CUT_OFF = "cut-off"
    LONGER = "longer"
    MISSING = "missing"
    EXTRA = "extra"
    MISPLACED = "misplaced"
    """It stands where something else belongs."""
    CONTAINER = "container"
    """The zip file itself, beside the files in it."""
    SIGNATURE = "signature"
    CHAIN = "chain"
    CHECKPOINT = "checkpoint"
    CONTRADICTION = "contradiction"
    """Two facts of the record that cannot both be true."""
    FORMAT = "format"


@dataclass(frozen=True, slots=True)
class Span:
    """First and last of a range, counted as its owner says; both belong to it."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}–{self.last}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is broken, and where."""

    kind: ProblemKind
    text: str
    file: str | None = None
    """In the bundle."""
    bytes: Span | None = None
    """In that file as it was exported, from 0."""
    lines: Span | None = None
    """In that file as it is, from 1."""
    container_bytes: Span | None = None
    """In the zip file as it was exported, from 0."""
    event: int | None = None
    """Sequence number."""

    @property
    def place(self) -> str:
        """Where, for people."""
        parts = [self.file] if self.file else []
        for name, span in (("byte", self.bytes), ("line", self.lines)):
            if span is not None:
                parts.append(f"{name}{'' if span.first == span.last else 's'} {span}")
        if self.file is None and self.container_bytes is not None:
            span = self.container_bytes
            parts.append(f"the zip file, byte{'' if span.first == span.last else 's'} {span}")
        if self.event is not None:
            parts.append(f"event {self.event}")
        return ", ".join(parts) or "the bundle"

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""

        def pair(span: Span | None) -> list[int] | None:
            return None if span is None else [span.first, span.last]

        return {
            "kind": self.kind.value,
            "file": self.file,
            "bytes": pair(self.bytes),
            "lines": pair(self.lines),
            "container_bytes": pair(self.container_bytes),
            "event": self.event,
            "problem": self.text,
        }


class Finding(StrEnum):
    """How an examination ended."""

    PROVEN = "proven"
    """Whole, and signed with a key that the checker trusts."""
    BROKEN = "broken"
    UNKNOWN_KEY = "unknown-key"
    """Consistent, but signed with a key that the checker was not told to trust."""
    UNSIGNED = "unsigned"
    """Consistent; who changed everything alike would not be noticed."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a bundle says about itself."""

    run_id: str
    ledger: str
    exported_at: str
    exported_by: str
    version: str
    hides_other_runs: bool
    events: int
    head: str
    findings: int


@dataclass(frozen=True, slots=True)
class Examination:
    """What the examination of one bundle found."""

    path: Path
    form: Literal["folder", "zip"]
    signed: Literal[Finding.PROVEN, Finding.UNKNOWN_KEY, Finding.UNSIGNED]
    key_id: str | None
    facts: Facts | None
    files: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    """What a reader must know before relying on it."""
    trusted_checkpoints: int
    covered_to: int
    """Number of the newest event that a trusted checkpoint signs; 0 for none."""

    @property
    def finding(self) -> Finding:
        """The outcome in one word."""
        return Finding.BROKEN if self.problems else self.signed

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        facts = self.facts
        return {
            "bundle": str(self.path),
            "form": self.form,
            "finding": self.finding.value,
            "signed": self.signed.value,
            "key_id": self.key_id,
            "run": facts.run_id if facts else None,
            "ledger": facts.ledger if facts else None,
            "exported_at": facts.exported_at if facts else None,
            "events": facts.events if facts else None,
            "hides_other_runs": facts.hides_other_runs if facts else None,
            "findings": facts.findings if facts else None,
            "files": self.files,
            "trusted_checkpoints": self.trusted_checkpoints,
            "covered_to": self.covered_to,
            "problems": [problem.to_dict() for problem in self.problems],
            "notes": list(self.notes),
        }
