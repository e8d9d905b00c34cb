"""The command line, run as people run it: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from greenfly.demo.process import end_process

ASSESS_VARIABLE: Final = "GREENFLY_ASSESS__ENABLED"
UNASSESSED: Final = {ASSESS_VARIABLE: "false"}
"""Most tests are about something else than the assessment, which would take its time in each of them."""


@dataclass(frozen=True, slots=True)
class CompletedRun:
    """What one ``greenfly`` command said and ended with."""

    arguments: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str

    def json(self) -> dict[str, object]:
        """stdout as the one JSON object that ``--json`` promises."""
        value = json.loads(self.stdout)
        assert isinstance(value, dict), value
        return value

    def at(self, *path: str | int) -> object:
        """One value inside :meth:`json`, e.g. ``run.at("phases", 0, "keys")``."""
        return dig(self.json(), *path)


def dig(value: object, *path: str | int) -> object:
    """Follow *path* through JSON tables and lists.

    :raises KeyError: a name that is not there.
    """
    for step in path:
        match value:
            case dict():
                value = value[step]
            case list() if isinstance(step, int):
                value = value[step]
            case _:
                raise KeyError(f"{step!r} in {value!r}")
    return value


@dataclass(frozen=True, slots=True)
class Greenfly:
    """Runs ``python -m greenfly`` with a state folder of its own."""

    state_dir: Path
    folder: Path
    """Where commands run: a folder without a ``greenfly.toml``."""
    _started: list[subprocess.Popen[str]] = field(default_factory=list, repr=False)

    def __call__(
        self, *arguments: str, timeout: float = 180.0, env: Mapping[str, str] | None = None, stdin: str = ""
    ) -> CompletedRun:
        """Run one command to its end.

        :param env: variables beside those that every command gets.
        :raises subprocess.TimeoutExpired: it took longer than *timeout* seconds; it was killed.
        """
        done = subprocess.run(
            self._command(arguments),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=self.folder,
            env=self._environment(env),
        )
        return CompletedRun(arguments, done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start one command and leave it running; it is ended with the test."""
        process = subprocess.Popen(
            self._command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self._environment(env),
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        """End every command that is still running."""
        for process in self._started:
            end_process(process)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "greenfly", *arguments]

    def _environment(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("GREENFLY_")}
        own = {"GREENFLY_STATE_DIR": str(self.state_dir), "NO_COLOR": "1", **UNASSESSED}
        return plain | own | dict(extra or {})
