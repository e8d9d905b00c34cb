"""The whole matrix: sources loaded once, then one migration for each ordered pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tests.matrix.cases import CASES
from tests.matrix.facets import Reader
from tests.matrix.judge import Cell, judge, whole_run_problems
from tests.matrix.loader import Case, load_cases
from tests.matrix.pair import migrate_pair
from tests.matrix.servers import Program, Server


@dataclass(frozen=True, slots=True)
class Pair:
    """Everything about one migration."""

    source: Program
    target: Program
    verdict: str
    cells: dict[str, Cell]
    """By case; a case that the source cannot hold is not there."""
    wrong: tuple[str, ...]
    """What is wrong with the run as a whole."""

    @property
    def problems(self) -> list[str]:
        """All that makes the command fail."""
        way = f"{self.source.title} → {self.target.title}"
        return [f"{way}: {text}" for text in self.wrong] + [
            f"{way}: {name}: {text}" for name, cell in self.cells.items() for text in cell.wrong
        ]


def run_matrix(
    programs: Sequence[Program], say: Callable[[str], None], cases: Sequence[Case] = CASES
) -> list[Pair]:
    """Every ordered pair of *programs*, each also with a second server of its own version."""
    pairs: list[Pair] = []
    with ExitStack() as stack:
        sources = [Server.of(p, stack.enter_context(p.start())) for p in programs]
        loaded = [(source, load_cases(source, cases)) for source in sources]
        for program in programs:
            with program.start() as running:
                target = Server.of(program, running)
                for source, held in loaded:
                    pair = run_pair(source, target, held)
                    pairs.append(pair)
                    say(f"{source.title} → {target.title}: {_summary(pair)}")
    return pairs


def run_pair(source: Server, target: Server, cases: Sequence[Case]) -> Pair:
    """One migration of *cases*, judged."""
    told = migrate_pair(source, target)
    with Reader(source) as ours, Reader(target) as theirs:
        cells = {
            case.name: judge(case, source, target, told, ours.facts(case.place), theirs.facts(case.place))
            for case in cases
        }
        wrong = whole_run_problems(cells, told, cases, theirs.keys())
    return Pair(source.program, target.program, told.verdict, cells, tuple(wrong))


def _summary(pair: Pair) -> str:
    cells = pair.cells.values()
    passed, expected = sum(c.passed for c in cells), sum(c.expected for c in cells)
    text = f"{passed} PASS, {expected} expected, {len(pair.cells) - passed - expected} findings"
    return f"{text}, {len(pair.problems)} WRONG" if pair.problems else text
