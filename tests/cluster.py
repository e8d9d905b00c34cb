"""A real Redis Cluster of processes on loopback: made, resharded, failed over and read without the engine's help."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from random import Random
from threading import Event, Thread
from time import monotonic, sleep
from types import TracebackType
from typing import Final, Protocol, Self

import pytest
from redis.cluster import RedisCluster as ClusterClient
from redis.crc import key_slot
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from greenfly.demo.dataset import FAMILIES, FILLER
from greenfly.demo.process import TlsPair, free_port
from greenfly.demo.servers import find_redis_server
from tests.cli import CompletedRun
from tests.oracle import Difference, Side, compare_sides
from tests.raw import Argument, Raw, Reply, as_bytes, as_int, as_list
from tests.servers import Store, connect

SLOTS: Final = 16384
deep: Final = pytest.mark.skipif(
    os.environ.get("GREENFLY_TEST_CLUSTER_DEEP") != "1", reason="GREENFLY_TEST_CLUSTER_DEEP=1 runs it"
)
"""For variants of a story of which another one always runs: an election takes its time."""
_SECONDS: Final = 20.0


class Node:
    """One server of a cluster, on a port that it keeps."""

    def __init__(
        self, program: Path, folder: Path, node_timeout_ms: int, extra: Sequence[str], tls: TlsPair | None
    ) -> None:
        folder.mkdir(parents=True)
        self.port, bus = free_port(), free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        listen = ["--port", str(self.port)]
        if tls is not None:
            self.url = f"rediss://127.0.0.1:{self.port}?ssl_ca_certs={tls.ca_file}&client_name=test"
            listen = ["--port", "0", "--tls-port", str(self.port), "--tls-cluster", "yes"]
            listen += ["--tls-cert-file", str(tls.cert_file), "--tls-key-file", str(tls.key_file)]
            listen += ["--tls-ca-cert-file", str(tls.ca_file), "--tls-auth-clients", "no"]
        self._command = [
            *(str(program), *listen, "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--save", "", "--appendonly", "no", "--cluster-enabled", "yes", "--cluster-port", str(bus)),
            *("--cluster-node-timeout", str(node_timeout_ms), "--cluster-config-file", "nodes.conf"),
            *("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", *extra),
        ]
        self.bus = bus
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        self.node_id = as_bytes(self("CLUSTER", "MYID")).decode()

    def __call__(self, *command: Argument) -> Reply:
        """One command over a connection of its own."""
        with Raw(self.url) as raw:
            return raw(*command)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        deadline = monotonic() + _SECONDS
        while True:
            assert self._process.poll() is None, "the node did not start"
            try:
                with connect(self.url) as client:
                    client.ping()
                    return
            except RedisError:
                assert monotonic() < deadline, "the node does not answer"
                sleep(0.02)

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None


class RedisCluster:
    """Three masters, and a replica of each where that is wanted; a context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        masters: int = 3,
        replicas: bool = False,
        node_timeout_ms: int | None = None,
        program: Path | None = None,
        extra: Sequence[str] = (),
        tls: TlsPair | None = None,
    ) -> None:
        found = program or find_redis_server()
        if found is None:
            pytest.skip("no redis-server on PATH")
        count = masters * (2 if replicas else 1)
        # Where none is to die, a busy machine must not make it look as if one had.
        timeout = node_timeout_ms or (1500 if replicas else 5000)
        self.nodes: list[Node] = []
        self._scheme = "redis" if tls is None else "rediss"
        try:
            for number in range(count):
                self.nodes.append(Node(found, folder / f"node-{number}", timeout, extra, tls))
            self._join(masters)
        except BaseException:
            self.close()
            raise

    def _join(self, masters: int) -> None:
        for number, node in enumerate(self.nodes):
            node("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < masters:
                first, last = number * SLOTS // masters, (number + 1) * SLOTS // masters - 1
                node("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node in self.nodes[1:]:
            node("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, self.nodes[0].bus)
        wait_until(lambda: all(len(self._lines(node)) == len(self.nodes) for node in self.nodes))
        for number, node in enumerate(self.nodes[masters:]):
            master = self.nodes[number].node_id
            wait_until(partial(self._knows, node, master))
            node("CLUSTER", "REPLICATE", master)
        self.wait_until_whole()
        if len(self.nodes) > masters:
            wait_until(
                lambda: all(b"master_link_status:up" in self._info(node) for node in self.nodes[masters:])
            )

    @staticmethod
    def _info(node: Node) -> bytes:
        return as_bytes(node("INFO", "replication"))

    @staticmethod
    def _lines(node: Node) -> list[str]:
        text = as_bytes(node("CLUSTER", "NODES")).decode()
        return [line for line in text.splitlines() if "handshake" not in line]

    @staticmethod
    def _knows(node: Node, node_id: str) -> bool:
        return node_id in as_bytes(node("CLUSTER", "NODES")).decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill every node."""
        for node in self.nodes:
            if node.runs:
                node.kill()

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """What Greenfly is given: two of the nodes."""
        living = [node for node in self.nodes if node.runs]
        return f"{self._scheme}+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in living[:2])

    def masters(self) -> list[Node]:
        """The nodes that are masters now, as they say themselves."""
        return [node for node in self.nodes if node.runs and b"role:master" in self._info(node)]

    def owner(self, slot: int) -> Node:
        """The master that serves a slot, as those that are asked agree."""
        for entry in as_list(self.masters()[0]("CLUSTER", "SLOTS")):
            first, last, serving, *_ = as_list(entry)
            if as_int(first) <= slot <= as_int(last):
                port = as_int(as_list(serving)[1])
                return next(node for node in self.nodes if node.port == port)
        raise AssertionError(f"nobody serves slot {slot}")

    def wait_until_whole(self) -> None:
        """Every node that runs sees every slot served, and all agree by whom."""

        def whole() -> bool:
            living = [node for node in self.nodes if node.runs]
            told = [as_bytes(node("CLUSTER", "INFO")) for node in living]
            seen = [
                {tuple(map(repr, [*as_list(e)[:2], as_list(as_list(e)[2])[1]])) for e in as_list(reply)}
                for reply in (node("CLUSTER", "SLOTS") for node in living)
            ]
            return all(b"cluster_state:ok" in text for text in told) and all(s == seen[0] for s in seen)

        wait_until(whole)

    def client(self) -> ClusterClient:
        """A client of the whole, as applications use it."""
        node = next(node for node in self.nodes if node.runs)
        return ClusterClient(host="127.0.0.1", port=node.port)

    # -- what happens to it -----------------------------------------------------------------------------------------

    def send(self, commands: Sequence[tuple[Argument, ...]]) -> None:
        """Commands to the masters of their keys."""
        send(self, commands)

    def table(self) -> dict[int, Node]:
        """Slot → the master that serves it."""
        by_port = {node.port: node for node in self.nodes}
        table: dict[int, Node] = {}
        for entry in as_list(self.masters()[0]("CLUSTER", "SLOTS")):
            first, last, serving, *_ = as_list(entry)
            node = by_port[as_int(as_list(serving)[1])]
            table.update(dict.fromkeys(range(as_int(first), as_int(last) + 1), node))
        return table

    def fill(self, keys: int, seed: int = 1) -> int:
        """An application's data of every type; returns how many keys there are."""
        self.send(application_data(keys, seed))
        return self.keys()

    def keys(self) -> int:
        """How many keys all masters hold."""
        return sum(as_int(node("DBSIZE")) for node in self.masters())

    def flush(self) -> None:
        """Empty every master."""
        for node in self.masters():
            node("FLUSHALL")

    def begin_to_move(self, slot: int, onto: Node) -> Node:
        """Make a slot importing and migrating, and move nothing; returns the node that gives it away."""
        giver = self.owner(slot)
        onto("CLUSTER", "SETSLOT", slot, "IMPORTING", giver.node_id)
        giver("CLUSTER", "SETSLOT", slot, "MIGRATING", onto.node_id)
        return giver

    def move_keys(self, slot: int, giver: Node, onto: Node, count: int = 1_000_000) -> int:
        """Move up to so many keys of a slot that is on its way."""
        moved = 0
        while moved < count:
            keys = as_list(giver("CLUSTER", "GETKEYSINSLOT", slot, min(100, count - moved)))
            if not keys:
                break
            giver("MIGRATE", "127.0.0.1", onto.port, "", 0, 5000, "KEYS", *[as_bytes(key) for key in keys])
            moved += len(keys)
        return moved

    def end_move(self, slot: int, onto: Node) -> None:
        """Tell everybody that the slot has a new owner: that one first.

        It gives itself an epoch above all that it knows of; one that it does not know of yet would win over it later,
        and no two nodes would agree any more.
        """
        wait_until(lambda: self._epoch(onto, "current") >= max(self._epoch(n, "my") for n in self.masters()))
        onto("CLUSTER", "SETSLOT", slot, "NODE", onto.node_id)
        for node in self.masters():
            with suppress(AssertionError):
                node("CLUSTER", "SETSLOT", slot, "NODE", onto.node_id)

    @staticmethod
    def _epoch(node: Node, which: str) -> int:
        text = as_bytes(node("CLUSTER", "INFO")).decode()
        name = f"cluster_{which}_epoch:"
        return next(int(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))

    def move_slot(self, slot: int, onto: Node) -> None:
        """A slot with all its keys, as ``redis-cli --cluster reshard`` does it."""
        giver = self.begin_to_move(slot, onto)
        if giver is onto:
            return
        while True:
            self.move_keys(slot, giver, onto)
            if not as_int(giver("CLUSTER", "COUNTKEYSINSLOT", slot)):
                break
        self.end_move(slot, onto)

    def fail_over(self, master: Node) -> None:
        """Kill a master, and return when its replica has taken its place."""
        before = {node.node_id for node in self.masters()}
        master.kill()
        wait_until(lambda: bool({node.node_id for node in self.masters()} - before))
        self.wait_until_whole()


class Serving(Protocol):
    """A node that serves slots."""

    @property
    def url(self) -> str:
        """Of this node alone."""


class Sharded(Protocol):
    """A cluster of any make."""

    @property
    def url(self) -> str:
        """What Greenfly is given."""

    def table(self) -> Mapping[int, Serving]:
        """Slot → the master that serves it."""

    def keys(self) -> int:
        """How many keys all masters hold."""


def send(cluster: Sharded, commands: Sequence[tuple[Argument, ...]]) -> None:
    """Commands to the masters of their keys."""
    by_node: dict[str, list[tuple[Argument, ...]]] = {}
    table = cluster.table()
    for command in commands:
        by_node.setdefault(table[_slot(_key(command))].url, []).append(command)
    for url, its in by_node.items():
        with Raw(url) as raw:
            for start in range(0, len(its), 500):
                for reply in raw.many(its[start : start + 500]):
                    assert not isinstance(reply, ResponseError), reply


class ClusterSide(Side):
    """The masters of a cluster as one side of the oracle's comparison; the cluster must be still."""

    def __init__(self, cluster: Sharded) -> None:
        self._stack = ExitStack()
        self._raws: dict[int, Raw] = {}
        open_: dict[str, Raw] = {}
        for slot, node in cluster.table().items():
            if node.url not in open_:
                open_[node.url] = self._stack.enter_context(Raw(node.url))
            self._raws[slot] = open_[node.url]
        self._masters = list(open_.values())
        super().__init__(next(iter(open_)), 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        super().__exit__(kind, error, trace)

    def keys(self) -> set[bytes]:
        """Of all masters; a key that two hold is a defect of the cluster."""
        found: set[bytes] = set()
        for raw in self._masters:
            keys = raw.keys()
            assert not found & keys
            found |= keys
        return found

    def many(self, commands: Sequence[tuple[Argument, ...]]) -> list[Reply]:
        """Each command by the master of its key, which stands second, in XINFO third."""
        asked: dict[Raw, list[int]] = {}
        for number, command in enumerate(commands):
            at = 2 if command[0] == b"XINFO" else 1
            raw = self._raws[_slot(command[at])] if len(command) > at else self._masters[0]
            asked.setdefault(raw, []).append(number)
        replies: list[Reply] = [None] * len(commands)
        for raw, numbers in asked.items():
            for number, reply in zip(numbers, raw.many([commands[n] for n in numbers]), strict=True):
                replies[number] = reply
        return replies


def application_data(keys: int, seed: int = 1) -> list[tuple[Argument, ...]]:
    """Commands that make an application's data of every type, in one database."""
    rng = Random(seed)
    commands: list[tuple[Argument, ...]] = []
    left = keys
    for family in FAMILIES:
        count = max(1, min(int(keys * family.share), family.cap or keys))
        for number in range(count):
            commands += family.build(rng, number)
        left -= count
    for number in range(max(0, left)):
        commands += FILLER.build(rng, number)
    return [command for command in commands if command[0] not in {"SELECT", b"SELECT"}]


def fill_server(url: str, keys: int, seed: int = 1) -> None:
    """The same data as :meth:`RedisCluster.fill` puts into a cluster."""
    commands = application_data(keys, seed)
    with Raw(url) as raw:
        for start in range(0, len(commands), 500):
            for reply in raw.many(commands[start : start + 500]):
                assert not isinstance(reply, ResponseError), reply


def _side(place: Sharded | str) -> Side:
    return Side(place, 0) if isinstance(place, str) else ClusterSide(place)


def differences(left: Sharded | str, right: Sharded | str) -> list[Difference]:
    """What the oracle finds to differ between two that are still: clusters, or servers by their URL.

    A key that expires between the looks at the two sides differs once, and not a second later.
    """
    found: list[Difference] = []
    for last in (False, True):
        suspects = {difference.key for difference in found}
        with _side(left) as source, _side(right) as target:
            found = list(compare_sides(source, target))
        if last:
            return [difference for difference in found if difference.key in suspects]
        if not found:
            break
        sleep(1.0)
    return found


class Writer:
    """An application that writes to the cluster until it is told to stop; a context manager.

    It writes new keys, overwrites, expires, renames within a slot, and deletes; what a node refuses is tried no more.
    """

    def __init__(self, cluster: RedisCluster, *, pause: float = 0.001, seed: int = 7) -> None:
        self._cluster = cluster
        self._pause = pause
        self._rng = Random(seed)
        self._stop = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self.written = self.refused = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Write no more; every write was answered by then."""
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        client = self._cluster.client()
        while not self._stop.is_set():
            try:
                self._write(client)
                self.written += 1
            except (RedisError, RedisClusterException, OSError):
                self.refused += 1
                sleep(0.05)
                with suppress(RedisError, RedisClusterException, OSError):
                    client.nodes_manager.initialize()
            sleep(self._pause)
        with suppress(RedisError, RedisClusterException, OSError):
            client.close()

    def _write(self, client: ClusterClient) -> None:
        number = self._rng.randrange(2000)
        match self._rng.randrange(7):
            case 0 | 1:
                client.set(f"live:string:{number}", self._rng.randbytes(40))
            case 2:
                client.hset(f"live:hash:{number}", f"f{self._rng.randrange(20)}", self._rng.randbytes(10))
            case 3:
                client.rpush(f"live:list:{number % 200}", self._rng.randbytes(10))
            case 4:
                client.zadd(f"live:zset:{number}", {f"m{self._rng.randrange(20)}": self._rng.random()})
            case 5:
                kind = self._rng.choice(("string", "hash", "zset"))
                client.delete(f"live:{kind}:{number}")
            case 6:
                client.set(f"live:string:{number}", b"expires", px=self._rng.randrange(500, 60_000))


def _key(command: tuple[Argument, ...]) -> Argument:
    match command[0]:
        case b"XREADGROUP":
            return command[command.index(b"STREAMS") + 1]
        case b"XGROUP":
            return command[2]
    return command[1]


def _slot(key: Argument) -> int:
    return int(key_slot(key if isinstance(key, bytes) else str(key).encode()))


def wait_until(condition: Callable[[], bool], seconds: float = _SECONDS) -> None:
    """Ask every 20 ms, and fail after so long."""
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, "it did not come about"
        sleep(0.02)


def meanwhile(
    green: Store | Sharded, keys: int, fault: Callable[[], object], run: Callable[[], CompletedRun]
) -> CompletedRun:
    """A run, and a fault as soon as green holds so many keys."""

    def held() -> int:
        return int(str(green.client.dbsize())) if isinstance(green, Store) else green.keys()

    def when_there() -> None:
        wait_until(lambda: held() >= keys)
        fault()

    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(when_there)
        result = run()
        done.result()
    return result
