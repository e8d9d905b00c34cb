"""Values out of bodies as servers wrote them, every encoding once; whole, in pieces, and cut off at every byte."""

from __future__ import annotations

import string
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integrity.kinds import KINDS
from integrity.kinds.pieces import PieceSize
from integrity.rdb.body import Body
from integrity.rdb.errors import MalformedBody, UnsupportedBody
from integrity.rdb.lzf import decompress, decompressed
from integrity.rdb.pieces import comes_in_pieces, pieces_of
from integrity.rdb.values import decoder_for, field_expiries_of, kind_of, value_of, whole_pieces
from integrity.rdb.walk import walk_for
from tests.rdb_bodies import V65, WRITTEN, Written

each = pytest.mark.parametrize("written", WRITTEN, ids=lambda written: written.name)
_ALPHABET: Final = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
SMALLEST: Final = PieceSize(1, 1)
VECTOR_SET: Final = bytes.fromhex(
    "81bde72da2bb1eb40002020201025001020005016505023f7f0206020102800100000002000220020002813f64f92e3e64f92f00"
)
"""By Redis 8.2.3."""
FILTERS: Final = {
    33: bytes.fromhex("0000000000000000407b14ae47e17a743f00002e010803616263"),
    34: bytes.fromhex("0000000000000000407b14ae47e17a743f00002e010804036162630164"),
    35: bytes.fromhex("0202" + "00" * 33),
    36: bytes.fromhex("00020807cdccccccccccec3f0101610108" + "00" * 8),
    37: bytes.fromhex("0214010800000104030000000100"),
}
"""In the forms of Dragonfly 1.40.1, shorter."""


def _digest_of_pieces(written: Written, limit: PieceSize, step: int) -> bytes:
    chunks = [written.body[at : at + step] for at in range(0, len(written.body), step)]
    body = Body(chunks)
    hasher = KINDS[kind_of(written.rdb_type, written.body).encode()].hasher()
    for piece in pieces_of(written.rdb_type, body, limit, written.version):
        hasher.add(piece)
    body.finish()
    return hasher.digest()


@each
def test_a_body_becomes_what_the_server_answered(written: Written) -> None:
    assert value_of(written.rdb_type, written.body, written.version) == written.value


@each
def test_a_body_ends_where_the_next_key_begins(written: Written) -> None:
    walk = walk_for(written.rdb_type, written.version)
    body = Body((), b"before" + written.body + b"\x00\x03key", 6)
    walk(body)
    assert body.at == 6 + len(written.body)


@each
@pytest.mark.parametrize(
    ("limit", "step"), [(SMALLEST, 1), (PieceSize(4000, 2), 7), (PieceSize(1 << 20, 4096), 4096)]
)
def test_pieces_have_the_digest_of_the_whole(written: Written, limit: PieceSize, step: int) -> None:
    assert comes_in_pieces(written.rdb_type, written.version)
    whole = KINDS[kind_of(written.rdb_type, written.body).encode()].digest(written.value)
    assert _digest_of_pieces(written, limit, step) == whole


@each
def test_a_body_that_is_cut_off_is_refused(written: Written) -> None:
    for end in range(len(written.body)):
        cut = Written(written.name, written.rdb_type, written.version, written.body[:end], None)
        with pytest.raises(MalformedBody):
            value_of(cut.rdb_type, cut.body, cut.version)
        with pytest.raises(MalformedBody):
            _digest_of_pieces(cut, SMALLEST, 5)


@each
def test_what_follows_a_body_is_not_taken_for_part_of_it(written: Written) -> None:
    with pytest.raises(MalformedBody):
        value_of(written.rdb_type, written.body + b"\0", written.version)


@each
def test_a_body_with_one_byte_changed_is_read_or_refused_by_name(written: Written) -> None:
    for at in range(len(written.body)):
        for change in (0x01, 0x80, 0xFF):
            changed = bytearray(written.body)
            changed[at] ^= change
            try:
                value_of(written.rdb_type, bytes(changed), written.version)
            except MalformedBody:
                continue


@given(
    rdb_type=st.sampled_from(sorted({written.rdb_type for written in WRITTEN})), body=st.binary(max_size=80)
)
def test_noise_is_read_or_refused_by_name(rdb_type: int, body: bytes) -> None:
    try:
        value_of(rdb_type, body, 12)
        whole_pieces(rdb_type, body, 12)
    except MalformedBody:
        pass


@each
def test_what_is_written_from_pieces_is_the_value(written: Written) -> None:
    kind = KINDS[kind_of(written.rdb_type, written.body).encode()]
    hasher = kind.hasher()
    for piece in whole_pieces(written.rdb_type, written.body, written.version):
        hasher.add(piece)
    assert hasher.digest() == kind.digest(written.value)


@pytest.mark.parametrize(
    ("name", "expiries"),
    [
        ("packed hash with field expiry", {b"g": 4000000000123}),
        ("hash with field expiries", {b"g": 4000000000123, b"h": 4000000000999}),
        ("hash with field expiries of Valkey", {b"g": 4000000000123, b"h": 4000000000999}),
        ("hash with field expiry of Dragonfly", {b"g": 1805663000000}),
        ("set with member expiry", {b"m": 1795663381000}),
        ("packed hash with field expiry, candidate", {b"g": 4000000000123}),
        ("hash with field expiries, candidate", {b"g": 4000000000123}),
        ("packed hash", {}),
    ],
)
def test_expiries_of_fields_are_absolute(name: str, expiries: dict[bytes, int]) -> None:
    written = next(written for written in WRITTEN if written.name == name)
    assert field_expiries_of(written.rdb_type, written.body, written.version) == expiries


def test_fields_that_had_expired_are_left_out_when_a_time_is_given() -> None:
    written = next(written for written in WRITTEN if written.name == "hash with field expiries")
    left = value_of(written.rdb_type, written.body, written.version, as_of_ms=4000000000123)
    assert left == [b"h", b"x", b"f", V65]
    before = value_of(written.rdb_type, written.body, written.version, as_of_ms=4000000000122)
    assert before == written.value


def test_a_modules_value_is_passed_over_named_and_not_decoded() -> None:
    walk = walk_for(7, 12)
    body = Body((), VECTOR_SET + b"next")
    walk(body)
    assert body.at == len(VECTOR_SET)
    assert kind_of(7, VECTOR_SET) == "vectorset"
    with pytest.raises(UnsupportedBody):
        value_of(7, VECTOR_SET, 12)


def test_the_old_form_of_a_modules_value_cannot_even_be_passed_over() -> None:
    walk = walk_for(6, 9)
    with pytest.raises(UnsupportedBody):
        walk(Body((), VECTOR_SET))


@pytest.mark.parametrize("rdb_type", FILTERS)
def test_a_filter_of_dragonfly_is_passed_over_and_has_no_form_to_compare(rdb_type: int) -> None:
    walk = walk_for(rdb_type, 9)
    body = Body((), FILTERS[rdb_type] + b"next")
    walk(body)
    assert body.at == len(FILTERS[rdb_type])
    assert decoder_for(rdb_type, 9) is None


@pytest.mark.parametrize("rdb_type", [8, 26, 27, 28, 29, 38, 100])
def test_unknown_types_have_no_end(rdb_type: int) -> None:
    with pytest.raises(UnsupportedBody):
        walk_for(rdb_type, 13)


def test_numbers_that_later_versions_use_otherwise_are_dragonflys_only_in_old_files() -> None:
    body = Body((), b"\x01\x01f\x01v\xc0\xff")
    walk_for(31, 9)(body)
    assert body.at == 7
    with pytest.raises(UnsupportedBody):
        walk_for(31, 13)


def test_a_document_of_the_json_module_is_its_text() -> None:
    identifier = 0
    for character in "ReJSON-RL":
        identifier = identifier << 6 | _ALPHABET.index(character)
    head = b"\x81" + (identifier << 10 | 3).to_bytes(8, "big")
    body = head + b'\x05\x07{"a":1}\x00'
    assert kind_of(7, body) == "ReJSON-RL"
    assert value_of(7, body, 12) == b'{"a":1}'
    with pytest.raises(UnsupportedBody):
        value_of(7, head + b'\x05\x07{"a":1}\x05\x01a\x00', 12)
    older = b"\x81" + (identifier << 10 | 1).to_bytes(8, "big") + body[9:]
    with pytest.raises(UnsupportedBody):
        value_of(7, older, 12)


@given(st.binary(max_size=3000), st.integers(1, 100), st.integers(1, 4000))
def test_compressed_strings_come_in_parts_as_they_come_whole(text: bytes, step: int, most: int) -> None:
    packed = _compressed(text * 7)
    assert decompress(packed, 7 * len(text)) == text * 7
    chunks = [packed[at : at + step] for at in range(0, len(packed), step)]
    assert b"".join(decompressed(chunks, 7 * len(text), most)) == text * 7
    with pytest.raises(MalformedBody):
        list(decompressed(chunks, 7 * len(text) + 1, most))


def _compressed(text: bytes) -> bytes:
    """Runs of three bytes and more that stood at most 8 KiB before, found the slow way."""
    out, plain, at = bytearray(), bytearray(), 0

    def flush() -> None:
        for start in range(0, len(plain), 32):
            part = plain[start : start + 32]
            out.append(len(part) - 1)
            out.extend(part)
        plain.clear()

    while at < len(text):
        where = text.rfind(text[at : at + 3], max(0, at - 8192), at + 2) if at + 3 <= len(text) else -1
        if where < 0 or where >= at:
            plain.append(text[at])
            at += 1
            continue
        size = 3
        while size < 264 and at + size < len(text) and text[where + size] == text[at + size]:
            size += 1
        flush()
        back = at - where - 1
        if size < 9:
            out.extend((size - 2 << 5 | back >> 8, back & 0xFF))
        else:
            out.extend((7 << 5 | back >> 8, size - 9, back & 0xFF))
        at += size
    flush()
    return bytes(out)
