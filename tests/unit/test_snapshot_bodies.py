"""Bodies that were encoded from pieces are taken apart into the same elements; damaged ones are told, never guessed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from math import copysign, inf
from pathlib import Path
from random import Random

import pyrage
import pytest

from integrity.kinds.pieces import Piece, PieceSize
from integrity.rdb import pieces as rdb_pieces
from integrity.rdb.body import Body
from integrity.rdb.errors import MalformedBody
from integrity.rdb.lzf import decompress
from integrity.replies import Reply
from integrity.snapshot import spool as spool_module
from integrity.snapshot.encode import Form, expiring_form, form_for
from integrity.snapshot.sealing import Keys
from integrity.snapshot.spool import Spool

LENGTHS = (0, 1, 62, 63, 64, 65, 1_023, 1_024, 16_383, 16_384, 70_000)
STRINGS = [Random(length).randbytes(length) for length in LENGTHS]
LIMIT = PieceSize(bytes=100_000, elements=3)


def pieces_of(rdb_type: int, body: Body, limit: PieceSize) -> Iterator[Piece]:
    yield from rdb_pieces.pieces_of(rdb_type, body, limit, 80 if rdb_type == 22 else 12)
    body.finish()


def body_of(form: Form, pieces: list[Piece], size: int) -> bytes:
    return form.head(size) + b"".join(map(form.encode, pieces))


def in_chunks(body: bytes, size: int) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


def flat(pieces: Iterator[Piece]) -> list[object]:
    return list(chain.from_iterable(p.content for p in pieces if isinstance(p.content, list)))


@pytest.mark.parametrize("chunk", [1, 7, 1_000, 1_000_000])
@pytest.mark.parametrize("name", [b"list", b"set", b"hash"])
def test_elements_of_every_length_survive(name: bytes, chunk: int) -> None:
    form = form_for(name, "redis")
    assert form is not None
    elements = [*STRINGS, *reversed(STRINGS)]
    count = len(elements) // (2 if name == b"hash" else 1)

    body = body_of(form, [Piece([*elements[:8]]), Piece([*elements[8:]])], count)

    assert flat(pieces_of(form.rdb_type, Body(in_chunks(body, chunk)), LIMIT)) == elements


def test_scores_survive_to_the_bit() -> None:
    form = form_for(b"zset", "redis")
    assert form is not None
    scores = [0.1, -0.0, inf, -inf, 5e-324, 1.7976931348623157e308, 3.0, 1 / 3]
    pairs = list(chain.from_iterable((b"m%d" % n, repr(s).encode()) for n, s in enumerate(scores)))

    body = body_of(form, [Piece([*pairs])], len(scores))

    found = flat(pieces_of(form.rdb_type, Body([body]), LIMIT))
    assert found[::2] == pairs[::2]
    back = [float(text) for text in found[1::2] if isinstance(text, bytes)]
    assert back == scores
    assert copysign(1, back[1]) == -1


@pytest.mark.parametrize("length", [1, 63, 64, 45_000, 90_000])
def test_a_string_comes_in_pieces_of_the_wanted_size(length: int) -> None:
    form = form_for(b"string", "redis")
    assert form is not None
    value = Random(1).randbytes(length)

    body = body_of(form, [Piece(value[:40]), Piece(value[40:])], length)

    pieces = [
        piece.content for piece in pieces_of(form.rdb_type, Body(in_chunks(body, 99)), PieceSize(40_000, 1))
    ]
    assert b"".join(piece for piece in pieces if isinstance(piece, bytes)) == value
    assert [len(piece) for piece in pieces if isinstance(piece, bytes)] == [
        min(40_000, length - start) for start in range(0, length, 40_000)
    ]


@pytest.mark.parametrize("engine", ["redis", "valkey"])
def test_expiries_of_fields_survive(engine: str) -> None:
    form = expiring_form(engine)
    assert form is not None
    times = (-1, 1, 1_795_549_304_000, -1, 2**46)
    pairs = list(chain.from_iterable((b"f%d" % n, b"v" * n) for n in range(len(times))))

    body = body_of(
        form, [Piece([*pairs[:4]], expiries=times[:2]), Piece([*pairs[4:]], expiries=times[2:])], 5
    )

    pieces = list(pieces_of(form.rdb_type, Body(in_chunks(body, 5)), LIMIT))
    assert flat(iter(pieces)) == pairs
    assert tuple(chain.from_iterable(piece.expiries for piece in pieces)) == times


def test_the_number_that_redis_and_valkey_use_for_different_hashes_is_told_apart_by_the_version() -> None:
    valkey, candidate = b"\x01\x01f\x01v" + b"\xff" * 8, b"\x01\x00\x01f\x01v"
    for body, version in ((valkey, 80), (candidate, 12)):
        (piece,) = rdb_pieces.pieces_of(22, Body([body]), PieceSize(100, 10), version)
        assert (piece.content, piece.expiries) == ([b"f", b"v"], (-1,))


def test_what_only_dump_tells_is_not_read_in_pieces() -> None:
    assert form_for(b"stream", "redis") is None
    assert form_for(b"ReJSON-RL", "redis") is None
    assert form_for(b"set", "dragonfly") is None
    assert expiring_form("dragonfly") is None


@pytest.mark.parametrize("name", [b"string", b"list", b"zset", b"hash"])
def test_a_body_that_is_cut_short_or_goes_on_is_told(name: bytes) -> None:
    form = form_for(name, "redis")
    assert form is not None
    content: Reply = b"abcdef" if name == b"string" else [b"a", b"1", b"bcd", b"2"]
    size = {b"string": 6, b"list": 4}.get(name, 2)
    body = body_of(form, [Piece(content)], size)

    for length in range(len(body)):
        with pytest.raises(MalformedBody):
            list(pieces_of(form.rdb_type, Body([body[:length]]), LIMIT))
    with pytest.raises(MalformedBody):
        list(pieces_of(form.rdb_type, Body([body, b"x"]), LIMIT))
    assert list(pieces_of(form.rdb_type, Body([body]), LIMIT))


@pytest.mark.parametrize("body", [b"\x01\xc4abcd", b"\x82abcdefgh", b"\x01\xff"])
def test_unknown_encodings_are_told(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        list(pieces_of(1, Body([body]), LIMIT))


def test_whole_numbers_are_written_out() -> None:
    body = b"\x04\xc0\xff\xc1\x00\x80\xc2\xff\xff\xff\x7f\x011"

    assert flat(pieces_of(1, Body(in_chunks(body, 1)), LIMIT)) == [b"-1", b"-32768", b"2147483647", b"1"]


@pytest.mark.parametrize("data", [b"\x05ab", b"\x20\x00", b"\x00a\xe0", b"\x00a\x20\x05"])
def test_damaged_compressed_strings_are_told(data: bytes) -> None:
    with pytest.raises(MalformedBody):
        decompress(data, 3)


def test_a_run_that_repeats_itself_is_written_out() -> None:
    # "ab", then nine bytes from two back; the same with the long form of a count.
    assert decompress(b"\x01ab\xe0\x00\x01", 11) == b"abababababa"
    with pytest.raises(MalformedBody):
        decompress(b"\x01ab\xe0\x00\x01", 12)


# -- the spool ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 1_000, 1_000_000])
@pytest.mark.parametrize("sealed", [False, True])
def test_what_is_spooled_comes_back_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, sealed: bool
) -> None:
    monkeypatch.setattr(spool_module, "MEMORY_BYTES", limit)
    keys = Keys((pyrage.x25519.Identity.generate(),)) if sealed else Keys()
    marker = b"a secret value "
    parts = [marker * 10, b"", Random(2).randbytes(5_000), marker]

    with Spool(tmp_path / "value", keys) as spool:
        for part in parts:
            spool.write(part)
        on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert (marker in on_disk) == (limit < 1_000_000 and not sealed and bool(on_disk))
        assert b"".join(spool.chunks()) == b"".join(parts)
        assert len(list(tmp_path.iterdir())) == (limit < 1_000_000)

    assert list(tmp_path.iterdir()) == []


def test_a_spool_that_is_given_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "MEMORY_BYTES", 1)

    def give_up(keys: Keys) -> None:
        with Spool(tmp_path / "value", keys) as spool:
            spool.write(b"x" * 100_000)
            raise ZeroDivisionError

    for keys in (Keys(), Keys((pyrage.x25519.Identity.generate(),))):
        with pytest.raises(ZeroDivisionError):
            give_up(keys)
        assert list(tmp_path.iterdir()) == []
