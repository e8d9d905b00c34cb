"""Green as a replica of every master of a cluster at once: one link to each, and a cluster that has to stay as it is.

Dragonfly takes further masters by ``ADDREPLICAOF host port first last``.  The slots choose nothing: it takes whatever a
master sends.  They are what it empties before that master sends everything anew.  So each master has one link: with
two, Dragonfly 1.40 applies every write twice.  A master whose slots are several stretches is told by the longest, and
may then not lose its link, because what it holds in the others would not be emptied.

A slot that moves is deleted by one stream and restored by another, in any order: whatever changes in the cluster ends
this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from integrity.cluster.connection import ClusterConnection
from integrity.cluster.nodes import Place, node_target
from integrity.cluster.slots import probe_key, slot_ranges, slots_text
from integrity.cluster.topology import Cluster, Master
from integrity.endpoint import Endpoint, Identity
from integrity.errors import Refused, ReplicationFailed, ServerUnreachable
from integrity.native.course import CaughtUp
from integrity.native.link import Look, NativeLink
from integrity.native.settings import NativeSettings
from integrity.native.state import (
    BlueState,
    GreenState,
    Stage,
    blue_of,
    info_of,
    least_far,
    read_links,
)
from integrity.replies import ErrorReply, Reply
from integrity.settings import Settings
from integrity.standby import Standby
from integrity.wire import Connection, pack

_NODES: Final = pack(b"CLUSTER", b"NODES")
_INFO: Final = pack(b"INFO")


@dataclass(frozen=True, slots=True)
class ShardMaster:
    """One master, as it was when this began."""

    node_id: str
    place: Place
    run_id: str
    ranges: tuple[tuple[int, int], ...]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, as green tells them."""
        return self.place.host, self.place.port

    @property
    def told(self) -> tuple[int, int]:
        """The slots that green is told: the longest stretch."""
        return max(self.ranges, key=lambda ends: ends[1] - ends[0])

    @property
    def tag(self) -> bytes:
        """A hash tag of one of its slots."""
        return probe_key(self.ranges[0][0]).partition(b"{")[2].rstrip(b"}")

    @property
    def slots(self) -> str:
        """For people: ``0-5460, 7000``."""
        return ", ".join(f"{a}-{b}" if a != b else f"{a}" for a, b in self.ranges)


class ShardLinks(NativeLink):
    """Green as a replica of all masters of a cluster.

    :raises Refused: slots are on their way from one master to another.
    :raises ServerError: a master is lost, or slots are served by nobody.
    """

    def __init__(self, source: Endpoint, target: Endpoint, settings: NativeSettings) -> None:
        with ClusterConnection(source.target, name="greenfly:native") as connection:
            cluster = connection.cluster()
        self.masters = _masters(source, cluster)
        self._slots = {master.node_id: slots_text(master.slots) for master in cluster.masters}
        self._lines: list[Standby] = []
        super().__init__(source, target, settings)

    def _standbys(self) -> tuple[Standby, Standby]:
        self._lines = [
            self._stack.enter_context(Standby(self._endpoint(master), "native", 0)) for master in self.masters
        ]
        return self._lines[0], self._stack.enter_context(Standby(self.target, "native", 0))

    def _endpoint(self, master: ShardMaster) -> Endpoint:
        return Endpoint(node_target(self.source.target, master.place))

    # -- looking ------------------------------------------------------------------------------------------------

    def look(self) -> Look:
        """How green and each master are now.

        :raises ReplicationFailed: the cluster is not what it was when this began.
        :raises ServerError: one is lost, or refuses.
        """
        try:
            links = read_links(self._green.connection())
            blues = self._blues_now()
        except ServerUnreachable:
            # A connection that broke is of no use for the next look.
            self._stack.close()
            self._blue, self._green = self._standbys()
            raise
        by_master = {link.master: link for link in links}
        # Without a link there is nothing of that master; a master of its own has no links at all.
        missing = replace(
            links[0],
            stage=Stage.MASTER if links[0].stage is Stage.MASTER else Stage.CONNECTING,
            master=None,
            offset=None,
        )
        shards = tuple(
            Look(by_master.get(master.address, missing), blue)
            for master, blue in zip(self.masters, blues, strict=True)
        )
        return Look(least_far([shard.green for shard in shards]), _together(blues), shards)

    def _blues_now(self) -> list[BlueState]:
        blues, lost = [], None
        for master, line in zip(self.masters, self._lines, strict=True):
            try:
                connection = line.connection()
                nodes, told = connection.exchange([_NODES, _INFO])
            except ServerUnreachable as error:
                # The others may know that another has taken its place.
                lost = error
                continue
            info = info_of(connection, told)
            self._require_same(master, info, nodes, connection)
            blues.append(blue_of(info))
        if lost is not None:
            raise lost
        return blues

    def _require_same(
        self, master: ShardMaster, info: Mapping[str, str], nodes: Reply, connection: Connection
    ) -> None:
        """
        :raises ReplicationFailed: a master restarted or failed over, or slots move, or have moved.
        """
        if isinstance(nodes, ErrorReply):
            raise connection.error_for(nodes, "CLUSTER NODES")
        if info.get("run_id") != master.run_id:
            raise self._changed(f"its master {master.place} restarted")
        # What a node says of others may be old, but not that one serves slots which served none.
        for node_id, place, slots in _served(nodes):
            if node_id == master.node_id and slots.endswith("]"):
                raise self._changed(f"slots of its master {place} are on their way to or from another")
            known = self._slots.get(node_id, "")
            if known != slots and (node_id == master.node_id or not known):
                raise self._changed(f"{place} serves other slots than before ({slots or 'none'})")
        if master.node_id not in {node_id for node_id, _, _ in _served(nodes)}:
            raise self._changed(f"{master.place} serves no slot any more")

    def _changed(self, what: str) -> ReplicationFailed:
        return ReplicationFailed(
            "target",
            str(self.target),
            f"cannot go on replicating the cluster {self.source}: {what}.",
            "A copy follows failovers and slots that move: --strategy copy --conflict replace.",
        )

    def follows(self, look: Look) -> bool:
        """Whether green replicates all masters of this cluster, and nobody else."""
        return all(
            shard.green.master == master.address
            for shard, master in zip(look.each, self.masters, strict=True)
        )

    def was_left_attached(self) -> bool:
        """Whether green replicates masters of this cluster, all or some of them, and nobody else.

        :raises ServerError: green is lost, or refuses.
        """
        links = read_links(self._green.connection())
        return links[0].stage is not Stage.MASTER and all(map(self._is_ours, links))

    def _is_ours(self, green: GreenState) -> bool:
        return green.master in {master.address for master in self.masters}

    @property
    def most_full_syncs(self) -> tuple[int, str]:
        """One, where a master's slots are several stretches."""
        for master in self.masters:
            if len(master.ranges) > 1:
                return 1, (
                    f"the slots of {master.place} are several stretches ({master.slots}), of which Dragonfly empties "
                    "only one when it begins anew"
                )
        return super().most_full_syncs

    # -- attaching ----------------------------------------------------------------------------------------------

    def attach(self) -> None:
        """Make green a replica of every master.

        :raises ReplicationFailed: green could not reach one, or was refused there; it replicates nobody then.
        :raises ServerError: green is lost, or refuses.
        """
        connection = self._green.connection()
        for number, master in enumerate(self.masters):
            first, last = master.told
            host, port = master.place
            name = b"ADDREPLICAOF" if number else b"REPLICAOF"
            reply = connection.exchange(
                [pack(name, host.encode(), b"%d" % port, b"%d" % first, b"%d" % last)]
            )[0]
            if isinstance(reply, ErrorReply):
                connection.exchange([pack(b"REPLICAOF", b"NO", b"ONE")])
                raise self._not_begun(connection, reply, str(master.place))

    def told(self, caught: CaughtUp) -> list[dict[str, object]]:
        """What each master and green's link to it are like, in plain JSON values."""
        look = caught.look
        return [
            {
                "address": str(master.place),
                "slots": master.slots,
                "stage": shard.green.stage.value,
                "offset": shard.blue.offset,
                "keys": shard.blue.keys,
                "sentinel": any(key.startswith(b"{%b}" % master.tag) for key in caught.keys),
            }
            for master, shard in zip(self.masters, look.each, strict=True)
        ]


def open_links(source: Endpoint, target: Endpoint, settings: NativeSettings) -> NativeLink:
    """Green as a replica of one server, or of every master of a cluster.

    :raises Refused: slots of the cluster are on their way.
    :raises ServerError: the cluster does not answer.
    """
    return (ShardLinks if source.is_cluster else NativeLink)(source, target, settings)


def follows_source(settings: Settings, source: Endpoint, target: Endpoint, identity: Identity) -> bool:
    """Whether the target is a replica of this source at this moment, as a killed run leaves it.

    :param identity: of the target.
    :raises ServerError: one of the two is lost, or refuses.
    """
    if identity.engine != "dragonfly" or identity.role != "replica":
        return False
    with open_links(source, target, settings.native) as link:
        return link.was_left_attached()


def require_emulated(target: Endpoint) -> None:
    """
    :raises Refused: the target is no Dragonfly that serves every slot by itself.
    :raises ServerError: it is lost.
    """
    if not emulates(target):
        raise Refused(
            f"Target {target} was not started with --cluster_mode=emulated, and replicates one master only.",
            "Start it so, or use --strategy copy.",
        )


def emulates(target: Endpoint) -> bool:
    """Whether the target speaks as a cluster of one.

    :raises ServerError: it is lost.
    """
    with target.connect("native") as connection:
        return not isinstance(connection.exchange([pack(b"CLUSTER", b"SLOTS")])[0], ErrorReply)


def _masters(source: Endpoint, cluster: Cluster) -> tuple[ShardMaster, ...]:
    moving = [master for master in cluster.masters if master.moving]
    if moving:
        raise Refused(
            f"Slots of the cluster {source} are on their way from one master to another "
            f"({', '.join(str(master.place) for master in moving)}), which Dragonfly's own replication cannot follow.",
            "Wait until the resharding has ended, or use --strategy copy.",
        )
    return tuple(sorted(map(_master, cluster.masters), key=lambda master: master.ranges[0]))


def _master(master: Master) -> ShardMaster:
    return ShardMaster(master.node_id, master.place, master.run_id, slot_ranges(master.slots))


def _served(nodes: Reply) -> list[tuple[str, str, str]]:
    """Node id, place and slots of every node that serves any, as one node sees it; slots that move end in ``]``."""
    found = []
    for line in nodes.decode("utf-8", "replace").splitlines() if isinstance(nodes, bytes) else []:
        parts = line.split(" ")
        if len(parts) > 8 and "master" in parts[2].split(","):
            found.append((parts[0], parts[1].partition("@")[0], ", ".join(filter(None, parts[8:]))))
    return found


def _together(blues: list[BlueState]) -> BlueState:
    return BlueState(
        "+".join(blue.run_id for blue in blues),
        tuple(name for blue in blues for name in blue.replication_ids),
        sum(blue.offset for blue in blues),
        tuple(replica for blue in blues for replica in blue.replicas),
        sum(blue.full_syncs for blue in blues),
        any(blue.saving for blue in blues),
        sum(blue.keys for blue in blues),
        tuple(sorted({database for blue in blues for database in blue.databases})),
    )
