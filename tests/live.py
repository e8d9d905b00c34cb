"""A live move as a team runs it: a configuration file, a dotenv file, `greenfly sync` as a process of its own.

Everything is driven through the command line, and what a test kills has a process of its own; nothing here knows the
engine.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import current_thread, main_thread
from types import TracebackType
from typing import Final, Self

import pytest

from tests.cli import ASSESS_VARIABLE
from tests.inprocess import run_in

_ROOT: Final = Path(__file__).parent.parent
deep: Final = pytest.mark.skipif(
    os.environ.get("GREENFLY_TEST_LIVE_DEEP") != "1", reason="GREENFLY_TEST_LIVE_DEEP=1 runs it"
)
"""For variants of a story of which another one always runs; a live move takes ten seconds and more."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, object]:
        """Its standard output."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


@dataclass(slots=True)
class Live:
    """One move; a context manager that kills what it started.

    :param folder: for the configuration, the dotenv file, the state folder and the logs.
    :param settings: more of ``greenfly.toml``, as text.
    :param assess: look at both servers before the copy and in the gate of a cutover.
    """

    folder: Path
    blue_url: str
    green_url: str
    settings: str = ""
    assess: bool = False
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    synced_at: str = ""
    """When the newest `greenfly sync` was started, as the ledger's file writes moments."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.env_file.write_text(f"# the application's\nREDIS_URL={self.blue_url}\nNAME=shop\n")
        (self.folder / "greenfly.toml").write_text(
            f"""state_dir = "{self.state}"
[source]
url = "{self.blue_url}"
[target]
url = "{self.green_url}"
[snapshot]
enabled = false
[switch]
kind = "dotenv"
[switch.dotenv]
path = "{self.env_file}"
{self.settings}
"""
        )

    @property
    def env_file(self) -> Path:
        """What applications read."""
        return self.folder / "app.env"

    @property
    def state(self) -> Path:
        """Greenfly's."""
        return self.folder / "state"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    # -- commands ---------------------------------------------------------------------------------------------------

    def start(self, *arguments: str, name: str, module: str = "greenfly") -> subprocess.Popen[bytes]:
        """A command in the background; its output goes to ``<name>.out`` and ``<name>.err``."""
        with (self.folder / f"{name}.out").open("wb") as out, (self.folder / f"{name}.err").open("ab") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=self.folder,
                env=self._environment() | {"PYTHONPATH": str(_ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        self.processes.append(process)
        return process

    def run(self, *arguments: str) -> Done:
        """A command to its end: in this process, and in one of its own where other threads of the test go on."""
        if current_thread() is main_thread():
            here = run_in(self.folder, self._environment(), *arguments)
            return Done(here.exit_code, here.stdout, here.stderr)
        done = subprocess.run(
            [sys.executable, "-m", "greenfly", *arguments],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120.0,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, ASSESS_VARIABLE: str(self.assess).lower()}

    def sync(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`greenfly sync` in the background."""
        self.synced_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        return self.start("sync", *arguments, name="sync")

    def log(self, name: str = "sync") -> str:
        """What a command in the background said on stderr."""
        return (self.folder / f"{name}.err").read_text("utf-8", "replace")

    # -- the ledger, read by itself ---------------------------------------------------------------------------------

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """Straight from the ledger's file; empty where there is none yet."""
        path = self.state / "ledger.sqlite3"
        if not path.exists():
            return []
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
            try:
                return database.execute(query, values).fetchall()
            except sqlite3.OperationalError:
                return []

    def board(self) -> Mapping[str, object] | None:
        """How the sync process says it is."""
        names = (
            "direction",
            "state",
            "feed",
            "dirty",
            "unproven",
            "stuck",
            "lag_ms",
            "gap",
            "clean_since",
            "updated_at",
        )
        rows = self.rows(f"SELECT {', '.join(names)} FROM sync ORDER BY updated_at DESC LIMIT 1")  # noqa: S608
        return dict(zip(names, rows[0], strict=True)) if rows else None

    def steps(self, kind: str) -> dict[str, str]:
        """Name → state of the steps of the newest operation of this kind."""
        rows = self.rows(
            "SELECT name, state FROM step WHERE run_id = (SELECT id FROM run WHERE kind = ? "
            "ORDER BY started_at DESC LIMIT 1) ORDER BY position",
            kind,
        )
        return {str(name): str(state) for name, state in rows}

    def events(self, kind: str) -> list[dict[str, object]]:
        """Payloads of the audit events of this kind, oldest first."""
        rows = self.rows("SELECT payload FROM event WHERE kind = ? ORDER BY sequence", kind)
        return [json.loads(str(payload)) for (payload,) in rows]

    # -- waiting ----------------------------------------------------------------------------------------------------

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """Poll until *condition* holds; fails, with the sync process's log, where it does not in time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if condition():
                return
            time.sleep(0.05)
        raise AssertionError(
            f"not within {seconds:g} s: {what}; board {self.board()}; log: {self.log()[-3000:]}"
        )

    def wait_until_clean(self, seconds: float = 90.0) -> None:
        """Until everything was compared, with no gap since."""

        def clean() -> bool:
            board = self.board()
            if board is None or str(board["updated_at"]) < self.synced_at:
                return False  # What a process said that was killed.
            return board["clean_since"] is not None and board["gap"] is None

        self.wait_until(clean, "a clean comparison", seconds)

    def wait_until_drained(self, seconds: float = 60.0) -> None:
        """Until nothing waits to be carried over or compared."""

        def drained() -> bool:
            board = self.board()
            return board is not None and not board["dirty"] and not board["unproven"]

        self.wait_until(drained, "nothing dirty", seconds)

    def environment(self) -> dict[str, str]:
        """The dotenv file, as an application reads it."""
        lines = self.env_file.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))

    @staticmethod
    def interrupt(process: subprocess.Popen[bytes], seconds: float = 30.0) -> int:
        """Ctrl-C, and the exit code."""
        process.send_signal(signal.SIGINT)
        return process.wait(timeout=seconds)
