"""Examining the ledger itself: its chain, the checkpoints in it and elsewhere, and one run's row beside its events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from integrity.audit.keeping import read_kept
from integrity.audit.keys import Trust
from integrity.audit.seal import NOT_KEPT_KIND, NOT_SIGNED_KIND
from integrity.audit.witness import Testimony, Witness
from integrity.ledger import Ledger, models
from integrity.ledger.audit import GENESIS, ChainState, verify_chain
from integrity.ledger.database import reading
from integrity.ledger.models import Event


@dataclass(frozen=True, slots=True)
class LedgerExamination:
    """What the examination of a ledger found."""

    chain: ChainState
    testimony: Testimony
    run_id: str | None
    run_problems: tuple[str, ...]
    not_kept: int
    """Checkpoints that could not be made, or not be written to the file elsewhere, at the end of a run."""
    trusts: bool
    """Whether the checker named a key that it trusts."""

    @property
    def intact(self) -> bool:
        """Whether chain, checkpoints and run agree."""
        return self.broken_at is None and not self.run_problems and not self.testimony.contradictions

    @property
    def broken_at(self) -> int | None:
        """The first event that is wrong or missing, as far as chain and checkpoints tell."""
        if self.chain.broken_at is not None:
            return self.chain.broken_at
        told = [
            one.checkpoint.sequence for one in self.testimony.contradictions if one.checkpoint is not None
        ]
        if not told:
            return None
        return self.chain.events + 1 if min(told) > self.chain.events else self.testimony.covered_to + 1

    @property
    def problem(self) -> str | None:
        """The first thing that is wrong."""
        return next(iter(self.problems), None)

    @property
    def problems(self) -> tuple[str, ...]:
        """Everything that is wrong."""
        found = [self.chain.problem] if self.chain.problem is not None else []
        found += [f"{one.place}: {one.problem}" for one in self.testimony.contradictions]
        return (*found, *self.run_problems)

    @property
    def checked(self) -> bool:
        """Whether every checkpoint could be judged, or nobody asked for that."""
        return not self.trusts or not self.testimony.unknown_keys

    @property
    def signed(self) -> str:
        """``trusted``, ``unknown-key`` or ``unsigned``."""
        if self.testimony.trusted:
            return "trusted"
        return "unknown-key" if self.testimony.unknown_keys else "unsigned"


def examine_ledger(
    ledger: Ledger, trust: Trust, kept_file: Path | None, run_id: str | None
) -> LedgerExamination:
    """Walk the chain and lay all checkpoints beside it.

    :param kept_file: checkpoints that were kept elsewhere.
    :param run_id: the run whose row is laid beside its events.
    :raises ConfigurationError: the file is missing.
    """
    kept = read_kept(kept_file) if kept_file is not None else []
    witness = Witness(trust)
    for line in kept:
        witness.expect(line)
    of_run: list[Event] = []
    previous, not_kept = (0, GENESIS), 0

    def see(event: Event) -> None:
        nonlocal previous, not_kept
        witness.see(event.sequence, event.hash)
        witness.hear(event, previous)
        not_kept += event.kind in (NOT_KEPT_KIND, NOT_SIGNED_KIND)
        if run_id is not None and event.run_id == run_id:
            of_run.append(event)
        previous = (event.sequence, event.hash)

    with reading(ledger.engine) as connection:
        state = verify_chain(connection, see)
    testimony = Testimony(tuple(witness.statements(state.events)))
    run = ledger.find_run(run_id) if run_id is not None else None
    problems = tuple(_run_problems(ledger, run, of_run)) if run is not None and state.intact else ()
    return LedgerExamination(state, testimony, run_id, problems, not_kept, bool(trust))


def _run_problems(ledger: Ledger, run: models.Run, events: list[Event]) -> Iterator[str]:
    """Where the row of a run, or its files, are not what its events say."""
    if not events:
        yield f"run {run.id} has no event"
        return
    state, verdict = "running", None
    for event in events:
        word = event.kind.removeprefix("run.")
        if event.kind in ("run.started", "run.resumed"):
            state, verdict = "running", None
        elif event.kind.startswith("run.") and word in {"finished", "failed", "interrupted"}:
            state, verdict = word, json.loads(event.payload).get("verdict")
    if run.state.value != state:
        yield f"run {run.id} is {run.state.value}, and its events say {state}"
    own = run.verdict.value if run.verdict is not None else None
    if own != verdict:
        yield f"the verdict of run {run.id} is {own}, and its events say {verdict}"
    written = {_row(json.loads(event.payload)) for event in events if event.kind == "artifact.written"}
    for artifact in ledger.artifacts(run.id):
        name = Path(artifact.path).name
        if (artifact.kind, name, artifact.size, artifact.sha256) not in written:
            yield f"{name} of run {run.id} is recorded with another size or hash than its events say"


def _row(payload: dict[str, object]) -> tuple[object, ...]:
    return tuple(payload.get(name) for name in ("kind", "name", "size", "sha256"))
