"""Counting how often green began from nothing: each time it is emptied, and everything known about it is void."""

from __future__ import annotations

from integrity.native.link import Look
from integrity.native.state import BlueState, Stage


class FullSyncs:
    """Counts those of every master.

    :param attached: whether green is a replica already, of which nothing is known.
    """

    def __init__(self, first: Look, *, attached: bool) -> None:
        self._each = [_OfOne(part, attached=attached) for part in first.each]

    def began_since(self, look: Look, now: Look) -> bool:
        """Whether green may have begun from nothing between two looks, as far as blue's count tells."""
        parts = zip(self._each, look.each, now.each, strict=True)
        return any(one.began_since(before, after) for one, before, after in parts)

    @property
    def count(self) -> int:
        """How many began since; those that an attached green had made before not counted."""
        return sum(one.count for one in self._each)

    @property
    def most(self) -> int:
        """The same of the master where most began."""
        return max(one.count for one in self._each)

    def take(self, look: Look) -> None:
        """Take in what is seen now."""
        for one, part in zip(self._each, look.each, strict=True):
            one.take(part)


class _OfOne:
    """Counts by what one master counts, where green is its only replica, and by green's states."""

    def __init__(self, first: Look, *, attached: bool) -> None:
        self._stage = first.green.stage
        self._drops = 0
        self._begun = 0 if attached else 1
        self._blue = first.blue
        self._counted = 0
        self._alone = True

    def began_since(self, look: Look, now: Look) -> bool:
        """Whether green may have begun from nothing between two looks, as far as blue's count tells."""
        same = look.blue.run_id == now.blue.run_id
        return self._alone and (not same or look.blue.full_syncs != now.blue.full_syncs)

    @property
    def count(self) -> int:
        """How many began since; those that an attached green had made before not counted."""
        seen = self._begun + self._drops
        return max(seen, self._counted) if self._alone else seen

    def take(self, look: Look) -> None:
        """Take in what is seen now."""
        stage = look.green.stage
        if stage in {Stage.CONNECTING, Stage.MASTER} and self._stage not in {Stage.CONNECTING, Stage.MASTER}:
            self._drops += 1
        self._stage = stage
        self._alone = self._alone and not _others(look)
        before = self._blue.full_syncs if look.blue.run_id == self._blue.run_id else 0
        self._counted += max(0, look.blue.full_syncs - before)
        self._blue = look.blue


def _others(look: Look) -> bool:
    """Whether blue serves another replica too, so that its count is not about green alone."""
    blue: BlueState = look.blue
    return any(replica.port != look.green.port for replica in blue.replicas)
