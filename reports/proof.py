"""How far the record itself can be trusted: the chain of audit events, and the signed checkpoints in it."""

from __future__ import annotations

from dataclasses import dataclass

from integrity.audit.keys import Trust
from integrity.audit.seal import NOT_KEPT_KIND, NOT_SIGNED_KIND
from integrity.audit.witness import Testimony, Witness
from integrity.ledger import Ledger
from integrity.ledger.audit import GENESIS, ChainState, verify_chain
from integrity.ledger.database import reading
from integrity.ledger.models import Event


@dataclass(frozen=True, slots=True)
class CheckpointView:
    """One signed checkpoint."""

    place: str
    """``event 17``."""
    sequence: int
    """The event whose hash it signs."""
    head: str
    at: str
    key_id: str


@dataclass(frozen=True, slots=True)
class Proof:
    """What a walk along the chain and its checkpoints found."""

    chain: ChainState
    checkpoints: int
    newest: CheckpointView | None
    """The newest one that fits the chain."""
    key_ids: tuple[str, ...]
    """Keys that signed; whether they are to be trusted is for the reader to know."""
    problems: tuple[str, ...]
    """Checkpoints that contradict the chain."""
    not_kept: int
    """Checkpoints that could not be made, or not be written to the file elsewhere."""
    run_events: int
    """Of the run that the report is about."""
    covered: bool | None
    """Whether a fitting checkpoint signs the newest event that tells the run's state; None without checkpoints."""


def build_proof(ledger: Ledger, run_id: str) -> Proof:
    """Walk the chain once.

    :raises LedgerError: the ledger cannot be read.
    """
    # Nobody is trusted here: a report says who signed, and `greenfly audit verify` whether that is enough.
    witness = Witness(Trust())
    previous, not_kept, run_events, last_of_run = (0, GENESIS), 0, 0, 0

    def see(event: Event) -> None:
        nonlocal previous, not_kept, run_events, last_of_run
        witness.see(event.sequence, event.hash)
        witness.hear(event, previous)
        not_kept += event.kind in (NOT_KEPT_KIND, NOT_SIGNED_KIND)
        if event.run_id == run_id:
            run_events += 1
            # Reports of it that are written later are events too, and no part of what was signed when it ended.
            last_of_run = event.sequence if event.kind.startswith("run.") else last_of_run
        previous = (event.sequence, event.hash)

    with reading(ledger.engine) as connection:
        state = verify_chain(connection, see)
    testimony = Testimony(tuple(witness.statements(state.events)))
    fitting = [
        CheckpointView(each.place, found.sequence, found.head, found.at, found.key_id)
        for each in testimony.statements
        if each.problem is None and (found := each.checkpoint) is not None
    ]
    newest = max(fitting, key=lambda each: each.sequence, default=None)
    return Proof(
        state,
        len(testimony.statements),
        newest,
        tuple(sorted({each.key_id for each in fitting})),
        tuple(f"{each.place}: {each.problem}" for each in testimony.contradictions),
        not_kept,
        run_events,
        None if newest is None else newest.sequence >= last_of_run,
    )
