"""Walking along the bytes of an RDB file: lengths and strings, taken or passed over, whatever chunks they come in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from integrity.rdb.errors import MalformedBody, UnsupportedBody
from integrity.rdb.lzf import decompress, decompressed

_INTEGER_BYTES: Final = {0xC0: 1, 0xC1: 2, 0xC2: 4}
_COMPRESSED: Final = 0xC3
LONGEST_STRING: Final = 1 << 30
"""Nothing longer is held; a server takes 512 MiB by default."""


class TooShort(MalformedBody):
    """The bytes end before what was to be read."""


class Body:
    """Walks along one body, or along whatever else of a file.

    :param chunks: what follows *buffer*.
    :param buffer: the first bytes.
    :param at: where in *buffer* to begin.
    :raises TooShort: in every method: the bytes end too early.
    :raises MalformedBody: in every method: an encoding is not known.
    """

    __slots__ = ("_at", "_buffer", "_chunks")

    def __init__(self, chunks: Iterable[bytes] = (), buffer: bytes = b"", at: int = 0) -> None:
        self._chunks = iter(chunks)
        self._buffer = buffer
        self._at = at

    @property
    def at(self) -> int:
        """Place in the first buffer, as long as no chunk was needed."""
        return self._at

    @property
    def left(self) -> int:
        """Bytes that were taken from the chunks and not handed out yet; all of the newest chunk."""
        return len(self._buffer) - self._at

    def length(self) -> int:
        """The next number."""
        at = self._at
        if at < len(self._buffer) and (first := self._buffer[at]) < 0x40:
            self._at = at + 1
            return first
        first = self.take(1)[0]
        if first < 0x40:
            return first
        if first < 0x80:
            return (first & 0x3F) << 8 | self.take(1)[0]
        if first in (0x80, 0x81):
            return int.from_bytes(self.take(4 if first == 0x80 else 8), "big")
        raise MalformedBody(f"length encoding {first:#x} is not known", self._at - 1)

    def string(self) -> bytes:
        """The next string."""
        at = self._at
        if at < len(self._buffer) and (end := at + 1 + self._buffer[at]) <= min(len(self._buffer), at + 0x40):
            # Nearly all elements are short and lie in the buffer.
            self._at = end
            return self._buffer[at + 1 : end]
        self._need(1)
        first = self._buffer[self._at]
        if first < 0xC0:
            return self.take(_held(self.length()))
        self._at += 1
        if first in _INTEGER_BYTES:
            return b"%d" % int.from_bytes(self.take(_INTEGER_BYTES[first]), "little", signed=True)
        if first == _COMPRESSED:
            compressed, size = _held(self.length()), _held(self.length())
            return decompress(self.take(compressed), size)
        raise MalformedBody(f"string encoding {first:#x} is not known", self._at - 1)

    def strings(self, count: int, most: int) -> list[bytes]:
        """The next strings: *count*, or fewer when they have *most* bytes or more, not counting short ones."""
        found: list[bytes] = []
        add = found.append
        while len(found) < count and most > 0:
            buffer, at = self._buffer, self._at
            size = len(buffer)
            for _ in range(count - len(found)):
                # Nearly all are short and lie in the buffer.
                if at >= size or (first := buffer[at]) >= 0x40 or (end := at + 1 + first) > size:
                    break
                add(buffer[at + 1 : end])
                at = end
            self._at = at
            if len(found) < count:
                string = self.string()
                add(string)
                most -= len(string)
        return found

    def string_parts(self, most: int) -> Iterator[bytes]:
        """The next string in parts of about *most* bytes."""
        self._need(1)
        first = self._buffer[self._at]
        if first == _COMPRESSED:
            self._at += 1
            compressed, size = self.length(), self.length()
            yield from decompressed(self.parts(compressed, most), size, most)
        elif first in _INTEGER_BYTES:
            yield self.string()
        else:
            yield from self.parts(self.length(), most)

    def parts(self, size: int, most: int) -> Iterator[bytes]:
        """The next *size* bytes in parts of *most*."""
        while size:
            part = self.take(min(size, most))
            size -= len(part)
            yield part

    def take(self, size: int) -> bytes:
        """The next *size* bytes."""
        end = self._at + size
        if end > len(self._buffer):
            self._need(size)
            end = self._at + size
        data = self._buffer[self._at : end]
        self._at = end
        return data

    def pass_over(self, size: int) -> None:
        """Go on by *size* bytes without holding them."""
        self._at += size
        while (missing := self._at - len(self._buffer)) > 0:
            self._buffer, self._at = self._chunk(), missing

    def pass_strings(self, count: int) -> None:
        """Go on by *count* strings without holding them."""
        while count:
            buffer, at = self._buffer, self._at
            try:
                while count:
                    first = buffer[at]
                    if first < 0x40:
                        at += 1 + first
                    elif first < 0x80:
                        at += 2 + ((first & 0x3F) << 8 | buffer[at + 1])
                    else:
                        break
                    count -= 1
            except IndexError:
                pass
            # The place may lie beyond the buffer by now: what is to be passed over has not been read yet.
            self._at = len(buffer)
            self.pass_over(at - len(buffer))
            if count:
                self._pass_string()
                count -= 1

    def _pass_string(self) -> None:
        self._need(1)
        first = self._buffer[self._at]
        if first < 0xC0:
            self.pass_over(self.length())
        elif first in _INTEGER_BYTES:
            self.pass_over(1 + _INTEGER_BYTES[first])
        elif first == _COMPRESSED:
            self._at += 1
            compressed = self.length()
            self.length()
            self.pass_over(compressed)
        else:
            raise MalformedBody(f"string encoding {first:#x} is not known", self._at)

    def rest(self) -> Iterator[bytes]:
        """What is left, in parts."""
        left, self._buffer, self._at = self._buffer[self._at :], b"", 0
        yield left
        yield from self._chunks

    def finish(self) -> None:
        """Make sure that nothing is left; whoever hands out the chunks proves them at their end."""
        if any(map(len, self.rest())):
            raise MalformedBody("something follows the last element")

    def _need(self, size: int) -> None:
        """Make *size* bytes lie in the buffer."""
        missing = self._at + size - len(self._buffer)
        if missing <= 0:
            return
        parts = [self._buffer[self._at :]]
        while missing > 0:
            chunk = self._chunk()
            parts.append(chunk)
            missing -= len(chunk)
        self._buffer, self._at = b"".join(parts), 0

    def _chunk(self) -> bytes:
        chunk = next(self._chunks, b"")
        if not chunk:
            raise TooShort("it ends too early")
        return chunk


def _held(size: int) -> int:
    """*size* of something that is held whole."""
    if size > LONGEST_STRING:
        raise UnsupportedBody(f"a string of {size:,} bytes is longer than any that is held")
    return size
