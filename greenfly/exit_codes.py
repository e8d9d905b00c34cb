"""The one table of exit codes.  Stable: codes are added, never renumbered."""

from __future__ import annotations

from enum import IntEnum

from integrity import errors


class ExitCode(IntEnum):
    """What a ``greenfly`` command ends with."""

    OK = 0
    DIFFERENT = 1
    USAGE = 2
    INCONCLUSIVE = 3
    REFUSED = 4
    LEDGER = 5
    ARTIFACT = 6
    BREACHED = 7
    UNDONE = 8
    UNFINISHED = 9
    SOURCE_UNREACHABLE = 10
    SOURCE_AUTHENTICATION = 11
    SOURCE_TLS = 12
    SOURCE_NOT_READY = 13
    SOURCE_PERMISSION = 14
    SOURCE_FULL = 15
    SOURCE_READ_ONLY = 16
    SOURCE_REPLICATION = 17
    SOURCE_PROTOCOL = 19
    TARGET_UNREACHABLE = 20
    TARGET_AUTHENTICATION = 21
    TARGET_TLS = 22
    TARGET_NOT_READY = 23
    TARGET_PERMISSION = 24
    TARGET_FULL = 25
    TARGET_READ_ONLY = 26
    TARGET_REPLICATION = 27
    TARGET_PROTOCOL = 29
    ORCHESTRATOR = 30
    ENVIRONMENT = 31
    INTERNAL = 70
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


MEANING: dict[ExitCode, str] = {
    ExitCode.OK: "done; where a verdict was asked for, it is PASS or PASS WITH EXCEPTIONS",
    ExitCode.DIFFERENT: "verified, and the sides differ (verdict FAIL)",
    ExitCode.USAGE: "a flag, URL or setting cannot be used",
    ExitCode.INCONCLUSIVE: "could not verify (verdict INCONCLUSIVE); never mixed with 1",
    ExitCode.REFUSED: "a precondition does not hold; nothing was written to a server",
    ExitCode.LEDGER: "the state folder or the ledger cannot be used",
    ExitCode.ARTIFACT: "a snapshot file is missing, damaged or of an unknown format",
    ExitCode.BREACHED: "`greenfly watch`: a rule was breached",
    ExitCode.UNDONE: "a cutover or rollback did not go through, and was undone or rolled back",
    ExitCode.UNFINISHED: "a cutover or rollback could be neither ended nor undone; somebody has to look now",
    ExitCode.SOURCE_UNREACHABLE: "source: no connection, or lost",
    ExitCode.SOURCE_AUTHENTICATION: "source: user or password refused",
    ExitCode.SOURCE_TLS: "source: TLS handshake failed or TLS mismatch",
    ExitCode.SOURCE_NOT_READY: "source: still loading, or waiting for its master",
    ExitCode.SOURCE_PERMISSION: "source: the user lacks a right",
    ExitCode.SOURCE_FULL: "source: out of memory",
    ExitCode.SOURCE_READ_ONLY: "source: refuses writes",
    ExitCode.SOURCE_REPLICATION: "source: its replication broke off",
    ExitCode.SOURCE_PROTOCOL: "source: an answer that is not understood",
    ExitCode.TARGET_UNREACHABLE: "target: no connection, or lost",
    ExitCode.TARGET_AUTHENTICATION: "target: user or password refused",
    ExitCode.TARGET_TLS: "target: TLS handshake failed or TLS mismatch",
    ExitCode.TARGET_NOT_READY: "target: still loading, or waiting for its master",
    ExitCode.TARGET_PERMISSION: "target: the user lacks a right",
    ExitCode.TARGET_FULL: "target: out of memory",
    ExitCode.TARGET_READ_ONLY: "target: read-only replica, or writes refused",
    ExitCode.TARGET_REPLICATION: "target: its replication of the source did not come to its end",
    ExitCode.TARGET_PROTOCOL: "target: an answer that is not understood",
    ExitCode.ORCHESTRATOR: "the flow orchestrator could not be started or lost the flow",
    ExitCode.ENVIRONMENT: "the applications' environment could not be read or written",
    ExitCode.INTERNAL: "a defect in Greenfly; please report it with the log",
    ExitCode.HUNG_UP: "stopped because the terminal was closed; the ledger is closed",
    ExitCode.INTERRUPTED: "stopped by Ctrl-C; the ledger is closed",
    ExitCode.TERMINATED: "stopped by SIGTERM; the ledger is closed",
}

_SERVER_OFFSET: tuple[tuple[type[errors.ServerError], int], ...] = (
    (errors.ServerUnreachable, 0),
    (errors.AuthenticationFailed, 1),
    (errors.TlsFailed, 2),
    (errors.ServerNotReady, 3),
    (errors.PermissionRefused, 4),
    (errors.ServerFull, 5),
    (errors.ServerReadOnly, 6),
    (errors.ReplicationFailed, 7),
)


def exit_code_for(error: errors.GreenflyError) -> ExitCode:
    """Return the exit code that belongs to *error*."""
    match error:
        case errors.ServerError():
            base = ExitCode.TARGET_UNREACHABLE if error.role == "target" else ExitCode.SOURCE_UNREACHABLE
            offset = next((o for kind, o in _SERVER_OFFSET if isinstance(error, kind)), 9)
            return ExitCode(base + offset)
        case errors.ConfigurationError():
            return ExitCode.USAGE
        case errors.Refused():
            return ExitCode.REFUSED
        case errors.LedgerError():
            return ExitCode.LEDGER
        case errors.ArtifactError():
            return ExitCode.ARTIFACT
        case errors.Undone():
            return ExitCode.UNDONE
        case errors.Unfinished():
            return ExitCode.UNFINISHED
        case errors.EnvironmentFailed():
            return ExitCode.ENVIRONMENT
        case errors.OrchestratorFailed():
            return ExitCode.ORCHESTRATOR
        case errors.Interrupted():
            return ExitCode(128 + error.signal_number)
        case _:
            return ExitCode.INTERNAL
