"""Which ways of CLIENT TRACKING a server takes, tried on a connection of our own that is closed afterwards."""

from __future__ import annotations

from typing import Final

from integrity.endpoint import Endpoint
from integrity.errors import ProtocolError
from integrity.replies import ErrorReply
from integrity.wire import pack

_WAYS: Final[dict[str, tuple[bytes, ...]]] = {
    "BCAST": (b"BCAST", b"PREFIX", b"greenfly:probe:"),
    "OPTIN": (b"OPTIN",),
    "OPTOUT": (b"OPTOUT",),
    "NOLOOP": (b"NOLOOP",),
}
"""With a prefix that no key has, so that nothing is announced between the replies."""


def tracking_ways(endpoint: Endpoint) -> dict[str, bool]:
    """Way of tracking → whether the server takes it, over RESP3; empty where it has no RESP3.

    :raises ServerError: the server cannot be reached, or a push came between the replies.
    """
    with endpoint.connect("assess") as connection:
        hello = connection.exchange([pack(b"HELLO", b"3")])[0]
        if isinstance(hello, ErrorReply):
            return {}
        taken = {}
        for way, arguments in _WAYS.items():
            reply, off = connection.exchange(
                [pack(b"CLIENT", b"TRACKING", b"ON", *arguments), pack(b"CLIENT", b"TRACKING", b"OFF")]
            )
            if off != b"OK":
                raise ProtocolError(
                    endpoint.role,
                    str(endpoint),
                    "the answer to CLIENT TRACKING is not understood.",
                    "Assess again: keys may have been flushed at this moment.",
                )
            taken[way] = not isinstance(reply, ErrorReply)
    return taken
