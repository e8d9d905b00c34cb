"""Client lists of real servers: who is an application, what it does, and closing its connection."""

from __future__ import annotations

from time import sleep

import pytest
from redis.exceptions import ConnectionError as LostConnection

from integrity.switch.clients import ClientInfo, application_clients, kill, own_entrance
from tests.conftest import StartServer
from tests.fencing import Fenced, application, endpoint_of, server, until
from tests.servers import connect

__all__ = ["server"]


def listed(server: Fenced) -> list[ClientInfo]:
    with server.endpoint.connect("clients") as connection:
        return application_clients(connection, server.identity)


def test_an_application_is_told_with_what_the_server_knows_of_it(server: Fenced) -> None:
    server.make_user("buyer", "on", "~*", "+@all")
    with application(server.url_of("buyer")) as client:
        client.select(3)
        (found,) = listed(server)
        assert found.id == client.client_id()
        assert (found.host, found.name, found.database) == ("127.0.0.1", "shop", 3)
        assert found.entrance == str(server.endpoint.address.port)
        assert 0 <= found.idle <= found.age < 60
        assert not found.blocked
        assert found.user == (None if server.dragonfly else "buyer")
        if not server.dragonfly:
            assert found.last_command == "select"


def test_an_application_without_a_name_has_none(server: Fenced) -> None:
    with endpoint_of(server.url).connect("clients") as connection:
        nameless = connect(server.url)
        nameless.connection_pool.connection_kwargs["client_name"] = None
        nameless.ping()
        assert [c.name for c in application_clients(connection, server.identity)] == [""]
        nameless.close()


def test_greenflys_own_connections_are_left_out(server: Fenced) -> None:
    with server.endpoint.connect("copy"), server.endpoint.connect("verify"):
        assert listed(server) == []


def test_who_waits_and_who_is_in_a_transaction_shows(server: Fenced) -> None:
    with application(server.url) as client:
        waiting = client.connection_pool.get_connection()
        waiting.send_command("BLPOP", "nothing", "0")
        until(lambda: server.blocked() == 1)
        (found,) = listed(server)
        assert found.blocked
        if not server.dragonfly:
            assert found.last_command == "blpop"
        other = client.connection_pool.get_connection()
        other.send_command("MULTI")
        other.read_response()
        transactions = [c.in_transaction for c in listed(server) if c.id != found.id]
        assert transactions == [not server.dragonfly]


def test_only_the_clients_that_are_named_are_closed(server: Fenced) -> None:
    with application(server.url) as first, application(server.url) as second:
        held = first.connection_pool.get_connection()
        held.send_command("CLIENT", "ID")
        number = held.read_response()
        second.ping()
        chosen = [client for client in listed(server) if client.id == number]
        with server.endpoint.connect("clients") as connection:
            assert kill(connection, []) == 0
            assert kill(connection, chosen) == 1
            until(lambda: len(listed(server)) == 1)
            assert kill(connection, chosen) == 0
        with pytest.raises(LostConnection):
            held.read_response()
        assert second.ping()


def test_a_connection_knows_where_it_came_in(server: Fenced) -> None:
    with server.endpoint.connect("clients") as connection:
        assert own_entrance(connection) == str(server.endpoint.address.port)


def test_replicas_and_masters_are_no_applications(start_redis: StartServer) -> None:
    master, replica = start_redis(), start_redis()
    replica.client.replicaof("127.0.0.1", master.url.rpartition(":")[2])
    until(lambda: replica.client.info("replication")["master_link_status"] == "up")
    for store in (master, replica):
        assert len(store.client.client_list()) >= 2
        endpoint = endpoint_of(store.url)
        with endpoint.connect("clients") as connection:
            assert application_clients(connection, endpoint.identify()) == []


def test_a_replica_that_is_a_dragonfly_is_no_application(server: Fenced, start_redis: StartServer) -> None:
    if not server.dragonfly:
        pytest.skip("about a Dragonfly that replicates")
    master = start_redis()
    server.raw("REPLICAOF", "127.0.0.1", master.url.rpartition(":")[2])
    until(lambda: master.client.info("replication")["connected_slaves"] == 1)
    sleep(0.2)
    assert listed(server) == []
    endpoint = endpoint_of(master.url)
    with endpoint.connect("clients") as connection:
        assert application_clients(connection, endpoint.identify()) == []


def test_a_client_of_a_unix_socket_shows_as_that(start_redis: StartServer) -> None:
    from redis import Redis

    store = start_redis("--unixsocket", "fence.sock")
    folder = store.client.config_get("dir")["dir"]
    with Redis(unix_socket_path=f"{folder}/fence.sock", protocol=2) as client:
        client.ping()
        endpoint = endpoint_of(store.url)
        with endpoint.connect("clients") as connection:
            (found,) = application_clients(connection, endpoint.identify())
        assert found.entrance == "unix"
        assert found.host.endswith("fence.sock")
