"""RDB files that real servers wrote: everything in them as the server tells it, by Greenfly's reading and an oracle's.

On the servers on PATH, and on those that GREENFLY_TEST_MORE_SERVERS names.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from integrity.endpoint import Endpoint
from integrity.kinds import KINDS, STREAM
from integrity.kinds.pieces import PieceSize
from integrity.rdb.entry import Entry
from integrity.rdb.index import Row
from integrity.rdb.payload import payload_of
from integrity.rdb.reader import RdbReader
from integrity.rdb.values import field_expiries_of, kind_of, value_of
from integrity.settings import EndpointSettings
from integrity.verify.look import BigValues, Look, look
from tests.conftest import StartServer
from tests.fencing import each_program
from tests.matrix.cases import CASES
from tests.matrix.facets import Facts, Reader
from tests.matrix.loader import Case, load_cases
from tests.matrix.servers import Program, Server
from tests.raw import Raw
from tests.rdb_bodies import WRITTEN
from tests.rdb_files import decoded, entries_of, rows_of, save
from tests.servers import Store

_WHOLE: Final = BigValues(1 << 30, PieceSize(1 << 20, 4096))
_CLOCK_MS: Final = 50
"""Servers before Redis 7.0 tell only what is left of an expiry."""
_LAZY: Final = "hash/fields that expired"


@dataclass(frozen=True, slots=True)
class Saved:
    """A file, and what the server that wrote it tells of the same keys."""

    program: Program
    path: Path
    reader: RdbReader
    entries: dict[bytes, Entry]
    rows: dict[bytes, Row]
    looks: dict[bytes, Look]
    """As Greenfly reads them."""
    facts: dict[bytes, Facts]
    """As the oracle reads them."""
    cases: list[Case]


@pytest.fixture(scope="module", params=each_program())
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Every case of the matrix in one file."""
    program = request.param
    with program.start() as running:
        server = Server.of(program, running)
        cases = load_cases(server, CASES)
        path = tmp_path_factory.mktemp("rdb") / "saved.rdb"
        shutil.copy(save(server.url, server.engine), path)
        endpoint = Endpoint.from_settings("source", EndpointSettings.model_validate({"url": server.url}))
        keys = [case.place for case in cases]
        with Reader(server) as oracle, endpoint.connect("test") as connection:
            looks = look(connection, keys, absolute=server.knows(b"PEXPIRETIME"), big=_WHOLE)
            facts = [oracle.facts(key) for key in keys]
    reader, entries = entries_of(path)
    return Saved(
        program,
        path,
        reader,
        {entry.key: entry for entry in entries},
        {row[1]: row for row in rows_of(path)},
        dict(zip(keys, looks, strict=True)),
        dict(zip(keys, facts, strict=True)),
        cases,
    )


def _there(saved: Saved) -> list[tuple[Case, Entry, Look, Facts]]:
    """Every case that the server still tells of, and its key in the file.

    Fields that have expired stay in files of Dragonfly until it gets round to them.
    """
    found = []
    for case in saved.cases:
        facts = saved.facts[case.place]
        if facts.kind != "none" and case.name != _LAZY:
            found.append((case, saved.entries[case.place], saved.looks[case.place], facts))
    return found


def test_the_file_is_whole_and_says_who_wrote_it(saved: Saved) -> None:
    dragonfly = saved.program.engine == "dragonfly"
    assert saved.reader.checksum == ("not computed" if dragonfly else "fits")
    assert saved.reader.version >= 9
    assert {"redis-ver", "valkey-ver"} & saved.reader.aux.keys()
    assert ("df-ver" in saved.reader.aux) == dragonfly
    if not dragonfly:
        assert saved.reader.announced[0] == (
            len(saved.entries),
            sum(e.expiry_ms is not None for e in saved.entries.values()),
        )


def test_every_key_is_in_the_file_with_its_kind_and_expiry(saved: Saved) -> None:
    there = _there(saved)
    assert len(there) > 60
    assert saved.entries.keys() >= {case.place for case, *_ in there}
    for case, entry, seen, facts in there:
        assert kind_of(entry.rdb_type, entry.body) == facts.kind == seen.kind_name, case.name
        assert abs((entry.expiry_ms or 0) - (facts.expiry_ms or 0)) <= _CLOCK_MS, case.name


def test_the_digest_of_the_file_is_the_digest_of_the_server(saved: Saved) -> None:
    assert {case.name: saved.rows[case.place][5] for case, *_ in _there(saved)} == {
        case.name: seen.digest for case, _, seen, _ in _there(saved)
    }


@pytest.mark.parametrize("held", [0, 700])
def test_a_value_that_is_not_held_has_the_same_row(saved: Saved, held: int) -> None:
    assert rows_of(saved.path, held_bytes=held) == list(saved.rows.values())


def test_an_oracle_that_reads_the_server_agrees_on_every_value(saved: Saved) -> None:
    for case, entry, seen, facts in _there(saved):
        if seen.digest is not None:
            assert decoded(facts.kind, entry, saved.reader.version) == facts.value, case.name


def test_fields_and_members_expire_when_the_server_says(saved: Saved) -> None:
    expiring = 0
    for case, entry, _, facts in _there(saved):
        told = facts.fields_ms or facts.members_ms
        found = field_expiries_of(entry.rdb_type, entry.body, saved.reader.version)
        assert found.keys() == told.keys(), case.name
        # What is left of a member's time is told in seconds.
        tolerance = 1000 if facts.members_ms else 0
        assert all(abs(found[name] - told[name]) <= tolerance for name in told), case.name
        expiring += len(told)
    assert expiring or saved.program.version < (7, 4)


def test_a_streams_counters_are_in_the_file(saved: Saved) -> None:
    for case, entry, seen, _ in _there(saved):
        if seen.counters is not None:
            reply = value_of(entry.rdb_type, entry.body, saved.reader.version)
            assert STREAM.counters(reply) == seen.counters, case.name


def test_fields_that_had_expired_are_left_out_at_the_servers_time(saved: Saved) -> None:
    case = next((case for case in saved.cases if case.name == _LAZY), None)
    if case is None:
        pytest.skip("no field of a hash expires here")
    now = int(time.time() * 1000)
    for held in (0, 1 << 20):
        row = next(row for row in rows_of(saved.path, held_bytes=held, as_of_ms=now) if row[1] == case.place)
        assert row[5] == saved.looks[case.place].digest


def test_payloads_made_of_bodies_are_taken_back(saved: Saved) -> None:
    """By a server of the same program: the same values again."""
    with saved.program.start() as running:
        server = Server.of(saved.program, running)
        with Reader(server) as oracle:
            for case, entry, _, facts in _there(saved):
                payload = payload_of(entry.rdb_type, entry.body, saved.reader.version)
                assert oracle(b"RESTORE", case.place, 0, payload) == b"OK"
                assert oracle.facts(case.place).value == facts.value, case.name


@pytest.mark.parametrize("policy", ["allkeys-lfu", "allkeys-lru"])
def test_what_stands_between_keys_is_passed_over_or_handed_out(start_redis: StartServer, policy: str) -> None:
    store = start_redis("--maxmemory-policy", policy, "--rdbcompression", "no", "--rdbchecksum", "no")
    code = b"#!lua name=mine\nredis.register_function('f', function() return 1 end)"
    with Raw(store.url) as raw, Raw(store.url, 7) as other:
        raw(b"FUNCTION", b"LOAD", code)
        raw(b"SET", b"kept", b"abc" * 100)
        raw(b"SET", b"short", b"v", b"PXAT", 4_000_000_000_123)
        other(b"SADD", b"\xff\0\r\n", b"1", b"2")
    reader, entries = entries_of(save(store.url, store.engine))
    found = sorted((entry.database, entry.key, entry.expiry_ms) for entry in entries)
    assert found == [(0, b"kept", None), (0, b"short", 4_000_000_000_123), (7, b"\xff\0\r\n", None)]
    assert [library.code for library in reader.libraries] == [code]
    assert reader.checksum == "not computed"


def test_a_library_is_taken_back_as_it_was_handed_out(start_redis: StartServer) -> None:
    store = start_redis()
    code = (
        b"#!lua name=mine\n" + b"-- long\n" * 200 + b"redis.register_function('f', function() return 1 end)"
    )
    with Raw(store.url) as raw:
        raw(b"FUNCTION", b"LOAD", code)
        reader, _ = entries_of(save(store.url, store.engine))
        raw(b"FUNCTION", b"FLUSH")
        raw(b"FUNCTION", b"LOAD", reader.libraries[0].code)
        assert raw(b"FCALL", b"f", 0) == 1


@pytest.mark.parametrize("name", ["plain list", "scores as text", "zipmap", "packed list of before 3.2"])
def test_encodings_that_no_server_at_hand_writes_are_read_as_one_reads_them(blue: Store, name: str) -> None:
    written = next(written for written in WRITTEN if written.name == name)
    kind = kind_of(written.rdb_type, written.body)
    with Raw(blue.url) as raw:
        raw(b"RESTORE", b"old", 0, payload_of(written.rdb_type, written.body, 9))
    endpoint = Endpoint.from_settings("source", EndpointSettings.model_validate({"url": blue.url}))
    with endpoint.connect("test") as connection:
        (seen,) = look(connection, [b"old"], absolute=True, big=_WHOLE)
    assert seen.digest == KINDS[kind.encode()].digest(
        value_of(written.rdb_type, written.body, written.version)
    )
