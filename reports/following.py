"""How a sync run followed: its feed, the gaps in it, the passes that compared everything, and the lag over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from integrity.ledger.models import Run
from integrity.ledger.samples import SampleRecord
from integrity.ledger.sync_board import SyncStatus
from integrity.ledger.vocabulary import Direction, SyncState
from reports import facts
from reports.events import EventView, event_moment
from reports.facts import masked_text
from reports.series import Series, Span, build_series

LAG_NUMBERS: Final = ("dirty", "unproven", "lag_ms", "backlog_bytes")


@dataclass(frozen=True, slots=True)
class GapView:
    """A time in which changes may have gone unseen."""

    reason: str
    since: str
    """When the feed was last known to be complete; ISO 8601 where the ledger tells it so."""
    noticed_at: str
    closed_at: str | None
    """When a pass that compared everything had closed it; None while it is open."""
    direction: str | None


@dataclass(frozen=True, slots=True)
class PassView:
    """One comparison of all keys while following."""

    ended_at: str
    compared: int | None
    differed: int | None
    seconds: float | None
    clean: bool | None
    direction: str | None


@dataclass(frozen=True, slots=True)
class TurnView:
    """The begin of following in one direction."""

    at: str
    direction: str
    feed: str | None


@dataclass(frozen=True, slots=True)
class FollowingView:
    """What the ledger tells about following.  The board's figures are the newest; None where it has none."""

    direction: Direction | None
    state: SyncState | None
    feed: str | None
    dirty: int | None
    unproven: int | None
    stuck: int | None
    lag_ms: int | None
    backlog_bytes: int | None
    gap: str | None
    clean_since: datetime | None
    carried: int | None
    removed: int | None
    updated_at: datetime | None
    gaps: tuple[GapView, ...]
    passes: tuple[PassView, ...]
    turns: tuple[TurnView, ...]
    series: tuple[Series, ...]

    @property
    def open_gaps(self) -> tuple[GapView, ...]:
        """Those that no pass has closed."""
        return tuple(gap for gap in self.gaps if gap.closed_at is None)

    @property
    def unseen(self) -> str | None:
        """Why changes may have gone unseen since the newest clean pass; None where none can have."""
        return self.gap or next((gap.reason for gap in self.open_gaps), None)

    @property
    def clean_passes(self) -> int:
        """Passes that left nothing unequal."""
        return sum(each.clean is True for each in self.passes)

    @property
    def compared(self) -> int:
        """Keys that all passes together compared."""
        return sum(each.compared or 0 for each in self.passes)


def build_following(
    run: Run, status: SyncStatus | None, timeline: Sequence[EventView], samples: Sequence[SampleRecord]
) -> FollowingView:
    """From the board, the audit events and the samples of side ``sync``."""
    return FollowingView(
        direction=status.direction if status else None,
        state=status.state if status else None,
        feed=_feed(status, timeline),
        dirty=status.dirty if status else None,
        unproven=status.unproven if status else None,
        stuck=status.stuck if status else None,
        lag_ms=status.lag_ms if status else None,
        backlog_bytes=status.backlog_bytes if status else None,
        gap=masked_text(status.gap) if status and status.gap else None,
        clean_since=status.clean_since if status else None,
        carried=status.carried if status else None,
        removed=status.removed if status else None,
        updated_at=status.updated_at if status else None,
        gaps=build_gaps(timeline),
        passes=tuple(_pass(event) for event in timeline if event.kind == "sync.pass"),
        turns=_turns(timeline, samples),
        series=tuple(
            series
            for name in LAG_NUMBERS
            if (series := build_series(name, samples, run.started_at)) is not None
        ),
    )


def build_gaps(timeline: Sequence[EventView]) -> tuple[GapView, ...]:
    """Gaps in the order in which they were noticed; closing closes all that are open."""
    gaps: list[GapView] = []
    for event in timeline:
        if event.kind == "sync.gap":
            reason = facts.text(event.payload, "reason") or "no reason given"
            since = facts.text(event.payload, "since") or event.at
            gaps.append(GapView(reason, since, event.at, None, facts.text(event.payload, "direction")))
        elif event.kind == "sync.gap-closed":
            gaps = [replace(gap, closed_at=gap.closed_at or event.at) for gap in gaps]
    return tuple(gaps)


def gap_spans(gaps: Sequence[GapView], began: datetime) -> tuple[Span, ...]:
    """Gaps as times that a chart can mark; one whose times cannot be read is left out."""
    spans = []
    for gap in gaps:
        start = event_moment(gap.since) or event_moment(gap.noticed_at)
        end = event_moment(gap.closed_at) if gap.closed_at is not None else None
        if start is not None and (end is not None or gap.closed_at is None):
            spans.append(
                Span(
                    (start - began).total_seconds(),
                    (end - began).total_seconds() if end is not None else None,
                    gap.reason,
                )
            )
    return tuple(spans)


def _feed(status: SyncStatus | None, timeline: Sequence[EventView]) -> str | None:
    """The feed; a process that has stopped has none any more, and the events tell which it had."""
    if status is None:
        return None
    if status.state is SyncState.STOPPED:
        for event in reversed(timeline):
            if event.kind == "sync.following" and (feed := facts.text(event.payload, "feed")) is not None:
                return feed
    return masked_text(status.feed)


def _pass(event: EventView) -> PassView:
    payload = event.payload
    return PassView(
        event.at,
        facts.integer(payload, "compared"),
        facts.integer(payload, "differed"),
        facts.number(payload, "seconds"),
        facts.truth(payload, "clean"),
        facts.text(payload, "direction"),
    )


def _turns(timeline: Sequence[EventView], samples: Sequence[SampleRecord]) -> tuple[TurnView, ...]:
    """As the events tell; where there are none, when the samples first say so."""
    told = [event for event in timeline if event.kind == "sync.following"]
    if told:
        return tuple(
            TurnView(
                event.at,
                facts.text(event.payload, "direction") or "unknown",
                facts.text(event.payload, "feed"),
            )
            for event in told
        )
    turns: list[TurnView] = []
    for sample in samples:
        direction = facts.text(sample.numbers, "direction")
        if direction is not None and (not turns or turns[-1].direction != direction):
            turns.append(TurnView(sample.at.isoformat(), direction, None))
    return tuple(turns)
