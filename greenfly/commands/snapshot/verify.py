"""``greenfly snapshot verify``"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from greenfly.commands import options as o
from greenfly.commands.snapshot.common import IdentityFile, Wanted, identity_overrides, ledger_if_reachable

if TYPE_CHECKING:
    from integrity.snapshot.check import Problem


def verify(
    snapshot: Wanted,
    identity_file: IdentityFile = None,
    config: o.ConfigFile = None,
    state_dir: o.StateDir = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Check a snapshot without a server: all hashes, every key of the manifest in the RDB file, the fingerprints.

    Exits with 6 where anything is broken.
    """
    from greenfly.console import human_bytes, make_progress, print_json
    from greenfly.exit_codes import ExitCode
    from integrity.snapshot.catalog import find_snapshot, recorded_hashes
    from integrity.snapshot.check import inspect_snapshot
    from integrity.snapshot.header import HEADER_NAME, read_header
    from integrity.snapshot.sealing import load_keys

    settings = o.load(config, state_dir, identity_overrides(identity_file)).settings
    keys = load_keys(settings.snapshot)
    with ledger_if_reachable(settings) as ledger:
        directory = find_snapshot(snapshot, settings.snapshot_dir, ledger)
        recorded = recorded_hashes(ledger, directory) if ledger is not None else None
    progress = make_progress(quiet=quiet)
    progress.phase("check", read_header(directory / HEADER_NAME).keys)
    inspection = inspect_snapshot(directory, keys, recorded=recorded, on_progress=progress.advance)
    progress.phase_ended()
    code = ExitCode.OK if inspection.whole else ExitCode.ARTIFACT
    if as_json:
        print_json(
            {
                "directory": str(directory),
                "whole": inspection.whole,
                "keys": inspection.keys,
                "bytes": inspection.header.size,
                "encrypted": inspection.header.encrypted,
                "as_recorded": inspection.recorded,
                "problems": [_problem_facts(problem) for problem in inspection.problems],
                "problems_unlisted": inspection.unlisted,
                "exit_code": int(code),
            }
        )
        raise typer.Exit(int(code))
    ledger_says = {
        True: "its files are those that the ledger recorded",
        False: "its files are not those that the ledger recorded",
        None: "the ledger knows nothing of it",
    }[inspection.recorded]
    if inspection.whole:
        typer.echo(
            f"{directory} is whole: {inspection.keys:,} keys, {human_bytes(inspection.header.size)}; {ledger_says}."
        )
    else:
        typer.echo(f"{directory} is broken:")
        for problem in inspection.problems:
            typer.echo(f"  {_problem_line(problem)}")
        if inspection.unlisted:
            typer.echo(f"  and {inspection.unlisted:,} more")
    raise typer.Exit(int(code))


def _problem_facts(problem: Problem) -> dict[str, object]:
    from reports.display import key_text

    return {
        "file": problem.file,
        "problem": problem.what,
        "offset": problem.offset,
        "database": problem.database,
        "key": key_text(problem.key) if problem.key is not None else None,
    }


def _problem_line(problem: Problem) -> str:
    from reports.display import key_text

    place = problem.file
    if problem.offset is not None:
        place += f" at byte {problem.offset:,}"
    if problem.database is not None:
        place += f", database {problem.database}"
    if problem.key is not None:
        place += f", key {key_text(problem.key)}"
    return f"{place}: {problem.what}"
