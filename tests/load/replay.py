"""What a server must hold after everything that a log says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hiredis import ReplyError

from tests.load.author import is_shared
from tests.load.commands import ANYTHING
from tests.load.journal import Command, Outcome, Write, read
from tests.load.state import Held, Keyspace, ModelError, Place
from tests.load.units import (
    Branch,
    Surprise,
    branches,
    is_half_done,
    is_refusal,
    settle,
    settle_shared,
    touched,
)

_LATE_MS: Final = 600_000
"""How long after its client was gone a write may still be done: a paused server does it after the pause."""


@dataclass(slots=True)
class Tokens:
    """A key that all connections write: what must be in it exactly once, and what may be."""

    kind: str
    """The command that writes it."""
    sure: Counter[bytes] = field(default_factory=Counter)
    """Acknowledged; for a counter, the values that were answered."""
    maybe: set[bytes] = field(default_factory=set)
    """Written without an answer."""


@dataclass(slots=True)
class Expected:
    """What a server must hold."""

    held: dict[Place, Held] = field(default_factory=dict)
    undecided: list[list[Branch]] = field(default_factory=list)
    """Keys of writes that were never answered, and all that they may hold."""
    shared: dict[Place, Tokens] = field(default_factory=dict)
    surprises: list[Surprise] = field(default_factory=list)
    """Answers that the log does not explain."""
    loads: set[str] = field(default_factory=set)
    """Whose keys these are; no other key of theirs may be there."""
    databases: set[int] = field(default_factory=lambda: {0})
    outcomes: Counter[Outcome] = field(default_factory=Counter)


def replay(folder: Path, *, before_ns: int | None = None) -> Expected:
    """Replay the logs of a folder.

    :param before_ns: leave out what was sent at or after this moment (of the monotonic clock).
    :raises ModelError: a log that no writer of ours can have written.
    """
    expected = Expected()
    space = Keyspace()
    space.held = expected.held
    closed: set[Place] = set()
    for write in read(folder):
        if before_ns is not None and write.timed.sent_ns >= before_ns:
            continue
        expected.loads.add(write.timed.worker.rpartition("-")[0])
        expected.outcomes[write.timed.outcome] += 1
        expected.databases.add(write.database)
        _replay_one(expected, space, closed, write)
    expected.databases |= {database for database, _ in expected.held}
    return expected


def _replay_one(expected: Expected, space: Keyspace, closed: set[Place], write: Write) -> None:
    places = touched(space, write.database, write.commands)
    if not closed.isdisjoint(places):
        raise ModelError(f"written after a write that was never answered: {closed & places}")
    if any(is_shared(key) for _, key in places):
        _share(expected, write)
        return
    timed = write.timed
    sent_ms, ended_ms = timed.sent_wall_ns // 1_000_000, timed.ended_wall_ns // 1_000_000
    if timed.outcome is not Outcome.UNKNOWN:
        _, surprises = settle(space, write.database, write.commands, write.replies, (sent_ms, ended_ms))
        expected.surprises += surprises
        return
    times_ms = sent_ms, max(sent_ms, ended_ms) + _LATE_MS
    half_done = any(map(is_half_done, write.replies))
    expected.undecided.append(branches(space, write.database, write.commands, times_ms, half_done=half_done))
    expected.surprises += [
        Surprise(write.database, write.commands[0], ANYTHING, reply)
        for reply in write.replies
        if isinstance(reply, ReplyError) and not is_refusal(reply)
    ]
    for place in places:
        expected.held.pop(place, None)
    closed |= places


def _share(expected: Expected, write: Write) -> None:
    command = write.commands[0]
    kind, key, token = _token(command)
    tokens = expected.shared.setdefault((write.database, key), Tokens(kind))
    if write.timed.outcome is Outcome.UNKNOWN:
        tokens.maybe.add(token or b"%s %d" % (write.timed.worker.encode(), write.timed.number))
        return
    done, surprises = settle_shared(write.database, write.commands, write.replies)
    expected.surprises += surprises
    if done:
        reply = write.replies[0]
        tokens.sure[token or b"%d" % (reply if isinstance(reply, int) else -1)] += 1


def _token(command: Command) -> tuple[str, bytes, bytes]:
    """The command (of a script: of the command in it), the key, and what was put into it."""
    match command:
        case (b"INCR", key):
            return "INCR", key, b""
        case (b"SADD" | b"RPUSH" as name, key, token):
            return name.decode(), key, token
        case (b"HSET", key, token, _):
            return "HSET", key, token
        case (b"ZADD", key, _, token):
            return "ZADD", key, token
        case (b"EVAL", _, _, key, token):
            return "XADD", key, token
    raise ModelError(f"no way to write a shared key: {command!r}")
