"""The matrix as a page of Markdown: three tables, and footnotes with every finding's own text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final

from tests.matrix.expected import EXPECTATIONS
from tests.matrix.facets import Facet
from tests.matrix.judge import Cell
from tests.matrix.pair import Recorded
from tests.matrix.run import Pair
from tests.matrix.servers import Program

_NUMBERS: Final = re.compile(r"\d[\d,]{6,}")
_OUTSIDE: Final[dict[Facet, str]] = {
    "entries-read": "A group's entries-read (source → target)",
    "last seen": "When consumers were last seen: another time for",
    "delivery time": "When pending entries were delivered: another time for",
    "sign of zero": "Sorted set:",
}


class _Footnotes:
    """Each text once, numbered in the order in which they come up."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, text: str) -> str:
        """``[^1]``"""
        number = self._numbers.setdefault(text, len(self._numbers) + 1)
        return f"[^{number}]"

    def lines(self) -> list[str]:
        return [f"[^{number}]: {text}" for text, number in self._numbers.items()]


def render_page(pairs: Sequence[Pair], cases: Sequence[str], when: datetime) -> str:
    """The whole page.

    :param cases: names of all cases, in the order of the tables.
    :param when: aware, UTC.
    """
    notes = _Footnotes()
    programs = list(dict.fromkeys(pair.source for pair in pairs))
    dragonfly = [program for program in programs if program.engine == "dragonfly"]
    family = [program for program in programs if program.engine != "dragonfly"]
    lines = [*_head(pairs, programs, cases, when)]
    for program in dragonfly:
        into = [pair for pair in pairs if pair.target == program]
        back = [pair for pair in pairs if pair.source == program and pair.target != program]
        lines += ["", f"## Into {program.title}", "", "Columns are the sources."]
        lines += ["", *_table(into, cases, lambda pair: pair.source, notes)]
        lines += ["", f"## Back from {program.title}", "", "Columns are the targets."]
        lines += ["", *_table(back, cases, lambda pair: pair.target, notes)]
    within = [pair for pair in pairs if pair.source in family and pair.target in family]
    lines += ["", "## Between Redis and Valkey", "", *_grid(within, family)]
    lines += ["", *_by_target(within, family, cases, notes)]
    return "\n".join([*lines, "", "## Footnotes", "", *notes.lines(), ""])


def _head(
    pairs: Sequence[Pair], programs: Sequence[Program], cases: Sequence[str], when: datetime
) -> list[str]:
    cells = [cell for pair in pairs for cell in pair.cells.values()]
    passed, expected = sum(cell.passed for cell in cells), sum(cell.expected for cell in cells)
    wrong = sum(len(pair.problems) for pair in pairs)
    return [
        "# The matrix: every kind on every version",
        "",
        "Generated; do not edit. Written by",
        "",
        "```sh",
        "make matrix SERVERS='PATH PATH …'    # python -m tests.matrix --server PATH … --out docs/matrix.md",
        "```",
        "",
        f"on {when:%Y-%m-%d %H:%M} UTC with {', '.join(program.title for program in programs)}.",
        "",
        f"{len(cases)} cases. Each source was loaded with every case that it can hold, with the commands that an "
        f"application would use; for each of the {len(pairs)} ordered pairs of servers (a version with a second server "
        "of its own, too) a real migration ran, with pieces of big values set to 32 KiB. A cell is what that run's "
        "ledger says about the key. An oracle that shares no code with Greenfly read both servers as well.",
        "",
        "| cells | PASS | expected difference | finding | disagreements with the oracle, unexpected differences |",
        "|---|---|---|---|---|",
        f"| {len(cells):,} | {passed:,} | {expected:,} | {len(cells) - passed - expected:,} | {wrong:,} |",
        "",
        "- **PASS**: equal, and both Greenfly and the oracle say so. A footnote on a PASS is what the oracle sees "
        "beyond Greenfly's definition of equality ([checksum.md](checksum.md)).",
        "- *expected*: a difference that a rule of the run covers; named by the rule's id, listed in the report, "
        "verdict PASS WITH EXCEPTIONS.",
        "- classes of findings in bold: an open finding; the verdict is FAIL or INCONCLUSIVE.",
        "- –: the source cannot hold it.",
        "",
        "Why there are differences:",
        "",
        *(f"- `{e.cases.strip(' ,')}`: {e.reason}" for e in EXPECTATIONS),
    ]  # fmt: skip


def _table(
    pairs: Sequence[Pair], cases: Sequence[str], column: Callable[[Pair], Program], notes: _Footnotes
) -> list[str]:
    lines = _header(["case", *(column(pair).title for pair in pairs)])
    lines.append(_row(["*verdict*", *(f"*{pair.verdict}*" for pair in pairs)]))
    for case in cases:
        shown = [_cell(pair.cells.get(case), notes) for pair in pairs]
        if set(shown) != {"–"}:
            lines.append(_row([case, *shown]))
    return lines


def _grid(pairs: Sequence[Pair], family: Sequence[Program]) -> list[str]:
    """Source by target: how many cells of each sort."""
    found = {(pair.source, pair.target): pair for pair in pairs}
    lines = ["PASS / expected / findings; rows are the sources, columns the targets."]
    lines += ["", *_header(["", *(program.title for program in family)])]
    for source in family:
        lines.append(_row([source.title, *(_counts(found[source, target]) for target in family)]))
    return lines


def _counts(pair: Pair) -> str:
    cells = pair.cells.values()
    passed, expected = sum(cell.passed for cell in cells), sum(cell.expected for cell in cells)
    return f"{passed} / {expected} / {len(cells) - passed - expected}"


def _by_target(
    pairs: Sequence[Pair], family: Sequence[Program], cases: Sequence[str], notes: _Footnotes
) -> list[str]:
    """Cases that are not PASS everywhere, by target; where sources differ, each outcome names its sources."""
    rows, clean = [], []
    for case in cases:
        held = [pair for pair in pairs if case in pair.cells]
        if not held:
            continue
        if all(pair.cells[case].passed and not pair.cells[case].outside for pair in held):
            clean.append(case)
            continue
        by_target = ([pair for pair in held if pair.target == target] for target in family)
        rows.append(_row([case, *(_outcomes(pairs_to, case, notes) for pairs_to in by_target)]))
    lines = [
        f"PASS from every source that can hold it to every target, {len(clean)} cases: {', '.join(clean)}."
    ]
    if rows:
        lines += ["", "The other cases; columns are the targets:", ""]
        lines += [*_header(["case", *(program.title for program in family)]), *rows]
    return lines


def _outcomes(pairs: Sequence[Pair], case: str, notes: _Footnotes) -> str:
    sources: dict[str, list[str]] = {}
    for pair in pairs:
        sources.setdefault(_cell(pair.cells[case], notes), []).append(pair.source.title)
    if len(sources) == 1:
        return next(iter(sources))
    return "<br>".join(f"{text} from {', '.join(titles)}" for text, titles in sources.items())


def _cell(cell: Cell | None, notes: _Footnotes) -> str:
    if cell is None:
        return "–"
    beyond = "".join(
        notes.mark(f"Not compared. {_OUTSIDE[facet]} {text}.") for facet, text in cell.outside.items()
    )
    marks = "".join(dict.fromkeys(notes.mark(_note(finding)) for finding in cell.findings))
    if cell.passed:
        return f"PASS{beyond}"
    if cell.expected:
        rules = ", ".join(_distinct(finding.rule or "" for finding in cell.findings))
        return f"*expected: {rules}*{marks}{beyond}"
    return f"**{', '.join(_distinct(finding.name for finding in cell.findings))}**{marks}{beyond}"


def _note(finding: Recorded) -> str:
    """A finding's class, rule and text; how far apart two expiries are changes with every run."""
    detail = _NUMBERS.sub("…", finding.detail) if finding.name == "expiry" else finding.detail
    rule = f" (rule `{finding.rule}`)" if finding.rule else ""
    return f"`{finding.name}`{rule}: {detail.replace(f' (rule {finding.rule})', '')}"


def _distinct(names: Iterable[str]) -> list[str]:
    return list(Counter(names))


def _header(titles: Sequence[str]) -> list[str]:
    return [_row(titles), "|" + "---|" * len(titles)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
