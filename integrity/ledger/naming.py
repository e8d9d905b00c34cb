"""Names for runs, operators and processes."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
from datetime import UTC, datetime


def new_run_id() -> str:
    """``20261123-004829-3f9a1c``: sorts by time, readable aloud."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def operator_name() -> str:
    """Who runs this process, as the operating system knows them."""
    try:
        return os.environ.get("GREENFLY_OPERATOR") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def process_name() -> str:
    """``host:pid``, the owner of a lease."""
    return f"{socket.gethostname()}:{os.getpid()}"
