"""Making green a replica of blue, looking at both, and ending it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from integrity.endpoint import Endpoint
from integrity.errors import ReplicationFailed, ServerError, ServerUnreachable
from integrity.native.settings import NativeSettings
from integrity.native.state import (
    BlueState,
    GreenState,
    Stage,
    follows,
    master_address,
    read_blue,
    read_green,
    unknown_commands,
)
from integrity.replies import ErrorReply
from integrity.standby import Standby
from integrity.wire import Connection, pack

_LOST_ATTEMPTS: Final = 2


@dataclass(frozen=True, slots=True)
class Look:
    """Both servers at (almost) one moment."""

    green: GreenState
    blue: BlueState
    shards: tuple[Look, ...] = ()
    """Of a cluster, each master with green's link to it; the whole is as far as the one that has come least far."""

    @property
    def each(self) -> tuple[Look, ...]:
        """Every master with green's link to it."""
        return self.shards or (self,)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Of the masters' histories."""
        return tuple(part.blue.offset for part in self.each)


class NativeLink:
    """Green as a replica of blue; a context manager that keeps one connection to each.

    :param source: blue.
    :param target: green, a Dragonfly.
    """

    def __init__(self, source: Endpoint, target: Endpoint, settings: NativeSettings) -> None:
        self.source = source
        self.target = target
        self.settings = settings
        self._stack = ExitStack()
        self._blue, self._green = self._standbys()
        self._blue_ids: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _standbys(self) -> tuple[Standby, Standby]:
        return (
            self._stack.enter_context(Standby(self.source, "native", 0)),
            self._stack.enter_context(Standby(self.target, "native", 0)),
        )

    def look(self) -> Look:
        """How both are now.

        :raises ServerError: one is lost, or refuses.
        """
        try:
            now = Look(read_green(self._green.connection()), read_blue(self._blue.connection()))
        except ServerUnreachable:
            # A connection that broke is of no use for the next look.
            self._stack.close()
            self._blue, self._green = self._standbys()
            raise
        self._blue_ids = now.blue.replication_ids
        return now

    def follows(self, look: Look) -> bool:
        """Whether green replicates this blue, as they were seen."""
        return follows(look.green, look.blue.replication_ids, self.settings, self.source)

    def was_left_attached(self) -> bool:
        """Whether green is as a killed run leaves it.

        :raises ServerError: one of the two is lost, or refuses.
        """
        return self.follows(self.look())

    def is_attached(self) -> bool:
        """Whether green replicates this blue, whoever told it to; blue itself may be away.

        :raises ServerError: green is lost, or refuses.
        """
        with self.target.connect("native") as connection:
            return self._is_ours(read_green(connection))

    def _is_ours(self, green: GreenState) -> bool:
        return follows(green, self._blue_ids, self.settings, self.source)

    @property
    def most_full_syncs(self) -> tuple[int, str]:
        """How many may begin at one master, and what says so."""
        most = self.settings.max_full_syncs
        return most, f"native.max_full_syncs is {most}"

    def attach(self) -> None:
        """Make green a replica of blue.  It goes on serving what it holds until blue sends its data, and loses it then.

        Not to be repeated on a green that is attached: it would begin from nothing again.

        :raises ReplicationFailed: green could not reach blue, or was refused there; it still holds what it held.
        :raises ServerError: green is lost, or refuses.
        """
        host, port = master_address(self.source, self.settings)
        connection = self._green.connection()
        reply = connection.exchange([pack(b"REPLICAOF", host.encode(), b"%d" % port)])[0]
        if isinstance(reply, ErrorReply):
            raise self._not_begun(connection, reply, f"{host}:{port}")

    def _not_begun(self, connection: Connection, reply: ErrorReply, where: str) -> ServerError:
        error = connection.error_for(reply, "REPLICAOF")
        if "replication cancelled" not in str(reply):
            return error
        return ReplicationFailed(
            "target",
            str(self.target),
            f"could not begin to replicate {where}, and still holds what it held.",
            f"Check that green reaches blue there (native.master_host, native.master_port), that blue's user may "
            f"run PSYNC, REPLCONF and PING{self._tls_remedy()}.",
        )

    def detach(self) -> Stage:
        """End it, and see that green is a master that can be written; it keeps what it has.

        Returns the state in which it was ended: only an online green has everything.

        :raises ReplicationFailed: it goes on.
        :raises ServerError: green is lost, or refuses.
        """
        with self.target.connect("native") as connection:
            before = read_green(connection)
            connection.command(b"REPLICAOF", b"NO", b"ONE")
            after = read_green(connection)
        if after.stage is not Stage.MASTER:
            raise ReplicationFailed(
                "target",
                str(self.target),
                "goes on replicating although it was told to end.",
                "Run REPLICAOF NO ONE on it, and see its log.",
            )
        self.target.require_writable()
        return before.stage

    def dropped(self) -> dict[str, int]:
        """Names of commands that green was ever given and does not know → how often.

        :raises ServerError: green is lost, or refuses.
        """
        return unknown_commands(self._green.connection())

    def _tls_remedy(self) -> str:
        if self.source.address.scheme != "rediss":
            return ""
        return (
            ", and that green was started with --tls_replication, --tls_ca_cert_file, --tls_cert_file and "
            "--tls_key_file, which cannot be set afterwards"
        )
