"""One look at everything the guard judges: green's health, the way back to blue, blue itself and the fence on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic, sleep

from sqlalchemy import Engine

from integrity.errors import ServerError, ServerUnreachable
from integrity.ledger.sync_board import read_status
from integrity.switch.guard_measures import FallBack, Observation
from integrity.switch.guard_rules import RuleBook, RuleState, Status
from integrity.switch.health import HealthProbe
from integrity.switch.health_values import Health
from integrity.switch.watch_settings import WatchSettings

FenceHolds = Callable[[], bool]
"""Whether blue refuses the applications.

:raises ServerUnreachable: blue does not answer.
:raises ServerError: it cannot be asked.
"""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen and what the rules say to it."""

    seen: Observation
    states: tuple[RuleState, ...]

    @property
    def health(self) -> Health:
        """Green's."""
        return self.seen.health

    @property
    def breached(self) -> tuple[RuleState, ...]:
        """The rules that are breached."""
        return tuple(state for state in self.states if state.status is Status.BREACHED)

    @property
    def over(self) -> tuple[RuleState, ...]:
        """The rules whose limit is passed at this look."""
        return tuple(state for state in self.states if state.over)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        fall_back, seen = self.seen.fall_back, self.seen
        return {
            "health": seen.health.to_dict(),
            "fall_back": None
            if fall_back is None
            else {
                "follows": fall_back.follows,
                "dirty": fall_back.dirty,
                "lag_seconds": round(fall_back.lag_seconds, 3),
                "stuck": fall_back.stuck,
                "gap": fall_back.gap,
                "silent_seconds": round(fall_back.silent_seconds, 3),
            },
            "fence_holds": seen.fence_holds,
            "rules": [state.to_dict() for state in self.states],
        }


class Lookout:
    """Looks again and again, and remembers since when each rule is broken.

    :param green: entered by the caller.
    :param blue_answers: asked every ``blue_seconds``; None where blue is not looked at.
    :param fence_holds: asked after it; None where there is no fence to look at.
    """

    def __init__(
        self,
        settings: WatchSettings,
        green: HealthProbe,
        baseline: Health | None,
        engine: Engine,
        sync_run_id: str,
        *,
        blue_answers: Callable[[], bool] | None = None,
        fence_holds: FenceHolds | None = None,
    ) -> None:
        self.green = green
        self._settings = settings
        self._rules = RuleBook(settings, baseline)
        self._engine = engine
        self._sync_run_id = sync_run_id
        self._blue_answers = blue_answers
        self._fence_holds = fence_holds
        self._begun = datetime.now(UTC)
        self._numbers_at = self._blue_answered_at = monotonic()
        self._blue_asked_at = float("-inf")
        self._fence: bool | None = None

    def look(self) -> Look:
        """Look now.

        :raises LedgerError: the ledger cannot be read.
        """
        health = self.green.sample()
        looked_at = now = monotonic()
        if health.role is not None or not health.reachable:
            self._numbers_at = now
        if now - self._blue_asked_at >= self._settings.blue_seconds:
            self._blue_asked_at = now
            self._look_at_blue()
        status = read_status(self._engine, self._sync_run_id)
        now = monotonic()
        seen = Observation(
            health,
            FallBack.of(status, datetime.now(UTC), self._begun),
            self._fence,
            looked_at - self._numbers_at,
            None if self._blue_answers is None else self._blue_silence(now),
        )
        return Look(seen, tuple(self._rules.judge(now, seen)))

    def look_once(self) -> Look:
        """One look over a whole window, without the patience of the rules: what is over now is told as such."""
        self.green.sample()
        sleep(self._settings.window_seconds)
        return self.look()

    def blue_answers_now(self) -> bool:
        """Ask blue at this moment; True where it is not looked at."""
        return self._blue_answers is None or self._blue_answers()

    def _blue_silence(self, now: float) -> float:
        """Nothing is known between two looks, so the newest one counts until the next."""
        return 0.0 if self._blue_asked_at <= self._blue_answered_at else now - self._blue_answered_at

    def _look_at_blue(self) -> None:
        self._fence = None
        if self._blue_answers is not None and not self._blue_answers():
            return
        if self._fence_holds is not None:
            try:
                self._fence = self._fence_holds()
            except ServerUnreachable:
                return
            except ServerError:
                # It answers, and does not let itself be asked: not known is not the same as lifted.
                self._fence = None
        self._blue_answered_at = monotonic()
