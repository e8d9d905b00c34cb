"""``python -m tests.matrix``: see :mod:`tests.matrix`."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.matrix.cases import CASES
from tests.matrix.page import render_page
from tests.matrix.run import run_matrix
from tests.matrix.servers import programs_on_path, read_programs


def main() -> None:
    """Run, judge, write; exit code 1 where a cell is wrong, 2 where there is no server."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.matrix", description="Every kind on every version."
    )
    parser.add_argument(
        "--server",
        action="append",
        type=Path,
        default=[],
        metavar="PATH",
        help="a redis-server, valkey-server or dragonfly program; may be given often (default: those on PATH)",
    )
    parser.add_argument(
        "--out", type=Path, help="where the page goes; it is written only when every cell is right"
    )
    arguments = parser.parse_args()
    try:
        programs = read_programs(arguments.server or programs_on_path())
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not programs:
        parser.error("no server on PATH: give --server PATH")
    pairs = run_matrix(programs, lambda text: print(text, file=sys.stderr, flush=True))
    problems = [problem for pair in pairs for problem in pair.problems]
    if problems:
        print(f"\n{len(problems)} wrong; no page is written:", *problems, sep="\n", file=sys.stderr)
        sys.exit(1)
    page = render_page(pairs, [case.name for case in CASES], datetime.now(UTC))
    if arguments.out is None:
        print(page)
    else:
        arguments.out.write_text(page, "utf-8")
        print(f"{sum(len(pair.cells) for pair in pairs):,} cells in {arguments.out}")


if __name__ == "__main__":
    main()
