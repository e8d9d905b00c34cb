"""The ACL file for a Dragonfly that takes over a Redis's users.

What was tried on Dragonfly 1.40: a file that is loaded replaces *all* users, and one without a line for ``default``
makes that user open, whatever ``--requirepass`` says; so the file always says something about ``default``.  Who
connects is ``default`` until the login, and a login needs a right too: also a user that is switched off keeps that.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from integrity.assess.acl_translation import TranslatedUser, translate_users
from integrity.assess.acl_users import read_acl
from integrity.endpoint import Endpoint
from integrity.errors import ConfigurationError, Refused

_CLOSED: Final = "USER default OFF resetchannels -@all +auth +hello +quit +reset"
_OPEN: Final = "USER default ON nopass ~* &* +@all"


@dataclass(frozen=True, slots=True)
class AclFile:
    """The users of a source, as the lines of a file."""

    users: tuple[TranslatedUser, ...]
    default: str
    """The line for ``default`` where the source's own says nothing; else empty."""
    notes: tuple[str, ...]
    """What the operator has to know."""

    @property
    def masked(self) -> tuple[str, ...]:
        """The lines without the hashes of passwords."""
        return (*filter(None, [self.default]), *(user.masked for user in self.users))

    def write(self, path: Path) -> None:
        """Write the file, readable for its owner only; it holds the hashes.

        :raises ConfigurationError: there is such a file, or it cannot be written.
        """
        lines = [*filter(None, [self.default]), *(user.line() for user in self.users)]
        data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be written ({error.strerror}).", "Name a file that does not exist yet."
            ) from error


def make_acl_file(source: Endpoint, target: Endpoint, *, grant_partly: bool = False) -> AclFile:
    """Translate every user of *source* for the Dragonfly *target*.

    :param grant_partly: see :func:`~integrity.assess.acl_translation.translate_users`.
    :raises Refused: the target is no Dragonfly, or the source does not show the hashes of its passwords.
    :raises PermissionRefused: the ACL of a server may not be read.
    """
    if target.identify().engine != "dragonfly":
        raise Refused(
            f"Target {target} is no Dragonfly, and takes the source's users as they are.",
            "Take their lines from ACL LIST on the source.",
        )
    users = translate_users(source, target, grant_partly=grant_partly)
    hidden = [user.name for user in users if user.user.hides_hashes]
    if hidden:
        raise Refused(
            f"Source {source} does not show the whole hashes of the passwords of {', '.join(hidden)}.",
            "Dragonfly does not; give these users new passwords on the target.",
        )
    default, notes = _default(users, target)
    notes += [f"{user.name}: {problem}." for user in users for problem in user.problems]
    notes += [
        f"{user.name}: {command.upper()} is refused as a whole; {', '.join(subs)} were permitted on the source."
        for user in users
        for command, subs in user.partly.items()
    ]
    notes += [
        f"{user.name}: {', '.join(user.lost)} cannot be permitted by a file." for user in users if user.lost
    ]
    kept = tuple(user for user in users if not (user.name == "default" and user.user.unrestricted))
    return AclFile(kept, default, tuple(notes))


def _default(users: list[TranslatedUser], target: Endpoint) -> tuple[str, list[str]]:
    notes = [
        "The file replaces all users of the target: add a line for Greenfly's own user, if it has one there."
    ]
    if any(user.name == "default" and not user.user.unrestricted for user in users):
        return "", notes
    open_there = any(user.name == "default" and user.without_password for user in read_acl(target))
    if open_there:
        return _OPEN, notes
    return _CLOSED, [
        *notes,
        "default has a password on the target, which Dragonfly does not show, and none on the source: the file "
        "switches it off. Write its line yourself (USER default ON #<SHA-256 of the password> ~* &* +@all); without "
        "one it would be open.",
    ]
