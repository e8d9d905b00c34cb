"""The words that the ledger stores: kinds, states, classes.  Words are added, never changed or taken away."""

from __future__ import annotations

from enum import StrEnum


class RunKind(StrEnum):
    """What a run was started to do."""

    MIGRATE = "migrate"
    VERIFY = "verify"
    SNAPSHOT = "snapshot"
    REPAIR = "repair"
    """Makes the keys equal that another run found to differ."""


class RunState(StrEnum):
    """How far a run is.  ``finished`` says nothing about the verdict."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    """It ended with an error; the verdict is INCONCLUSIVE where one was due."""
    INTERRUPTED = "interrupted"


class PhaseName(StrEnum):
    """The phases of a run, in order."""

    CHECK = "check"
    SNAPSHOT = "snapshot"
    STREAM = "stream"
    VERIFY = "verify"
    REPAIR = "repair"


class PhaseState(StrEnum):
    """How far a phase is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class Verdict(StrEnum):
    """What a verification concluded."""

    PASS = "PASS"  # noqa: S105  (a verdict, not a password)
    PASS_WITH_EXCEPTIONS = "PASS WITH EXCEPTIONS"  # noqa: S105
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


class FindingClass(StrEnum):
    """How a key differs.  One key can have several findings."""

    MISSING = "missing"
    """The target does not have it."""
    EXTRA = "extra"
    """Only the target has it."""
    TYPE = "type"
    VALUE = "value"
    EXPIRY = "expiry"
    REFUSED = "refused"
    """The target did not accept the key's payload during the copy."""
    SKIPPED = "skipped"
    """The conflict policy kept the target's value."""
    UNREADABLE = "unreadable"
    """A side could not be read, or the type is not known; the key was not compared."""
    NOT_CARRIED = "not-carried"
    """Copied by typed commands, which could not carry everything; the detail says what."""
    FIELD_EXPIRY = "field-expiry"
    """A hash field expires at another time."""
    COLLISION = "collision"
    """Two source keys map to the same target key."""


class FindingState(StrEnum):
    """Whether a finding counts."""

    OPEN = "open"
    SETTLED = "settled"
    """A later look found the key equal; kept for the record."""
    EXCEPTION = "exception"
    """Covered by a rule the operator set."""
    REPAIRED = "repaired"
    """A repair run made both sides equal."""


class RepairAction(StrEnum):
    """What a repair run did about one finding."""

    COPIED = "copied"
    """The source's value was written to the target."""
    DELETED = "deleted"
    """The key was removed from the target."""
    SETTLED = "settled"
    """The two sides were equal already when they were looked at again; nothing was written."""
    NOT_REPAIRED = "not-repaired"
    """The sides still differ; the detail says why."""
