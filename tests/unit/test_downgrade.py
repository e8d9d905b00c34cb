"""A stream's body in an older form: right against hand-made ones, and never an exception."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from integrity.transfer.downgrade import stream_for_7_0

IDENTIFIER = bytes(range(16))
TIME = b"\x11" * 8
ACTIVE = b"\x22" * 8
LARGE = b"\x81" + b"\xff" * 8
"""Entries read, where a server does not know how many: −1 as a number of 64 bits."""


def text(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def stream(active: bytes, consumers: int) -> bytes:
    """One listpack, two groups; the first with pending entries and consumers."""
    head = (
        b"\x01" + text(IDENTIFIER) + b"\xc3\x04\x42\x00ZZZZ" + b"\x05" + b"\x42\x00" * 2 + LARGE + b"\x00" * 4
    )
    pending = b"\x02" + (IDENTIFIER + TIME + b"\x01") * 2
    mine = b"".join(text(b"c%d" % n) + TIME + active + b"\x01" + IDENTIFIER for n in range(consumers))
    one = text(b"one") + b"\x01\x02" + LARGE + pending + bytes([consumers]) + mine
    two = b"\xc0\x7f" + b"\x80\x00\x00\x00\x09\x00\x00" + b"\x00" + b"\x00"
    return head + b"\x02" + one + two


def test_only_the_active_times_of_consumers_are_left_out() -> None:
    for consumers in (0, 1, 3):
        assert stream_for_7_0(stream(ACTIVE, consumers)) == stream(b"", consumers)


def test_a_body_that_is_cut_or_goes_on_is_none() -> None:
    body = stream(ACTIVE, 2)

    assert {stream_for_7_0(body[:size]) for size in range(len(body))} == {None}
    assert stream_for_7_0(body + b"\0") is None


@given(st.binary(max_size=300))
def test_no_bytes_raise(body: bytes) -> None:
    made = stream_for_7_0(body)

    assert made is None or len(made) <= len(body)
