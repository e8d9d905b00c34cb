"""The log of one process: an append-only file of RESP arrays, read by any parser of the protocol.

A record of intent is in the file before its unit is sent, and a record of outcome before the next unit that could
touch the same keys, so that a process that is killed leaves at worst units of which nobody knows the outcome.

- ``I`` number, side, generation, database, time, time (wall), packed commands: about to be sent;
- ``O`` number, sent, sent (wall), ended, ended (wall), outcome, packed reply: what became of it.

Times are nanoseconds, of the clock that all processes of a machine share and of the wall clock.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias

from hiredis import Reader, ReplyError
from hiredis import pack_command as _pack_any

from tests.load.environment import Target

Command: TypeAlias = tuple[bytes, ...]
Reply: TypeAlias = "bytes | int | list[Reply] | ReplyError | None"

_READ_BYTES: Final = 1 << 20
_BIG: Final = b"\x00big:"
# A second process of that name would write other histories of the same keys.
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND


class Outcome(StrEnum):
    """What became of a unit."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    """Answered with an error: nothing was done."""
    UNKNOWN = "unknown"
    """Sent, or about to be, and never answered: done or not.  Or a script that stopped: done in part, or not."""


@dataclass(frozen=True, slots=True)
class Timed:
    """When a unit was written, where, and what became of it."""

    worker: str
    number: int
    side: str
    """Host and port of the server."""
    generation: int
    """When the environment file that named this server was put into place: orders the switches between sides."""
    sent_ns: int
    sent_wall_ns: int
    ended_ns: int
    """When it was answered or given up; 0, as the next, when the process was killed before."""
    ended_wall_ns: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Write:
    """One unit: a command, a transaction from MULTI to EXEC, or a script."""

    timed: Timed
    database: int
    commands: tuple[Command, ...]
    replies: list[Reply]
    """One for each command, if there was an answer."""


def big(seed: int, size: int) -> bytes:
    """A large value by its seed, as it stands in the log; see :func:`expand`."""
    return b"%s%d:%d" % (_BIG, seed, size)


def expand(argument: bytes) -> bytes:
    """The argument itself, or the large value that it stands for."""
    if not argument.startswith(_BIG):
        return argument
    seed, size = (int(part) for part in argument.removeprefix(_BIG).split(b":"))
    block = b"".join((seed * 2_654_435_761 + n & 0xFFFFFFFF).to_bytes(4, "little") for n in range(256))
    return (block * (size // len(block) + 1))[:size]


def pack(commands: tuple[Command, ...]) -> bytes:
    """Commands as they are sent."""
    return b"".join([_array(command) for command in commands])


class Journal:
    """Writes the log of one process; records are kept until :meth:`flush`."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._file = os.open(folder / f"{worker}.log", _FLAGS, 0o644)
        self._waiting: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        os.close(self._file)

    def intend(self, number: int, target: Target, database: int, packed: bytes, now: tuple[int, int]) -> None:
        """A unit is about to be sent."""
        record = b"I", number, target.side, target.generation, database, *now, packed
        self._waiting.append(_array(record))

    def tell(
        self,
        number: int,
        sent: tuple[int, int],
        outcome: Outcome,
        replies: list[Reply],
        ended: tuple[int, int],
    ) -> None:
        """What became of it."""
        self._waiting.append(_array((b"O", number, *sent, *ended, outcome.value, _pack_reply(replies))))

    def flush(self) -> None:
        """Append to the file what has been recorded since the last time."""
        if self._waiting:
            data = b"".join(self._waiting)
            self._waiting.clear()
            while data:
                data = data[os.write(self._file, data) :]


def _array(parts: tuple[bytes | int | str, ...]) -> bytes:
    # hiredis declares tuples of one part only.
    packed: bytes = _pack_any(parts)  # type: ignore[arg-type]
    return packed


def read(folder: Path) -> Iterator[Write]:
    """All logs of a folder, one after the other, each in the order of the outcomes."""
    for path in sorted(folder.glob("*.log")):
        for intent, outcome in _units(path):
            yield _write(path.stem, intent, outcome)


def read_times(folder: Path) -> Iterator[Timed]:
    """The same without what was written, in a third of the time."""
    for path in sorted(folder.glob("*.log")):
        for intent, outcome in _units(path):
            yield _timed(path.stem, intent, outcome)


def _units(path: Path) -> Iterator[tuple[list[bytes], list[bytes] | None]]:
    intents: dict[bytes, list[bytes]] = {}
    for record in _records(path):
        if record[0] == b"I":
            intents[record[1]] = record
        else:
            yield intents.pop(record[1]), record
    for intent in intents.values():
        yield intent, None


def _timed(worker: str, intent: list[bytes], outcome: list[bytes] | None) -> Timed:
    _, number, side, generation, _, now, wall, _ = intent
    if outcome is None:
        times, became = (int(now), int(wall), 0, 0), Outcome.UNKNOWN
    else:
        times = int(outcome[2]), int(outcome[3]), int(outcome[4]), int(outcome[5])
        became = Outcome(outcome[6].decode())
    return Timed(worker, int(number), side.decode(), int(generation), *times, became)


def _write(worker: str, intent: list[bytes], outcome: list[bytes] | None) -> Write:
    replies = next(_parse(outcome[7])) if outcome else []
    assert isinstance(replies, list)
    commands = tuple(_command(command) for command in _parse(intent[7]))
    return Write(_timed(worker, intent, outcome), int(intent[4]), commands, replies)


def _records(path: Path) -> Iterator[list[bytes]]:
    """A record that was cut off when the process was killed is not one: nothing after it was sent."""
    reader = Reader()
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            reader.feed(data)
            while (record := reader.gets()) is not False:
                yield record


def _parse(data: bytes) -> Iterator[Reply]:
    reader = Reader()
    reader.feed(data)
    while (value := reader.gets()) is not False:
        yield value


def _command(value: Reply) -> Command:
    assert isinstance(value, list)
    parts = []
    for part in value:
        assert isinstance(part, bytes)
        parts.append(part)
    return tuple(parts)


def _pack_reply(reply: Reply) -> bytes:
    if isinstance(reply, bytes):
        return b"$%d\r\n%s\r\n" % (len(reply), reply)
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, list):
        return b"*%d\r\n%s" % (len(reply), b"".join(map(_pack_reply, reply)))
    return b"-%s\r\n" % str(reply).replace("\r\n", " ").encode()
