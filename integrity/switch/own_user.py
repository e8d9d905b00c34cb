"""A user of Greenfly's own, for writing to a server on which the applications' user is refused.

Its password is made up here, kept in memory and stored nowhere: a fenced user can still run ACL, which is no write, so
any later process makes itself another one.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final

from integrity.cluster.members import Member, on_each, read_members
from integrity.endpoint import Endpoint
from integrity.errors import GreenflyError
from integrity.switch.access import delete_users, set_rules, user_names

_NAME: Final = re.compile(r"greenfly-[0-9a-f]{16}")


def elevated(endpoint: Endpoint) -> Endpoint:
    """Create a user with every right, on every node where there are several, and return the same reached as that user.

    The user stays until :meth:`~integrity.switch.fence.Fence.lift` deletes it, or the server restarts.

    :raises PermissionRefused: the endpoint's own user may not create users.
    :raises ServerError: the server has no ACL, or cannot be reached.
    """
    name, password = f"greenfly-{secrets.token_hex(8)}", secrets.token_hex(32)

    def create(member: Member) -> None:
        with member.endpoint.connect("fence") as connection:
            set_rules(connection, [(name, ["on", f">{password}", "~*", "&*", "+@all"])])

    # Replicas too: one of them may be the master next.
    on_each(read_members(endpoint), create)
    target = endpoint.target
    address = replace(target.address, username=name, password=None)
    own = Endpoint(replace(target, address=address, username=name, password=password))
    own.connect("fence").close()
    return own


@contextmanager
def borrowed(endpoint: Endpoint) -> Iterator[Endpoint]:
    """As :func:`elevated`, for as long as the block lasts; then the user and its connections are gone.

    :raises PermissionRefused: the endpoint's own user may not create users.
    :raises ServerError: the server has no ACL, or cannot be reached.
    """
    own = elevated(endpoint)
    name = own.target.username or ""

    def delete(member: Member) -> None:
        with member.endpoint.connect("fence") as connection:
            delete_users(connection, [name])

    try:
        yield own
    finally:
        # Where that cannot be done now, lifting the fence does it.
        with suppress(GreenflyError):
            on_each(read_members(endpoint), delete)


def temporary(names: Iterable[str]) -> list[str]:
    """Those of *names* that :func:`elevated` made, in whatever process."""
    return [name for name in names if _NAME.fullmatch(name)]


def leftovers(endpoint: Endpoint) -> list[str]:
    """Users that :func:`elevated` made and that are still there.

    :raises ServerError: the server has no ACL, or cannot be reached.
    """
    found: list[str] = []

    def look(member: Member) -> None:
        with member.endpoint.connect("fence") as connection:
            found.extend(temporary(user_names(connection)))

    on_each(read_members(endpoint), look)
    return list(dict.fromkeys(found))
