"""Room outside the servers' own limits: disk here and on the source, and the memory that a fork of the source takes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from integrity.assess.memory import MIB, MemoryNeed, mib, number
from integrity.assess.model import Finding, Severity, found, not_applicable, passed
from integrity.assess.subject import Subject
from integrity.errors import PermissionRefused, ProtocolError
from integrity.settings import SnapshotMethod
from integrity.strategy import Strategy

_LEAST_PER_KEY: Final = 40
_LEAST_SHARE: Final = 0.05
"""A snapshot never takes less: a row of the manifest for each key, and values that compress twentyfold."""
_SPARE: Final = 8 * MIB
"""For the ledger and the report."""
_FORK_SHARE: Final = 0.9


def disk(subject: Subject) -> Finding:
    """Free space where this machine keeps snapshots."""
    settings = subject.settings
    folder = settings.snapshot_dir if settings.snapshot.enabled else settings.state_dir
    place = _existing(folder)
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return found(
            Severity.WARNING,
            f"How much room {folder} has cannot be told ({error.strerror}).",
            "Check path and rights.",
        )
    need = MemoryNeed.of(subject).keys if settings.snapshot.enabled else 0
    keys = sum(subject.source_identity.databases.get(database, 0) for database in subject.databases)
    least = _SPARE + (int(need * _LEAST_SHARE) + keys * _LEAST_PER_KEY if settings.snapshot.enabled else 0)
    evidence: dict[str, object] = {"free_bytes": free, "snapshot_at_most_bytes": need, "least_bytes": least}
    remedy = "Free space, set snapshot.directory (or state_dir) to another disk, or leave the snapshot out."
    if free < least:
        text = f"{mib(free)} are free for {folder}; a run needs {mib(least)} there at the very least."
        return found(Severity.BLOCKING, text, remedy, items=(), **evidence)
    if free < need + _SPARE:
        text = f"{mib(free)} are free for {folder}; a snapshot takes up to {mib(need)}, less where values compress."
        return found(Severity.WARNING, text, remedy, items=(), **evidence)
    return passed(f"{mib(free)} are free for {folder}, and {mib(need + _SPARE)} suffice.", **evidence)


def _existing(folder: Path) -> Path:
    """The nearest folder above that is there already."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def forks(subject: Subject) -> bool:
    """Whether the run makes the source write an RDB stream."""
    snapshot = subject.settings.snapshot
    return subject.strategy is Strategy.NATIVE or (
        snapshot.enabled and snapshot.method is not SnapshotMethod.SCAN
    )


def fork(subject: Subject) -> Finding:
    """Whether the source can write an RDB stream: a child process shares its memory, and copies what changes."""
    if not forks(subject):
        return not_applicable("Nothing in this run makes the source fork.")
    if subject.source_identity.engine == "dragonfly":
        return not_applicable("Dragonfly does not fork.")
    info = subject.source_info
    resident, machine = number(info, "used_memory_rss"), number(info, "total_system_memory")
    status, diskless = info.get("rdb_last_bgsave_status", "ok"), _diskless(subject)
    evidence: dict[str, object] = {
        "resident_bytes": resident,
        "machine_bytes": machine or None,
        "last_bgsave": status,
        "last_fork_us": number(info, "latest_fork_usec"),
        "last_copied_on_write_bytes": number(info, "rdb_last_cow_size"),
        "diskless": diskless,
    }
    if status != "ok":
        return found(
            Severity.WARNING if diskless else Severity.BLOCKING,
            "The source's last BGSAVE failed, and a replication stream is made the same way"
            + ("." if diskless else ", through a file on its disk."),
            "See its log; have BGSAVE succeed first (disk, memory, vm.overcommit_memory), or use --strategy copy and "
            "snapshot.method = scan.",
            items=(),
            **evidence,
        )
    if machine and 2 * resident > _FORK_SHARE * machine:
        return found(
            Severity.WARNING,
            f"The source uses {mib(resident)} of its machine's {mib(machine)}; a fork under heavy writes may need as "
            "much again.",
            "Do it while little is written, or use --strategy copy and snapshot.method = scan, which do not fork.",
            items=(),
            **evidence,
        )
    if diskless is False:
        return found(
            Severity.INFO,
            f"The source writes its RDB to its own disk first (repl-diskless-sync no), up to "
            f"{mib(MemoryNeed.of(subject).keys)}; how much room is there, it does not tell.",
            "See that its folder (CONFIG GET dir) has room, or set repl-diskless-sync to yes.",
            items=(),
            **evidence,
        )
    return passed("The source has room to fork.", **evidence)


def _diskless(subject: Subject) -> bool | None:
    """None where it does not tell."""
    try:
        told = subject.source_config("repl-diskless-sync")
    except (PermissionRefused, ProtocolError):
        return None
    return None if told is None else told == "yes"
