"""Reading RDB files made byte by byte: everything that may stand in one, cut off and changed everywhere."""

from __future__ import annotations

import io
import multiprocessing
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anycrc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from integrity.errors import OrchestratorFailed
from integrity.kinds.pieces import PieceSize
from integrity.rdb.big_entry import BigEntry
from integrity.rdb.entry import Entry
from integrity.rdb.errors import RdbDamaged, RdbError, RdbUnsupported
from integrity.rdb.index import Row, index
from integrity.rdb.payload import payload_of
from integrity.rdb.reader import RdbReader
from integrity.snapshot.rdb import encode_length, encode_string
from integrity.transfer.payload import rdb_version

PATH: Final = Path("some.rdb")
LIMIT: Final = PieceSize(1 << 20, 4096)
BAD_CRC: Final = b"\1" * 8


def finished(data: bytes) -> bytes:
    """*data* with the end mark and the checksum."""
    data += b"\xff"
    return data + int(anycrc.Model("CRC64-REDIS").calc(data)).to_bytes(8, "little")


def aux(name: str, value: str) -> bytes:
    return b"\xfa" + encode_string(name.encode()) + encode_string(value.encode())


def string(key: bytes, value: bytes) -> bytes:
    return b"\x00" + encode_string(key) + encode_string(value)


def hash_(key: bytes, *pairs: bytes) -> bytes:
    return b"\x04" + encode_string(key) + encode_length(len(pairs) // 2) + b"".join(map(encode_string, pairs))


FULL: Final = finished(
    b"REDIS0011"
    + aux("redis-ver", "7.2.5")
    + aux("ctime", "1700000000")
    + b"\xfa\x0aredis-bits\xc0\x40"
    + aux("repl-id", "a" * 40)
    + aux("lua", "return 1") + aux("lua", "return 2")
    + b"\xf7\x81" + bytes.fromhex("bde72da2bb1eb400") + b"\x02\x01" + b"\x05\x03abc" + b"\x00"
    + b"\xf5" + encode_string(b"#!lua name=l\nreturn 1" * 5)
    + b"\xfe\x00\xfb\x04\x02"
    + string(b"plain", b"value")
    + b"\xfc" + (1_800_000_000_123).to_bytes(8, "little") + b"\xf9\x07" + string(b"frequent", b"x" * 70)
    + b"\xfd" + (1_800_000_000).to_bytes(4, "little") + b"\xf8\x40\x64" + hash_(b"idle", b"f", b"v", b"g", b"w" * 300)
    + b"\x6b\x40\x43\x79\x07" + string(b"", b"")
    + string(b"long key " * 20, b"\xff" * 20)
    + b"\xfe\x09\xfb\x01\x00\xf4\x01\x01\x00"
    + string(b"elsewhere", b"12")
)  # fmt: skip
KEYS: Final = [
    (0, b"plain", 0, None, b"\x05value"),
    (0, b"frequent", 0, 1_800_000_000_123, b"\x40\x46" + b"x" * 70),
    (0, b"idle", 4, 1_800_000_000_000, b"\x02\x01f\x01v\x01g\x41\x2c" + b"w" * 300),
    (0, b"", 0, None, b"\x00"),
    (0, b"long key " * 20, 0, None, b"\x14" + b"\xff" * 20),
    (9, b"elsewhere", 0, None, b"\x0212"),
]


class Drip(io.RawIOBase):
    """A stream that hands out a few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data = io.BytesIO(data)
        self._step = step

    def read(self, size: int = -1, /) -> bytes:
        return self._data.read(min(size, self._step))


def read(data: bytes, step: int = 1 << 30, held: int = 1 << 20) -> tuple[RdbReader, list[Entry | BigEntry]]:
    reader = RdbReader(Drip(data, step), PATH, held_bytes=held)
    return reader, list(reader)


def indexed(data: bytes, *, held: int = 1 << 20, digests: bool = True, workers: int = 0) -> list[Row]:
    reader = RdbReader(io.BytesIO(data), PATH, held_bytes=held)
    batches = index(reader, PATH, PieceSize(1, 1), digests=digests, workers=workers)
    return [row for batch in batches for row in batch.rows()]


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_everything_in_a_file_is_found(step: int) -> None:
    reader, entries = read(FULL, step)
    held = [entry for entry in entries if isinstance(entry, Entry)]
    assert [(e.database, e.key, e.rdb_type, e.expiry_ms, e.body) for e in held] == KEYS
    assert all(FULL[e.offset : e.offset + e.length] == e.body for e in held)
    assert reader.version == 11
    assert reader.checksum == "fits"
    assert reader.aux == {
        "redis-ver": "7.2.5", "ctime": "1700000000", "redis-bits": "64", "repl-id": "a" * 40,
    }  # fmt: skip
    assert reader.scripts == [b"return 1", b"return 2"]
    assert reader.announced == {0: (4, 2), 9: (1, 0)}
    assert [library.code for library in reader.libraries] == [b"#!lua name=l\nreturn 1" * 5]
    (module,) = reader.module_aux
    assert module.module == "vectorset"
    assert FULL[module.offset] == 0xF7
    assert FULL[module.offset + module.length] == 0xF5
    assert FULL[reader.libraries[0].offset] == 0xF5
    assert reader.position == len(FULL)


@pytest.mark.parametrize("held", [0, 1, 21, 100, 400])
@pytest.mark.parametrize("step", [1, 64, 1 << 20])
def test_values_beyond_the_bound_are_not_held_and_have_the_same_rows(held: int, step: int) -> None:
    reader = RdbReader(Drip(FULL, step), PATH, held_bytes=held)
    found = []
    for entry in reader:
        if isinstance(entry, BigEntry):
            body = bytearray()
            entry.skim(body.extend)
            assert entry.length is not None
            assert entry.length > held
            assert entry.body_xxh3 == xxh3_64_intdigest(bytes(body))
            assert FULL[entry.offset : entry.offset + entry.length] == bytes(body)
        else:
            body = bytearray(entry.body)
            assert entry.length <= held
        found.append((entry.database, entry.key, entry.rdb_type, entry.expiry_ms, bytes(body)))
    assert found == KEYS
    assert reader.checksum == "fits"
    assert indexed(FULL, held=held) == indexed(FULL)


def test_a_big_value_that_nobody_reads_is_passed_over() -> None:
    _, entries = read(FULL, held=21)
    assert [entry.key for entry in entries] == [key for _, key, *_ in KEYS]


def test_a_big_value_is_read_once_and_to_its_end() -> None:
    entries = iter(RdbReader(io.BytesIO(FULL), PATH, held_bytes=100))
    big = next(entry for entry in entries if isinstance(entry, BigEntry))
    next(big.pieces(PieceSize(1, 1)))
    with pytest.raises(RuntimeError):
        next(entries)


def test_a_file_that_is_cut_off_is_refused_and_says_where() -> None:
    for end in range(len(FULL)):
        for held in (1 << 20, 0):
            with pytest.raises(RdbDamaged) as caught:
                read(FULL[:end], held=held)
            assert caught.value.offset == end
            assert f"{end:,}" in str(caught.value)


@pytest.mark.parametrize("digests", [True, False])
def test_a_file_with_one_byte_changed_is_refused_and_says_where(digests: bool) -> None:
    for at in range(len(FULL)):
        for change in (0x01, 0x20, 0xFF):
            data = bytearray(FULL)
            data[at] ^= change
            with pytest.raises(RdbError) as caught:
                indexed(bytes(data), digests=digests)
            assert caught.value.offset <= len(FULL)


@given(st.data())
def test_a_change_that_parses_is_found_by_the_checksum(data: st.DataObject) -> None:
    value = data.draw(st.binary(min_size=1, max_size=60))
    whole = finished(b"REDIS0009" + string(b"key", value))
    at = data.draw(st.integers(15, 14 + len(value)))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RdbDamaged) as caught:
        read(bytes(changed))
    assert caught.value.offset == len(whole) - 8


def test_a_file_without_checksum_is_read_and_says_so() -> None:
    reader, entries = read(FULL[:-8] + bytes(8))
    assert reader.checksum == "not computed"
    assert len(entries) == len(KEYS)


def test_a_file_of_before_checksums_ends_with_its_mark() -> None:
    reader, entries = read(b"REDIS0003" + b"\xfe\x00" + string(b"k", b"v") + b"\xff")
    assert reader.checksum == "none"
    assert [entry.key for entry in entries] == [b"k"]


def test_what_follows_the_end_is_refused() -> None:
    with pytest.raises(RdbDamaged) as caught:
        read(FULL + b"*1\r\n")
    assert caught.value.offset == len(FULL)


def _of_dragonfly(rest: bytes) -> bytes:
    return finished(b"REDIS0009" + aux("df-ver", "df-v1.40.1") + rest)


def test_a_file_of_dragonfly_may_be_filled_up_to_its_block() -> None:
    data = _of_dragonfly(b"\xfe\x00\xdc\x03\0\0\0\1\2\3\4" + string(b"sticky", b"v"))
    padding = b"\xff" * (-len(data) % 4096)
    reader, entries = read(data + padding)
    assert [entry.key for entry in entries] == [b"sticky"]
    assert reader.masked == 1
    for wrong in (padding[:-1], padding + b"\xff", padding + bytes(4096)):
        with pytest.raises(RdbDamaged):
            read(data + wrong)


@pytest.mark.parametrize(
    "magic",
    [b"REDIS0014", b"REDIS0000", b"VALKEY081", b"VALKEY079", b"REDIS00x1", b"DUMMY0009", b"REDIS\0\0\0\0"],
)
def test_an_unknown_beginning_is_refused(magic: bytes) -> None:
    with pytest.raises(RdbUnsupported) as caught:
        read(finished(magic))
    assert caught.value.offset == 0


def test_no_file_at_all_is_refused() -> None:
    with pytest.raises(RdbDamaged) as caught:
        read(b"")
    assert caught.value.offset == 0


@pytest.mark.parametrize(
    ("what", "version"),
    [
        (b"\x1a\x01k\x00", 13),  # a stream of Redis 8.6
        (b"\x64\x81", 12),
        (b"\x1f\x01k\x00", 13),  # Dragonfly's number, which later versions use otherwise
        (b"\x08\x01k\x00", 11),
        (b"\x06\x01k\x00", 9),
        (b"\xf6\x00", 10),
        (b"\xf3\x00", 13),
        (b"\xdc\0\0\0\0", 13),
        (b"\xc9\x01\x02", 9),
    ],
)
def test_what_is_not_known_is_refused_with_its_place(what: bytes, version: int) -> None:
    head = b"REDIS%04d\xfe\x00" % version + string(b"before", b"v")
    with pytest.raises(RdbUnsupported) as caught:
        read(finished(head + what + string(b"after", b"v")))
    assert caught.value.offset == len(head)


def test_lengths_that_lie_do_not_cost_memory() -> None:
    head = b"REDIS0009\xfe\x00"
    huge = b"\x81" + (1 << 62).to_bytes(8, "big")
    for body in (
        b"\x00\x01k" + huge,
        b"\x00" + huge,
        b"\x01\x01k" + huge,
        b"\x04\x01k\x01\x01f" + huge,
        b"\x10\x01k" + huge,
        b"\x0f\x01k" + huge,
        b"\x07\x01k" + huge + b"\x05" + huge,
        b"\x23\x01k" + huge + huge + b"\x00",
        b"\x00\x01k\xc3" + huge + huge,
        b"\xfa\x01k" + huge,
    ):
        for held in (0, 1 << 20):
            with pytest.raises(RdbError):
                for _ in index(
                    RdbReader(io.BytesIO(head + body + b"x" * 100), PATH, held_bytes=held), PATH, LIMIT
                ):
                    pass


class _Zeros:
    """A file whose only value is many zeros, which never lie in memory."""

    def __init__(self, head: bytes, size: int) -> None:
        self._parts = self._made(head, size)

    def _made(self, head: bytes, size: int) -> Iterator[bytes]:
        model = anycrc.Model("CRC64-REDIS")
        crc = model.calc(head)
        yield head
        block = bytes(1 << 20)
        for _ in range(size >> 20):
            crc = model.calc(block, crc)
            yield block
        yield b"\xff" + int(model.calc(b"\xff", crc)).to_bytes(8, "little")

    def read(self, size: int, /) -> bytes:
        return next(self._parts, b"")


@pytest.mark.parametrize("digests", [True, False])
def test_memory_is_bounded_by_the_setting_and_not_by_the_value(digests: bool) -> None:
    size = 256 << 20
    head = b"REDIS0009\xfe\x00\x00\x03big" + encode_length(size)
    tracemalloc.start()
    try:
        reader = RdbReader(_Zeros(head, size), PATH, held_bytes=1 << 20)
        rows = [row for batch in index(reader, PATH, LIMIT, digests=digests) for row in batch.rows()]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [row[7] for row in rows] == [size + 5]
    assert (rows[0][5] is not None) == digests
    assert reader.checksum == "fits"
    assert peak < 16 << 20


def test_a_key_without_a_form_to_compare_has_no_digest_and_its_own_name() -> None:
    vectors = bytes.fromhex("81bde72da2bb1eb400") + b"\x02\x01\x05\x40\x64" + b"x" * 100 + b"\x00"
    data = finished(b"REDIS0012\xfe\x00\x07\x01v" + vectors)
    for held in (0, 1 << 20):
        (row,) = indexed(data, held=held)
        assert row[1:4] == (b"v", "vectorset", 7)
        assert row[5] is None
        assert row[6:] == (14, len(vectors), xxh3_64_intdigest(vectors))


def test_a_value_that_its_type_contradicts_is_damage_even_where_no_checksum_was_computed() -> None:
    broken = b"\x10\x03bad\x07" + b"\x07\0\0\0\x01\0\x01"
    before = b"REDIS0010\xfe\x00" + string(b"good", b"v")
    data = finished(before + broken)[:-8] + bytes(8)
    for held in (0, 1 << 20):
        with pytest.raises(RdbDamaged) as caught:
            indexed(data, held=held)
        assert len(before) < caught.value.offset <= len(before) + len(broken)


def test_a_payload_is_made_of_a_body() -> None:
    payload = payload_of(0, b"\x05value", 11)
    assert payload[:-10] == b"\x00\x05value"
    assert rdb_version(payload) == 11
    assert int.from_bytes(payload[-8:], "little") == anycrc.Model("CRC64-REDIS").calc(payload[:-8])


def _many(keys: int) -> bytes:
    parts = [string(b"key:%d" % number, b"value" * (number % 7)) for number in range(keys)]
    parts[keys // 2] = string(b"big", b"x" * 70_000)
    return b"REDIS0011\xfe\x00" + b"".join(parts)


def test_digests_made_in_other_processes_are_the_same_and_in_order() -> None:
    data = finished(_many(9_500))
    rows = indexed(data, held=60_000)
    assert [row[1] for row in rows[:3]] == [b"key:0", b"key:1", b"key:2"]
    assert indexed(data, held=60_000, workers=2) == rows
    with_none = indexed(data, held=60_000, digests=False)
    assert [(*row[:5], None, *row[6:]) for row in rows] == with_none


def test_damage_that_another_process_finds_has_its_place() -> None:
    before = _many(2_100)
    broken = b"\x10\x03bad\x07" + b"\x07\0\0\0\x01\0\x01"
    with pytest.raises(RdbDamaged) as caught:
        indexed(finished(before + broken), workers=1)
    assert caught.value.offset == len(before) + 5


def test_a_process_that_dies_is_told() -> None:
    reader = RdbReader(io.BytesIO(finished(_many(30_000))), PATH)
    batches = index(reader, PATH, LIMIT, workers=1)
    next(batches)
    (process,) = [child for child in multiprocessing.active_children() if child.name.startswith("digests")]
    process.kill()
    with pytest.raises(OrchestratorFailed):
        list(batches)


def test_processes_end_when_the_iteration_is_given_up() -> None:
    batches = index(RdbReader(io.BytesIO(finished(_many(30_000))), PATH), PATH, LIMIT, workers=1)
    next(batches)
    batches.close()  # type: ignore[attr-defined]  # a generator
    assert not [child for child in multiprocessing.active_children() if child.name.startswith("digests")]
