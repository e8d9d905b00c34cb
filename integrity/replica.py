"""Reading from a replica, so that the source itself is left alone: is it the source's, and has it caught up?"""

from __future__ import annotations

from time import monotonic, sleep

from integrity.endpoint import Endpoint, read_info
from integrity.errors import Refused, ServerNotReady

_PAUSE_SECONDS = 0.1


def require_caught_up(source: Endpoint, replica: Endpoint, wait_seconds: float) -> int:
    """Return when the replica has applied everything that the source had written by now; returns that offset.

    :raises Refused: it is not a replica of this source.
    :raises ServerNotReady: its link is down, or it does not catch up within *wait_seconds*.
    """
    with source.connect("check") as connection:
        ours = read_info(connection, b"replication")
    offset = int(ours.get("master_repl_offset", "0"))
    deadline = monotonic() + wait_seconds
    with replica.connect("check") as connection:
        while True:
            theirs = read_info(connection, b"replication")
            if theirs.get("role") != "slave":
                raise Refused(
                    f"Replica {replica} is no replica (its role is {theirs.get('role', 'not told')}).",
                    "Name a replica of the source in replica.url, or none.",
                )
            up = theirs.get("master_link_status") == "up" and theirs.get("master_sync_in_progress") == "0"
            # While it still shakes hands it does not know whom it follows.
            if up and theirs.get("master_replid") != ours.get("master_replid"):
                raise Refused(
                    f"Replica {replica} follows another server than {source}.",
                    "Name a replica of this source in replica.url, or none.",
                )
            if up and int(theirs.get("slave_repl_offset", "-1")) >= offset:
                return offset
            if monotonic() >= deadline:
                state = "has not caught up with the source" if up else "has lost its link to the source"
                raise ServerNotReady(
                    "source",
                    str(replica),
                    f"(a replica) {state}.",
                    "Repair replication, or read from the source.",
                )
            sleep(_PAUSE_SECONDS)
