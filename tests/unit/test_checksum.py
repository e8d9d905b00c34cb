"""The digest's building blocks: framing, sums and fingerprints."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_128_intdigest

from integrity.checksum import (
    DIGEST_BYTES,
    Fingerprint,
    digest_bytes,
    digest_of_sum,
    digest_sequence,
    digest_unordered,
)

sequences = st.lists(st.binary(max_size=12), max_size=8)
pairs = st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=40).map(digest_bytes)), max_size=20)


@given(sequences, sequences)
@settings(max_examples=400, deadline=None)
def test_two_sequences_share_a_digest_only_if_they_are_equal(left: list[bytes], right: list[bytes]) -> None:
    assert (digest_sequence(left) == digest_sequence(right)) == (left == right)


@given(st.binary(min_size=1, max_size=30), st.integers(0, 30), st.integers(0, 30))
@settings(max_examples=300, deadline=None)
def test_the_place_of_a_cut_is_part_of_the_digest(data: bytes, first: int, second: int) -> None:
    first, second = min(first, len(data)), min(second, len(data))
    same = digest_sequence([data[:first], data[first:]]) == digest_sequence([data[:second], data[second:]])

    assert same == (first == second)


def test_an_empty_element_is_not_nothing() -> None:
    assert len({digest_sequence(s) for s in ([], [b""], [b"", b""], [b"a"], [b"a", b""], [b"", b"a"])}) == 6


@given(st.lists(st.binary(max_size=12), max_size=10), st.randoms())
@settings(max_examples=200, deadline=None)
def test_a_sum_does_not_depend_on_the_order(members: list[bytes], random: object) -> None:
    del random
    digests = [xxh3_128_intdigest(member) for member in members]

    assert digest_unordered(b"T", digests, len(digests)) == digest_unordered(
        b"T", digests[::-1], len(digests)
    )


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=10), st.integers(0, 10))
def test_a_value_read_in_pieces_has_the_digest_of_the_whole(members: list[bytes], cut: int) -> None:
    digests = [xxh3_128_intdigest(member) for member in members]
    pieces = sum(digests[:cut]) + sum(digests[cut:])

    assert digest_of_sum(b"T", pieces, len(digests)) == digest_unordered(b"T", digests, len(digests))


def test_the_tag_and_the_count_are_part_of_a_sums_digest() -> None:
    results = {digest_of_sum(tag, 7, count) for tag in (b"T", b"H", b"Z") for count in (1, 2)}

    assert len(results) == 6
    assert {len(result) for result in results} == {DIGEST_BYTES}


def test_a_sum_wraps_at_128_bits() -> None:
    assert digest_of_sum(b"T", 5, 1) == digest_of_sum(b"T", (1 << 128) + 5, 1)


# -- fingerprints ------------------------------------------------------------------------------------------------------


def fingerprint(items: list[tuple[bytes, bytes]]) -> Fingerprint:
    result = Fingerprint()
    for key, digest in items:
        result.add(key, digest)
    return result


@given(pairs)
@settings(max_examples=100, deadline=None)
def test_a_fingerprint_is_the_same_one_by_one_at_once_merged_and_in_any_order(
    items: list[tuple[bytes, bytes]],
) -> None:
    one_by_one = fingerprint(items)
    at_once, merged = Fingerprint(), fingerprint(items[::2])
    at_once.add_many([key for key, _ in items], [digest for _, digest in items])
    merged.merge(fingerprint(items[1::2]))

    assert one_by_one.hex() == fingerprint(items[::-1]).hex() == at_once.hex() == merged.hex()
    assert one_by_one.keys == at_once.keys == merged.keys == len(items)
    assert len(one_by_one.hex()) == 32


@given(pairs, st.binary(max_size=12))
@settings(max_examples=100, deadline=None)
def test_removing_a_key_undoes_adding_it(items: list[tuple[bytes, bytes]], key: bytes) -> None:
    changed = fingerprint(items)
    changed.add(key, bytes(16))
    assert changed.hex() != fingerprint(items).hex()

    changed.remove(key, bytes(16))

    assert (changed.hex(), changed.keys) == (fingerprint(items).hex(), len(items))


def test_a_fingerprint_tells_which_key_has_which_value() -> None:
    one, two = digest_bytes(b"1"), digest_bytes(b"2")

    assert fingerprint([(b"a", one), (b"b", two)]).hex() != fingerprint([(b"a", two), (b"b", one)]).hex()
    assert fingerprint([]).hex() == "0" * 32
