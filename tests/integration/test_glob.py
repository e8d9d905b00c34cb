"""Patterns mean what they mean to Redis: any pattern, any keys, asked of a real server."""

from __future__ import annotations

import contextlib

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from integrity.glob import PatternError, compile_patterns
from tests.servers import Store

# Wildcards, what is special inside a bracket, and bytes on both sides of what C takes for a sign.
ALPHABET = b"ab-]^[*?\\\n\x00\x80\xff"

_bytes = st.lists(st.sampled_from(ALPHABET), max_size=7).map(bytes)
_brackets = st.lists(st.sampled_from(b"ab-]^\\\x80\xff"), max_size=5).map(
    lambda inner: b"[%b]" % bytes(inner)
)
_parts = st.lists(st.sampled_from([b"*", b"?", b"a", b"b", b"\\"]) | _brackets, max_size=6).map(b"".join)
_patterns = st.lists(_bytes | _parts, min_size=1, max_size=25)
_keys = st.sets(_bytes | st.lists(st.sampled_from(b"ab"), max_size=7).map(bytes), max_size=40)


def translated(pattern: bytes) -> bool:
    try:
        compile_patterns([pattern])
    except PatternError:
        return False
    return True


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_keys, _patterns)
@example({b"", b"a"}, [b"*", b"**", b"?", b"[^", b"[]", b"[^]", b"[", b"a**"])
@example(
    {b"a", b"]", b"b", b"^", b"-"},
    [b"[a-]", b"[]-a]", b"[^^]", b"[\\]-a]", b"[a\\", b"[a-b", b"[b-a]", b"[a^]"],
)
@example(
    {b"ab", b"a\nb", b"abab", b"aab"},
    [b"*ab", b"*a*b", b"a*b", b"*a*a*b", b"*b*a", b"a?b", b"\\a\\b", b"ab\\"],
)
def test_redis_finds_the_same_keys(blue: Store, keys: set[bytes], patterns: list[bytes]) -> None:
    patterns = [pattern for pattern in patterns if pattern and translated(pattern)]
    pipeline = blue.client.pipeline(transaction=False)
    pipeline.flushdb()
    for key in keys:
        pipeline.set(key, b"")
    for pattern in patterns:
        pipeline.keys(pattern)
    answers = pipeline.execute()[1 + len(keys) :]

    for pattern, answer in zip(patterns, answers, strict=True):
        match = compile_patterns([pattern]).match
        assert {key for key in keys if match(key)} == set(answer), pattern

    if patterns:
        # One expression over all of them finds the first that fits.
        together = compile_patterns(patterns).match
        for key in keys:
            found = together(key)
            first = next((place for place, answer in enumerate(answers, 1) if key in answer), None)
            assert (found.lastindex if found else None) == first


def test_scan_means_the_same_as_keys(blue: Store) -> None:
    keys = {b"", b"a", b"ab", b"a]b", b"\xffz", b"a\nb", b"b"}
    for key in keys:
        blue.client.set(key, b"")

    for pattern in (b"*", b"**", b"a*", b"[^a]*", b"?", b"a\\]*", b"[\x80-\xff]?", b"*\n*"):
        match = compile_patterns([pattern]).match
        found = set(blue.client.scan_iter(match=pattern, count=100))
        assert {key for key in keys if match(key)} == found, pattern


@settings(deadline=None)
@given(st.lists(st.integers(0, 255), max_size=30).map(bytes))
def test_any_bytes_are_a_pattern_or_refused_as_one(pattern: bytes) -> None:
    with contextlib.suppress(PatternError):
        compile_patterns([pattern])
