"""``migrate --from-rdb``: every kind of value in every encoding, out of the file of each server into each target.

The oracle reads the server that wrote the file before it is stopped, and the target afterwards.  On the servers on
PATH, and on those that GREENFLY_TEST_MORE_SERVERS names.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from flows.sequence import migrate_file
from greenfly.demo.servers import find_dragonfly, find_redis_server
from integrity.ledger import open_ledger
from integrity.ledger.models import FindingState
from integrity.progress import Silent
from integrity.settings import load_settings
from tests.fencing import each_program
from tests.matrix.cases import CASES
from tests.matrix.facets import Facts, Reader
from tests.matrix.judge import Cell, judge
from tests.matrix.loader import Case, load_cases
from tests.matrix.pair import BIG_BYTES, Migrated, Recorded
from tests.matrix.servers import Program, Server, read_programs
from tests.rdb_files import save


@dataclass(frozen=True, slots=True)
class Saved:
    """A file and what the oracle saw on the server that wrote it."""

    server: Server
    """Stopped by now."""
    path: Path
    cases: list[Case]
    facts: list[Facts]


@pytest.fixture(scope="module", params=each_program())
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Every case of the matrix in one file."""
    program = request.param
    assert isinstance(program, Program)
    with program.start() as running:
        server = Server.of(program, running)
        # Streams go by RESTORE, however big they are.
        cases = [
            replace(case, big=case.big and not case.name.startswith("stream/"))
            for case in load_cases(server, CASES)
        ]
        path = tmp_path_factory.mktemp("rdb") / "saved.rdb"
        shutil.copy(save(server.url, server.engine), path)
        with Reader(server) as oracle:
            facts = [oracle.facts(case.place) for case in cases]
    return Saved(server, path, cases, facts)


@pytest.fixture(params=["redis", pytest.param("dragonfly", marks=pytest.mark.dragonfly)])
def target(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of its own for each file: a file of Dragonfly's holds what only another Dragonfly takes."""
    path = find_redis_server() if request.param == "redis" else find_dragonfly()
    if path is None:
        pytest.skip(f"no {request.param} on PATH")
    (program,) = read_programs([path])
    with program.start() as running:
        yield Server.of(program, running)


def load(path: Path, target: Server, state_dir: Path) -> Migrated:
    """Migrate a file, and what its ledger says about each key."""
    settings = load_settings(
        {
            "target": {"url": target.url},
            "state_dir": state_dir,
            "throttle": {"enabled": False},
            "big_values": {
                "threshold_bytes": BIG_BYTES,
                "piece_bytes": 32 * 1024,
                "piece_elements": 500,
            },
        },
        environ={},
    ).settings
    outcome = migrate_file(settings, path, Silent())
    ledger = open_ledger(settings)
    found: dict[bytes, list[Recorded]] = {}
    for finding in ledger.findings(outcome.run_id):
        if finding.state is not FindingState.SETTLED:
            recorded = Recorded(finding.finding_class.value, finding.rule, finding.detail or "")
            found.setdefault(finding.key, []).append(recorded)
    ledger.close()
    verdict = outcome.verdict.value if outcome.verdict else "none"
    return Migrated(verdict, {key: tuple(findings) for key, findings in found.items()}, 0)


def test_every_kind_of_value_arrives_or_is_named(saved: Saved, target: Server, tmp_path: Path) -> None:
    told = load(saved.path, target, tmp_path / "state")

    cells: dict[str, Cell] = {}
    with Reader(target) as theirs:
        for case, ours in zip(saved.cases, saved.facts, strict=True):
            cells[case.name] = judge(case, saved.server, target, told, ours, theirs.facts(case.place))
        strangers = theirs.keys() - {case.place for case in saved.cases}
    wrong = [f"{name}: {text}" for name, cell in cells.items() for text in cell.wrong]
    assert wrong == []
    assert strangers == set()
    open_ones = {f.name for cell in cells.values() for f in cell.findings if not f.rule}
    expected = "PASS"
    if open_ones - {"unreadable", "refused", "not-carried"}:
        expected = "FAIL"
    elif "unreadable" in open_ones:
        expected = "INCONCLUSIVE"
    elif any(cell.findings for cell in cells.values()):
        expected = "PASS WITH EXCEPTIONS"
    assert told.verdict == expected
