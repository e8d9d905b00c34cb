"""One feed for each master of a cluster, as one feed.

A slot that moves takes its keys along, and both nodes announce their names to tracking; whoever reads a name then asks
the slot's present owner.  So slots may move between masters that are followed.  A master that is not followed (a
replica that was promoted, a node that joined) may have taken writes that nobody announced: as soon as one is seen the
feed is lost, and a lost feed is a gap.  Nothing counts as caught up before the masters were asked, after the last
announcement, whether they are still the same.

Several Dragonflies are followed by one MONITOR each.  None of them shows what arrives with a slot that moves, so among
them another owner of any slot is a loss, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from threading import Event
from time import monotonic
from typing import Final

from integrity.cluster.connection import ClusterConnection
from integrity.cluster.nodes import node_target
from integrity.cluster.topology import Cluster
from integrity.endpoint import Endpoint
from integrity.errors import ServerNotReady, ServerUnreachable
from integrity.sync.feed import Feed, Loss, Taken
from integrity.sync.monitor import MonitorFeed
from integrity.sync.tracking import TrackingFeed

_ATTEMPTS: Final = 5


class ClusterFeed:
    """A feed over one of each master; :meth:`open` or :meth:`open_monitors` makes it."""

    def __init__(
        self, control: ClusterConnection, cluster: Cluster, feeds: Sequence[Feed], something: Event
    ) -> None:
        self.name = feeds[0].name
        self.settle_seconds = feeds[0].settle_seconds
        self._control = control
        self._followed = cluster.run_id
        self._feeds = feeds
        self._something = something
        self._same_at = datetime.now(UTC)
        """When the masters were last seen to be the ones that are followed."""
        self._loss: Loss | None = None

    @classmethod
    def open(cls, endpoint: Endpoint, *, silence_seconds: float = 10.0) -> ClusterFeed:
        """Begin to be told by tracking; every change after the return is announced.

        :raises TrackingUnsupported: a node does not know it (before Redis 6.0), or refuses.
        :raises ServerNotReady: the masters change all the time.
        :raises ServerError: the cluster cannot be reached, or is not whole.
        """
        return cls._open(
            endpoint,
            lambda node, something: TrackingFeed.open(
                node, silence_seconds=silence_seconds, something=something
            ),
        )

    @classmethod
    def open_monitors(cls, endpoint: Endpoint, *, settle_seconds: float = 0.5) -> ClusterFeed:
        """Begin to read every master's MONITOR; every change after the return is named.

        :raises PermissionRefused: a node does not allow it.
        :raises ServerNotReady: the masters change all the time.
        :raises ServerError: the cluster cannot be reached, or is not whole.
        """
        return cls._open(
            endpoint,
            lambda node, something: MonitorFeed.open(
                node, settle_seconds=settle_seconds, something=something
            ),
        )

    @classmethod
    def _open(cls, endpoint: Endpoint, open_one: Callable[[Endpoint, Event], Feed]) -> ClusterFeed:
        control = ClusterConnection(endpoint.target, name="greenfly:backlog")
        try:
            for _ in range(_ATTEMPTS):
                cluster = control.cluster()
                something = Event()
                feeds: list[Feed] = []
                try:
                    for master in cluster.masters:
                        node = Endpoint(node_target(endpoint.target, master.place))
                        feeds.append(open_one(node, something))
                    if control.cluster().run_id == cluster.run_id:
                        return cls(control, cluster, feeds, something)
                except BaseException:
                    _close(feeds)
                    raise
                _close(feeds)
        except BaseException:
            control.close()
            raise
        control.close()
        raise ServerNotReady(
            endpoint.role,
            str(endpoint),
            "its masters change while they begin to be followed.",
            "Wait until its failover has ended.",
        )

    def take(self) -> Taken:
        """What was seen since the last call; never waits."""
        self._something.clear()
        names: dict[bytes, float] = {}
        everything: str | None = None
        losses = [self._loss] if self._loss is not None else []
        for feed in self._feeds:
            taken = feed.take()
            for name, at in taken.names.items():
                names[name] = min(at, names.get(name, at))
            everything = everything or taken.everything
            if taken.loss is not None:
                losses.append(taken.loss)
        return Taken(names, everything, min(losses, key=lambda loss: loss.since, default=None))

    def wait(self, seconds: float) -> None:
        """Return when something was seen, or after so long."""
        self._something.wait(seconds)

    def catch_up(self, seconds: float) -> bool:
        """What was changed on any master before this call has been seen, and they are still the masters."""
        until = monotonic() + seconds
        if not all(feed.catch_up(max(0.0, until - monotonic())) for feed in self._feeds):
            return False
        try:
            self._look_at_masters()
        except (ServerUnreachable, ServerNotReady):
            return False
        return self._loss is None

    def backlog(self) -> int:
        """Bytes of announcements that wait on all masters; also sees to it that they are the ones that are followed.

        :raises ServerError: a master cannot be asked.
        """
        self._look_at_masters()
        return sum(feed.backlog() for feed in self._feeds) if self._loss is None else 0

    def close(self) -> None:
        """Close the connections; the servers forget the feed."""
        _close(self._feeds)
        self._control.close()

    def _look_at_masters(self) -> None:
        now = datetime.now(UTC)
        if self._control.cluster().run_id == self._followed:
            self._same_at = now
        elif self._loss is None:
            self._loss = Loss(
                "its masters are not the ones that were followed, or serve other slots", self._same_at
            )
            self._something.set()


def _close(feeds: Sequence[Feed]) -> None:
    for feed in feeds:
        feed.close()
