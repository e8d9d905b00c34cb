"""One process of the application: ``python -m tests.load.worker JSON``, see :class:`Orders`.

Told on standard input ``rate N``, ``stay``, ``count`` and ``stop``; ends when that is closed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from selectors import EVENT_READ, DefaultSelector
from time import monotonic_ns, time_ns
from typing import Final, Literal, TypeAlias

from tests.load.author import PREFIX, Emptier, Habits, Probe, Writer
from tests.load.environment import EnvironmentFile
from tests.load.journal import Journal, Outcome, pack
from tests.load.lane import ConnectionLost, Lane, State, wire
from tests.load.leaver import Leavers
from tests.load.units import Unit, is_half_done, settle, settle_shared

Role: TypeAlias = Literal["writer", "probe", "leaver", "emptier"]

_LOOK_NS: Final = 20_000_000
_PATIENCE_NS: Final = 3_000_000
"""How long a connection waits after a refusal."""
_BURST_SECONDS: Final = 0.2
"""Of the rate, that is made up for after a standstill."""
_IDLE_SECONDS: Final = 0.005
_LAST_REPLIES_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Orders:
    """What one process does."""

    role: Role
    name: str
    env_file: str
    folder: str
    rate: float
    """Units per second."""
    lanes: int
    seed: int
    reply_timeout_s: float
    databases: tuple[int, ...]
    big: float
    shared: float


@dataclass(slots=True)
class Tally:
    """What has happened so far."""

    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    surprises: int = 0
    """Answers that the log does not explain."""
    connections: int = 0
    cpu_seconds: float = 0.0


class Worker:
    """Drives the lanes of one process."""

    def __init__(self, orders: Orders, journal: Journal) -> None:
        self._orders = orders
        self._journal = journal
        self._selector = DefaultSelector()
        self._environment = EnvironmentFile(Path(orders.env_file))
        self._looked_ns = 0
        self._lanes = [self._lane(number) for number in range(orders.lanes)]
        self._turn = deque(self._lanes)
        self._rate = orders.rate
        self._credit = 0.0
        self._credited_ns = monotonic_ns()
        self._leavers = Leavers(journal, orders.name, Random(orders.seed))
        self._only_side = ""
        """Where it may write; empty: wherever the environment says."""
        self._stopping = False
        self._number = 0
        self.tally = Tally()

    def run(self) -> None:
        """Write until told to stop, and then wait for what is in flight."""
        self._selector.register(0, EVENT_READ, None)
        while not self._stopping:
            self._write()
            self._wait()
        end = monotonic_ns() + int(_LAST_REPLIES_SECONDS * 1e9)
        while any(lane.state is State.BUSY for lane in self._lanes) and monotonic_ns() < end:
            self._wait()
        for lane in self._lanes:
            self._leave(lane)
        self._leavers.let_go(end)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        now = monotonic_ns()
        self._credit = min(
            self._credit + (now - self._credited_ns) * 1e-9 * self._rate, 1 + self._rate * _BURST_SECONDS
        )
        self._credited_ns = now
        if now - self._looked_ns > _LOOK_NS:
            self._look(now)
        if self._only_side not in {"", self._environment.target.side}:
            self._credit = 0.0
        ready: list[tuple[Lane, Unit, bytes]] = []
        now_ms = time_ns() // 1_000_000
        for _ in range(len(self._turn)):
            if self._credit < 1:
                break
            lane = self._turn[0]
            self._turn.rotate(-1)
            if lane.not_before_ns > now or lane.state in {State.BUSY, State.GREETING}:
                continue
            if lane.state is State.IDLE and self._is_current(lane):
                self._prepare(lane, now_ms, ready)
            else:
                self._open(lane)
        if self._orders.role == "leaver":
            self._let_leave(now)
        self._journal.flush()
        for lane, unit, packed in ready:
            try:
                lane.send(unit, wire(unit, packed))
            except ConnectionLost:
                self._leave(lane)

    def _prepare(self, lane: Lane, now_ms: int, ready: list[tuple[Lane, Unit, bytes]]) -> None:
        unit = lane.unit or lane.author.next_unit(now_ms)
        if unit is None:
            return
        try:
            selected = lane.select(unit)
        except ConnectionLost:
            self._leave(lane)
            return
        if selected:
            self._number += 1
            lane.number = self._number
            packed = pack(unit.commands)
            now = monotonic_ns(), time_ns()
            self._journal.intend(lane.number, self._environment.target, unit.database, packed, now)
            ready.append((lane, unit, packed))
            self._credit -= 1

    def _let_leave(self, now: int) -> None:
        self._leavers.let_go(now)
        while self._credit >= 1:
            self._credit -= 1
            self.tally.unknown += self._leavers.come(self._environment.target)

    def _is_current(self, lane: Lane) -> bool:
        mine, now = lane.target, self._environment.target
        return mine is not None and (mine.side, mine.user, mine.password) == (
            now.side,
            now.user,
            now.password,
        )

    def _open(self, lane: Lane) -> None:
        try:
            lane.open(self._environment.target)
            self.tally.connections += 1
        except ConnectionLost:
            self._leave(lane)

    def _look(self, now: int) -> None:
        """Read the environment, move what is idle, and give up what has waited too long."""
        self._looked_ns = now
        before = self._environment.target
        moved = self._environment.look() is not before
        limit = now - int(self._orders.reply_timeout_s * 1e9)
        for lane in self._lanes:
            if lane.state is State.BUSY and lane.sent[0] < limit:
                self._leave(lane)
            elif moved and lane.state is State.IDLE and not self._is_current(lane):
                self._open(lane)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        short = (1 - self._credit) / self._rate if self._rate else _IDLE_SECONDS
        for key, events in self._selector.select(min(max(short, 0.0005), _IDLE_SECONDS)):
            lane = key.data
            if lane is None:
                self._listen()
                continue
            try:
                if lane.ready(events):
                    self._finish(lane)
            except ConnectionLost:
                self._leave(lane)

    def _finish(self, lane: Lane) -> None:
        ended = monotonic_ns(), time_ns()
        unit, replies = lane.unit, lane.replies
        assert unit is not None
        lane.unit = None
        if not unit.shared and any(map(is_half_done, replies)):
            self.tally.unknown += 1
            self._journal.tell(lane.number, lane.sent, Outcome.UNKNOWN, replies, ended)
            lane.author.settled(unit, Outcome.UNKNOWN)
            self._hold_back(lane)
            return
        times_ms = lane.sent[1] // 1_000_000, ended[1] // 1_000_000
        if unit.shared:
            done, surprises = settle_shared(unit.database, unit.commands, replies)
        else:
            done, surprises = settle(lane.author.space, unit.database, unit.commands, replies, times_ms)
        self.tally.surprises += len(surprises)
        if done:
            outcome = Outcome.ACKNOWLEDGED
            self.tally.acknowledged += 1
        else:
            outcome = Outcome.REFUSED
            self.tally.refused += 1
            self._hold_back(lane)
        self._journal.tell(lane.number, lane.sent, outcome, replies, ended)
        lane.author.settled(unit, outcome)

    def _leave(self, lane: Lane) -> None:
        """Close a connection; nobody knows what became of what was in flight."""
        if lane.state is State.BUSY:
            assert lane.unit is not None
            self.tally.unknown += 1
            ended = monotonic_ns(), time_ns()
            self._journal.tell(lane.number, lane.sent, Outcome.UNKNOWN, [], ended)
            lane.author.settled(lane.unit, Outcome.UNKNOWN)
        lane.close()
        lane.unit = None
        self._hold_back(lane)

    def _hold_back(self, lane: Lane) -> None:
        """An application that is refused looks at its environment again before it goes on."""
        now = monotonic_ns()
        lane.not_before_ns = now + _PATIENCE_NS
        self._looked_ns = min(self._looked_ns, now - _LOOK_NS + _PATIENCE_NS)

    def _listen(self) -> None:
        told = os.read(0, 4096)
        self._stopping |= not told
        for line in told.splitlines():
            match line.split():
                case [b"rate", rate]:
                    self._rate = float(rate)
                case [b"stay"]:
                    self._only_side = self._environment.target.side
                case [b"count"]:
                    self.report()
                case [b"stop"]:
                    self._stopping = True

    def report(self) -> None:
        """Print what has happened so far."""
        self.tally.cpu_seconds = time.process_time()
        print(json.dumps(asdict(self.tally)), flush=True)

    def _lane(self, number: int) -> Lane:
        orders = self._orders
        rng = Random(f"{orders.seed} {orders.name} {number}")
        name = f"{orders.name}.{number}"
        home = orders.databases[number % len(orders.databases)]
        match orders.role:
            case "probe":
                return Lane(Probe(name), 0, name, self._selector)
            case "emptier":
                return Lane(Emptier(name, rng, home), home, name, self._selector)
            case "writer":
                stem = PREFIX + f"{orders.name.rpartition('-')[0]}-shared:".encode()
                habits = Habits(orders.databases, big=orders.big, shared=orders.shared, stem=stem)
                return Lane(Writer(name, rng, home, habits), home, name, self._selector)
        raise ValueError(f"no connections for {orders.role}")


def main(text: str) -> None:
    """Do what the orders say."""
    fields = json.loads(text)
    orders = Orders(**{**fields, "databases": tuple(fields["databases"])})
    with Journal(Path(orders.folder), orders.name) as journal:
        worker = Worker(orders, journal)
        worker.run()
    worker.report()


if __name__ == "__main__":
    main(sys.argv[1])
