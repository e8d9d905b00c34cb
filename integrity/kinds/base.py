"""What every kind of value can do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from integrity.replies import Reply

if TYPE_CHECKING:
    from integrity.kinds.pieces import Hasher, Piece, PieceSize
    from integrity.wire import Connection


class MalformedReply(ValueError):
    """A reply of another shape than the command promises."""


class Kind(Protocol):
    """One Redis type: how to read it, whole or in pieces, its canonical digest, and how to write it without DUMP."""

    @property
    def name(self) -> str:
        """The type's name as TYPE answers it."""

    @property
    def prefix(self) -> bytes:
        """What stands before the key in the packed command that reads the whole value in one reply."""

    @property
    def suffix(self) -> bytes:
        """What stands after it."""

    def digest(self, reply: Reply) -> bytes:
        """The canonical digest, 16 bytes.

        :raises MalformedReply: the reply is not this kind's.
        """

    def digests(self, replies: Sequence[Reply]) -> list[bytes]:
        """The digests of many values.

        :raises MalformedReply: one of the replies is not this kind's.
        """

    def size(self, reply: Reply) -> int:
        """Bytes of a string, elements of everything else."""

    def difference(self, source: Reply, target: Reply) -> str:
        """How two values of this kind differ, in a few words; positions and counts, never content."""

    def pieces(self, connection: Connection, key: bytes, size: int, limit: PieceSize) -> Iterator[Piece]:
        """Read the value piece by piece.

        :param size: bytes of memory that it uses, or 0 where that is not known.
        :raises ValueChanged: it was written to meanwhile, or is gone.
        :raises MalformedReply: a reply is not this kind's.
        """

    def hasher(self) -> Hasher:
        """Makes the digest of the whole from the pieces."""

    def write(self, target: Connection, key: bytes, pieces: Iterable[Piece]) -> tuple[str, ...]:
        """Write *pieces* with typed commands to a key that is not there yet; says what could not be carried.

        :raises WriteRefused: the target refused a command.
        """


def elements_of(reply: Reply) -> list[bytes]:
    """The reply as a flat list of byte strings.

    :raises MalformedReply: it is something else.
    """
    if isinstance(reply, list):
        elements = [item for item in reply if isinstance(item, bytes)]
        if len(elements) == len(reply):
            return elements
    raise MalformedReply(f"expected a list of strings, got {type(reply).__name__}")


def plural(count: int, noun: str) -> str:
    """``1 element``, ``2 elements``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def apart(noun: str, **counts: int) -> str:
    """``1 field with another value, 2 fields only on the source``; what there is none of is left out."""
    told = [f"{plural(count, noun)} {how.replace('_', ' ')}" for how, count in counts.items() if count]
    return ", ".join(told) or "no difference left"
