"""A unit, which is sent at once and answered before the next, and what it does to a state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from hiredis import ReplyError

from tests.load import containers, streams  # they register what they handle
from tests.load.commands import ANYTHING, NO_REPLY, Expected, Moment, NoReply, apply, places
from tests.load.journal import Command, Reply
from tests.load.state import Held, Keyspace, Place

__all__ = [
    "MULTI",
    "Surprise",
    "Unit",
    "branches",
    "containers",
    "is_refusal",
    "settle",
    "streams",
    "touched",
]

Choice: TypeAlias = Reply | Literal[NoReply.NO_REPLY]

Branch: TypeAlias = dict[Place, Held | None]
"""Keys and what they hold together; None: nothing."""
MULTI: Final = (b"MULTI",)
EXEC: Final = (b"EXEC",)
_REFUSALS: Final = (
    *("NOPERM", "NOAUTH", "WRONGPASS", "NOREPLICAS", "READONLY", "LOADING", "OOM", "Out of memory", "MOVED"),
    *("EXECABORT", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY ", "MISCONF", "max number of clients"),
    "The user executing the script can't run this command",
)


@dataclass(frozen=True, slots=True)
class Unit:
    """A command, a transaction from MULTI to EXEC, or a script."""

    database: int
    commands: tuple[Command, ...]
    retire: tuple[bytes, ...] = ()
    """Keys that are not written again once this was done."""
    shared: bool = False
    """Others write its key too: what it holds cannot be known here."""


@dataclass(frozen=True, slots=True)
class Surprise:
    """An answer that the log does not explain: the server did not hold what it had acknowledged."""

    database: int
    command: Command
    expected: Expected
    reply: Reply


def is_refusal(error: ReplyError) -> bool:
    """Whether a server said that it does not take writes, now or from this user."""
    text = str(error)
    if "script" in text:
        # What a command in a script was answered stands somewhere in what the script is.
        return any(refusal in text for refusal in _REFUSALS)
    return text.removeprefix("ERR ").startswith(_REFUSALS)


def is_half_done(reply: Reply) -> bool:
    """Whether a script stopped somewhere, and what it had done before stays.

    Dragonfly closes a fence between two commands of one script.  Redis lets a script end first, and stops none midway
    for any reason that our scripts can meet.
    """
    return isinstance(reply, ReplyError) and str(reply).removeprefix("ERR ").startswith(
        "Error running script"
    )


def transaction(commands: Sequence[Command]) -> tuple[Command, ...]:
    """Between MULTI and EXEC."""
    return (MULTI, *commands, EXEC)


def settle(
    space: Keyspace,
    database: int,
    commands: Sequence[Command],
    replies: list[Reply],
    times_ms: tuple[int, int],
) -> tuple[int, list[Surprise]]:
    """Apply a unit that was answered; returns how many of its commands were done, and what was not to be expected.

    What was answered with an error has done nothing.

    :param times_ms: when it was sent and answered.
    """
    space.database = database
    done, surprises = 0, []
    for command, reply in _answered(commands, replies):
        if isinstance(reply, ReplyError):
            if not is_refusal(reply):
                surprises.append(Surprise(database, command, ANYTHING, reply))
            continue
        done += 1
        expected = apply(space, command, Moment(*times_ms, reply))
        if expected is not ANYTHING and expected != reply:
            surprises.append(Surprise(database, command, expected, reply))
    return done, surprises


def settle_shared(
    database: int, commands: Sequence[Command], replies: list[Reply]
) -> tuple[int, list[Surprise]]:
    """The same for a unit whose keys others write too: only an error tells anything."""
    error = replies[0]
    if not isinstance(error, ReplyError):
        return 1, []
    return 0, [] if is_refusal(error) else [Surprise(database, commands[0], ANYTHING, error)]


def touched(space: Keyspace, database: int, commands: Sequence[Command]) -> set[Place]:
    """Which keys a unit may change."""
    return {place for command in _inner(commands) for place in places(space, database, command)}


def branches(
    space: Keyspace,
    database: int,
    commands: Sequence[Command],
    times_ms: tuple[int, int],
    *,
    half_done: bool = False,
) -> list[Branch]:
    """What the keys of a unit that was never answered may hold: as before, or as after it, all of them alike.

    The state itself is left alone.

    :param half_done: or as after any of the steps of a script.
    """
    keys = touched(space, database, commands)
    space.database = database
    found: list[Branch] = [{place: space.held.get(place) for place in keys}]
    for choice in _choices(space, commands):
        trial = Keyspace()
        trial.database = database
        trial.held = {place: held.clone() for place, held in found[0].items() if held is not None}
        for step in (step for command in _inner(commands) for step in streams.steps(command)):
            apply(trial, step, Moment(*times_ms, choice))
            if half_done:
                found.append({place: _clone(trial.held.get(place)) for place in keys})
        found.append({place: trial.held.get(place) for place in keys})
    return found


def _clone(held: Held | None) -> Held | None:
    return held.clone() if held is not None else None


def _choices(space: Keyspace, commands: Sequence[Command]) -> list[Choice]:
    """What the server may have chosen where it has a choice that can be listed: the member that SPOP took."""
    for command in _inner(commands):
        if command[0] == b"SPOP" and (held := space.members(command[1])) is not None:
            return list(held.members)
    return [NO_REPLY]


def _inner(commands: Sequence[Command]) -> Sequence[Command]:
    return commands[1:-1] if commands[0] == MULTI else commands


def _answered(commands: Sequence[Command], replies: list[Reply]) -> Iterator[tuple[Command, Reply]]:
    """Each command with its own answer; those of a transaction are found in that of EXEC."""
    if commands[0] != MULTI:
        yield commands[0], replies[0]
        return
    executed = replies[-1]
    results = iter(executed if isinstance(executed, list) else ())
    for command, queued in zip(commands[1:-1], replies[1:-1], strict=True):
        # Where MULTI itself was refused, the commands ran one by one and were answered at once.
        if queued != b"QUEUED":
            yield command, queued
        elif isinstance(executed, list):
            yield command, next(results)
        else:
            yield command, executed
