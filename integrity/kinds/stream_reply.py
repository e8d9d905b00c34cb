"""What XINFO, XRANGE and XPENDING answer, checked, and as the flat elements that a stream's digest is made of."""

from __future__ import annotations

from collections.abc import Sequence

from integrity.kinds.base import MalformedReply
from integrity.replies import Reply


def reply_table(reply: Reply) -> dict[bytes, Reply]:
    """A flat list of names and values.

    :raises MalformedReply: it is something else.
    """
    if not isinstance(reply, list) or len(reply) % 2:
        raise MalformedReply("XINFO is no table")
    table: dict[bytes, Reply] = {}
    for name, value in zip(reply[::2], reply[1::2], strict=True):
        if not isinstance(name, bytes):
            raise MalformedReply("XINFO has a name that is no string")
        table[name] = value
    return table


def reply_bytes(value: Reply, name: str) -> bytes:
    """*value*, if it is a string."""
    if not isinstance(value, bytes):
        raise MalformedReply(f"stream: {name} is no string")
    return value


def reply_list(value: Reply, name: str) -> list[Reply]:
    """*value*, if it is a list."""
    if not isinstance(value, list):
        raise MalformedReply(f"stream: {name} is no list")
    return value


def reply_integer(value: Reply) -> int:
    """*value*, if it is a number."""
    if not isinstance(value, int):
        raise MalformedReply("stream: a count is no number")
    return value


def entry_elements(entries: Sequence[Reply]) -> list[bytes]:
    """Id, number of strings, and the strings of each ``[id, [field, value, …]]``."""
    flat: list[bytes] = []
    for entry in entries:
        identifier, fields = reply_list(entry, "entry")
        pairs = reply_list(fields, "fields")
        flat.append(reply_bytes(identifier, "entry id"))
        flat.append(b"%d" % len(pairs))
        flat.extend(reply_bytes(item, "field") for item in pairs)
    return flat


def group_elements(name: Reply, last_delivered: Reply, pending: int) -> list[bytes]:
    """How a group begins."""
    return [
        reply_bytes(name, "group name"),
        reply_bytes(last_delivered, "last-delivered-id"),
        b"%d" % pending,
    ]


def pending_elements(pending: Sequence[Reply]) -> list[bytes]:
    """Id, consumer and delivery count of each ``[id, consumer, time, count]``."""
    flat: list[bytes] = []
    for item in pending:
        identifier, consumer, _time, count = reply_list(item, "pending entry")
        flat += [
            reply_bytes(identifier, "pending id"),
            reply_bytes(consumer, "consumer"),
            b"%d" % reply_integer(count),
        ]
    return flat


def consumer_elements(names: Sequence[bytes]) -> list[bytes]:
    """How a group ends."""
    return [b"%d" % len(names), *sorted(names)]


def entry_id(text: bytes) -> tuple[int, int]:
    """``1526919030474-55`` as two numbers."""
    milliseconds, _, sequence = text.partition(b"-")
    return int(milliseconds), int(sequence or 0)


def after(identifier: bytes) -> bytes:
    """The smallest id that is larger."""
    milliseconds, sequence = entry_id(identifier)
    if sequence == (1 << 64) - 1:
        return b"%d-0" % (milliseconds + 1)
    return b"%d-%d" % (milliseconds, sequence + 1)
