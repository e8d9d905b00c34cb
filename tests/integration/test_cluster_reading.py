"""One connection to a whole cluster: replies in order, keys where they are now, every key of every slot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from integrity.cluster import walk
from integrity.cluster.connection import ClusterConnection
from integrity.cluster.slots import key_slot
from integrity.endpoint import Endpoint, read_info
from integrity.errors import ProtocolError, Refused, ServerNotReady, ServerUnreachable
from integrity.kinds.pieces import ValueChanged, asked
from integrity.replies import ErrorReply
from integrity.settings import EndpointSettings
from integrity.wire import Connection, pack
from tests.cluster import SLOTS, Node, RedisCluster
from tests.servers import Store

NAMES = [b"{%d}:%d" % (slot, number) for slot in range(40) for number in range(5)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters."""
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture
def cluster(whole: RedisCluster) -> RedisCluster:
    """The same, empty."""
    for node in whole.masters():
        node("FLUSHALL")
    return whole


@pytest.fixture
def connection(cluster: RedisCluster) -> Iterator[Connection]:
    """As the engine opens one."""
    with endpoint(cluster.url).connect("test") as opened:
        assert isinstance(opened, ClusterConnection)
        yield opened


def endpoint(url: str, role: str = "source") -> Endpoint:
    return Endpoint.from_settings(
        "target" if role == "target" else "source", EndpointSettings(url=SecretStr(url))
    )


def scan(connection: Connection, count: int = 10, *options: bytes) -> list[bytes]:
    found: list[bytes] = []
    cursor = b"0"
    while True:
        reply = connection.command(b"SCAN", cursor, b"COUNT", b"%d" % count, *options)
        assert isinstance(reply, list)
        assert isinstance(reply[0], bytes)
        assert isinstance(reply[1], list)
        cursor = reply[0]
        found += [name for name in reply[1] if isinstance(name, bytes)]
        if cursor == b"0":
            return found


def another(cluster: RedisCluster, than: Node) -> Node:
    return next(node for node in cluster.masters() if node is not than)


def set_all(cluster: RedisCluster, names: list[bytes]) -> None:
    cluster.send([(b"SET", name, b"value of " + name) for name in names])


# -- replies -----------------------------------------------------------------------------------------------------------


def test_replies_come_in_the_order_of_the_commands_whichever_node_they_are_from(
    cluster: RedisCluster, connection: Connection
) -> None:
    set_all(cluster, NAMES)

    connection.send(b"".join(pack(b"GET", name) for name in NAMES[:100]))
    connection.send(pack(b"MGET", *NAMES) + pack(b"PING") + b"".join(pack(b"TYPE", n) for n in NAMES[100:]))
    values = [b"value of " + name for name in NAMES]

    assert connection.receive_many(60) == values[:60]
    assert connection.receive_many(42) == [*values[60:100], values, b"PONG"]
    assert connection.receive_many(100) == [b"string"] * 100
    assert connection.command(b"EXISTS", *NAMES, b"nobody") == 200
    assert connection.command(b"DBSIZE") == 200


def test_a_transaction_over_many_slots_answers_as_one(cluster: RedisCluster, connection: Connection) -> None:
    set_all(cluster, NAMES)
    commands = [pack(b"GET", name) for name in NAMES] + [pack(b"TIME")] + [pack(b"STRLEN", n) for n in NAMES]

    connection.send(b"".join([pack(b"MULTI"), *commands, pack(b"EXEC")]))
    *queued, answer = connection.receive_many(len(commands) + 2)

    assert queued == [b"OK"] + [b"QUEUED"] * len(commands)
    assert isinstance(answer, list)
    assert answer[: len(NAMES)] == [b"value of " + name for name in NAMES]
    assert isinstance(answer[len(NAMES)], list)
    assert answer[len(NAMES) + 1 :] == [len(b"value of " + name) for name in NAMES]


def test_an_error_about_a_value_is_handed_out(cluster: RedisCluster, connection: Connection) -> None:
    cluster.send([(b"SET", b"a", b"1")])

    reply = connection.exchange([pack(b"HGETALL", b"a")])[0]

    assert isinstance(reply, ErrorReply)
    with pytest.raises(ProtocolError):
        connection.command(b"HGETALL", b"a")


def test_there_is_no_one_socket_to_be_handed_over(connection: Connection) -> None:
    with pytest.raises(ProtocolError):
        connection.detach()


def test_info_is_about_all_masters(cluster: RedisCluster, connection: Connection) -> None:
    set_all(cluster, NAMES)

    told = read_info(connection)

    assert told["db0"].startswith(f"keys={len(NAMES)},")
    assert told["run_id"] == endpoint(cluster.url).identify().run_id


# -- keys that move ----------------------------------------------------------------------------------------------------


def test_a_key_that_moved_is_read_where_it_is(cluster: RedisCluster, connection: Connection) -> None:
    set_all(cluster, NAMES)
    values = [b"value of " + name for name in NAMES]
    assert connection.command(b"MGET", *NAMES) == values

    for slot in {key_slot(name) for name in NAMES[:50]}:
        cluster.move_slot(slot, another(cluster, cluster.owner(slot)))

    assert connection.exchange([pack(b"GET", name) for name in NAMES]) == values
    assert connection.command(b"MGET", *NAMES) == values
    assert connection.command(b"EXISTS", *NAMES) == len(NAMES)


def test_keys_of_a_slot_on_its_way_are_read_on_both_nodes_and_gone_ones_are_gone(
    cluster: RedisCluster, connection: Connection
) -> None:
    names = [b"{on its way}:%d" % number for number in range(30)]
    set_all(cluster, names)
    slot = key_slot(names[0])
    onto = another(cluster, cluster.owner(slot))
    giver = cluster.begin_to_move(slot, onto)
    assert cluster.move_keys(slot, giver, onto, 17) == 17

    values: list[object] = [b"value of " + name for name in names]

    assert connection.command(b"MGET", *names, b"{on its way}:gone") == [*values, None]
    connection.send(b"".join([pack(b"MULTI"), *(pack(b"GET", name) for name in names), pack(b"EXEC")]))
    assert connection.receive_many(len(names) + 2)[-1] == values
    assert sorted(scan(connection)) == sorted(names)
    cluster.move_keys(slot, giver, onto)
    cluster.end_move(slot, onto)
    assert connection.command(b"MGET", *names) == values
    assert sorted(scan(connection)) == sorted(names)


@pytest.mark.parametrize("count", [1, 7, 1000])
def test_every_key_is_found_once(cluster: RedisCluster, connection: Connection, count: int) -> None:
    names = [*NAMES, *(b"{many}:%d" % number for number in range(60))]
    set_all(cluster, names)

    assert sorted(scan(connection, count)) == sorted(names)


def test_keys_of_one_type_can_be_asked_for(cluster: RedisCluster, connection: Connection) -> None:
    set_all(cluster, NAMES)
    cluster.send([(b"RPUSH", b"list:%d" % number, b"x") for number in range(50)])

    assert sorted(scan(connection, 100, b"TYPE", b"list")) == sorted(b"list:%d" % n for n in range(50))


def test_a_slot_of_very_many_keys_is_found_by_scan(
    cluster: RedisCluster, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "LISTED_KEYS", 20)
    names = [*NAMES, *(b"{many}:%d" % number for number in range(3000))]
    set_all(cluster, names)
    slot = key_slot(b"{many}")
    onto = another(cluster, cluster.owner(slot))
    giver = cluster.begin_to_move(slot, onto)
    cluster.move_keys(slot, giver, onto, 1100)

    assert set(scan(connection, 500)) == set(names)

    cluster.move_keys(slot, giver, onto)
    cluster.end_move(slot, onto)


def test_a_cursor_of_another_connection_begins_its_slot_again(
    cluster: RedisCluster, connection: Connection
) -> None:
    names = [b"{many}:%d" % number for number in range(50)]
    set_all(cluster, names)
    slot = key_slot(names[0])

    reply = connection.command(b"SCAN", b"%d" % (slot + 30 * SLOTS), b"COUNT", b"1000")

    assert isinstance(reply, list)
    assert isinstance(reply[1], list)
    assert set(names) <= {name for name in reply[1] if isinstance(name, bytes)}


def test_keys_that_move_all_the_time_are_all_found(cluster: RedisCluster, connection: Connection) -> None:
    """Slots go round while they are walked; what was there all along is seen."""
    set_all(cluster, NAMES)
    slots = sorted({key_slot(name) for name in NAMES})
    found: list[bytes] = []
    cursor, turn = b"0", 0
    while True:
        reply = connection.command(b"SCAN", cursor, b"COUNT", b"50")
        assert isinstance(reply, list)
        assert isinstance(reply[0], bytes)
        assert isinstance(reply[1], list)
        cursor = reply[0]
        found += [name for name in reply[1] if isinstance(name, bytes)]
        if cursor == b"0":
            break
        for slot in (slots[turn % len(slots)], int(cursor) % SLOTS)[: 2 * (turn % 3 == 0)]:
            cluster.move_slot(slot, another(cluster, cluster.owner(slot)))
        turn += 1

    assert set(found) == set(NAMES)
    assert connection.command(b"MGET", *NAMES) == [b"value of " + name for name in NAMES]


def test_a_value_that_moves_while_it_is_read_in_pieces_is_known_to_have_changed(
    cluster: RedisCluster, connection: Connection
) -> None:
    fields = [(b"HSET", b"big", b"field:%d" % number, b"x") for number in range(2000)]
    cluster.send(fields)
    first = connection.command(b"HSCAN", b"big", b"0", b"COUNT", b"10")
    assert isinstance(first, list)

    slot = key_slot(b"big")
    cluster.move_slot(slot, another(cluster, cluster.owner(slot)))
    assert isinstance(first[0], bytes)
    second = connection.exchange([pack(b"HSCAN", b"big", first[0], b"COUNT", b"10")])[0]

    assert isinstance(second, ErrorReply)
    with pytest.raises(ValueChanged):
        asked(connection, second, b"HSCAN")
    again = connection.command(b"HSCAN", b"big", b"0", b"COUNT", b"10")
    assert isinstance(again, list)
    assert isinstance(again[0], bytes)
    assert isinstance(connection.command(b"HSCAN", b"big", again[0], b"COUNT", b"10"), list)


def test_a_connection_that_lost_a_node_answers_nothing_any_more(tmp_path: Path) -> None:
    """What other nodes had answered by then must not be taken for the answer to the next question."""
    with RedisCluster(tmp_path / "lone") as lone:
        set_all(lone, NAMES)
        with endpoint(lone.url).connect("test") as connection:
            connection.send(b"".join(pack(b"GET", name) for name in NAMES))
            connection.receive_many(1)
            lone.owner(key_slot(NAMES[-1])).kill()
            with pytest.raises(ServerUnreachable):
                connection.exchange([pack(b"GET", name) for name in NAMES])
            with pytest.raises(ServerUnreachable):
                connection.command(b"GET", NAMES[0])


# -- who it is ---------------------------------------------------------------------------------------------------------


def test_a_cluster_is_identified_as_a_whole(cluster: RedisCluster) -> None:
    set_all(cluster, NAMES)

    identity = endpoint(cluster.url).identify()

    assert identity.is_cluster
    assert (identity.mode, identity.engine, identity.databases) == ("cluster", "redis", {0: len(NAMES)})
    assert {shard.node_id for shard in identity.shards} == {node.node_id for node in cluster.masters()}
    assert sum(shard.keys for shard in identity.shards) == len(NAMES)


def test_slots_that_move_leave_the_cluster_what_it_was(cluster: RedisCluster) -> None:
    before = endpoint(cluster.url).identify()

    cluster.move_slot(7, another(cluster, cluster.owner(7)))
    after = endpoint(cluster.url).identify()

    assert after.run_id == before.run_id
    assert after.shards != before.shards


def test_a_node_is_refused_by_name_where_the_whole_is_meant(cluster: RedisCluster) -> None:
    with pytest.raises(Refused) as refused:
        endpoint(cluster.nodes[0].url).identify()

    assert "redis+cluster://" in refused.value.remedy


def test_a_single_server_is_no_cluster(blue: Store) -> None:
    url = blue.url.replace("redis://", "redis+cluster://")

    with pytest.raises(Refused) as refused:
        endpoint(url).identify()

    assert "redis://" in refused.value.remedy


def test_nodes_that_are_not_there_are_passed_over_and_none_at_all_is_unreachable(
    cluster: RedisCluster,
) -> None:
    port = cluster.url.rpartition(":")[2]

    assert endpoint(f"redis+cluster://127.0.0.1:1,127.0.0.1:{port}").identify().is_cluster
    with pytest.raises(ServerUnreachable):
        endpoint("redis+cluster://127.0.0.1:1,127.0.0.1:2").identify()


def test_a_cluster_with_a_slot_that_nobody_serves_is_not_ready(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("integrity.cluster.topology._PATIENCE_SECONDS", 0.3)
    owner = cluster.owner(42)
    for node in cluster.masters():
        node("CLUSTER", "DELSLOTS", 42)
    try:
        with pytest.raises(ServerNotReady) as refused:
            endpoint(cluster.url).identify()
        assert "42" in refused.value.problem
    finally:
        owner("CLUSTER", "ADDSLOTS", 42)
        cluster.wait_until_whole()
