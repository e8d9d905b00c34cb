"""Servers as they are when something has ended, for whoever lays them beside what they were before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from integrity.endpoint import Endpoint
from integrity.errors import GreenflyError

UNKNOWN: Final = "unknown"
"""In the place of a server's facts: why there are none."""


def seen_now(endpoints: Iterable[Endpoint], *, patience: float | None = None) -> dict[str, dict[str, object]]:
    """Role → facts of the server; of one that cannot be asked, why not.  Nothing is raised: all is done already.

    :param patience: seconds after which a server is given up; as configured where there is none.
    """
    return {endpoint.role: _seen(endpoint, patience) for endpoint in endpoints}


def _seen(endpoint: Endpoint, patience: float | None) -> dict[str, object]:
    if patience is not None:
        endpoint = Endpoint(replace(endpoint.target, connect_timeout=patience, io_timeout=patience))
    try:
        return endpoint.identify().to_dict()
    except GreenflyError as error:
        return {UNKNOWN: error.problem}
