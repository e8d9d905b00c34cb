"""The reply parser hands out exactly the replies that one-by-one parsing does, however the bytes arrive."""

from __future__ import annotations

import hiredis
from hypothesis import given, settings
from hypothesis import strategies as st

from integrity.replies import ErrorReply, Reply, ReplyParser


def _encode(value: object) -> bytes:
    match value:
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case int():
            return b":%d\r\n" % value
        case None:
            return b"$-1\r\n"
        case str():
            return b"-ERR %b\r\n" % value.encode()
        case list():
            return b"*%d\r\n" % len(value) + b"".join(map(_encode, value))
    raise TypeError(value)


def _comparable(reply: Reply) -> object:
    if isinstance(reply, ErrorReply):
        return ("error", str(reply))
    return [_comparable(item) for item in reply] if isinstance(reply, list) else reply


def _one_by_one(data: bytes) -> list[object]:
    reader = hiredis.Reader(replyError=ErrorReply)
    reader.feed(data)
    replies = []
    while (reply := reader.gets()) is not False:
        replies.append(_comparable(reply))
    return replies


scalars = st.one_of(
    st.binary(max_size=40),
    st.binary(min_size=900, max_size=2500),
    st.integers(-(2**63), 2**63 - 1),
    st.none(),
    st.text("abc ", max_size=8),
)
replies = st.lists(st.one_of(scalars, st.lists(scalars, max_size=4)), min_size=1, max_size=60)


@given(
    values=replies,
    cuts=st.lists(st.integers(1, 3000), min_size=1, max_size=50),
    counts=st.lists(st.integers(1, 9)),
)
@settings(max_examples=400, deadline=None)
def test_batches_equal_one_by_one_parsing(values: list[object], cuts: list[int], counts: list[int]) -> None:
    data = b"".join(map(_encode, values))
    expected = _one_by_one(data)
    assert len(expected) == len(values)
    chunks: list[bytes] = []
    position = turn = 0
    while position < len(data):
        step = cuts[turn % len(cuts)]
        chunks.append(data[position : position + step])
        position, turn = position + step, turn + 1
    parser = ReplyParser()
    shared = bytearray(3000)
    view = memoryview(shared)
    found: list[object] = []
    turn = 0
    while len(found) < len(expected):
        want = min(counts[turn % len(counts)] if counts else 7, len(expected) - len(found))
        batch = parser.expect(want)
        # What a caller may do between two batches: take in more, overwriting the buffer it fed from.
        while batch is None:
            chunk = chunks.pop(0)
            shared[: len(chunk)] = chunk
            batch = parser.feed(view[: len(chunk)])
        assert len(batch) == want
        found += map(_comparable, batch)
        shared[:] = bytes(len(shared))
        turn += 1
    assert found == expected
    assert not chunks
