"""An application that is moved from or to a cluster and back, and what must hold of it whatever happens.

It keeps its own account: what it was told to be done, and what may have been.  Every key has one writer, so the account
says what must be there, and nothing else may be.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event, Thread
from time import monotonic, sleep
from types import TracebackType
from typing import Final, Literal, Protocol, Self

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster as ClusterClient
from redis.crc import key_slot
from redis.exceptions import NoPermissionError, RedisClusterException, RedisError, ResponseError
from redis.retry import Retry

from tests.cluster import Node, RedisCluster
from tests.dragonfly_cluster import Dragonfly, DragonflyCluster
from tests.faults.conductor_process import ConductorProcess, Ended, Order
from tests.live import Live
from tests.raw import UnexpectedReply, as_bytes, as_list
from tests.servers import Store

Side = Literal["blue", "green"]
SETTINGS: Final = """
[cutover]
drain_seconds = 8
fence_seconds = 5
confirm_seconds = 20
switch_seconds = 8
[sync]
reconnect_seconds = 60
[rollback]
drain_seconds = 15
fence_seconds = 5
confirm_seconds = 20
switch_seconds = 8
"""
_LOST: Final = (RedisError, RedisClusterException, OSError)


class _Client(Protocol):
    """What the two clients have in common, as far as it is used here."""

    def set(self, name: str, value: str) -> object: ...
    def delete(self, name: str) -> object: ...
    def hset(self, name: str, key: str, value: str) -> object: ...
    def sadd(self, name: str, value: str) -> object: ...
    def srem(self, name: str, value: str) -> object: ...
    def close(self) -> None: ...


class _Reader(Protocol):
    def execute_command(self, *args: str) -> object: ...


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """One write that a side said it has done."""

    side: Side
    sent: float
    answered: float


@dataclass(slots=True)
class ClusterLoad:
    """Writers of blue or green, wherever the environment sends them; a context manager."""

    live: Live
    clients: Mapping[Side, Callable[[], _Client]]
    """Makes a new client of a side."""
    writers: int = 3
    pause: float = 0.004
    acknowledged: list[Acknowledged] = field(default_factory=list)
    refused: int = 0
    cells: dict[tuple[str, str], set[str | None]] = field(default_factory=dict)
    """Key and field → every value that may be there; None is that there is none."""
    _stop: Event = field(default_factory=Event)
    _threads: list[Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        for number in range(self.writers):
            thread = Thread(target=self._run, args=(number,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Write no more; every write was answered by then, or is in doubt."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def changes_of_side(self) -> int:
        """How often, at least, the side that acknowledged was another one than before."""
        side: Side = "blue"
        since, changes = -1.0, 0
        for ack in sorted(self.acknowledged, key=lambda ack: ack.answered):
            if ack.side != side and ack.sent > since:
                side, changes = ack.side, changes + 1
            if ack.side == side:
                since = ack.answered
        return changes

    def wrong(self, client: _Reader) -> list[str]:
        """What the serving side has and must not have, or has not and must have."""
        found = []
        for (key, part), allowed in sorted(self.cells.items()):
            if key.startswith("hash"):
                value = client.execute_command("HGET", key, part)
            elif key.startswith("set"):
                value = b"1" if client.execute_command("SISMEMBER", key, part) else None
            else:
                value = client.execute_command("GET", key)
            text = value.decode() if isinstance(value, bytes) else None
            if text not in allowed:
                found.append(f"{key} {part}: {text!r}, allowed {allowed}")
        return found

    def _run(self, number: int) -> None:
        rng, side, client = Random(number), self._side(), None
        turn = 0
        while not self._stop.is_set():
            now = self._side()
            if client is None or now != side:
                if client is not None:
                    with suppress(*_LOST):
                        client.close()
                client, side = self._connect(now), now
            if client is None:
                sleep(0.05)
                continue
            turn += 1
            if not self._write(client, side, number, rng, turn):
                client = None
            sleep(self.pause)
        if client is not None:
            with suppress(*_LOST):
                client.close()

    def _write(self, client: _Client, side: Side, number: int, rng: Random, turn: int) -> bool:
        """Whether the client is of use still."""
        key, part, value = f"{number}:{rng.randrange(60)}", f"f{rng.randrange(4)}", f"{number}.{turn}"
        sent = monotonic()
        cell, after = ("string:" + key, ""), value if turn % 5 else None
        try:
            match turn % 5:
                case 0:
                    client.delete("string:" + key)
                case 1 | 2:
                    client.set("string:" + key, value)
                case 3:
                    cell = "hash:" + key, part
                    client.hset("hash:" + key, part, value)
                case _:
                    cell, after = ("set:" + key, part), "1" if rng.random() < 0.6 else None
                    if after:
                        client.sadd("set:" + key, part)
                    else:
                        client.srem("set:" + key, part)
        except NoPermissionError:
            self.refused += 1
            sleep(0.01)
            return True
        except ResponseError as error:
            self.refused += 1
            if "NOPERM" not in str(error) and "NOREPLICAS" not in str(error):
                self.cells.setdefault(cell, {None}).add(after)
            return False
        except _LOST:
            self.cells.setdefault(cell, {None}).add(after)
            sleep(0.02)
            return False
        self.cells[cell] = {after}
        self.acknowledged.append(Acknowledged(side, sent, monotonic()))
        return True

    def _side(self) -> Side:
        return "green" if "DRAGONFLY_URL" in self.live.environment() else "blue"

    def _connect(self, side: Side) -> _Client | None:
        try:
            return self.clients[side]()
        except _LOST:
            return None


def application(cluster: RedisCluster) -> ClusterClient:
    """A client of the whole that sends nothing twice, unless it is told that it was not done."""
    return _of_node(next(node for node in cluster.nodes if node.runs).port)


def _of_node(port: int) -> ClusterClient:
    return ClusterClient(
        host="127.0.0.1", port=port, retry=Retry(NoBackoff(), 1), socket_timeout=30.0, protocol=2
    )


class Ground(Protocol):
    """One side, whatever it is made of."""

    def client(self) -> Redis | ClusterClient:
        """What applications have, which sends nothing twice unless it is told that it was not done."""

    def closed_and_open(self) -> tuple[int, int]:
        """How many masters refuse a write from an application now, and how many take it."""


@dataclass(frozen=True, slots=True)
class OneServer:
    """A side that is one server."""

    store: Store

    def client(self) -> Redis:
        """See :class:`Ground`."""
        return Redis.from_url(self.store.url, retry=Retry(NoBackoff(), 0), socket_timeout=30.0, protocol=2)

    def closed_and_open(self) -> tuple[int, int]:
        """See :class:`Ground`."""
        try:
            self.store.client.set("probe:one", "1")
        except RedisError:
            return 1, 0
        return 0, 1


@dataclass(frozen=True, slots=True)
class ManyNodes:
    """A side that is a cluster of any make."""

    cluster: RedisCluster | DragonflyCluster

    def client(self) -> ClusterClient:
        """See :class:`Ground`."""
        return _of_node(self.cluster.masters()[0].port)

    def closed_and_open(self) -> tuple[int, int]:
        """See :class:`Ground`."""
        taken = [takes_a_write(node) for node in self.cluster.masters()]
        return len(taken) - sum(taken), sum(taken)


@dataclass(slots=True)
class Moved:
    """Two sides, `greenfly sync`, a load, and a process that conducts."""

    live: Live
    sides: Mapping[Side, Ground]
    load: ClusterLoad
    conductor: ConductorProcess
    sync: subprocess.Popen[bytes]
    moves: int = 0

    def do(self, order: Order) -> Ended:
        """Let the conductor do something."""
        return self.conductor.do(order)

    def move(self, to: Side) -> None:
        """A cutover or a rollback that nothing disturbs, unless the application is there already."""
        if self.says() == to:
            return
        ended = self.do(Order("cutover" if to == "green" else "rollback"))
        assert ended.returncode == 0, self.what_was_said()
        self.moves += 1
        assert self.says() == to
        self.assert_legal()

    def says(self) -> Side:
        """Where the environment sends the application."""
        return "green" if "DRAGONFLY_URL" in self.live.environment() else "blue"

    def assert_legal(self) -> None:
        """The application is on one side, that side alone takes writes, on all of its nodes, and is followed."""
        side = self.says()
        closed, taking = self.sides[side].closed_and_open()
        assert (closed, taking > 0) == (0, True), self.what_was_said()
        if (
            side == "green" or self.moves > 1
        ):  # Nobody keeps applications from a green that they never were on.
            _, taking = self.sides["blue" if side == "green" else "green"].closed_and_open()
            assert taking == 0, self.what_was_said()
        direction = "forward" if self.says() == "blue" else "backward"
        self.live.wait_until(
            lambda: (self.live.board() or {}).get("direction") == direction, f"followed {direction}", 15.0
        )

    def wait_until_proven_again(self) -> None:
        """Until another master was noticed, which may lack something, and everything compared since."""

        def proven() -> bool:
            gaps = self.live.rows(
                "SELECT at FROM event WHERE kind = 'sync.gap' ORDER BY sequence DESC LIMIT 1"
            )
            board = self.live.board() or {}
            clean = board.get("clean_since")
            noticed = str(gaps[0][0]).replace("T", " ") if gaps else "9"
            return clean is not None and board.get("gap") is None and str(clean) > noticed

        self.live.wait_until(proven, "both sides are equal again", 90.0)

    def wait_until_ended(self, seconds: float = 25.0) -> None:
        """Until no operation is under way."""
        running = "SELECT 1 FROM run WHERE kind IN ('cutover', 'rollback') AND state = 'running'"
        self.live.wait_until(lambda: not self.live.rows(running), "the operation has ended", seconds)

    def assert_nothing_lost(self) -> None:
        """Stop the load: the side that serves has what was acknowledged, and at no moment did both."""
        self.load.stop()
        client = self.sides[self.says()].client()
        wrong = self.load.wrong(client)
        client.close()
        assert wrong == [], f"{len(wrong)} {wrong[:5]}{self.what_was_said()}"
        assert self.load.changes_of_side() <= self.moves, self.what_was_said()
        assert len({ack.side for ack in self.load.acknowledged}) == (2 if self.moves else 1)

    def what_was_said(self) -> str:
        """The ends of the logs, for a test that failed."""
        return (
            f"\nconductor: {self.conductor.log()[-2500:]}\nsync: {self.live.log()[-2500:]}\n"
            f"board: {self.live.board()} cutover: {self.live.steps('cutover')} rollback: {self.live.steps('rollback')}"
        )


@dataclass(slots=True, kw_only=True)
class MovedCluster(Moved):
    """From a Redis Cluster to one server."""

    cluster: RedisCluster
    green: Store
    rights: dict[str, list[bytes]]
    """Each node's ACL before anything was done."""

    def takes_a_write(self) -> list[Node]:
        """The masters that take a write from an application now, on a connection as applications make them."""
        return [node for node in self.cluster.masters() if takes_a_write(node)]

    def assert_rights_are_back(self) -> None:
        """Every node that runs has the rules that it had, and no user of Greenfly's."""
        assert rules(self.cluster.nodes) == {
            node.url: self.rights[node.url] for node in self.cluster.nodes if node.runs
        }


def takes_a_write(node: Node | Dragonfly) -> bool:
    """Whether a node does; not so if it is a replica, or serves no slot."""
    try:
        node("SET", f"probe:{{{_tag(node)}}}", "1")
    except UnexpectedReply:
        return False
    return True


def _tag(node: Node | Dragonfly) -> str:
    """What makes a key the node's own."""
    for entry in as_list(node("CLUSTER", "SLOTS")):
        first, last, serving, *_ = as_list(entry)
        if as_list(serving)[1] == node.port:
            number = 0
            while not int(str(first)) <= key_slot(str(number).encode()) <= int(str(last)):
                number += 1
            return str(number)
    return "0"


def rules(nodes: Sequence[Node]) -> dict[str, list[bytes]]:
    """The ACL of every node that runs."""
    return {
        node.url: [as_bytes(line) for line in as_list(node("ACL", "LIST"))] for node in nodes if node.runs
    }


@contextmanager
def moved_cluster(
    folder: Path, cluster: RedisCluster, green: Store, *, keys: int = 300, settings: str = SETTINGS
) -> Iterator[MovedCluster]:
    """An application on a cluster, followed and compared."""
    cluster.fill(keys)
    rights = rules(cluster.nodes)
    sides: Mapping[Side, Ground] = {"blue": ManyNodes(cluster), "green": OneServer(green)}
    with moved(folder, (cluster.url, green.url), sides, settings=settings) as it:
        yield MovedCluster(
            it.live, it.sides, it.load, it.conductor, it.sync, cluster=cluster, green=green, rights=rights
        )


@contextmanager
def moved(
    folder: Path, urls: tuple[str, str], sides: Mapping[Side, Ground], *, settings: str = SETTINGS
) -> Iterator[Moved]:
    """An application on blue, followed and compared."""
    with ExitStack() as stack:
        environ = stack.enter_context(pytest.MonkeyPatch.context())
        environ.setenv("GREENFLY_LEASE_SECONDS", "3")
        live = stack.enter_context(Live(folder / "live", *urls, settings))
        load = stack.enter_context(ClusterLoad(live, {side: ground.client for side, ground in sides.items()}))
        sync = live.sync()
        conductor = stack.enter_context(ConductorProcess(live.folder))
        live.wait_until_clean()
        yield Moved(live, sides, load, conductor, sync)
