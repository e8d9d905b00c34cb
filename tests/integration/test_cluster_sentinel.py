"""Sentinels that know where the master is: asked at every connect, and believed once the master agrees."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from greenfly.demo.dataset import fill
from greenfly.demo.process import free_port
from greenfly.demo.servers import find_redis_server
from integrity.cluster.sentinel import find_master
from integrity.endpoint import Endpoint
from integrity.errors import ConfigurationError, Refused, ServerNotReady, ServerUnreachable
from integrity.settings import EndpointSettings
from integrity.standby import Standby
from integrity.switch.fence import Fence
from integrity.switch.fence_nodes import fence_of
from integrity.switch.fence_plan import FencePlan
from tests.cli import Greenfly
from tests.cluster import wait_until
from tests.conftest import StartServer
from tests.inprocess import between, run_here
from tests.oracle import compare
from tests.runs import migrate
from tests.servers import Store, connect

NAME = "shop"


@pytest.fixture
def servers(start_redis: StartServer) -> tuple[Store, Store]:
    """A master and its replica."""
    master = start_redis("--repl-diskless-sync-delay", "0")
    port = master.url.rpartition(":")[2]
    replica = start_redis("--replicaof", "127.0.0.1", port, "--repl-diskless-sync-delay", "0")
    wait_until(lambda: replica.client.info("replication")["master_link_status"] == "up")
    return master, replica


@pytest.fixture
def sentinel(servers: tuple[Store, Store], tmp_path: Path) -> Iterator[str]:
    """A Sentinel that watches the master; its URL."""
    program = find_redis_server()
    assert program is not None
    port = free_port()
    file = tmp_path / "sentinel.conf"
    watched = servers[0].url.rpartition(":")[2]
    file.write_text(
        f"port {port}\nbind 127.0.0.1\nsentinel monitor {NAME} 127.0.0.1 {watched} 1\n"
        f"sentinel down-after-milliseconds {NAME} 1000\nsentinel failover-timeout {NAME} 5000\n"
    )
    with ExitStack() as stack:
        process = subprocess.Popen(
            [str(program), str(file), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        url = f"redis://127.0.0.1:{port}"

        def knows_the_replica() -> bool:
            with suppress(RedisError), connect(url) as client:
                return bool(client.execute_command("SENTINEL", "REPLICAS", NAME))
            return False

        wait_until(knows_the_replica)
        yield url


def through(sentinel: str, name: str = NAME) -> Endpoint:
    url = f"{sentinel.replace('redis://', 'redis+sentinel://127.0.0.1:1,')}/{name}"
    return Endpoint.from_settings("source", EndpointSettings(url=SecretStr(url)))


def is_master(store: Store) -> bool:
    """Whether it says so; a Sentinel that promotes a server closes all of its connections."""
    with suppress(RedisError):
        return bool(store.client.info("replication")["role"] == "master")
    return False


def test_the_master_is_moved_by_way_of_a_sentinel_and_after_a_failover_the_new_one(
    greenfly: Greenfly, servers: tuple[Store, Store], sentinel: str, green_redis: Store
) -> None:
    master, replica = servers
    fill(master.url, 800)
    master.client.wait(1, 5000)
    url = f"{sentinel.replace('redis://', 'redis+sentinel://')}/{NAME}"

    run = migrate(greenfly, url, green_redis.url)

    assert (run.exit_code, run.at("verdict")) == (0, "PASS"), run.stderr
    assert run.at("source") == url
    assert compare(master.url, green_redis.url) == []

    before = through(sentinel).identify()
    with connect(sentinel) as client:
        client.execute_command("SENTINEL", "FAILOVER", NAME)
    wait_until(lambda: is_master(replica))
    replica.client.set("after the failover", "1")
    wait_until(lambda: run_id(sentinel) not in {None, before.run_id})

    verified = run_here(greenfly, "verify", *between(url, green_redis.url), "--json")
    assert verified.at("verdict") == "FAIL", verified.stderr
    again = migrate(greenfly, url, green_redis.url, "--conflict", "replace")
    assert again.at("verdict") == "PASS", again.stderr
    assert compare(replica.url, green_redis.url) == []


def test_a_fence_of_what_sentinels_know_of_covers_the_replica_that_takes_over(
    servers: tuple[Store, Store], sentinel: str
) -> None:
    replica = servers[1]
    endpoint = through(sentinel)
    fence = fence_of(endpoint, endpoint.identify)
    before = [store.client.acl_list() for store in servers]

    plan = FencePlan.from_dict(fence.plan().to_dict())
    fence.pause(5.0)
    fence.refuse(plan)
    fence.unpause()

    assert len(plan.nodes) == 2
    assert fence.holds(plan)
    fail_over(sentinel)
    wait_until(lambda: is_master(replica))
    with pytest.raises(NoPermissionError):
        replica.client.set("after the failover", "1")
    wait_until(lambda: fence.holds(plan))
    fence.lift(plan)
    assert [store.client.acl_list() for store in servers] == before
    replica.client.set("after the failover", "1")


def test_a_connection_that_has_to_be_sure_leads_to_the_master_that_is_named_now(
    servers: tuple[Store, Store], sentinel: str
) -> None:
    """The old one goes on as a master for a while, and closes no connection."""
    endpoint = through(sentinel)
    with Standby(endpoint, "test", 0) as standby:
        standby.connection()
        fail_over(sentinel)
        wait_until(lambda: str(find_master(endpoint.target)) in servers[1].url)

        assert str(standby.connection(sure=True).target.address) == servers[1].url
        assert servers[0].client.info("replication")["role"] == "master"


def test_a_fence_that_was_recorded_for_one_server_is_the_masters(
    servers: tuple[Store, Store], sentinel: str
) -> None:
    endpoint = through(sentinel)
    before = servers[0].client.acl_list()
    single = Fence(endpoint, endpoint.identify())
    plan = single.plan()
    single.refuse(plan)
    fence = fence_of(endpoint, endpoint.identify)

    assert fence.holds(plan)
    fence.lift(plan)

    assert servers[0].client.acl_list() == before
    assert not fence.holds(plan)


def fail_over(sentinel: str) -> None:
    """As soon as the Sentinel knows enough of the replica."""

    def begun() -> bool:
        with suppress(ResponseError), connect(sentinel) as client:
            return bool(client.execute_command("SENTINEL", "FAILOVER", NAME))
        return False

    wait_until(begun)


def run_id(sentinel: str) -> str | None:
    """Of the server that is found, once it is a master."""
    try:
        return through(sentinel).identify().run_id
    except (ServerNotReady, ServerUnreachable):
        return None


def test_sentinels_that_are_away_are_passed_over_and_unknown_names_are_refused(
    servers: tuple[Store, Store], sentinel: str
) -> None:
    assert through(sentinel).identify().run_id == servers[0].client.info("server")["run_id"]
    with pytest.raises(ConfigurationError):
        through(sentinel, "nobody").identify()
    with pytest.raises(ServerUnreachable):
        through("redis://127.0.0.1:2").identify()


def test_a_sentinel_that_is_addressed_as_a_server_is_refused_with_the_scheme_to_use(sentinel: str) -> None:
    plain = Endpoint.from_settings("source", EndpointSettings(url=SecretStr(sentinel)))

    with pytest.raises(Refused) as refused:
        plain.identify()

    assert "redis+sentinel://" in refused.value.remedy


def test_the_native_road_is_refused(greenfly: Greenfly, blue: Store, green_redis: Store) -> None:
    url = "redis+sentinel://127.0.0.1:1/shop"

    run = run_here(greenfly, "migrate", *between(url, green_redis.url), "--strategy", "native")

    assert run.exit_code == 2, run.stderr
    assert "--strategy copy" in run.stderr
