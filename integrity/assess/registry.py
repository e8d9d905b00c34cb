"""All checks, in the order in which they are made, and the choice of some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from integrity.assess import (
    checks_capacity,
    checks_clients,
    checks_cluster,
    checks_commands,
    checks_data,
    checks_native,
    checks_rights,
    checks_rollback,
    checks_scripts,
    checks_time,
    checks_users,
)
from integrity.assess.model import Check
from integrity.errors import ConfigurationError

_PARTS: Final = (
    checks_commands,
    checks_scripts,
    checks_clients,
    checks_cluster,
    checks_users,
    checks_data,
    checks_capacity,
    checks_rights,
    checks_time,
    checks_rollback,
    checks_native,
)


@dataclass(frozen=True, slots=True)
class Selection:
    """The checks that are made, and those that are not because somebody said so."""

    chosen: tuple[Check, ...]
    left_out: tuple[str, ...] = ()
    """Ids."""


@cache
def all_checks() -> tuple[Check, ...]:
    """Every check."""
    checks = tuple(check for part in _PARTS for check in part.CHECKS)
    ids = [check.id for check in checks]
    twice = {name for name in ids if ids.count(name) > 1}
    if twice:
        raise ValueError(f"several checks are called {', '.join(sorted(twice))}")
    return checks


def select_checks(
    only: Sequence[str] = (), skip: Sequence[str] = (), checks: Sequence[Check] | None = None
) -> Selection:
    """The checks that *only* and *skip* leave; each name is an id, or the part of ids before the dot.

    :raises ConfigurationError: a name that no check has, or no check is left.
    """
    known = tuple(checks) if checks is not None else all_checks()
    names = {check.id for check in known} | {_group(check.id) for check in known}
    wrong = [name for name in (*only, *skip) if name not in names]
    if wrong:
        raise ConfigurationError(
            f"No check is called {', '.join(repr(name) for name in wrong)}.",
            f"There are: {', '.join(check.id for check in known)}; or only the part before the dot.",
        )
    chosen = tuple(check for check in known if (not only or _named(check, only)) and not _named(check, skip))
    if not chosen:
        raise ConfigurationError("No check is left to be made.", "Name fewer in --skip, or others in --only.")
    return Selection(chosen, tuple(check.id for check in known if check not in chosen))


def find_check(name: str) -> Check:
    """The check with this id.

    :raises ConfigurationError: there is none.
    """
    for check in all_checks():
        if check.id == name:
            return check
    raise ConfigurationError(
        f"No check is called {name!r}.", "`greenfly assess --list` prints all, with what each can find."
    )


def _named(check: Check, names: Sequence[str]) -> bool:
    return check.id in names or _group(check.id) in names


def _group(name: str) -> str:
    return name.partition(".")[0]
