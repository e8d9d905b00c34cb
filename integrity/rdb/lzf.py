"""Strings that a server compressed with LZF.

A compressed string is a row of runs: new bytes (control byte below 32), or bytes that were there before (length, and
how far back, no more than 8 KiB).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from integrity.rdb.errors import MalformedBody

_WINDOW: Final = 1 << 13
"""How far back a run may reach."""
_LONGEST_RUN: Final = 3
"""Bytes of one run's description, without the bytes that it brings."""


def decompress(data: bytes, size: int) -> bytes:
    """The plain string.

    :param size: of the plain string, as the file says.
    :raises MalformedBody: it is damaged.
    """
    out = bytearray()
    _expand(data, out, len(data))
    if len(out) != size:
        raise MalformedBody("a compressed string has another length")
    return bytes(out)


def decompressed(chunks: Iterable[bytes], size: int, most: int) -> Iterator[bytes]:
    """The plain string in parts of about *most* bytes; see :func:`decompress`."""
    out = bytearray()
    pending = b""
    for chunk in chunks:
        pending += chunk
        # A run that is not whole yet waits for the next chunk.
        done = _expand(pending, out, len(pending) - _LONGEST_RUN - 32)
        pending = pending[done:]
        if len(out) >= most + _WINDOW:
            part = bytes(out[:-_WINDOW])
            del out[:-_WINDOW]
            size -= len(part)
            yield part
    _expand(pending, out, len(pending))
    if len(out) != size:
        raise MalformedBody("a compressed string has another length")
    if out:
        yield bytes(out)


def _expand(data: bytes, out: bytearray, end: int) -> int:
    """Append what the runs that begin before *end* stand for; returns where the next one begins."""
    at = 0
    try:
        while at < end:
            control = data[at]
            if control < 32:
                stop = at + control + 2
                out += data[at + 1 : stop]
                at = stop
                continue
            if control < 224:
                count = (control >> 5) + 2
                back = (control & 0x1F) << 8 | data[at + 1]
                at += 2
            else:
                count = data[at + 1] + 9
                back = (control & 0x1F) << 8 | data[at + 2]
                at += 3
            start = len(out) - back - 1
            if start < 0:
                raise MalformedBody("a compressed string is damaged")
            if back < count - 1:
                # The run goes on into what it writes itself.
                run = out[start:]
                out += (run * (count // len(run) + 1))[:count]
            else:
                out += out[start : start + count]
    except IndexError as error:
        raise MalformedBody("a compressed string ends too early") from error
    if at > len(data):
        raise MalformedBody("a compressed string ends too early")
    return at
