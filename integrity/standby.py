"""A connection that is needed only now and then: opened when it is, and again after it has been idle.

Servers close connections that have been idle for their ``timeout``; one that waits for the next big key or the next
difference would be found closed when it is needed.
"""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Final, Self

from integrity.cluster.sentinel import find_master
from integrity.endpoint import Endpoint
from integrity.wire import Connection

_IDLE_SECONDS: Final = 5.0


class Standby:
    """Opens a connection to one database when asked for it; a context manager."""

    def __init__(self, endpoint: Endpoint, purpose: str, database: int) -> None:
        self._endpoint = endpoint
        self._purpose = purpose
        self._database = database
        self._open: Connection | None = None
        self._used = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def connection(self, *, sure: bool = False) -> Connection:
        """A connection with no command in flight.

        :param sure: see to it that Sentinels still name the server it leads to.  One that was replaced goes on as a
            master for eight seconds and more, and closes no connection meanwhile.
        :raises ServerError: the server cannot be reached.
        """
        now = monotonic()
        if sure and self._open is not None and self._is_replaced(self._open):
            self._close()
        if self._open is None or now - self._used > _IDLE_SECONDS:
            self._close()
            self._open = self._endpoint.connect(self._purpose, self._database)
        self._used = now
        return self._open

    def _is_replaced(self, connection: Connection) -> bool:
        if self._endpoint.address.mode != "sentinel":
            return False
        address = connection.target.address
        return find_master(self._endpoint.target) != (address.host, address.port)

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
