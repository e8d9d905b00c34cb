"""Slots, ranges of slots, and commands cut by key: whatever the keys are, each slot is somebody's, and only one's."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot as slot_by_redis_py

from integrity.cluster.commands import cut, packed_size
from integrity.cluster.nodes import Place
from integrity.cluster.routes import redirect_place
from integrity.cluster.slots import SLOTS, key_slot, probe_key, read_slots, slots_text
from integrity.cluster.walk import BLOCK
from integrity.info import merge_info
from integrity.partition import CursorRange, cluster_ranges
from integrity.replies import ErrorReply
from integrity.wire import pack


@given(st.binary() | st.lists(st.sampled_from([b"{", b"}", b"a", b"bc"])).map(b"".join))
def test_a_key_has_the_slot_that_redis_gives_it(key: bytes) -> None:
    assert key_slot(key) == slot_by_redis_py(key)


def test_there_is_a_probe_for_each_slot() -> None:
    assert [slot_by_redis_py(probe_key(slot)) for slot in range(SLOTS)] == list(range(SLOTS))


@given(st.frozensets(st.integers(0, SLOTS - 1)))
def test_slots_survive_their_text(slots: frozenset[int]) -> None:
    assert read_slots(slots_text(slots)) == slots


@settings(max_examples=25)
@given(
    st.integers(1, 200),
    st.integers(0, 10**10),
    st.integers(1, 64),
    st.integers(0, SLOTS - 1),
    st.integers(0, 9),
)
def test_ranges_of_a_cluster_hold_each_slot_once_and_end_where_the_next_begins(
    masters: int, keys: int, workers: int, slot: int, offset: int
) -> None:
    ranges = cluster_ranges(masters, keys, workers)

    assert [s for part in ranges for s in part.slots] == list(range(SLOTS))
    assert [part.start for part in ranges] == [part.slots[0] for part in ranges]
    assert all(part.start % BLOCK == 0 and part.next_start is None for part in ranges)
    inside = next(part for part in ranges if slot in part.slots)
    cursor = offset * SLOTS + slot
    assert cursor == 0 or not inside.ends_at(cursor)
    for other in ranges[: inside.index]:
        assert other.ends_at(cursor)
    assert all(part.ends_at(0) for part in ranges)


def test_a_range_that_was_planned_is_made_again_from_its_place() -> None:
    planned = cluster_ranges(3, 10**6, 4)

    assert planned == [CursorRange(part.index, len(planned), "slots") for part in planned]


def test_mget_answers_nothing_for_what_is_no_string_and_an_error_for_all_else() -> None:
    pieces = cut([b"MGET", b"a", b"b", b"c"])

    assert pieces is not None
    assert pieces.parts == [[b"GET", b"a"], [b"GET", b"b"], [b"GET", b"c"]]
    wrong, refused = ErrorReply("WRONGTYPE Operation"), ErrorReply("NOPERM no")
    assert pieces.join([b"1", None, wrong]) == [b"1", None, None]
    assert pieces.join([b"1", refused, wrong]) is refused


@pytest.mark.parametrize("name", [b"EXISTS", b"UNLINK", b"DEL", b"TOUCH"])
def test_what_counts_keys_is_cut_and_added_up(name: bytes) -> None:
    pieces = cut([name, b"a", b"b"])
    failed = ErrorReply("CLUSTERDOWN")

    assert pieces is not None
    assert pieces.parts == [[name, b"a"], [name, b"b"]]
    assert pieces.join([1, 1]) == 2
    assert pieces.join([1, failed]) is failed
    assert cut([name, b"a"]) is None


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("MOVED 3999 10.0.0.1:6381", Place("10.0.0.1", 6381)),
        ("ASK 3999 cache.example:6381", Place("cache.example", 6381)),
        ("MOVED 1 ::1:7000", Place("::1", 7000)),
        ("MOVED 1 :7000", Place("asked", 7000)),
        ("MOVED 1 ?:7000", None),
        ("CLUSTERDOWN The cluster is down", None),
        ("MOVED 1 host", None),
    ],
)
def test_where_a_redirection_points_to(text: str, place: Place | None) -> None:
    assert redirect_place(text, Place("asked", 1)) == place


@given(st.lists(st.lists(st.binary(max_size=30), min_size=1, max_size=12)))
@example([[b"x" * 5000, b""]])
def test_the_size_of_packed_commands_is_known(commands: list[list[bytes]]) -> None:
    assert packed_size(commands) == len(b"".join(pack(*command) for command in commands))


def test_infos_of_masters_add_up() -> None:
    one = {"run_id": "a", "used_memory": "10", "maxmemory": "100", "db0": "keys=3,expires=1,subexpiry=0"}
    two = {
        "run_id": "b",
        "used_memory": "5",
        "maxmemory": "0",
        "db0": "keys=4,expires=0",
        "db1": "keys=1,expires=0",
    }

    assert merge_info([one, two], "whole") == {
        "run_id": "whole",
        "used_memory": "15",
        "maxmemory": "0",
        "db0": "keys=7,expires=1",
        "db1": "keys=1,expires=0",
    }
