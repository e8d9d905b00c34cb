"""The names of changed keys, from their announcement until both sides are known to be equal.

``dirty``: changed, to be carried over.  ``unproven``: carried over, to be compared.  A name that is announced again
goes back to the beginning, whatever it was.  Names stand for the key in every database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from time import monotonic


class DirtyKeys:
    """Both sets, oldest first."""

    def __init__(self) -> None:
        self._dirty: dict[bytes, float] = {}
        self._unproven: dict[bytes, float] = {}
        self._attempts: dict[bytes, int] = {}
        """How often a key was found to differ after it was carried over, without having been announced since."""
        self.stuck: set[bytes] = set()
        """Keys that were carried over often enough, and still differ."""

    def __len__(self) -> int:
        return len(self._dirty)

    @property
    def unproven(self) -> int:
        """Keys that were carried over and not compared yet."""
        return len(self._unproven)

    def is_settled(self) -> bool:
        """Whether nothing is left to be done."""
        return not self._dirty and not self._unproven

    def oldest_age(self) -> float:
        """Seconds since the oldest change that is not carried over was announced; 0 where there is none."""
        if not self._dirty:
            return 0.0
        # The order is that of announcement but for keys that were put back, which are few and come last.
        first = next(iter(self._dirty.values()))
        last = next(reversed(self._dirty.values()))
        return max(0.0, monotonic() - min(first, last))

    def announced(self, names: Mapping[bytes, float]) -> None:
        """Somebody changed these keys."""
        if not names:
            return
        dirty = self._dirty
        for name in names.keys() - dirty.keys() if dirty else names:
            dirty[name] = names[name]
        for known in (self._unproven, self._attempts):
            for name in names.keys() & known.keys():
                del known[name]
        if self.stuck:
            self.stuck.difference_update(names)

    def suspected(self, names: Iterable[bytes]) -> None:
        """These keys were found to differ by a comparison; nobody is known to have changed them."""
        now = monotonic()
        for name in names:
            if name not in self._dirty:
                self._dirty[name] = now
                self._unproven.pop(name, None)

    def take(self, count: int) -> dict[bytes, float]:
        """The oldest dirty ones; they are no longer dirty, so put back what could not be carried over."""
        taken = dict(islice(self._dirty.items(), count))
        for name in taken:
            del self._dirty[name]
        return taken

    def put_back(self, names: Mapping[bytes, float]) -> None:
        """What :meth:`take` gave, and could not be carried over."""
        self._dirty = {**names, **{n: t for n, t in self._dirty.items() if n not in names}}

    def carried(self, names: Iterable[bytes], due: float) -> None:
        """These were carried over; they may be compared from *due* (monotonic) on."""
        for name in names:
            if name not in self._dirty:
                self._unproven[name] = due

    def take_unproven(self, count: int) -> list[bytes]:
        """Carried keys that may be compared by now; they stay unproven."""
        now = monotonic()
        return [name for name, due in islice(self._unproven.items(), count) if due <= now]

    def next_due(self) -> float | None:
        """Seconds until the oldest unproven key may be compared; None where there is none."""
        return max(0.0, next(iter(self._unproven.values())) - monotonic()) if self._unproven else None

    def proven(self, names: Iterable[bytes]) -> None:
        """Both sides are equal."""
        for name in names:
            self._unproven.pop(name, None)
            self._attempts.pop(name, None)
            self.stuck.discard(name)

    def differed(self, names: Iterable[bytes], attempts: int) -> list[bytes]:
        """Both sides differ: to be carried over again; returns those for which that was tried often enough."""
        given_up = []
        for name in names:
            if self._unproven.pop(name, None) is None:
                continue  # It was announced again meanwhile.
            tried = self._attempts.get(name, 0) + 1
            self._attempts[name] = tried
            if tried >= attempts:
                self.stuck.add(name)
                given_up.append(name)
            elif name not in self._dirty:
                self._dirty[name] = monotonic()
        return given_up

    def retry_stuck(self) -> None:
        """Try the stuck ones from the beginning."""
        for name in self.stuck:
            self._attempts.pop(name, None)
        self.suspected(self.stuck)
        self.stuck = set()

    def clear(self) -> int:
        """Forget everything, because everything will be compared; returns how many dirty names there were."""
        count = len(self._dirty)
        self._dirty, self._unproven, self._attempts, self.stuck = {}, {}, {}, set()
        return count

    def not_known_to_be_carried(self) -> set[bytes]:
        """Names whose newest change may be missing on the other side."""
        return {*self._dirty, *self._unproven, *self.stuck}
