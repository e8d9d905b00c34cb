"""Receiving a server's dataset as a replica would: framings, rights, and links that break."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path

import pytest

from greenfly.demo.servers import TlsPair
from integrity.endpoint import Endpoint
from integrity.errors import (
    PermissionRefused,
    Refused,
    ServerNotReady,
    ServerUnreachable,
)
from integrity.replication import receive as receive_module
from integrity.replication.receive import RdbReceiver, Received
from integrity.settings import EndpointSettings
from tests.conftest import StartServer
from tests.proxy import Proxy
from tests.servers import Store

NOW = ("--repl-diskless-sync-delay", "0")


def endpoint(store: Store | str, **settings: object) -> Endpoint:
    url = store if isinstance(store, str) else store.url
    return Endpoint.from_settings("source", EndpointSettings.model_validate({"url": url, **settings}))


def receive(source: Endpoint) -> tuple[Received, bytes]:
    into = BytesIO()
    with RdbReceiver(source) as receiver:
        receiver.start()
        return receiver.write_into(into), into.getvalue()


@pytest.mark.parametrize("diskless", ["yes", "no"])
def test_the_whole_dataset_arrives_in_either_framing(start_redis: StartServer, diskless: str) -> None:
    source = start_redis(*NOW, "--repl-diskless-sync", diskless)
    for number in range(2_000):
        source.client.set(f"key:{number}", "v" * number)

    received, data = receive(endpoint(source))

    assert received.diskless is (diskless == "yes")
    assert received.bytes == len(data)
    assert data.startswith(b"REDIS")
    assert data.count(b"key:") == 2_000
    assert received.replication_id == source.client.info("replication")["master_replid"]
    assert received.offset is not None


def test_the_delay_before_the_fork_is_told(start_redis: StartServer) -> None:
    source = start_redis("--repl-diskless-sync-delay", "1")
    said: list[str] = []

    with RdbReceiver(endpoint(source), say=said.append) as receiver:
        receiver.start()
        received = receiver.write_into(BytesIO())

    assert "1 s" in said[0]
    assert received.waited_seconds > 0.5


def test_the_link_is_closed_with_the_last_byte(start_redis: StartServer) -> None:
    source = start_redis(*NOW)

    receive(endpoint(source))

    assert source.client.client_list(_type="replica") == []


def test_over_tls_with_a_user_that_may_do_nothing_else(start_redis: StartServer, tls_pair: TlsPair) -> None:
    source = start_redis(*NOW, tls=tls_pair)
    source.client.set("k", "v")
    source.client.acl_setuser("mover", enabled=True, passwords=["+secret"], commands=["+psync", "+replconf"])

    _, data = receive(
        endpoint(source, username="mover", password="secret", tls_ca_file=str(tls_pair.ca_file))
    )

    assert b"\x01k\x01v" in data


def test_a_user_without_the_right_is_told_so(start_redis: StartServer) -> None:
    source = start_redis()
    source.client.acl_setuser(
        "reader", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-psync", "-sync"]
    )

    with pytest.raises(PermissionRefused) as caught:
        receive(endpoint(source, username="reader", password="secret"))

    assert "scan" in caught.value.remedy
    assert "secret" not in str(caught.value)


def test_a_server_that_knows_only_sync_is_asked_by_it(start_redis: StartServer) -> None:
    source = start_redis(*NOW, "--rename-command", "PSYNC", "")
    source.client.set("k", "v")

    received, data = receive(endpoint(source))

    assert (received.replication_id, received.offset) == (None, None)
    assert b"\x01k\x01v" in data


def test_a_server_that_knows_neither_is_refused(start_redis: StartServer) -> None:
    source = start_redis("--rename-command", "PSYNC", "", "--rename-command", "SYNC", "")

    with pytest.raises(Refused) as caught:
        receive(endpoint(source))

    assert "scan" in caught.value.remedy


@pytest.mark.dragonfly
def test_dragonfly_is_refused(green_dragonfly: Store) -> None:
    with pytest.raises(Refused):
        receive(endpoint(green_dragonfly))


def test_a_replica_without_its_master_is_not_ready(start_redis: StartServer) -> None:
    source = start_redis("--replicaof", "127.0.0.1 1")

    with pytest.raises(ServerNotReady):
        receive(endpoint(source))


def test_a_source_that_cannot_save_is_told(start_redis: StartServer, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    source = start_redis("--repl-diskless-sync", "no", "--dir", str(folder))
    source.client.set("k", "v")
    shutil.rmtree(folder)

    with pytest.raises((ServerNotReady, ServerUnreachable)) as caught:
        receive(endpoint(source))

    assert "BGSAVE" in str(caught.value)


def test_a_link_that_breaks_in_the_middle_is_told_with_what_had_come(start_redis: StartServer) -> None:
    source = start_redis(*NOW)
    for number in range(64):
        source.client.set(f"key:{number}", bytes(1_000_000 + number))
    source.client.config_set("rdbcompression", "no")
    with Proxy(source.url) as proxy, RdbReceiver(endpoint(proxy.url)) as receiver:
        receiver.start()

        with pytest.raises(ServerUnreachable) as caught:
            receiver.write_into(BytesIO(), lambda size: proxy.cut())

    assert "bytes" in caught.value.problem
    assert "scan" in caught.value.remedy


def test_a_source_that_falls_silent_is_not_waited_for_for_ever(
    start_redis: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receive_module, "_LEAST_SILENCE_SECONDS", 0.5)
    # Until it begins it says once a second that it lives.
    source = start_redis("--repl-diskless-sync-delay", "60")

    with pytest.raises(ServerUnreachable) as caught:
        receive(endpoint(source, io_timeout=0.5))

    assert "silent" in caught.value.problem
