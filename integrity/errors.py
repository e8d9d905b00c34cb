"""The exception tree.  Every error Greenfly raises on purpose derives from :class:`GreenflyError`.

::

    GreenflyError
    ├── ConfigurationError           settings, URLs, flags                                (exit 2)
    ├── Refused                      a gate or precondition said no                       (exit 4)
    ├── LedgerError                  the state folder or the ledger cannot be used        (exit 5)
    │   ├── RunTakenOver             another process owns the run by now
    │   ├── LedgerUnreachable        the ledger's database is away, or was lost
    │   └── LedgerCollision          it gave a transaction up for another one's sake, again and again
    ├── ArtifactError                a snapshot file is missing, damaged or unknown       (exit 6)
    ├── Undone                       a cutover or rollback did not go through             (exit 8)
    ├── Unfinished                   neither ended nor undone; it has to be taken over    (exit 9)
    ├── OrchestratorFailed           Prefect could not be started or reached              (exit 30)
    ├── EnvironmentFailed            the applications' environment: not read, not written (exit 31)
    ├── Interrupted                  Ctrl-C, SIGTERM or SIGHUP, the ledger is closed      (exit 128 + signal)
    └── ServerError                  one server, by role and masked address
        ├── ServerUnreachable        no TCP or unix connection, name not resolved, lost   (exit x0)
        │   └── ServerRestarted      another process answers there than the run began with
        ├── AuthenticationFailed     wrong user or password, or none given                (exit x1)
        ├── TlsFailed                handshake or certificate refused, TLS mismatch       (exit x2)
        ├── ServerNotReady           still loading, or replica without its master         (exit x3)
        ├── PermissionRefused        the user lacks the right to run a command            (exit x4)
        ├── ServerFull               out of memory                                        (exit x5)
        ├── ServerReadOnly           a read-only replica, or writes refused               (exit x6)
        ├── ReplicationFailed        its own replication did not come to its end          (exit x7)
        └── ProtocolError            an answer that is not understood                     (exit x9)

``x`` is 1 for the source and 2 for the target; :mod:`greenfly.exit_codes` holds the table that people read.
Every error carries what happened (:attr:`~GreenflyError.problem`) and what to do (:attr:`~GreenflyError.remedy`).
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Literal

Role = Literal["source", "target", "server"]


class GreenflyError(Exception):
    """Base of the tree: one sentence about what happened, one about what to do."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}".strip()

    def __reduce__(self) -> tuple[Callable[..., GreenflyError], tuple[object, ...]]:
        # Worker processes hand their errors over; the facts travel, not the constructor's arguments.
        return _rebuilt, (type(self), self.args, self.__dict__.copy())


def _rebuilt(kind: type[GreenflyError], args: tuple[object, ...], facts: dict[str, object]) -> GreenflyError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(facts)
    return error


class ConfigurationError(GreenflyError):
    """A setting, URL or flag that cannot be used."""


class Refused(GreenflyError):
    """A precondition does not hold; nothing was written to any server."""


class LedgerError(GreenflyError):
    """The state folder or the ledger database cannot be used."""


class RunTakenOver(LedgerError):
    """This process no longer owns its run; whatever it was about to do, another process decides now."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"This process no longer owns run {run_id}.",
            "Another process took it over; leave it to that one.",
        )


class LedgerUnreachable(LedgerError):
    """The ledger's database is away, or was lost in the middle of a transaction; what that one wrote is not there.

    :param lasting: whether it has been away for as long as this process puts up with.
    """

    def __init__(self, problem: str, remedy: str = "", *, lasting: bool = True) -> None:
        super().__init__(problem, remedy)
        self.lasting = lasting


class LedgerCollision(LedgerError):
    """The database gave a transaction up for another one's sake: a deadlock, or two that cannot be put in an order."""


class Undone(GreenflyError):
    """A step failed or took too long, and what had been done was undone, or rolled back: nothing was lost."""


class EnvironmentFailed(GreenflyError):
    """The applications' environment could not be read or written, or it is not known whether it was written."""


class Unfinished(GreenflyError):
    """Something could be neither done nor undone; its run stays open, for whoever takes it over."""


class ArtifactError(GreenflyError):
    """A snapshot artifact is missing, damaged, or of an unknown format."""


class OrchestratorFailed(GreenflyError):
    """The flow orchestrator could not be started or reached."""


class StopSignal(KeyboardInterrupt):
    """What a signal handler raises: like Ctrl-C no :class:`Exception`, so that no library takes it for one of its own.

    :class:`~integrity.migration.Run` turns it into :class:`Interrupted` when the ledger is closed.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class Interrupted(GreenflyError):
    """The run was stopped from outside; the ledger is closed and consistent."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(
            f"Stopped by {signal.Signals(signal_number).name}.",
            "What was copied stays on the target; the same command with --resume goes on with it.",
        )
        self.signal_number = signal_number


class ServerError(GreenflyError):
    """Something about one server.

    :param role: which side the server plays in this run.
    :param address: the masked address; never carries a password.
    """

    def __init__(self, role: Role, address: str, problem: str, remedy: str = "") -> None:
        super().__init__(f"{role.capitalize()} {address}: {problem}", remedy)
        self.role: Role = role
        self.address = address


class ServerUnreachable(ServerError):
    """No connection, or a connection lost and not regained."""


class ServerRestarted(ServerUnreachable):
    """The server was restarted, or another one took its place; what was read from it by cursor is void."""


class AuthenticationFailed(ServerError):
    """The server refused the user or password, or wants one and got none."""


class TlsFailed(ServerError):
    """The TLS handshake failed, or one side speaks TLS and the other does not."""


class ServerNotReady(ServerError):
    """The server is loading its dataset or waits for its master."""


class PermissionRefused(ServerError):
    """The user may not run a command that the run needs."""


class ServerFull(ServerError):
    """The server is out of memory for new data."""


class ServerReadOnly(ServerError):
    """The server refuses writes."""


class ReplicationFailed(ServerError):
    """The server's own replication did not come to its end; it is no replica any more, and holds only a part."""


class ProtocolError(ServerError):
    """An answer outside what this version of Greenfly understands."""
