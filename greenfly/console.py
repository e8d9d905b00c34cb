"""What people see: progress on stderr, results on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Final

from greenfly.exit_codes import ExitCode
from integrity.ledger.vocabulary import RunKind
from integrity.progress import Progress, Silent

if TYPE_CHECKING:
    from flows.sequence import NothingToRepair, Outcome, PhaseOutcome
    from integrity.errors import GreenflyError
    from integrity.repair_plan import KeyPlan

_PLAIN_EVERY_SECONDS: Final = 5.0
_LIVE_EVERY_SECONDS: Final = 0.1
_FOLLOWING: Final = "sync"
"""The phase that has no rate: it counts what it compares, over and over."""
_ASSESSED: Final = "assess"
_LONGEST_KEY: Final = 200
"""Characters of a key that a line of the terminal shows."""
_BOLD, _RED, _GREEN, _YELLOW, _DIM, _RESET = (
    "\x1b[1m",
    "\x1b[31m",
    "\x1b[32m",
    "\x1b[33m",
    "\x1b[2m",
    "\x1b[0m",
)


def colour_wanted(is_terminal: bool) -> bool:
    """Whether to use colours: on a terminal, unless NO_COLOR is set or it is a dumb one."""
    return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class LineProgress:
    """Progress with rate and time left: one moving line on a terminal, a plain line now and then elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._every = _LIVE_EVERY_SECONDS if self._live else _PLAIN_EVERY_SECONDS
        self._name = ""
        self._expected = self._keys = self._bytes = 0
        self._started = self._shown = 0.0
        self._last_shown = ""

    def phase(self, name: str, keys_expected: int) -> None:
        """Begin a line."""
        self._name, self._expected, self._keys, self._bytes = name, keys_expected, 0, 0
        self._started = self._shown = monotonic()

    def advance(self, keys: int, size: int) -> None:
        """Count, and show now and then."""
        self._keys += keys
        self._bytes += size
        now = monotonic()
        if now - self._shown >= self._every:
            self._shown = now
            self._write(self._text(now), final=False)

    def say(self, text: str) -> None:
        """One line above the moving one."""
        self._write(text, final=True)

    def show(self, text: str) -> None:
        """Take the moving line's place; elsewhere than on a terminal one line now and then."""
        now = monotonic()
        if now - self._shown >= self._every and text != self._last_shown:
            self._shown, self._last_shown = now, text
            self._write(text, final=False)

    def phase_ended(self) -> None:
        """Finish the line."""
        seconds = monotonic() - self._started
        text = f"{self._name:<9} {seconds:6.1f} s"
        if self._keys and self._name != _FOLLOWING:
            rate = self._keys / max(seconds, 1e-9)
            text += f"  {self._keys:>12,} keys  {rate:>10,.0f} keys/s  {human_bytes(self._bytes):>10}"
        self._write(text, final=True)

    def _text(self, now: float) -> str:
        seconds = max(now - self._started, 1e-9)
        rate = self._keys / seconds
        text = f"{self._name:<9} {self._keys:,}"
        if self._expected:
            share = min(1.0, self._keys / self._expected)
            left = max(0, self._expected - self._keys) / rate if rate else 0.0
            text += (
                f" of {self._expected:,} keys ({share:.0%}), {rate:,.0f} keys/s, {human_seconds(left)} left"
            )
        else:
            text += f" keys, {rate:,.0f} keys/s"
        return text

    def _write(self, text: str, *, final: bool) -> None:
        if self._live:
            sys.stderr.write(f"\r\x1b[2K{text}" + ("\n" if final else ""))
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


def make_progress(*, quiet: bool) -> Progress:
    """Progress on stderr, or none."""
    return Silent() if quiet else LineProgress()


def human_bytes(count: float) -> str:
    """``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def human_seconds(seconds: float) -> str:
    """``2 s``, ``3 min 20 s``, ``1 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def print_json(value: Mapping[str, object]) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=True) + "\n")


def print_outcome(outcome: Outcome, exit_code: ExitCode, *, as_json: bool) -> None:
    """The result of a run on stdout."""
    from reports.display import plain_text

    if as_json:
        print_json(outcome.to_dict() | {"exit_code": int(exit_code)})
        return
    colour = colour_wanted(sys.stdout.isatty())
    lines = [""]
    if outcome.verdict is not None:
        lines += [_verdict_line(outcome.verdict.value, plain_text(outcome.reason or ""), colour), ""]
    lines.append(f"  run       {outcome.run_id}")
    if outcome.repairs:
        rests_on = "repairs" if outcome.kind is RunKind.REPAIR else "sync"
        lines.append(f"  {rests_on:<9} run {outcome.repairs}")
    engine = f" ({outcome.source_engine})" if outcome.source_engine else ""
    lines.append(f"  source    {outcome.source}{engine}")
    if outcome.target:
        lines.append(f"  target    {outcome.target} ({outcome.target_engine})")
    for phase in outcome.phases:
        if phase.name == _FOLLOWING:
            lines.append(_followed_line(phase))
        elif phase.name == _ASSESSED and phase.detail.get("grade"):
            lines.append(_assessed_line(phase))
        elif phase.keys:
            rate = phase.keys / max(phase.seconds, 1e-9)
            lines.append(
                f"  {phase.name:<9} {phase.keys:,} keys, {human_bytes(phase.bytes)}, in {phase.seconds:.1f} s "
                f"({rate:,.0f} keys/s)"
            )
            lines += _copied_line(phase.detail)
    for state, classes in outcome.findings.items():
        if classes:
            named = ", ".join(f"{count:,} {name}" for name, count in sorted(classes.items()))
            lines.append(f"  findings  {named} ({state})")
    lines += _rule_lines(outcome)
    if outcome.snapshot:
        lines.append(f"  snapshot  {outcome.snapshot}")
    if outcome.report:
        lines.append(f"  report    {outcome.report.html}")
    sys.stdout.write("\n".join(lines) + "\n")


def _rule_lines(outcome: Outcome) -> list[str]:
    """What the rules left out, and the findings that they expect, where there are any."""
    from reports.display import counted, plain_text

    details = {phase.name: phase.detail for phase in outcome.phases}
    lines = []
    excluded = details.get("verify", details.get("stream", {})).get("excluded")
    if isinstance(excluded, Mapping) and excluded:
        by_rule = ", ".join(f"{count:,} by {plain_text(rule)}" for rule, count in _most_first(excluded))
        lines.append(f"  left out  {counted(sum(excluded.values()), 'key')}: {by_rule}")
    if outcome.exceptions:
        by_rule = ", ".join(
            f"{count:,} by rule {plain_text(rule)}" for rule, count in _most_first(outcome.exceptions)
        )
        lines.append(f"  expected  {by_rule}")
    return lines


def _assessed_line(phase: PhaseOutcome) -> str:
    noted = {
        name: value for name in ("waived", "warnings") if isinstance(value := phase.detail.get(name), list)
    }
    told = "".join(f", {len(names)} {name}" for name, names in noted.items() if names)
    return f"  {phase.name:<9} complexity {phase.detail['grade']}{told}, in {phase.seconds:.1f} s"


def _followed_line(phase: PhaseOutcome) -> str:
    removed = phase.detail.get("removed")
    took = f", in {human_seconds(phase.seconds)}" if phase.seconds else ""
    return (
        f"  {phase.name:<9} {phase.keys:,} keys carried over, {removed if isinstance(removed, int) else 0:,} removed"
        f"{took}"
    )


def _copied_line(detail: Mapping[str, object]) -> list[str]:
    """Keys that did not go the usual way, where there were any."""
    ways = [
        f"{count:,} {way}"
        for name, way in (
            ("rewritten", "written with typed commands"),
            ("big", "too big to be read whole"),
            ("relabelled", "taken under an older RDB version"),
        )
        if isinstance(count := detail.get(name), int) and count
    ]
    return [f"            {', '.join(ways)}"] if ways else []


def _most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _verdict_line(verdict: str, reason: str, colour: bool) -> str:
    if not colour:
        return f"{verdict}: {reason}"
    shade = {"PASS": _GREEN, "PASS WITH EXCEPTIONS": _YELLOW, "FAIL": _RED}.get(verdict, _YELLOW)
    return f"{_BOLD}{shade}{verdict}{_RESET}: {reason}"


def print_nothing_to_repair(nothing: NothingToRepair, *, as_json: bool) -> None:
    """A repair that was not begun, on stdout."""
    if as_json:
        print_json(nothing.to_dict() | {"exit_code": int(ExitCode.OK)})
    else:
        sys.stdout.write(nothing.text + "\n")


class RepairPlanPrinter:
    """What a repair would do, one line a finding, as it is found out; with ``--json`` one object at the end."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._plan: list[dict[str, object]] = []
        self._counts: dict[str, int] = {}

    def add(self, plan: KeyPlan) -> None:
        """Take in what would be done about one key."""
        from reports.display import key_text

        for finding in plan.findings:
            self._counts[plan.intent.value] = self._counts.get(plan.intent.value, 0) + 1
            key = key_text(finding.key)
            if self._as_json:
                self._plan.append(
                    {
                        "class": finding.finding_class.value,
                        "database": finding.database,
                        "key": {"text": key, "hex": finding.key.hex()},
                        "do": plan.intent.value,
                        "why": plan.why,
                    }
                )
            else:
                shown = (
                    key
                    if len(key) <= _LONGEST_KEY
                    else f"{key[:_LONGEST_KEY]}… ({len(finding.key):,} bytes; --json has it whole)"
                )
                sys.stdout.write(
                    f"{plan.intent.value:<15}  {finding.finding_class.value:<12}  db {finding.database:<2}  {shown}  "
                    f"({plan.why})\n"
                )

    def finish(self, run_id: str) -> None:
        """Print the sum; *run_id* is the run that would be repaired."""
        if self._as_json:
            print_json(
                {
                    "repairs": run_id,
                    "dry_run": True,
                    "plan": self._plan,
                    "counts": self._counts,
                    "exit_code": int(ExitCode.OK),
                }
            )
            return
        named = ", ".join(f"{count:,} {intent}" for intent, count in self._counts.items())
        sys.stdout.write(
            f"Run {run_id}: {named or 'no open finding, so nothing to repair'}. Nothing was written.\n"
        )


def print_error(error: GreenflyError, exit_code: ExitCode, *, as_json: bool) -> None:
    """An error on stderr; with ``--json`` also as an object on stdout."""
    notes = dict(note.split(" ", 1) for note in getattr(error, "__notes__", []) if " " in note)
    if as_json:
        print_json(
            {
                "error": {"kind": type(error).__name__, "problem": error.problem, "remedy": error.remedy},
                "run": notes.get("run"),
                "report": notes.get("report"),
                "exit_code": int(exit_code),
            }
        )
    colour = colour_wanted(sys.stderr.isatty())
    head = f"{_BOLD}{_RED}error{_RESET}" if colour else "error"
    lines = [f"{head}: {error.problem}"]
    if error.remedy:
        lines.append(f"  what to do: {error.remedy}")
    if "run" in notes:
        lines.append(f"  recorded as run {notes['run']} (exit code {int(exit_code)})")
    if "report" in notes:
        lines.append(f"  report: {notes['report']}")
    sys.stderr.write("\n".join(lines) + "\n")
