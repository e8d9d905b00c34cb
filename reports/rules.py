"""The rules of a run as a report shows them: what each says, and how many keys it left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from integrity.ledger.models import PhaseName
from reports import facts
from reports.display import counted, plain_text
from reports.facts import Facts

_ALSO: Final = {"json": "rejson-rl"}
"""Types that people call by another name than the server does."""


@dataclass(frozen=True, slots=True)
class RuleRow:
    """One rule that leaves keys out."""

    rule: str
    """The id under which keys are counted."""
    meaning: str
    stream: int | None
    """Keys that it left out of the copy; None where the copy did not tell, or there was none."""
    verify: int | None
    """Keys that it left out of the comparison."""


@dataclass(frozen=True, slots=True)
class RenameRow:
    """One rename of key beginnings."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class RulesView:
    """Which keys the run was about, and where they went."""

    left_out: tuple[RuleRow, ...]
    databases: tuple[int, ...] | None
    """The databases that the run was limited to; None for all."""
    database_map: Mapping[int, int]
    """Database of the source → of the target; the others keep their number."""
    renames: tuple[RenameRow, ...]
    """In the order in which they are tried."""
    stream_left_out: int | None
    verify_left_out: int | None
    """Keys of the source that all rules together left out of the comparison."""
    out_of_scope: int | None
    """Keys of the target that only keys outside the rules could have become."""
    sizes: bool
    """Whether a rule goes by the size of keys."""

    @property
    def any(self) -> bool:
        """Whether there is a rule at all."""
        return bool(self.left_out or self.databases is not None or self.database_map or self.renames)


def build_rules(settings: Facts, details: Mapping[PhaseName, Facts]) -> RulesView:
    """The rules that a run recorded, with what its phases counted under each."""
    recorded = facts.table(settings, "rules")
    verify = details.get(PhaseName.VERIFY, {})
    by_phase = {
        phase: _counts(details[phase]) if phase in details else None
        for phase in (PhaseName.STREAM, PhaseName.VERIFY)
    }
    stream, compared = by_phase[PhaseName.STREAM], by_phase[PhaseName.VERIFY]
    databases = settings.get("databases")
    return RulesView(
        left_out=tuple(_rows(recorded, stream, compared)),
        databases=tuple(databases) if isinstance(databases, list) else None,
        database_map={
            int(source): target
            for source, target in facts.table(recorded, "databases").items()
            if source.isdecimal() and isinstance(target, int)
        },
        renames=tuple(
            RenameRow(plain_text(str(rename.get("from", ""))), plain_text(str(rename.get("to", ""))))
            for rename in _list(recorded, "rename")
            if isinstance(rename, dict)
        ),
        stream_left_out=None if stream is None else sum(stream.values()),
        verify_left_out=None if compared is None else sum(compared.values()),
        out_of_scope=facts.integer(verify, "out_of_scope"),
        sizes=recorded.get("min_bytes") is not None or recorded.get("max_bytes") is not None,
    )


def _counts(detail: Facts) -> dict[str, int] | None:
    """Rule → keys; None where the phase did not come to tell."""
    if not isinstance(detail.get("excluded"), dict):
        return None
    excluded = facts.table(detail, "excluded")
    return {rule: count for rule in excluded if (count := facts.integer(excluded, rule)) is not None}


def _rows(
    recorded: Facts, stream: Mapping[str, int] | None, verify: Mapping[str, int] | None
) -> list[RuleRow]:
    """In the order in which a key is tried against the rules."""
    left = list(dict.fromkeys((*(stream or {}), *(verify or {}))))

    def row(rule: str, meaning: str, ids: list[str]) -> RuleRow:
        for taken in ids:
            if taken in left:
                left.remove(taken)

        def summed(counts: Mapping[str, int] | None) -> int | None:
            return None if counts is None else sum(counts.get(name, 0) for name in ids)

        return RuleRow(plain_text(rule), plain_text(meaning), summed(stream), summed(verify))

    def types(names: list[str]) -> list[str]:
        folded = {name.lower() for name in names}
        folded |= {_ALSO[name] for name in folded & _ALSO.keys()}
        return [name for name in left if name.removeprefix("type ").lower() in folded]

    include, exclude = _texts(recorded, "include"), _texts(recorded, "exclude")
    only, never = _texts(recorded, "include_types"), _texts(recorded, "exclude_types")
    rows = []
    if include:
        rows.append(row("include", f"only keys that match {_either(include)}", ["include"]))
    rows += [row(f"exclude {p}", f"no key that matches {p}", [f"exclude {p}"]) for p in exclude]
    rows += [row(f"type {name}", f"no key of type {name}", types([name])) for name in never]
    if only:
        others = [name for name in left if name.startswith("type ")]
        told = f" (left out: {', '.join(name.removeprefix('type ') for name in others)})" if others else ""
        rows.append(row("include_types", f"only keys of type {_either(only)}{told}", others))
    for rule, meaning in (
        ("min_bytes", "no key that uses less than"),
        ("max_bytes", "no key that uses more than"),
    ):
        limit = facts.integer(recorded, rule)
        if limit is not None:
            rows.append(row(rule, f"{meaning} {counted(limit, 'byte')} on the source", [rule]))
    rows += [row(rule, "a rule that the run's settings do not show", [rule]) for rule in tuple(left)]
    return rows


def _list(table: Facts, name: str) -> list[object]:
    value = table.get(name)
    return list(value) if isinstance(value, list) else []


def _texts(table: Facts, name: str) -> list[str]:
    return [text for text in _list(table, name) if isinstance(text, str)]


def _either(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"
