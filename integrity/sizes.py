"""How much memory keys use, asked in the way that costs the server least.

MEMORY USAGE costs Redis about a microsecond a key, and Dragonfly 1.40 ninety.  There the length comes first (STRLEN,
HLEN …, two microseconds), and MEMORY USAGE only for values with many elements; and for a walk over a whole database
one SCAN with ``MINMSZ`` names all big keys at once.  What that cannot see is a value of few but enormous elements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from integrity.replies import ErrorReply, Reply
from integrity.wire import Connection, argument, arguments_of, every, pack

MEMORY_USAGE: Final = b"*3\r\n$6\r\nMEMORY\r\n$5\r\nUSAGE\r\n"
LENGTH_COMMANDS: Final[dict[bytes, bytes]] = {
    b"string": b"*2\r\n$6\r\nSTRLEN\r\n",
    b"hash": b"*2\r\n$4\r\nHLEN\r\n",
    b"list": b"*2\r\n$4\r\nLLEN\r\n",
    b"set": b"*2\r\n$5\r\nSCARD\r\n",
    b"zset": b"*2\r\n$5\r\nZCARD\r\n",
    b"stream": b"*2\r\n$4\r\nXLEN\r\n",
}
_MANY_ELEMENTS: Final = 256
"""From so many on, a value's memory is asked for."""
_LARGE_BYTES: Final = 16 * 1024
_MOST_LARGE: Final = 500_000


def asks_lengths_first(engine: str) -> bool:
    """Whether MEMORY USAGE is dear on this engine."""
    return engine == "dragonfly"


def sizes_by_length(connection: Connection, keys: Sequence[bytes], types: Sequence[bytes]) -> list[int]:
    """Bytes of memory that each key uses, about; 0 for values of few elements and for those that are gone.

    :param types: as TYPE answers.
    :raises ServerError: the connection is lost.
    """
    known = [i for i, name in enumerate(types) if name in LENGTH_COMMANDS]
    connection.send(b"".join([LENGTH_COMMANDS[types[i]] + argument(keys[i]) for i in known]))
    sizes = [0] * len(keys)
    many = [i for i, name in enumerate(types) if name not in LENGTH_COMMANDS and name != b"none"]
    for i, length in zip(known, connection.receive_many(len(known)), strict=True):
        if not isinstance(length, int):
            continue  # Another type by now; whoever reads it finds out.
        if types[i] == b"string":
            sizes[i] = length
        elif length >= _MANY_ELEMENTS:
            many.append(i)
    if many:
        for i, size in zip(many, memory_usage(connection, [keys[i] for i in many]), strict=True):
            sizes[i] = size
    return sizes


def memory_usage(connection: Connection, keys: Sequence[bytes]) -> list[int]:
    """MEMORY USAGE of each key; 0 where the server does not tell, or the key is gone."""
    connection.send(every(MEMORY_USAGE, arguments_of(keys)))
    return [size if isinstance(size, int) else 0 for size in connection.receive_many(len(keys))]


def find_large_keys(connection: Connection, threshold: int) -> Mapping[bytes, int] | None:
    """Every key of the current database that uses more than *threshold* bytes or 16 KiB, and how many it uses.

    So a thousand others use 16 MiB at most.  None where SCAN has no ``MINMSZ``, which is Dragonfly's own, and where
    there are so many that their names would be a burden.

    :raises ServerError: the connection is lost.
    """
    found: list[bytes] = []
    cursor, size = b"0", b"%d" % min(threshold, _LARGE_BYTES)
    while True:
        reply: Reply = connection.exchange([pack(b"SCAN", cursor, b"COUNT", b"1000", b"MINMSZ", size)])[0]
        if isinstance(reply, ErrorReply) or not isinstance(reply, list) or len(reply) != 2:
            return None
        at, keys = reply
        if not isinstance(at, bytes) or not isinstance(keys, list):
            return None
        found += [key for key in keys if isinstance(key, bytes)]
        if len(found) > _MOST_LARGE:
            return None
        cursor = at
        if cursor == b"0":
            break
    return dict(zip(found, memory_usage(connection, found), strict=True))
