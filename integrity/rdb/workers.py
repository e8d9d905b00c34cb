"""Digests in processes of their own, while this one reads the file on.

A process ends when the pipe to it does, so none outlives the one that began it.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Final, Self, TypeAlias, TypeVar

from integrity.errors import OrchestratorFailed
from integrity.rdb.digests import Made, MalformedAt, Work, make

Outcome: TypeAlias = Made | tuple[str, int]
"""What was made; or what is wrong, and with which of the bodies."""
_T = TypeVar("_T")
_EACH: Final = 2
"""Pieces of work that wait in one process: the next is there when one is done."""
_STOP_SECONDS: Final = 5.0


class DigestWorkers:
    """A context manager.  What is put in comes out in the same order.

    :param count: how many processes; with none, the work is done where it is put in.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._workers: list[tuple[SpawnProcess, Pipe]] = []
        self._done: deque[Outcome] = deque()
        self._put = 0
        self._taken = 0

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        for number in range(self._count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), name=f"digests {number}", daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, ours))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, pipe in self._workers:
            pipe.close()
        for process, _ in self._workers:
            if error is not None:
                process.terminate()
            process.join(_STOP_SECONDS)

    @property
    def most(self) -> int:
        """How much work may wait at once; then something is to be taken out before more is put in."""
        return max(1, _EACH * self._count)

    def put(self, work: Work) -> None:
        """Have it done.

        :raises OrchestratorFailed: a process ended.
        """
        if self._workers:
            _, pipe = self._workers[self._put % self._count]
            self._on(lambda: pipe.send(work))
        else:
            self._done.append(_outcome(work))
        self._put += 1

    def take(self) -> Made:
        """What was made of the oldest work.

        :raises MalformedAt: one of its bodies is not what its type says.
        :raises OrchestratorFailed: a process ended.
        """
        if self._workers:
            _, pipe = self._workers[self._taken % self._count]
            outcome: Outcome = self._on(pipe.recv)
        else:
            outcome = self._done.popleft()
        self._taken += 1
        if isinstance(outcome, Made):
            return outcome
        raise MalformedAt(*outcome)

    def _on(self, act: Callable[[], _T]) -> _T:
        try:
            return act()
        except (EOFError, OSError) as error:
            raise OrchestratorFailed(
                "A process that made digests ended.",
                "Look at the system's log (out of memory?), then begin again.",
            ) from error


def _outcome(work: Work) -> Outcome:
    try:
        return make(work)
    except MalformedAt as error:
        return str(error), error.position


def _serve(pipe: Pipe) -> None:
    """The life of one process."""
    # Ctrl-C goes to the whole group of processes, and the one that began this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while True:
            pipe.send(_outcome(pipe.recv()))
    except (EOFError, OSError):
        return
