"""What the files of a bundle say, laid beside each other: the chain, the checkpoints, the report, the findings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, Final, TypeVar

from integrity.audit import names
from integrity.audit.chain_file import EventLine, walk_file
from integrity.audit.frame import Frame
from integrity.audit.keeping import KeptLine, kept_line
from integrity.audit.keys import PublicKey, Trust
from integrity.audit.manifest import FileEntry
from integrity.audit.model import Facts, Problem, ProblemKind, Span
from integrity.audit.report_file import count_csv_rows, count_parquet_rows, holds_title, read_report
from integrity.audit.side_files import read_artifacts, read_facts, read_keys
from integrity.audit.texts import Table, lines, shown
from integrity.audit.witness import Testimony, Witness
from integrity.ledger.audit import ChainWalk

T = TypeVar("T")

_ENDINGS: Final = frozenset({"run.finished", "run.failed", "run.interrupted"})
_BEGINNINGS: Final = frozenset({"run.started", "run.resumed"})
_MOST_ROWS_TOLD: Final = 20


class ContentCheck:
    """One examination of the contents of a bundle.

    Files that are not as they were exported are not read, but for the chain, which itself tells where it is broken.
    """

    def __init__(self, frame: Frame, trust: Trust) -> None:
        self._files = frame.whole
        self._damaged = frame.damaged
        self._entries: Mapping[str, FileEntry] = frame.manifest.by_name() if frame.manifest else {}
        self._trust = trust
        self.problems: list[Problem] = []
        self.facts: Facts | None = None
        self.testimony = Testimony(())
        self._events: dict[int, tuple[str, str]] = {}
        """Of the run: sequence number → kind, hash."""
        self._written: Counter[tuple[str, ...]] = Counter()
        self._ending: EventLine | None = None
        """The run's last beginning or end."""

    @property
    def last_event(self) -> int:
        """Number of the run's newest event; 0 for none."""
        return max(self._events, default=0)

    def run(self) -> None:
        """Everything."""
        for name in sorted(names.ALWAYS - self._entries.keys()):
            if self._entries and name not in self._damaged:
                self._add(ProblemKind.MISSING, "the manifest does not list it, and every bundle has it", name)
        self.facts = self._read(names.FACTS, read_facts)
        claimed = self._read(names.KEYS, read_keys) or {}
        kept = self._checkpoints()
        self._chain(kept, claimed)
        if self.facts is not None:
            self._report(self.facts)
            self._findings(self.facts)
        self._artifacts()

    # -- chain and checkpoints ----------------------------------------------------------------------------------

    def _checkpoints(self) -> list[KeptLine]:
        def read(file: BinaryIO) -> list[KeptLine]:
            return [kept_line(f"{names.CHECKPOINTS}, line {n}", line) for n, line in lines(file)]

        return self._read(names.CHECKPOINTS, read) or []

    def _chain(self, kept: list[KeptLine], claimed: Mapping[str, PublicKey]) -> None:
        whole = self._files.get(names.CHAIN)
        file = whole or self._damaged.get(names.CHAIN)
        if file is None:
            return
        witness, walk, facts = Witness(self._trust, claimed), ChainWalk(), self.facts
        for line in kept:
            witness.expect(line)
        in_file = {line.checkpoint.signature for line in kept if line.checkpoint is not None}
        ledger, broken = None, False
        with file() as opened:
            previous = (0, "")
            for read in walk_file(opened, walk):
                if read.problem is not None or read.event is None:
                    broken = True
                    self.problems.append(
                        Problem(
                            ProblemKind.CHAIN,
                            read.problem or "it is no event",
                            names.CHAIN,
                            lines=Span(read.number, read.number),
                            event=walk.events + 1,
                        )
                    )
                    break
                event = read.event
                ledger = ledger or event.hash
                witness.see(event.sequence, event.hash)
                if isinstance(event, EventLine):
                    heard = witness.hear(event, previous)
                    if heard is not None and heard.checkpoint and heard.checkpoint.signature not in in_file:
                        self._add(
                            ProblemKind.MISSING,
                            f"the checkpoint that {heard.place} records is missing",
                            names.CHECKPOINTS,
                        )
                    if facts is not None and event.run_id == facts.run_id:
                        self._note(event)
                previous = (event.sequence, event.hash)
        self.testimony = Testimony(tuple(witness.statements(walk.events)))
        for statement in self.testimony.contradictions:
            self._add(ProblemKind.CHECKPOINT, statement.problem or "", statement.place)
        if facts is None or broken or whole is None:
            return
        if (walk.events, walk.head) != (facts.events, facts.head):
            self._add(
                ProblemKind.CONTRADICTION,
                f"it says that the chain has {facts.events:,} events, and {names.CHAIN} has {walk.events:,}, or other "
                "ones",
                names.FACTS,
            )
        if ledger != facts.ledger:
            self._add(ProblemKind.CONTRADICTION, "it names another ledger than the chain is of", names.FACTS)
        if not self._events:
            self._add(ProblemKind.CONTRADICTION, f"it holds no event of run {facts.run_id}", names.CHAIN)

    def _note(self, event: EventLine) -> None:
        """Keep what other files have to agree with."""
        self._events[event.sequence] = (event.kind, event.hash)
        if event.kind in _ENDINGS or event.kind in _BEGINNINGS:
            self._ending = event
        elif event.kind == "artifact.written":
            payload = _payload(event)
            self._written[tuple(str(payload.get(name)) for name in ("kind", "name", "size", "sha256"))] += 1

    # -- the report ----------------------------------------------------------------------------------------------

    def _report(self, facts: Facts) -> None:
        page = self._files.get(names.REPORT_HTML)
        if page is not None:
            with page() as file:
                if not holds_title(file, facts.run_id):
                    self._add(
                        ProblemKind.CONTRADICTION,
                        f"it is not the report of run {facts.run_id}",
                        names.REPORT_HTML,
                    )
        report = self._read(names.REPORT_JSON, read_report)
        if report is None:
            return
        for text in self._report_contradictions(report.head, facts):
            self._add(ProblemKind.CONTRADICTION, text, names.REPORT_JSON)
        counted = _sum_of_counts(report.head)
        for name, number in (("its own counts", counted), (names.FACTS, facts.findings)):
            if number != report.findings:
                self._add(
                    ProblemKind.CONTRADICTION,
                    f"it lists {report.findings:,} findings, and {name} says {number}",
                    names.REPORT_JSON,
                )

    def _report_contradictions(self, head: Table, facts: Facts) -> Iterator[str]:
        run, verdict, integrity = (_table(head, name) for name in ("run", "verdict", "integrity"))
        if run.get("run_id") != facts.run_id:
            yield f"it is the report of run {shown(run.get('run_id'))}, not of {facts.run_id}"
            return
        if names.CHAIN not in self._files or not self._events:
            return
        state, said = "running", None
        if self._ending is not None and self._ending.kind in _ENDINGS:
            state, said = self._ending.kind.removeprefix("run."), _payload(self._ending).get("verdict")
        if verdict.get("verdict") != said:
            yield f"its verdict is {shown(verdict.get('verdict'))}, and the chain says {shown(said)}"
        if verdict.get("state") != state:
            yield f"it says that the run is {shown(verdict.get('state'))}, and the chain says {shown(state)}"
        events = integrity.get("events")
        if not isinstance(events, int) or not 0 < events <= facts.events:
            yield "it counts more events than the chain has"
            return
        timeline = head.get("timeline")
        told = {
            row.get("sequence"): (row.get("kind"), row.get("hash"))
            for row in (timeline if isinstance(timeline, list) else [])
            if isinstance(row, dict)
        }
        for number, event in self._events.items():
            if told.pop(number, None if number <= events else event) != event:
                yield f"its timeline does not hold event {number} as the chain does"
                return
        if told:
            yield f"its timeline holds event {shown(next(iter(told)))}, which the chain does not have for this run"

    # -- findings and artifacts ----------------------------------------------------------------------------------

    def _findings(self, facts: Facts) -> None:
        counts: tuple[tuple[str, Callable[[BinaryIO], int]], ...] = (
            (names.FINDINGS_CSV, count_csv_rows),
            (names.FINDINGS_PARQUET, count_parquet_rows),
        )
        for name, count in counts:
            rows = self._read(name, count)
            if rows is not None and rows != facts.findings:
                self._add(
                    ProblemKind.CONTRADICTION,
                    f"it holds {rows:,} findings, and {names.FACTS} says {facts.findings:,}",
                    name,
                )

    def _artifacts(self) -> None:
        rows = self._read(names.ARTIFACTS, read_artifacts)
        if rows is None or names.CHAIN not in self._files or not self._events:
            return
        listed: Counter[tuple[str, ...]] = Counter()
        included = set()
        for row in rows:
            listed[row.kind, row.name, str(row.size), row.sha256] += 1
            if row.file is None:
                continue
            included.add(row.file)
            entry = self._entries.get(row.file)
            if entry is None or (entry.size, entry.sha256) != (row.size, row.sha256):
                self._add(
                    ProblemKind.CONTRADICTION,
                    f"it says that {shown(row.file)} is {shown(row.name)}, and that is another file",
                    names.ARTIFACTS,
                )
        odd = [(one, "the chain does not record") for one in listed - self._written]
        odd += [(one, "it does not list") for one in self._written - listed]
        for one, text in odd[:_MOST_ROWS_TOLD]:
            self._add(
                ProblemKind.CONTRADICTION,
                f"{text} {shown(one[1])} with SHA-256 {shown(one[3])}",
                names.ARTIFACTS,
            )
        for name in self._entries.keys() - names.ALWAYS - included:
            self._add(ProblemKind.EXTRA, f"neither a part of every bundle nor in {names.ARTIFACTS}", name)

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _read(self, name: str, read: Callable[[BinaryIO], T]) -> T | None:
        file = self._files.get(name)
        if file is None:
            return None
        try:
            with file() as opened:
                return read(opened)
        except ValueError as error:
            self._add(ProblemKind.FORMAT, str(error), name)
            return None

    def _add(self, kind: ProblemKind, text: str, file: str) -> None:
        self.problems.append(Problem(kind, text, file))


def _table(table: Table, name: str) -> Table:
    value = table.get(name)
    return value if isinstance(value, dict) else {}


def _payload(event: EventLine) -> Table:
    try:
        value = json.loads(event.payload)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _sum_of_counts(head: Table) -> int | None:
    """Findings of all classes in all states."""
    rows = head.get("finding_counts")
    total = 0
    for row in rows if isinstance(rows, list) else []:
        states = row.get("by_state") if isinstance(row, dict) else None
        for number in states.values() if isinstance(states, dict) else ():
            if not isinstance(number, int):
                return None
            total += number
    return total
