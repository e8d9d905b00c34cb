"""Connections to the single nodes of a cluster, opened when they are needed."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from integrity.wire import Connection, Target


class Place(NamedTuple):
    """Where a node listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def seeds(target: Target) -> tuple[Place, ...]:
    """The nodes that the URL names."""
    return tuple(Place(host, port) for host, port in target.address.nodes)


def node_target(target: Target, place: Place) -> Target:
    """One node of the cluster, reached with the same user, password and TLS files."""
    return replace(target, address=target.address.node(place.host, place.port))


class Nodes:
    """Keeps one connection to each node; closed by :meth:`close`."""

    def __init__(self, target: Target, name: str, database: int = 0) -> None:
        self.target = target
        self.name = name
        self.database = database
        self._open: dict[Place, Connection] = {}

    def __call__(self, place: Place) -> Connection:
        """The connection to one node.

        :raises ServerError: it cannot be reached, or refuses.
        """
        connection = self._open.get(place)
        if connection is None:
            connection = self._open[place] = Connection(
                node_target(self.target, place), name=self.name, database=self.database
            )
        return connection

    def drop(self, place: Place) -> None:
        """Close the connection to one node, because it is broken or of no more use."""
        connection = self._open.pop(place, None)
        if connection is not None:
            with suppress(OSError):
                connection.close()

    def select(self, database: int) -> None:
        """Make another database the current one of every connection.

        :raises ServerError: a node has none of that number.
        """
        self.database = database
        for connection in self._open.values():
            connection.select(database)

    def close(self) -> None:
        """Close every connection."""
        for place in list(self._open):
            self.drop(place)
