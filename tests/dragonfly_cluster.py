"""A real cluster of Dragonflies on loopback: configured, its slots moved, and read without the engine's help."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from greenfly.demo.servers import RunningServer, find_dragonfly, start_dragonfly
from tests.cluster import SLOTS, application_data, send, wait_until
from tests.raw import Argument, Raw, Reply, as_bytes, as_int

_MIGRATED: Final = b"FINISHED"


@dataclass(frozen=True, slots=True)
class Dragonfly:
    """One node."""

    server: RunningServer
    node_id: str

    @property
    def url(self) -> str:
        """Of this node alone."""
        return self.server.url

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2].partition("/")[0])

    def __call__(self, *command: Argument) -> Reply:
        """One command over a connection of its own."""
        with Raw(self.url) as raw:
            return raw(*command)


class DragonflyCluster:
    """Two Dragonflies that share the slots; a context manager."""

    def __init__(self, count: int = 2) -> None:
        program = find_dragonfly()
        if program is None:
            pytest.skip("no dragonfly on PATH")
        self._program = program
        self._stack = ExitStack()
        try:
            self.nodes = [self._start(program) for _ in range(count)]
            bounds = [number * SLOTS // count for number in range(count + 1)]
            self._owners = {
                slot: node
                for node, first, end in zip(self.nodes, bounds, bounds[1:], strict=False)
                for slot in range(first, end)
            }
            self.configure()
        except BaseException:
            self.close()
            raise

    def _start(self, program: Path) -> Dragonfly:
        server = self._stack.enter_context(start_dragonfly(program, "--cluster_mode=yes"))
        with Raw(server.url) as raw:
            return Dragonfly(server, as_bytes(raw("CLUSTER", "MYID")).decode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop every node."""
        self._stack.close()

    @property
    def url(self) -> str:
        """What Greenfly is given: one of the nodes."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def table(self) -> Mapping[int, Dragonfly]:
        """Slot → the node that serves it."""
        return self._owners

    def masters(self) -> list[Dragonfly]:
        """All of them; none has a replica."""
        return self.nodes

    def keys(self) -> int:
        """How many keys all nodes hold."""
        return sum(as_int(node("DBSIZE")) for node in self.nodes)

    def flush(self) -> None:
        """Empty every node."""
        for node in self.nodes:
            node("FLUSHALL")

    def send(self, commands: Sequence[tuple[Argument, ...]]) -> None:
        """Commands to the nodes of their keys."""
        send(self, commands)

    def fill(self, keys: int, seed: int = 1) -> int:
        """An application's data of every type; returns how many keys there are."""
        self.send(application_data(keys, seed))
        return self.keys()

    def configure(self, *, giver: Dragonfly | None = None, first: int = 0, last: int = 0) -> None:
        """Tell every node who serves what; where a *giver* is named, that it gives these slots to the other one."""
        shards = []
        for node in self.nodes:
            slots = sorted(slot for slot, owner in self._owners.items() if owner is node)
            shard: dict[str, object] = {
                "slot_ranges": [{"start": a, "end": b} for a, b in _ranges(slots)],
                "master": {"id": node.node_id, "ip": "127.0.0.1", "port": node.port},
                "replicas": [],
            }
            if node is giver:
                taker = next(other for other in self.nodes if other is not giver)
                shard["migrations"] = [
                    {
                        "slot_ranges": [{"start": first, "end": last}],
                        "node_id": taker.node_id,
                        "ip": "127.0.0.1",
                        "port": taker.port,
                    }
                ]
            shards.append(shard)
        for node in self.nodes:
            node("DFLYCLUSTER", "CONFIG", json.dumps(shards))

    def kill(self, node: Dragonfly) -> None:
        """SIGKILL one."""
        assert node.server.pid is not None
        os.kill(node.server.pid, signal.SIGKILL)
        node.server.stop()

    def replace(self, dead: Dragonfly) -> Dragonfly:
        """An empty node takes the slots of one that was killed."""
        fresh = self._start(self._program)
        self.nodes[self.nodes.index(dead)] = fresh
        self._owners = {slot: fresh if node is dead else node for slot, node in self._owners.items()}
        self.configure()
        return fresh

    def move_slots(self, first: int, last: int) -> None:
        """Move slots from the node that has them all to the other one, as Dragonfly's own tools do."""
        giver = self._owners[first]
        taker = next(other for other in self.nodes if other is not giver)
        self.configure(giver=giver, first=first, last=last)
        wait_until(lambda: _MIGRATED in repr(giver("DFLYCLUSTER", "SLOT-MIGRATION-STATUS")).encode())
        self._owners.update(dict.fromkeys(range(first, last + 1), taker))
        self.configure()


def _ranges(slots: Sequence[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for slot in slots:
        if found and found[-1][1] == slot - 1:
            found[-1] = (found[-1][0], slot)
        else:
            found.append((slot, slot))
    return found
