"""Single writes over one connection to a cluster: routed, repeated only where they were not executed, kept in order."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import pytest
from redis.crc import key_slot

from integrity.address import parse_address
from integrity.cluster.connection import ClusterConnection
from integrity.errors import ServerUnreachable
from integrity.replies import ErrorReply
from integrity.transfer.place import rename
from integrity.transfer.temporary import Places, TemporaryNames
from integrity.wire import Target, pack
from tests.cluster import Node, RedisCluster

NAMES = TemporaryNames("run", Places(by_slot=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters."""
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def cluster(whole: RedisCluster) -> RedisCluster:
    """The same, empty."""
    whole.flush()
    return whole


@pytest.fixture
def connection(cluster: RedisCluster) -> Iterator[ClusterConnection]:
    """To every master."""
    with ClusterConnection(Target("target", parse_address(cluster.url, "target.url"))) as opened:
        yield opened


def moving(cluster: RedisCluster, key: bytes) -> tuple[int, Node, Node]:
    """The slot of a key, on its way: who gives it, and who takes it."""
    slot = int(key_slot(key))
    taker = next(node for node in cluster.masters() if node is not cluster.owner(slot))
    return slot, cluster.begin_to_move(slot, taker), taker


def test_commands_about_many_keys_reach_every_owner_and_answer_as_one(
    cluster: RedisCluster, connection: ClusterConnection
) -> None:
    keys = [b"k:%d" % number for number in range(100)]
    pairs = [part for key in keys for part in (key, key * 2)]

    assert connection.command(b"MSET", *pairs) == b"OK"
    assert connection.command(b"MGET", *keys) == [key * 2 for key in keys]
    assert all(node("DBSIZE") for node in cluster.masters())
    assert connection.command(b"UNLINK", *keys, b"none") == 100
    assert cluster.keys() == 0


def test_writes_to_a_slot_on_its_way_go_to_whoever_has_the_key(
    cluster: RedisCluster, connection: ClusterConnection
) -> None:
    connection.command(b"SET", b"{t}old", b"1")
    slot, giver, taker = moving(cluster, b"t")

    assert connection.exchange(
        [
            pack(b"APPEND", b"{t}old", b"2"),
            pack(b"SET", b"{t}new", b"1"),
            pack(b"APPEND", b"{t}new", b"2"),
            pack(b"PEXPIRE", b"{t}new", b"60000"),
        ]
    ) == [2, b"OK", 2, 1]
    assert (giver("GET", "{t}old"), taker("DBSIZE")) == (b"12", 1)
    cluster.move_keys(slot, giver, taker)
    cluster.end_move(slot, taker)
    assert connection.exchange([pack(b"APPEND", b"{t}old", b"3"), pack(b"GET", b"{t}new")]) == [3, b"12"]


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_rename_onto_a_key_that_is_elsewhere_waits_until_its_slot_has_moved(
    cluster: RedisCluster, connection: ClusterConnection, in_transaction: bool
) -> None:
    final = b"final:%d" % in_transaction
    temporary = NAMES.name(0, final)
    connection.command(b"SET", final, b"old")
    slot, giver, taker = moving(cluster, final)
    connection.command(b"SET", temporary, b"new")

    def move() -> None:
        sleep(0.3)
        cluster.move_keys(slot, giver, taker)
        cluster.end_move(slot, taker)

    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(move)
        reply = rename(connection, temporary, final, only_new=False, in_transaction=in_transaction)
        done.result()

    assert reply == b"OK"
    assert connection.exchange([pack(b"GET", final), pack(b"EXISTS", temporary)]) == [b"new", 0]


def test_a_write_that_came_before_one_it_was_to_follow_is_done_again_or_ends_the_unit(
    cluster: RedisCluster, connection: ClusterConnection
) -> None:
    slot = int(key_slot(b"t"))
    other = next(node for node in cluster.masters() if node is not cluster.owner(slot))
    connection.command(b"SET", b"{t}a", b"0")
    cluster.move_slot(slot, other)
    late, behind = pack(b"SET", b"{t}a", b"1"), pack(b"RENAME", b"{t}b", b"{t}a")

    connection.send(late)  # To the node that had it.
    connection.cluster()
    connection.send(behind)  # To the one that has it now, where there is no such key.
    assert connection.receive() == b"OK"
    assert isinstance(connection.receive(), ErrorReply)

    cluster.move_slot(slot, next(node for node in cluster.masters() if node is not other))
    cluster.send([("SET", b"{t}c", "2")])
    connection.send(late)
    connection.cluster()
    connection.send(
        pack(b"RENAME", b"{t}c", b"{t}a")
    )  # Executed, before the value that it was to replace is written.
    assert connection.receive() == b"OK"
    with pytest.raises(ServerUnreachable):
        connection.receive()


def test_a_write_whose_answer_was_lost_is_not_sent_again(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with RedisCluster(tmp_path_factory.mktemp("lone")) as lone:
        slot = int(key_slot(b"t"))
        owner = lone.owner(slot)
        with ClusterConnection(Target("target", parse_address(lone.url, "target.url"))) as connection:
            connection.command(b"RPUSH", b"{t}", b"1")
            owner.kill()
            with pytest.raises(ServerUnreachable):
                connection.command(b"RPUSH", b"{t}", b"2")


@pytest.mark.parametrize(
    "final", [b"", b"{}", b"{}a", b"a}b", b"}{", b"{a}b}", b"{a{b}c", b"plain", b"user:{42}:x", b"x" * 5000]
)
def test_a_temporary_name_is_in_the_slot_of_its_key(final: bytes) -> None:
    assert key_slot(NAMES.name(3, final)) == key_slot(final)
    assert NAMES.name(3, final) != NAMES.name(4, final)
