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
    SYNC = "sync"
    """Copies, then follows what changes, in whichever direction the applications' side demands."""
    CUTOVER = "cutover"
    """Moves the applications from blue to green; its parent is the sync run that it rests on."""
    ROLLBACK = "rollback"
    """Moves the applications back to blue; its parent is the sync run."""
    WATCH = "watch"
    """Guards green after a cutover; its parent is the sync run."""
    ASSESS = "assess"
    """Looks at both servers before anything is moved."""


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
    ASSESS = "assess"
    SNAPSHOT = "snapshot"
    STREAM = "stream"
    REPLICATE = "replicate"
    """Dragonfly's own replication does what the stream phase does otherwise."""
    VERIFY = "verify"
    REPAIR = "repair"
    SYNC = "sync"
    CUTOVER = "cutover"
    ROLLBACK = "rollback"
    WATCH = "watch"


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
    AT_RISK = "at-risk"
    """Changed on green, and not known to have reached blue when green was abandoned."""


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


class Direction(StrEnum):
    """Which side a sync run follows."""

    FORWARD = "forward"
    """Blue serves; its changes go to green."""
    BACKWARD = "backward"
    """Green serves; its changes go back to blue."""


class SyncState(StrEnum):
    """What a sync run is doing."""

    STARTING = "starting"
    COPYING = "copying"
    COMPARING = "comparing"
    """A pass over all keys is under way; changes are carried over meanwhile."""
    FOLLOWING = "following"
    STOPPED = "stopped"


class Ask(StrEnum):
    """What a cutover or rollback asks of the sync process."""

    SETTLE = "settle"
    """As ``drain``, but for the groups of streams, which nobody announces; for a first, quick go."""
    DRAIN = "drain"
    """Carry over and prove everything that has changed so far."""
    PROVE = "prove"
    """Compare every key of both sides, then as ``drain``."""
    BACKWARD = "backward"
    """Follow green from now on.  Nobody may write to green yet."""
    FORWARD = "forward"
    """Follow blue from now on.  Nobody may write to blue yet."""
    BACKWARD_ANEW = "backward-anew"
    """Follow green from now on, whatever blue holds: carry nothing over from blue any more, and compare everything."""
    FORWARD_ANEW = "forward-anew"
    """Follow blue from now on, whatever green holds: carry nothing over from green any more, and compare everything."""
    AT_RISK = "at-risk"
    """Record what is not known to have been carried over, and stop following."""
    STOP = "stop"


class StepState(StrEnum):
    """How far one step of a cutover or rollback is."""

    PENDING = "pending"
    RUNNING = "running"
    """Begun, and perhaps done: whoever resumes looks at the servers, not at this."""
    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"


class Decision(StrEnum):
    """What somebody said about a gate."""

    REQUESTED = "requested"
    APPROVED = "approved"
    REJECTED = "rejected"
    BREAK_GLASS = "break-glass"
    """Passed by one person alone, in an emergency; recorded as such."""
    REPEAT = "repeat"
    """Not like this: it is to be done again."""
