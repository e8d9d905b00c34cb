"""Checkpoints laid beside a chain while it is walked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from integrity.audit.checkpoint import EVENT_KIND, Checkpoint
from integrity.audit.keeping import KeptLine
from integrity.audit.keys import PublicKey, Standing, Trust
from integrity.ledger.audit import Link


@dataclass(frozen=True, slots=True)
class Statement:
    """What one checkpoint says about the chain."""

    place: str
    checkpoint: Checkpoint | None
    standing: Standing
    problem: str | None
    """Why it contradicts the chain; None where it bears it out."""


class Witness:
    """Collects what checkpoints say about a chain.

    :param claimed: public keys by id, as the checked material itself tells them.
    """

    def __init__(self, trust: Trust, claimed: Mapping[str, PublicKey] | None = None) -> None:
        self._trust = trust
        self._claimed = dict(claimed or {})
        self._kept: list[KeptLine] = []
        self._wanted: dict[int, str | None] = {1: None}
        """Sequence number → hash in the chain."""

    def expect(self, kept: KeptLine) -> None:
        """Take in a checkpoint from elsewhere; all of them before the walk."""
        self._kept.append(kept)
        if kept.checkpoint is not None:
            self._wanted.setdefault(kept.checkpoint.sequence, None)

    def see(self, sequence: int, known_hash: str) -> None:
        """The next event of the chain."""
        if sequence in self._wanted:
            self._wanted[sequence] = known_hash

    def hear(self, event: Link, previous: tuple[int, str]) -> KeptLine | None:
        """The next event of the chain, if it is itself a checkpoint; it can only be about the event before it.

        :param previous: number and hash of the event before it.
        """
        if event.kind != EVENT_KIND:
            return None
        place = f"event {event.sequence}"
        try:
            table = json.loads(event.payload)
            checkpoint = Checkpoint.read(table if isinstance(table, dict) else {})
        except (ValueError, RecursionError) as error:
            kept = KeptLine(place, None, f"it is no checkpoint: {error}")
        else:
            kept = KeptLine(place, checkpoint)
            self._wanted.setdefault(previous[0], previous[1])
            self._wanted.setdefault(checkpoint.sequence, None)
        self._kept.append(kept)
        return kept

    def statements(self, events: int) -> Iterator[Statement]:
        """What each says, when *events* events have been walked."""
        for kept in self._kept:
            checkpoint = kept.checkpoint
            if checkpoint is None:
                yield Statement(kept.place, None, Standing.FALSE, kept.problem)
                continue
            standing = checkpoint.standing(self._trust, self._claimed.get(checkpoint.key_id))
            yield Statement(kept.place, checkpoint, standing, self._problem(checkpoint, standing, events))

    def _problem(self, checkpoint: Checkpoint, standing: Standing, events: int) -> str | None:
        number = checkpoint.sequence
        if standing is Standing.FALSE:
            return f"its signature is not that of key {checkpoint.key_id}: it was changed or forged"
        if self._wanted[1] is not None and checkpoint.ledger != self._wanted[1]:
            return "it is about another ledger, or the first event of this one was changed"
        if number > events:
            return (
                f"the chain ends with event {events}, and event {number} was signed at {checkpoint.at}: the events "
                "from there on were cut off, or the chain is broken before them"
            )
        if self._wanted[number] != checkpoint.head:
            return f"event {number}, or one before it, is not the one that was signed at {checkpoint.at}"
        return None


@dataclass(frozen=True, slots=True)
class Testimony:
    """All statements together."""

    statements: tuple[Statement, ...]

    @property
    def covered_to(self) -> int:
        """Number of the newest event that a trusted checkpoint signs and the chain bears out; 0 for none."""
        return max((checkpoint.sequence for checkpoint in self._trusted()), default=0)

    @property
    def trusted(self) -> int:
        """Different trusted checkpoints that the chain bears out."""
        return len({checkpoint.signature for checkpoint in self._trusted()})

    @property
    def unknown_keys(self) -> tuple[str, ...]:
        """Ids of keys that the checker was not told to trust."""
        found = {
            statement.checkpoint.key_id
            for statement in self.statements
            if statement.standing is Standing.UNKNOWN_KEY and statement.checkpoint is not None
        }
        return tuple(sorted(found))

    @property
    def contradictions(self) -> tuple[Statement, ...]:
        """Those that do not go with the chain."""
        return tuple(statement for statement in self.statements if statement.problem is not None)

    def _trusted(self) -> Iterator[Checkpoint]:
        for statement in self.statements:
            if statement.standing is Standing.TRUSTED and statement.problem is None and statement.checkpoint:
                yield statement.checkpoint
