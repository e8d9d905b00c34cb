"""Green left a replica of blue while what changes is watched by name: seen to, and ended once it has everything."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from integrity.endpoint import Endpoint
from integrity.errors import ReplicationFailed
from integrity.native.course import CaughtUp, Course
from integrity.native.link import NativeLink
from integrity.native.sentinel import Sentinels
from integrity.native.state import Stage


class Attachment:
    """An attached green and what has to be known to end it.  Ended by :meth:`end`, whatever happens.

    :param release: ends it and takes back what green was lent; returns the state in which that was done.
    :param stack: closes the link.
    """

    def __init__(
        self, link: NativeLink, course: Course, release: Callable[[], Stage], stack: ExitStack
    ) -> None:
        self._link = link
        self._course = course
        self._release = release
        self._stack = stack
        self._seen = course.full_syncs.count
        self.online = True
        """Whether green had everything and applied what came, at the last look."""

    def watch(self) -> str | None:
        """Why everything has to be compared, where green began from nothing since the last look.

        :raises ReplicationFailed: it is no use to wait any longer: it replicates no more, or begins again and again.
        :raises ServerError: a server is lost.
        """
        look = self._course.look()
        self.online = look.green.stage is Stage.ONLINE and look.green.offset is not None
        count = self._course.full_syncs.count
        if count == self._seen:
            return None
        self._seen = count
        return "green lost its link to blue, and begins from nothing"

    def wait_until_applied(self, seconds: float, keep: Callable[[float], None]) -> None:
        """Return when green tells that it has applied everything that blue has written by now.

        :raises ReplicationFailed: it does not within *seconds*, or began from nothing.
        :raises ServerError: a server is lost.
        """
        self._course.keep = keep
        if self._course.until_applied(seconds) is None:
            raise self._lost()

    def catch_up(self, source: Endpoint, seconds: float, keep: Callable[[float], None]) -> CaughtUp:
        """The same as both tell, and proven by a sentinel in each database.

        :param source: blue, as a user that may write there.
        :raises ReplicationFailed: it does not within *seconds*, or began from nothing.
        :raises ServerError: a server is lost.
        """
        self._course.keep = keep
        key = self._link.settings.sentinel_key
        caught = self._course.catch_up(Sentinels(source, self._link.target, key), seconds)
        if caught is None:
            raise self._lost()
        return caught

    def end(self, caught: CaughtUp | None = None) -> bool:
        """Make green a master again, which keeps what it has; whether that is still what *caught* says.

        :raises ServerError: green is lost, or refuses: it is attached still.
        """
        stage = self._release()
        whole = caught is not None and stage is Stage.ONLINE and not self._began_since(caught)
        self._stack.close()
        return whole

    def _began_since(self, caught: CaughtUp) -> bool:
        return self._course.full_syncs.began_since(caught.look, self._link.look())

    def _lost(self) -> ReplicationFailed:
        return ReplicationFailed(
            "target", str(self._link.target), "lost its link to blue while it caught up."
        )
