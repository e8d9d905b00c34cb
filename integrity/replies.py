"""Taking many replies out of a stream of bytes with one call of the parser.

hiredis hands out one reply per call, and the call costs five times what the parsing does.  Here it is told that the
next *n* replies are the elements of one array, by a header that never was on the wire.  When it has built them, what
it has not consumed belongs to the replies after them, and must come before the next header in a new parser.

hiredis does not tell where it stopped, only how long its buffer is, and it cuts the consumed part off only when that
is a kilobyte or more.  Where the length shows that it did, the rest is known to the byte.  Where it did not, and there
is a rest, the same parser goes on and hands out the next replies one by one, until the rest is known again.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import hiredis


class ErrorReply(Exception):
    """An error that the server answered; returned as a value in a pipeline."""

    def __str__(self) -> str:
        # Redis repeats the arguments of a command that it does not know: the application's data, for no log or report.
        return super().__str__().partition(", with args beginning with")[0]


Reply: TypeAlias = "bytes | int | ErrorReply | list[Reply] | None"


class _NotEnoughData:
    """The type of the marker that hiredis hands back for an incomplete reply."""


_NOT_ENOUGH: Final = _NotEnoughData()
# The first element of each array: with it, a batch that is complete at once always makes hiredis cut its buffer.
_PADDING: Final = b"$1024\r\n" + bytes(1024) + b"\r\n"


class ReplyParser:
    """Cuts a stream of bytes into batches of replies.  Call :meth:`expect`, then :meth:`feed` until it returns them."""

    __slots__ = ("_buffered", "_chunk", "_count", "_reader", "_rest", "_single")

    def __init__(self) -> None:
        self._reader: hiredis.Reader | None = None
        self._rest = b""
        self._chunk: bytes | memoryview = b""
        self._buffered = 0
        self._count = 0
        self._single: list[Reply] | None = None

    def expect(self, count: int) -> list[Reply] | None:
        """Begin a batch of *count* replies; returns them if they have arrived already.

        :raises ValueError: the bytes are not the Redis protocol.
        """
        self._count = count
        if self._reader is not None:
            self._single = []
            return self._take()
        self._single = None
        self._reader = hiredis.Reader(
            protocolError=ValueError, replyError=ErrorReply, notEnoughData=_NOT_ENOUGH
        )
        self._reader.feed(b"*%d\r\n" % (count + 1) + _PADDING)
        rest, self._rest = self._rest, b""
        return self.feed(rest) if rest else None

    def feed(self, chunk: bytes | memoryview) -> list[Reply] | None:
        """Add what arrived; returns the batch if it is complete.  *chunk* may be overwritten before the next call.

        :raises ValueError: the bytes are not the Redis protocol.
        """
        reader = self._reader
        if reader is None:
            raise RuntimeError("feed() without expect()")
        self._chunk = chunk
        self._buffered = reader.len() + len(chunk)
        reader.feed(chunk)  # type: ignore[arg-type]  # any buffer; its annotation knows only bytes
        return self._take()

    def _take(self) -> list[Reply] | None:
        reader = self._reader
        if reader is None:
            raise RuntimeError("nothing is expected")
        if self._single is None:
            replies = reader.gets()
            if replies is _NOT_ENOUGH:
                return None
            del replies[0]
        else:
            replies = self._single
            while len(replies) < self._count:
                self._buffered = reader.len()
                reply = reader.gets()
                if reply is _NOT_ENOUGH:
                    return None
                replies.append(reply)
        self._find_rest(reader)
        return replies  # type: ignore[no-any-return]

    def _find_rest(self, reader: hiredis.Reader) -> None:
        if not reader.has_data():
            self._reader = None
        elif (unused := reader.len()) < self._buffered:
            # What is left lies within the newest chunk, because the batch was incomplete before it.
            self._rest = bytes(self._chunk[-unused:])
            self._reader = None
        else:
            # The caller may overwrite the chunk before the rest of it is known.
            self._chunk = bytes(self._chunk)
