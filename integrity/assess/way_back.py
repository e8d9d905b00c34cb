"""What can be read back from green into blue's version, kind by kind.

By blue's own table of commands where that decides, else by its version; every line was seen in a real migration
(``docs/matrix.md``, the tables headed "Back from").
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from integrity.assess.versions import version_of
from integrity.endpoint import Identity

Carried = Literal["whole", "partly", "not"]


@dataclass(frozen=True, slots=True)
class WayBack:
    """One kind of value."""

    kind: str
    carried: Carried
    lost: str = ""
    """What does not come back, where something does not."""
    used_by: frozenset[str] = frozenset()
    """Commands that applications use for it, lower case; one that ends with a dot stands for all that begin so."""

    def uses(self, commands: Iterable[str]) -> list[str]:
        """Those of *commands* that are about this kind."""
        return sorted(
            name for name in commands if name in self.used_by or f"{name.partition('.')[0]}." in self.used_by
        )


def ways_back(green: Identity, blue: Identity, known_by_blue: Collection[str]) -> tuple[WayBack, ...]:
    """Every kind that green can hold.

    :param known_by_blue: blue's commands, lower case.
    """
    plain = tuple(
        WayBack(kind, "whole")
        for kind in (
            "strings, bitmaps, HyperLogLogs",
            "lists",
            "sets",
            "hashes",
            "sorted sets, geo",
            "expiries",
        )
    )
    expire = not {"hpexpireat", "hsetex"}.isdisjoint(known_by_blue)
    fields = WayBack(
        "expiries of hash fields",
        "whole" if expire else "not",
        "" if expire else "the fields come back and never expire",
        frozenset({"hexpire", "hpexpire", "hexpireat", "hpexpireat", "hsetex", "hgetex", "fieldexpire"}),
    )
    if green.engine != "dragonfly":
        return (*plain, _stream(blue, newer=_newer(green, blue)), fields)
    json = "json.set" in known_by_blue
    return (
        *plain,
        _stream(blue, newer=version_of(blue.version) < (7, 2) and blue.engine == "redis"),
        fields,
        WayBack(
            "expiries of set members",
            "not",
            "the members come back and never expire",
            frozenset({"saddex", "fieldexpire"}),
        ),
        WayBack(
            "JSON",
            "whole" if json else "not",
            "" if json else "blue has no JSON; the keys do not",
            frozenset({"json."}),
        ),
        WayBack(
            "Bloom and cuckoo filters, sketches, top-k",
            "not",
            "the keys do not",
            frozenset({"bf.", "cf.", "cms.", "topk."}),
        ),
    )


def _newer(green: Identity, blue: Identity) -> bool:
    return blue.engine == "redis" and version_of(blue.version) < min((7, 2), version_of(green.version))


def _stream(blue: Identity, *, newer: bool) -> WayBack:
    """Streams of a newer server are made again with typed commands."""
    used = frozenset({"xgroup", "xreadgroup", "xack", "xclaim", "xautoclaim"})
    if not newer:
        return WayBack("streams", "whole", used_by=used)
    lost = "when each consumer of a group was last seen"
    if version_of(blue.version) < (7, 0):
        lost += ", and how many entries a group has read"
    return WayBack("streams", "partly", lost, used)
