"""The application: its processes, started and stopped together."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import IO, Final, Self

from tests.load.worker import Orders, Role, Tally

_ROOT: Final = Path(__file__).parents[2]
_STOP_SECONDS: Final = 15.0


class LoadFailed(AssertionError):
    """A process of the application ended by itself."""


class Load:
    """Writes at a set rate to the server that an environment file names; a context manager.

    :param env_file: read as applications do, every 20 ms and after every refusal.
    :param folder: where the logs go, one for each process; it is made if it is not there.
    :param name: part of every key; two loads that write the same server need two.
    :param rate: units per second, of all writers together.
    :param workers: processes, each with as many connections as ``connections`` says.
    :param probe_hz: how often one more process writes its one key, to measure pauses; 0: none.
    :param leavers_hz: how often a client connects, writes, and leaves without reading the answer; 0: none.
    :param emptied: a database of its own that is written and emptied now and then.
    :param big: which part of the writes is of 10 to 200 KB.
    :param shared: which part of the writes is to keys that all connections write.
    :param reply_timeout_s: after which a connection with an unanswered write is given up.
    """

    def __init__(
        self,
        env_file: Path,
        folder: Path,
        *,
        name: str = "app",
        rate: float = 5000.0,
        workers: int = 2,
        connections: int = 15,
        databases: tuple[int, ...] = (0, 1, 5),
        probe_hz: float = 500.0,
        leavers_hz: float = 20.0,
        emptied: int | None = None,
        big: float = 0.002,
        shared: float = 0.02,
        reply_timeout_s: float = 30.0,
        seed: int = 1,
    ) -> None:
        self.folder = folder
        self._env_file = env_file
        self._workers = workers
        self._processes: list[tuple[Role, subprocess.Popen[str]]] = []
        self._orders: list[Orders] = []

        def add(role: Role, suffix: str, its_rate: float, lanes: int, its_databases: tuple[int, ...]) -> None:
            self._orders.append(
                Orders(
                    role,
                    f"{name}-{suffix}",
                    str(env_file.absolute()),
                    str(folder.absolute()),
                    its_rate,
                    lanes,
                    seed,
                    reply_timeout_s,
                    its_databases,
                    big,
                    shared,
                )
            )

        for number in range(workers):
            add("writer", str(number), rate / workers, connections, databases)
        if probe_hz:
            add("probe", "probe", probe_hz, 1, (0,))
        if leavers_hz:
            add("leaver", "leaver", leavers_hz, 0, (0,))
        if emptied is not None:
            add("emptier", "emptier", rate / 50, 1, (emptied,))

    def start(self) -> None:
        """Start all processes; they write as soon as they can."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for orders in self._orders:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.load.worker", json.dumps(asdict(orders))],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._processes.append((orders.role, process))

    @property
    def pids(self) -> list[int]:
        """The processes that run, writers first."""
        return [process.pid for _, process in self._processes]

    def set_rate(self, rate: float) -> None:
        """Change the writers' rate, in units per second of all of them; 0 lets them pause."""
        for role, process in self._processes:
            if role == "writer":
                self._tell(process, f"rate {rate / self._workers}")

    def stay(self) -> None:
        """Let the writers write to the side that is theirs now, and to no other: after a switch only the probe goes on.

        What the old side acknowledged can then be compared with what the new one has, see
        :func:`tests.load.judge.at_risk_missing`.
        """
        for role, process in self._processes:
            if role != "probe":
                self._tell(process, "stay")

    def count(self) -> Tally:
        """What has happened so far, of all processes.

        :raises LoadFailed: one of them has ended.
        """
        for _, process in self._processes:
            self._tell(process, "count")
        return _sum([self._hear(process) for _, process in self._processes])

    def wait_for(self, acknowledged: int, seconds: float = 30.0) -> Tally:
        """Until so many more writes were acknowledged.

        :raises LoadFailed: that does not happen in time.
        """
        until = monotonic() + seconds
        goal = self.count().acknowledged + acknowledged
        while (tally := self.count()).acknowledged < goal:
            if monotonic() > until:
                raise LoadFailed(f"{tally} after {seconds} s, and {goal} acknowledged writes were wanted")
            sleep(0.05)
        return tally

    def stop(self) -> Tally:
        """Stop writing, wait for what is in flight, and end all processes.

        :raises LoadFailed: one of them had ended before, or did not end well.
        """
        processes, self._processes = self._processes, []
        tallies = []
        try:
            for _, process in processes:
                self._tell(process, "stop")
            for _, process in processes:
                tallies.append(self._hear(process))
                if process.wait(_STOP_SECONDS) != 0:
                    raise LoadFailed(f"a process of the load ended with {process.returncode}")
        finally:
            for _, process in processes:
                _end(process)
        return _sum(tallies)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            if self._processes:
                self.stop()
            return
        for _, process in self._processes:
            _end(process)

    @staticmethod
    def _tell(process: subprocess.Popen[str], line: str) -> None:
        pipe = _pipe(process.stdin)
        try:
            pipe.write(line + "\n")
            pipe.flush()
        except BrokenPipeError as error:
            raise LoadFailed(f"a process of the load has ended with {process.wait(1.0)}") from error

    @staticmethod
    def _hear(process: subprocess.Popen[str]) -> Tally:
        line = _pipe(process.stdout).readline()
        if not line:
            raise LoadFailed(f"a process of the load has ended with {process.wait(1.0)}")
        return Tally(**json.loads(line))


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def _sum(tallies: list[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        for field, value in asdict(tally).items():
            setattr(total, field, getattr(total, field) + value)
    return total
