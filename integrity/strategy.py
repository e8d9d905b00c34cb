"""By which road keys get to the target the first time; whichever it is, the same checksums prove it."""

from __future__ import annotations

from enum import StrEnum


class Strategy(StrEnum):
    """How everything is copied."""

    AUTO = "auto"
    """Native where the assessment finds nothing against it, else copy; the run records which and why."""
    COPY = "copy"
    """DUMP and RESTORE in pipelined batches: works everywhere, and a key that is refused is known at once."""
    NATIVE = "native"
    """Dragonfly's own REPLICAOF: the fastest, and silent about what it drops, so that is looked for and repaired."""
