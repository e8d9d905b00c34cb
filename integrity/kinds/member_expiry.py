"""Expiries of single set members, which only Dragonfly has (SADDEX): reading them beside a set's pieces, writing them.

They are no part of a set's digest and are not compared; a copy carries them, or says that it could not.  Dragonfly
tells and takes whole seconds from now on, so a copied expiry is off by up to two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from integrity.expiry import TIME_COMMAND, clock_ms
from integrity.kinds.base import MalformedReply, elements_of, plural
from integrity.kinds.field_expiry import FARTHEST_SECONDS, NONE, unknown_command
from integrity.kinds.pieces import Piece, PieceWriter, WriteRefused, asked
from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, argument, every, pack


def with_member_expiries(connection: Connection, key: bytes, pieces: Iterable[Piece]) -> Iterator[Piece]:
    """A set's *pieces*, each with its members' expiries; as they are where none expires or the server has no such.

    One command for each member, so it is for copying and not for comparing.

    :raises ValueChanged: the key is no set by now.
    :raises MalformedReply: FIELDTTL answered in an unknown shape.
    """
    knows = True
    head = b"*3\r\n$8\r\nFIELDTTL\r\n" + argument(key)
    for piece in pieces:
        members = elements_of(piece.content)
        if not knows or not members:
            yield piece
            continue
        if unknown_command(connection.exchange([pack(b"FIELDTTL", key, members[0])])[0]):
            knows = False
            yield piece
            continue
        connection.send(TIME_COMMAND + every(head, [argument(member) for member in members]))
        time, *replies = connection.receive_many(len(members) + 1)
        now = clock_ms(time)
        expiries = tuple(_expiry(connection, reply, now) for reply in replies)
        yield replace(piece, expiries=expiries) if any(e != NONE for e in expiries) else piece


def _expiry(connection: Connection, reply: Reply, now_ms: int) -> int:
    """Milliseconds since 1970, or −1 for a member that does not expire (or is gone by now)."""
    left = asked(connection, reply, b"FIELDTTL")
    if not isinstance(left, int):
        raise MalformedReply("FIELDTTL is no number")
    return now_ms + left * 1000 if left >= 0 else NONE


class MemberExpiryWriter:
    """Sets members' expiries with SADDEX, where the target has it."""

    def __init__(self, writer: PieceWriter, key: bytes) -> None:
        self._writer = writer
        self._key = key
        self._knows: bool | None = None
        self._lost = 0

    @property
    def lost(self) -> tuple[str, ...]:
        """What could not be carried."""
        return (f"the expiries of {plural(self._lost, 'set member')}",) if self._lost else ()

    def write(self, members: Sequence[bytes], expiries: Sequence[int]) -> None:
        """Set the expiries of *members*, which are there already.

        :raises WriteRefused: the target refused one.
        """
        by_time: dict[int, list[bytes]] = {}
        for member, time in zip(members, expiries, strict=False):
            if time != NONE:
                by_time.setdefault(time, []).append(member)
        if not by_time:
            return
        if self._knows is None:
            self._knows = not unknown_command(self._writer.try_command(b"SADDEX"))
        if not self._knows:
            self._lost += sum(map(len, by_time.values()))
            return
        reply = self._writer.try_command(b"TIME")
        if isinstance(reply, ErrorReply):
            raise WriteRefused(reply)
        now = clock_ms(reply)
        self._writer.send(
            [pack(b"SADDEX", self._key, _seconds(time - now), *those) for time, those in by_time.items()]
        )


def _seconds(left_ms: int) -> bytes:
    return b"%d" % min(FARTHEST_SECONDS, max(1, round(left_ms / 1000)))
