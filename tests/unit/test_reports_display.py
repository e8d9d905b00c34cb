"""Keys as text: readable where they can be, exact always."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import display
from reports.display import key_from_text, key_text

keys = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(
        st.sampled_from([b"\\", b"x00", b" ", b"\xc3", b"\xa4", b"\xed\xa0\x80", b"a", b"\xf4\x90\x80\x80"])
    ).map(b"".join),
)


@given(keys)
def test_text_leads_back_to_the_key(key: bytes) -> None:
    assert key_from_text(key_text(key)) == key


@given(keys)
def test_text_holds_only_what_can_be_seen(key: bytes) -> None:
    text = key_text(key)
    assert text.isprintable()
    assert text == text.strip(" ")
    assert "  " not in text
    text.encode("utf-8")


@given(keys)
def test_free_text_holds_only_what_can_be_seen(key: bytes) -> None:
    text = display.plain_text(key.decode("utf-8", "surrogateescape"))
    assert text.isprintable()
    text.encode("utf-8")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (b"", ""),
        (b"user:1", "user:1"),
        ("Größe:日本".encode(), "Größe:日本"),
        (b"a b", "a b"),
        (b" a  b ", "\\x20a \\x20b\\x20"),
        (b"\x00\n\xff", "\\x00\\x0a\\xff"),
        (b"a\\x00", "a\\\\x00"),
        ("\u202eevil".encode(), "\\xe2\\x80\\xaeevil"),
        ("a\u200bb".encode(), "a\\xe2\\x80\\x8bb"),
        ("\u3164".encode(), "\\xe3\\x85\\xa4"),
        ("\u0301x".encode(), "\\xcc\\x81x"),
    ],
)
def test_known_keys(key: bytes, text: str) -> None:
    assert key_text(key) == text


@pytest.mark.parametrize("text", ["\\", "a\\q", "\\x0", "\\xZZ", "\\x0G"])
def test_text_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="begins no escape"):
        key_from_text(text)


def test_percent_is_never_rounded_up() -> None:
    assert display.percent(999_999, 1_000_000) == "99.99%"
    assert display.percent(1_000_000, 1_000_000) == "100%"
    assert display.percent(1, 1_000_000) == "less than 0.01%"
    assert display.percent(0, 10) == "0%"
    assert display.percent(0, 0) == display.UNKNOWN


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.42, "420 ms"),
        (0.9999, "1.0 s"),
        (59.96, "1 min 00 s"),
        (184.0, "3 min 04 s"),
        (7500.0, "2 h 05 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert display.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (1023, "1,023 bytes"), (1536, "1.50 KiB"), (123_456_789, "117.7 MiB")],
)
def test_sizes(number: int, text: str) -> None:
    assert display.size(number) == text


def test_expiries() -> None:
    assert display.expiry(1_795_394_909_123) == "2026-11-23 00:48:29.123 UTC (1795394909123 ms)"
    assert display.expiry(-1) == "none"
    assert display.expiry(None) == display.UNKNOWN
    assert display.expiry(10**18) == "1000000000000000000 ms"
    assert display.expiry_time(0) == datetime(1970, 1, 1, tzinfo=UTC)
