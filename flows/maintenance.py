"""The jobs of upkeep, each with the ledger opened and what it came to in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from integrity.errors import ArtifactError, GreenflyError
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.models import Verdict
from integrity.progress import Progress
from integrity.settings import Settings
from integrity.upkeep import check_record, prune_snapshots, try_backup


@dataclass(frozen=True, slots=True)
class Done:
    """What one job came to."""

    name: str
    good: bool
    text: str

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return {"job": self.name, "good": self.good, "text": self.text}


@dataclass(frozen=True, slots=True)
class Job:
    """One job; what goes wrong in it is told like anything else, so that the others are done all the same."""

    name: str
    run: Callable[[], Done]


def chosen(settings: Settings, progress: Progress, *, prune: bool, record: bool, backup: bool) -> list[Job]:
    """The jobs that are wanted, in their order: what is pruned is not tried."""
    jobs: tuple[tuple[bool, str, Callable[[Ledger], tuple[bool, str]]], ...] = (
        (prune, "prune", lambda ledger: _prune(settings, ledger)),
        (record, "record", lambda ledger: _record(settings, ledger)),
        (backup, "backup", lambda ledger: _backup(settings, ledger, progress)),
    )
    return [Job(name, _told(settings, name, work)) for wanted, name, work in jobs if wanted]


def require_good(done: Sequence[Done]) -> None:
    """
    :raises ArtifactError: one of the jobs found something wrong.
    """
    bad = [one for one in done if not one.good]
    if bad:
        raise ArtifactError(
            " ".join(f"{one.name}: {one.text}" for one in bad), "Look at it before you need it."
        )


def _told(settings: Settings, name: str, work: Callable[[Ledger], tuple[bool, str]]) -> Callable[[], Done]:
    def run() -> Done:
        ledger = open_ledger(settings)
        try:
            good, text = work(ledger)
        except GreenflyError as error:
            good, text = False, str(error)
        finally:
            ledger.close()
        return Done(name, good, text)

    return run


def _prune(settings: Settings, ledger: Ledger) -> tuple[bool, str]:
    pruned = prune_snapshots(settings, ledger)
    if not pruned.by_rule and not pruned.removed:
        return True, "No rule says what may go: set snapshot.keep or snapshot.max_age_days."
    return (
        True,
        f"{len(pruned.removed):,} of {len(pruned.decisions):,} snapshots removed, {pruned.freed:,} bytes.",
    )


def _record(settings: Settings, ledger: Ledger) -> tuple[bool, str]:
    found = check_record(settings, ledger)
    if not found.intact:
        return False, f"The record is broken at event {found.broken_at}: {found.problem}."
    if not found.checked:
        return False, f"Checkpoints are signed with unknown keys: {', '.join(found.testimony.unknown_keys)}."
    signed = f"{found.testimony.trusted:,} signed checkpoints fit" if found.testimony.trusted else "unsigned"
    return True, f"The chain of {found.chain.events:,} events is intact; {signed}."


def _backup(settings: Settings, ledger: Ledger, progress: Progress) -> tuple[bool, str]:
    if settings.scratch.url is None:
        return True, "Not tried: no scratch server is set ([scratch] url)."
    restored = try_backup(settings, ledger, progress)
    good = restored.verdict in {Verdict.PASS, Verdict.PASS_WITH_EXCEPTIONS}
    return (
        good,
        f"{restored.directory.name} into {restored.target}: {restored.verdict.value}. {restored.reason}",
    )
