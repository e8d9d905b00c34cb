"""What a fence on Dragonfly has to mind: ways in that its ACL binds late or never, and rights outside ``@write``."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from redis import Redis

from greenfly.demo.process import free_port
from integrity.errors import Refused
from integrity.switch.fence import Fence
from tests.conftest import StartDragonfly
from tests.fencing import application, endpoint_of
from tests.raw import Raw, UnexpectedReply

pytestmark = pytest.mark.dragonfly


def fence_of(url: str) -> Fence:
    endpoint = endpoint_of(url)
    return Fence(endpoint, endpoint.identify())


@pytest.mark.parametrize(
    "command",
    [("JSON.SET", "k", "$", "1"), ("XGROUP", "CREATE", "k", "g", "$", "MKSTREAM"), ("BF.ADD", "k", "x")],
)
def test_commands_that_are_no_write_to_the_server_are_refused(
    start_dragonfly: StartDragonfly, command: tuple[str, ...]
) -> None:
    store = start_dragonfly()
    with Raw(store.url) as client:
        client("ACL", "SETUSER", "default", "-@write")
        client(*command)
        assert client("DBSIZE") == 1
        client("ACL", "SETUSER", "default", "+@write")
        client("FLUSHALL")
        fence = fence_of(store.url)
        plan = fence.plan()
        fence.refuse(plan)
        with pytest.raises(UnexpectedReply):
            client(*command)
        fence.lift(plan)
        client(*command)
        assert client("DBSIZE") == 1


def test_a_memcached_client_that_was_connected_before_is_refused(start_dragonfly: StartDragonfly) -> None:
    port = free_port()
    store = start_dragonfly(f"--memcached_port={port}")
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"set k 0 0 1\r\nx\r\n")
        assert client.recv(100) == b"STORED\r\n"
        fence = fence_of(store.url)
        plan = fence.plan()
        fence.refuse(plan)
        assert client.recv(100) == b""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"set k 0 0 1\r\ny\r\n")
        assert b"NOPERM" in client.recv(100)
    assert store.client.get("k") == b"x"


def test_clients_of_the_unix_socket_make_a_fence_impossible(
    start_dragonfly: StartDragonfly, tmp_path: Path
) -> None:
    path = tmp_path / "df.sock"
    store = start_dragonfly(f"--unixsocket={path}")
    fence = fence_of(store.url)
    plan = fence.plan()
    with Redis(unix_socket_path=str(path), protocol=2) as client:
        assert client.set("k", "v")
        assert not fence.probe().acl.possible
        with pytest.raises(Refused):
            fence.plan()
        with pytest.raises(Refused):
            fence.refuse(plan)
        assert not fence.holds(plan)
    fence.lift(plan)


def test_an_administrator_at_the_administration_port_does_not_hinder_it(
    start_dragonfly: StartDragonfly,
) -> None:
    port = free_port()
    store = start_dragonfly(f"--admin_port={port}")
    with application(f"redis://127.0.0.1:{port}") as administrator:
        assert administrator.ping()
        fence = fence_of(store.url)
        plan = fence.plan()
        fence.refuse(plan)
        assert fence.holds(plan)
        assert administrator.set("k", "v")
