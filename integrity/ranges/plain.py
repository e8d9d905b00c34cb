"""What workers tell through the ledger, as plain JSON values and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from statistics import fmean
from typing import Final

from integrity import errors
from integrity.checksum import Fingerprint
from integrity.errors import GreenflyError, LedgerError, OrchestratorFailed
from integrity.phases.work import Part
from integrity.transfer.copy import CopyTotals
from integrity.transfer.latency_history import MOST_STEPS
from integrity.verify.totals import CompareTotals

_COPY_COUNTS: Final = tuple(f.name for f in fields(CopyTotals) if f.name not in {"excluded", "tallies"})
_COMPARE_COUNTS: Final = tuple(f.name for f in fields(CompareTotals) if f.type == "int")
_FINGERPRINTS: Final = ("equal", "only_source", "only_target")


def part_to_dict(part: Part) -> dict[str, object]:
    """What a range came to."""
    copied, compared = part.copied, part.compared
    return {
        "copied": {name: getattr(copied, name) for name in _COPY_COUNTS}
        | {
            "excluded": dict(copied.excluded),
            "tallies": [[db, kind, keys, size] for (db, kind), (keys, size) in copied.tallies.items()],
        },
        "compared": {name: getattr(compared, name) for name in _COMPARE_COUNTS}
        | {
            "excluded": dict(compared.excluded),
            "tallies": [[db, kind, keys] for (db, kind), keys in compared.tallies.items()],
        }
        | {
            name: [[db, one.keys, one.hex()] for db, one in getattr(compared, name).items()]
            for name in _FINGERPRINTS
        },
        "cpu_seconds": part.cpu_seconds,
    }


def part_from_dict(told: Mapping[str, object]) -> Part:
    """
    :raises LedgerError: it is not what :func:`part_to_dict` gives.
    """
    try:
        copied, compared = _table(told["copied"]), _table(told["compared"])
        part = Part(cpu_seconds=_real(told["cpu_seconds"]))
        for name in _COPY_COUNTS:
            setattr(part.copied, name, _whole(copied[name]))
        for name in _COMPARE_COUNTS:
            setattr(part.compared, name, _whole(compared[name]))
        for mine, theirs in ((part.copied, copied), (part.compared, compared)):
            mine.excluded = {rule: _whole(count) for rule, count in _table(theirs["excluded"]).items()}
        for db, kind, keys, size in _rows(copied["tallies"], 4):
            part.copied.tallies[_whole(db), str(kind)] = (_whole(keys), _whole(size))
        for db, kind, keys in _rows(compared["tallies"], 3):
            part.compared.tallies[_whole(db), str(kind)] = _whole(keys)
        for name in _FINGERPRINTS:
            for db, keys, digits in _rows(compared[name], 3):
                getattr(part.compared, name)[_whole(db)] = Fingerprint.of(_whole(keys), str(digits))
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(
            "What a worker told about a range is not understood.",
            "Use the same version of Greenfly on every machine.",
        ) from error
    return part


def _table(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise TypeError("no table")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("no whole number")
    return value


def _real(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError("no number")
    return float(value)


def _list(value: object) -> Sequence[object]:
    if not isinstance(value, list):
        raise TypeError("no list")
    return value


def _rows(value: object, width: int) -> Sequence[Sequence[object]]:
    if not isinstance(value, list) or any(not isinstance(row, list) or len(row) != width for row in value):
        raise TypeError("no rows")
    return value


# -- errors ------------------------------------------------------------------------------------------------------------


def error_to_dict(error: GreenflyError) -> dict[str, object]:
    """An error of the tree; its texts mask secrets already."""
    return {
        "kind": type(error).__name__,
        "args": [str(argument) for argument in error.args],
        "facts": {
            name: value for name, value in vars(error).items() if isinstance(value, str | int | float | None)
        },
    }


def error_from_dict(told: Mapping[str, object]) -> GreenflyError:
    """The same error again, as its own class."""
    kind = getattr(errors, str(told.get("kind")), None)
    facts, args = told.get("facts"), told.get("args")
    if (
        not isinstance(kind, type)
        or not issubclass(kind, GreenflyError)
        or not isinstance(facts, Mapping)
        or not isinstance(args, list)
        or not {"problem", "remedy"} <= facts.keys()
    ):
        return OrchestratorFailed(
            f"A worker gave up for a reason that this version does not know ({told.get('kind')}).",
            "Use the same version of Greenfly on every machine, then --resume.",
        )
    error = kind.__new__(kind)
    error.args = tuple(args)
    vars(error).update({str(name): value for name, value in facts.items()})
    return error


# -- what held workers back --------------------------------------------------------------------------------------------


def throttle_of_worker(summaries: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """What held one worker back, from what each of its ranges told; as ``docs/throttle.md`` has it."""
    waited: dict[str, float] = {}
    late: dict[str, int] = {}
    smallest: list[int] = []
    last: list[int] = []
    pauses: list[int] = []
    latency: dict[str, dict[str, object]] = {}
    for summary in filter(None, summaries):
        for reason, seconds in _table(summary["waited_seconds"]).items():
            waited[reason] = round(waited.get(reason, 0.0) + _real(seconds), 3)
        for role, count in _table(summary["late"]).items():
            late[role] = late.get(role, 0) + _whole(count)
        sizes = _table(summary["batch_keys"])
        smallest.append(_whole(sizes["smallest"]))
        last.append(_whole(sizes["last"]))
        pauses.append(_whole(summary["longest_pause_ms"]))
        for role, facts in _table(summary["latency_ms"]).items():
            latency[role] = _together(latency.get(role), _table(facts))
    return {
        "waited_seconds": waited,
        "late": late,
        "batch_keys": {"smallest": min(smallest, default=0), "last": last[-1] if last else 0},
        "longest_pause_ms": max(pauses, default=0),
        "latency_ms": latency,
    }


def _together(before: Mapping[str, object] | None, more: Mapping[str, object]) -> dict[str, object]:
    if before is None:
        return dict(more)
    samples = _whole(before["samples"]) + _whole(more["samples"])
    sums = [_real(one["mean"]) * _whole(one["samples"]) for one in (before, more) if one["mean"] is not None]
    known = {
        name: [_real(one[name]) for one in (before, more) if one[name] is not None]
        for name in ("quiet", "worst")
    }
    return {
        "quiet": min(known["quiet"], default=None),
        "mean": round(sum(sums) / samples, 2) if sums and samples else None,
        "worst": max(known["worst"], default=None),
        "samples": samples,
        "lost": _whole(before["lost"]) + _whole(more["lost"]),
        "over_time": _one_history(_table(before["over_time"]), _table(more["over_time"])),
    }


def _one_history(before: Mapping[str, object], more: Mapping[str, object]) -> dict[str, object]:
    """Two histories of one server as one, which has no more steps than each of them may have."""
    begun = {id(one): datetime.fromisoformat(str(one["began_at"])) for one in (before, more)}
    began = min(begun.values())
    step = max(_real(one["step_seconds"]) for one in (before, more))
    points: list[tuple[float, float, float]] = []
    for one in (before, more):
        own, offset = _real(one["step_seconds"]), (begun[id(one)] - began).total_seconds()
        means, worsts = _list(one["mean"]), _list(one["worst"])
        for place, (mean, worst) in enumerate(zip(means, worsts, strict=True)):
            if mean is not None:
                points.append((offset + (place + 0.5) * own, _real(mean), _real(worst)))
    while points and max(points)[0] // step >= MOST_STEPS:
        step *= 2
    steps: dict[int, list[tuple[float, float]]] = {}
    for at, mean, worst in points:
        steps.setdefault(int(at // step), []).append((mean, worst))
    count = max(steps, default=-1) + 1
    return {
        "began_at": began.isoformat(),
        "step_seconds": step,
        "mean": [round(fmean(mean for mean, _ in steps[n]), 2) if n in steps else None for n in range(count)],
        "worst": [max(worst for _, worst in steps[n]) if n in steps else None for n in range(count)],
    }
