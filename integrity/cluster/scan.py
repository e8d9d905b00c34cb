"""Walking the keys of a cluster of Dragonflies: SCAN of one node after the other.

Dragonfly lists no slot, so its nodes are scanned, and each name counts only where the node serves its slot: while a
slot is on its way, both nodes hold its keys.  A slot that goes from a node whose scan is yet to come to one whose scan
has passed would be seen by neither.  So whoever walks sees to it that the slots lie where they lay when the walk began
(:attr:`~integrity.cluster.topology.Cluster.run_id` changes with them), here for one connection, and in a phase for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from integrity.cluster.nodes import Nodes
from integrity.cluster.slots import key_slot
from integrity.cluster.topology import Cluster
from integrity.errors import ProtocolError, ServerRestarted

NODE: Final = 1 << 64
"""A cursor is a node's own one, and so many for each node before it, in the order of their ids."""


class NodeWalk:
    """Scans nodes.

    :param nodes: connections with nothing in flight.
    :param look: who serves what now.
    """

    def __init__(self, nodes: Nodes, look: Callable[[], Cluster]) -> None:
        self._nodes = nodes
        self._look = look
        self._cluster: Cluster | None = None

    def page(self, cursor: int, options: Sequence[bytes]) -> tuple[int, list[bytes]]:
        """Keys from *cursor* on, and the cursor behind them; 0 begins, and is returned at the end.

        :param options: of SCAN, as the nodes know them.
        :raises ServerRestarted: the slots are spread otherwise than when this walk began.
        :raises ServerError: a node is lost, or refuses.
        """
        if self._cluster is None:
            self._cluster = self._look()
        cluster = self._cluster
        number, at = divmod(cursor, NODE)
        if number >= len(cluster.masters):
            raise self._spread_otherwise()
        master = cluster.masters[number]
        connection = self._nodes(master.place)
        reply = connection.command(b"SCAN", b"%d" % at, *options)
        if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[1], list):
            raise ProtocolError(connection.role, connection.where, "SCAN answered in an unknown shape.")
        following = int(reply[0]) if isinstance(reply[0], bytes) and reply[0].isdigit() else 0
        owners = cluster.owners
        names = [name for name in reply[1] if isinstance(name, bytes) and owners[key_slot(name)] is master]
        if following:
            return number * NODE + following, names
        if self._look().run_id != cluster.run_id:
            raise self._spread_otherwise()
        return (number + 1) * NODE if number + 1 < len(cluster.masters) else 0, names

    def _spread_otherwise(self) -> ServerRestarted:
        target = self._nodes.target
        return ServerRestarted(
            target.role,
            str(target.address),
            "slots went from one Dragonfly to another, or one restarted, while the keys were listed.",
            "Everything is listed again; move slots before or afterwards.",
        )
