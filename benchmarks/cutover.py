"""The write pause of a cutover and of a rollback, as a client sees it, with an application writing all the time.

    python -m benchmarks.cutover [--keys 1000000] [--rate 5000] [--after 60] [--target dragonfly|redis] [--chart FILE]

Blue is a Redis with so many keys of every type; an application (tests/load) writes at the given rate through copy,
sync, cutover and rollback and logs what was acknowledged.  Printed are the times in which one client could not write,
around each switch, what Greenfly's own canary says, how long each step took, and whether the log, replayed, agrees with
the serving side.  The chart shows acknowledged writes by side around the cutover.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.mixed_set import fill
from greenfly.demo.servers import find_dragonfly, find_redis_server, start_dragonfly, start_redis
from tests.live import Live
from tests.load.journal import Outcome, read_times
from tests.load.judge import check
from tests.load.load import Load
from tests.load.replay import replay
from tests.load.timing import Gap, overlaps, switch_gaps

_BIN_MS: Final = 20
_AROUND_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Operation:
    """One cutover or rollback as it was measured."""

    kind: str
    canary_ms: float | None
    reason: str
    steps: list[tuple[str, float]]
    """Name, seconds."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The write pause of a cutover and a rollback.")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=5000.0, help="acknowledged units per second to aim at")
    parser.add_argument("--before", type=float, default=20.0, help="seconds of writes before the cutover")
    parser.add_argument(
        "--after", type=float, default=60.0, help="seconds of writes between cutover and rollback"
    )
    parser.add_argument("--target", choices=("dragonfly", "redis"), default="dragonfly")
    parser.add_argument("--chart", type=Path, help="write an SVG of the cutover here")
    arguments = parser.parse_args()
    redis, dragonfly = find_redis_server(), find_dragonfly()
    if redis is None or (arguments.target == "dragonfly" and dragonfly is None):
        sys.exit(
            f"redis-server{' and dragonfly' if arguments.target == 'dragonfly' else ''} must be on PATH."
        )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        blue = stack.enter_context(start_redis(redis, name="blue"))
        green = stack.enter_context(
            start_dragonfly(dragonfly, "--maxmemory", "4gb", name="green")
            if arguments.target == "dragonfly" and dragonfly is not None
            else start_redis(redis, name="green")
        )
        _say(f"{blue.title} → {green.title}; filling {arguments.keys:,} keys")
        fill(blue.url, arguments.keys)
        live = stack.enter_context(
            Live(folder / "live", blue.url, green.url, settings="[rollback]\ndrain_seconds = 300\n")
        )
        load = stack.enter_context(Load(live.env_file, folder / "log", rate=arguments.rate))
        live.sync()
        live.wait_until_clean(600)
        time.sleep(arguments.before)
        begun, at = load.count(), time.monotonic()
        time.sleep(5)
        rate = (load.count().acknowledged - begun.acknowledged) / (time.monotonic() - at)
        _say(f"the application writes {rate:,.0f} units/s; board {_board(live)}")
        done = [_operate(live, "cutover")]
        time.sleep(arguments.after)
        _say(f"fall-back: board {_board(live)}")
        done.append(_operate(live, "rollback"))
        time.sleep(5)
        tally = load.stop()
        pauses = switch_gaps(folder / "log")
        violations = check(replay(folder / "log"), blue.url)
        both = overlaps(folder / "log")
        live.run("runs", "stop", "latest")
        print(f"keys                {arguments.keys:,}")
        print(f"acknowledged        {tally.acknowledged:,} units, {rate:,.0f}/s before the cutover")
        print(f"refused             {tally.refused:,}; without an answer {tally.unknown:,}")
        for operation, gap in zip(done, pauses, strict=False):
            print(f"\n{operation.kind}: {operation.reason}")
            print(
                f"  a client could not write for  {gap.seconds * 1000:,.0f} ms  ({gap.from_side} → {gap.to_side})"
            )
            if operation.canary_ms is not None:
                print(f"  greenfly's canary             {operation.canary_ms:,.0f} ms")
            for name, seconds in operation.steps:
                print(f"    {name:<9} {seconds * 1000:>9,.0f} ms")
        print(f"\nviolations          {len(violations)} (the log, replayed, against the serving side)")
        print(f"both sides at once  {len(both)}")
        for violation in violations[:10]:
            print(f"  {violation}")
        if arguments.chart and pauses:
            arguments.chart.write_text(_chart(folder / "log", pauses[0]))
            _say(f"chart: {arguments.chart}")


def _operate(live: Live, kind: str) -> Operation:
    # A process of its own: the load goes on in this one, and would take its share of the interpreter.
    code = live.start(kind, "--yes", "--json", name=kind).wait(timeout=900)
    said = (live.folder / f"{kind}.out").read_text()
    outcome = json.loads(said) if said else {}
    if code:
        sys.exit(f"{kind} ended with {code}: {live.log(kind)}")
    rows = live.rows(
        "SELECT name, (julianday(ended_at) - julianday(started_at)) * 86400.0, detail FROM step WHERE run_id = ? "
        "ORDER BY position",
        outcome["run"],
    )
    steps = [(str(name), float(str(seconds))) for name, seconds, _ in rows]
    confirm: dict[str, float] = next(
        (json.loads(str(detail)) for name, _, detail in rows if name == "confirm"), {}
    )
    return Operation(kind, confirm.get("write_pause_ms"), str(outcome["reason"]), steps)


def _board(live: Live) -> str:
    board = live.board() or {}
    return ", ".join(
        f"{name} {board[name]}" for name in ("feed", "dirty", "unproven", "lag_ms") if name in board
    )


def _chart(folder: Path, pause: Gap) -> str:
    """Acknowledged writes per 20 ms by side, and the pause, as one SVG."""
    start = pause.start_ns - int(_AROUND_S * 1e9)
    end = pause.end_ns + int(_AROUND_S * 1e9)
    counts: dict[str, Counter[int]] = {pause.from_side: Counter(), pause.to_side: Counter()}
    for write in read_times(folder):
        if write.outcome is Outcome.ACKNOWLEDGED and start <= write.ended_ns <= end and write.side in counts:
            counts[write.side][(write.ended_ns - start) // (_BIN_MS * 1_000_000)] += 1
    bins = (end - start) // (_BIN_MS * 1_000_000) + 1
    top = max((n for side in counts.values() for n in side.values()), default=1)
    width, height = 1000, 260
    bar = width / bins
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 20} {height + 60}" role="img" '
        f'aria-label="acknowledged writes around the cutover; nobody could write for {pause.seconds * 1000:.0f} ms" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{width + 20}" height="{height + 60}" fill="white"/>',
    ]
    for side, colour in ((pause.from_side, "#1f4e8c"), (pause.to_side, "#2e8b57")):
        for place, count in counts[side].items():
            tall = height * count / top
            parts.append(
                f'<rect x="{10 + place * bar:.1f}" y="{30 + height - tall:.1f}" width="{max(bar, 1):.1f}" '
                f'height="{tall:.1f}" fill="{colour}"/>'
            )
    left = 10 + width * (pause.start_ns - start) / (end - start)
    right = 10 + width * (pause.end_ns - start) / (end - start)
    parts += [
        f'<line x1="{left:.1f}" x2="{right:.1f}" y1="26" y2="26" stroke="#b00020" stroke-width="3"/>',
        f'<text x="{(left + right) / 2:.1f}" y="18" text-anchor="middle" fill="#b00020">no write for '
        f"{pause.seconds * 1000:.0f} ms</text>",
        f'<text x="10" y="{height + 50}" fill="#1f4e8c">blue: acknowledged writes per {_BIN_MS} ms '
        f"(at most {top})</text>",
        f'<text x="{width + 10}" y="{height + 50}" text-anchor="end" fill="#2e8b57">green</text>',
        "</svg>",
    ]
    return "\n".join(parts)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
