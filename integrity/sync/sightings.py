"""What one thread sees on a server and another one takes: names, reasons why everything may have changed, an end.

Beside them go the markers: commands of our own, which show how far the seeing has come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from threading import Condition, Event
from time import monotonic

from integrity.sync.feed import Loss, Taken


class Sightings:
    """Shared by a feed's threads; its lock is held only to merge or to exchange a dictionary.

    :param settle_seconds: how much later than a marker something from before it may be seen.
    :param something: set when there is something to take; for several feeds that are waited for together.
    """

    def __init__(self, settle_seconds: float, something: Event | None = None) -> None:
        self._something = something or Event()
        self._settle = timedelta(seconds=settle_seconds)
        self._changed = Condition()
        self._names: dict[bytes, float] = {}
        self._everything: str | None = None
        self._loss: Loss | None = None
        self._known_until = datetime.now(UTC)
        self._numbers = count(1)
        self._sent: dict[int, datetime] = {}
        self._seen = 0
        self.marked_at = monotonic()
        """When the newest marker was seen."""

    # -- the thread that sees -------------------------------------------------------------------------------------

    def add(
        self, names: Mapping[bytes, object], everything: str | None = None, marker: int | None = None
    ) -> None:
        """Note what was seen; the time when a name was first announced is kept."""
        now = monotonic()
        with self._changed:
            known = self._names
            known |= {name: now for name in names if name not in known}
            self._everything = self._everything or everything
            at = self._sent.get(marker) if marker is not None else None
            if marker is not None and at is not None:
                self._seen = max(self._seen, marker)
                self._known_until = max(self._known_until, at - self._settle)
                self._sent = {number: at for number, at in self._sent.items() if number > marker}
                self.marked_at = now
            self._changed.notify_all()
            if names or everything is not None:
                self._something.set()

    def lose(self, reason: str) -> None:
        """Note that nothing more will be seen; the first reason counts."""
        with self._changed:
            if self._loss is None:
                self._loss = Loss(reason, self._known_until)
            self._changed.notify_all()
            self._something.set()

    # -- those who take -------------------------------------------------------------------------------------------

    def take(self) -> Taken:
        """What was seen since the last call."""
        with self._changed:
            taken = Taken(self._names, self._everything, self._loss)
            self._names, self._everything = {}, None
            return taken

    def wait(self, seconds: float) -> None:
        """Return when there is something to take, or after so long."""
        self._wait_for(lambda: bool(self._names or self._everything), seconds)

    def new_marker(self) -> int:
        """The number of a marker that is about to be sent."""
        with self._changed:
            number = next(self._numbers)
            self._sent[number] = datetime.now(UTC)
            return number

    def wait_for_marker(self, number: int, seconds: float) -> bool:
        """Whether that marker, or a later one, was seen within *seconds*."""
        self._wait_for(lambda: self._seen >= number, seconds)
        with self._changed:
            return self._seen >= number and self._loss is None

    @property
    def lost(self) -> bool:
        """Whether the end has come."""
        return self._loss is not None

    def _wait_for(self, condition: Callable[[], bool], seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._loss is not None, seconds)
