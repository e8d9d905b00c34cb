"""Cutovers and rollbacks in processes that end, or stand still, at a record.

``python -m tests.faults.conductor_process`` reads orders, one JSON object a line, and does each in a fork of itself, so
that nothing is imported anew.  It answers two lines for each: the child's process id, and what became of the child.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import IO, Final, Literal, Self

from tests.cli import UNASSESSED

_ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Order:
    """What one child does.

    :ivar kill_at: the number of the call of the recorder at which it ends or stands still, from 0; none: nowhere.
    :ivar how: the signal that it sends itself there.
    :ivar lease_seconds: of the operation, shorter than in real life.
    """

    kind: Literal["cutover", "rollback"]
    kill_at: int | None = None
    how: Literal["SIGKILL", "SIGSTOP", "SIGINT", "SIGTERM"] = "SIGKILL"
    lease_seconds: float = 1.5
    abandon: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a child."""

    returncode: int
    """As :mod:`subprocess` tells it: negative for a signal."""
    error: str | None
    """The name of the exception's class."""
    seconds: float
    records: tuple[str, ...]
    """The calls of the recorder, in order: ``step state before`` or ``step state after``."""


class ConductorProcess:
    """The parent's side; a context manager.

    :param folder: holds ``greenfly.toml``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        with (self._folder / "conductor.err").open("ab") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.conductor_process"],
                cwd=self._folder,
                env={**os.environ, **UNASSESSED, "PYTHONPATH": str(_ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        assert process is not None
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def begin(self, order: Order) -> int:
        """Start a child; its process id."""
        pipe = self._pipe("stdin")
        pipe.write(json.dumps(asdict(order)) + "\n")
        pipe.flush()
        return int(self._line())

    def end(self) -> Ended:
        """Wait for the child."""
        facts = json.loads(self._line())
        return Ended(**{**facts, "records": tuple(facts["records"])})

    def do(self, order: Order) -> Ended:
        """Both."""
        self.begin(order)
        return self.end()

    def log(self) -> str:
        """What the children said."""
        return (self._folder / "conductor.err").read_text("utf-8", "replace")

    def _line(self) -> str:
        line = self._pipe("stdout").readline()
        assert line, self.log()[-3000:]
        return line

    def _pipe(self, name: str) -> IO[str]:
        pipe = getattr(self._process, name)
        assert pipe is not None
        return pipe  # type: ignore[no-any-return]


# -- the other side --------------------------------------------------------------------------------------------------


def _serve() -> None:
    import integrity.switch.operate  # noqa: F401  (before the first fork)
    from greenfly.cli import _on_terminate

    signal.signal(signal.SIGTERM, _on_terminate)
    for line in sys.stdin:
        order = Order(**json.loads(line))
        began = monotonic()
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            _be_child(order, write_end)
        os.close(write_end)
        print(child, flush=True)
        with os.fdopen(read_end, encoding="utf-8") as told:
            lines = told.read().splitlines()
        _, status = os.waitpid(child, 0)
        errors = [text.removeprefix("error ") for text in lines if text.startswith("error ")]
        ended: Mapping[str, object] = {
            "returncode": os.waitstatus_to_exitcode(status),
            "error": errors[0] if errors else None,
            "seconds": monotonic() - began,
            "records": [text for text in lines if not text.startswith("error ")],
        }
        print(json.dumps(ended), flush=True)


def _be_child(order: Order, told: int) -> None:
    from greenfly.console import make_progress
    from greenfly.exit_codes import exit_code_for
    from integrity.errors import GreenflyError
    from integrity.ledger import open_ledger
    from integrity.ledger.vocabulary import StepState
    from integrity.settings import load_settings
    from integrity.switch import cutover, operate

    os.close(0)
    os.dup2(2, 1)
    operate.OPERATION_LEASE_SECONDS = order.lease_seconds
    cutover._BASELINE_SECONDS = 0.1
    calls = 0

    def recorder(step: str, state: StepState, *, written: bool) -> None:
        nonlocal calls
        os.write(told, f"{step} {state.value} {'after' if written else 'before'}\n".encode())
        calls += 1
        if order.kill_at == calls - 1:
            os.kill(os.getpid(), signal.Signals[order.how])

    code = 0
    try:
        settings = load_settings({}).settings
        ledger = open_ledger(settings)
        progress = make_progress(quiet=False)
        if order.kind == "cutover":
            operate.cut_over(settings, ledger, "latest", progress, recorder=recorder)
        else:
            operate.roll_back(
                settings,
                ledger,
                "latest",
                progress,
                abandon=order.abandon,
                reason="a test",
                recorder=recorder,
            )
    except GreenflyError as error:
        os.write(told, f"error {type(error).__name__}\n".encode())
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        code = int(exit_code_for(error))
    except KeyboardInterrupt as error:
        os.write(told, f"error {type(error).__name__}\n".encode())
        code = 70  # The engine turns it into an error of its own.
    finally:
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
