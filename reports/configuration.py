"""The settings of a run for people: what was chosen first, and what was left as it is by default behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Final

from integrity.settings import Settings, public_view
from reports.display import plain_text
from reports.facts import flatten

_GENERAL: Final = "general"


@dataclass(frozen=True, slots=True)
class ConfigurationRows:
    """Names and texts; a section's rows have names within it."""

    chosen: tuple[tuple[str, str], ...]
    """Dotted names of the settings that differ from the defaults of this version."""
    defaults: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """By section, those without a section last."""


def configuration_rows(configuration: Mapping[str, object]) -> ConfigurationRows:
    """The settings that a run recorded, beside this version's defaults."""
    usual = _usual()
    chosen: list[tuple[str, str]] = []
    sections: dict[str, list[tuple[str, str]]] = {}
    for name, value in configuration.items():
        section = plain_text(name).replace("_", " ") if isinstance(value, dict) and value else _GENERAL
        for dotted, shown in flatten({name: value}):
            if usual.get(dotted) == shown:
                inner = dotted if section == _GENERAL else dotted.split(".", 1)[1]
                sections.setdefault(section, []).append((inner, shown))
            else:
                chosen.append((dotted, shown))
    general = sections.pop(_GENERAL, [])
    rows = {**sections, **({_GENERAL: general} if general else {})}
    return ConfigurationRows(
        tuple(chosen), tuple((name, tuple(_joined(inner))) for name, inner in rows.items())
    )


def _joined(rows: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Settings of one inner table as one: ``rules.errors`` and ``enabled yes, limit 10``."""
    for parent, group in groupby(rows, key=lambda row: row[0].rpartition(".")[0]):
        if parent:
            yield parent, f"({', '.join(f'{name[len(parent) + 1 :]} {value}' for name, value in group)})"
        else:
            yield from group


@cache
def _usual() -> Mapping[str, str]:
    # Without the environment, which is not what the run had.
    return dict(flatten(public_view(Settings.model_construct())))
