"""What every kind of value can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from integrity.replies import Reply


class MalformedReply(ValueError):
    """A reply of another shape than the command promises."""


class Kind(Protocol):
    """One Redis type: how to read it whole, its canonical digest, and how to tell two values apart in words."""

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
