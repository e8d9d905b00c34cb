"""An environment that commands of your own read and write: a hosting platform's tool, say.

``write_command`` finds the new value on its standard input (nothing there: remove the variable) and in its environment
``GREENFLY_SWITCH_ACTION`` (``set`` or ``remove``), ``GREENFLY_SWITCH_NAME``, ``GREENFLY_SWITCH_EXPECTED`` (the
fingerprint of the value that should still be there; empty where none should) and ``GREENFLY_PHASE`` (the new value of
the phase variable, empty to remove it; not there where the phase does not change).  It ends with 0 when the change is
durable, with 3 when the environment is not what was expected.  Arguments and environment hold no value of the variable,
so that no list of processes shows one.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from integrity.errors import ConfigurationError
from integrity.switch.environment import (
    Changes,
    EnvironmentChanged,
    EnvironmentFailed,
    EnvironmentState,
    fingerprint,
    holds,
)
from integrity.switch.settings import SwitchSettings

EXIT_NOT_AS_EXPECTED: Final = 3
_OUTPUT_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a command ended; its output may hold a value."""

    code: int
    output: bytes = field(repr=False)


class _OutOfTime(Exception):
    """A command was killed at the end of its time."""


class CommandSwitch:
    """Commands as an :class:`~integrity.switch.environment.EnvironmentSwitch`.

    :raises ConfigurationError: no command to read or to write is set.
    """

    def __init__(self, settings: SwitchSettings) -> None:
        commands = settings.command
        if not commands.read_command or not commands.write_command:
            raise ConfigurationError(
                "switch.command.read_command or write_command is not set.", "Set both, as lists of arguments."
            )
        self._commands = commands
        self._variable = settings.variable
        self._phase_variable = settings.phase_variable
        self._written: Changes | None = None
        self._phase: str | None = None

    @property
    def name(self) -> str:
        """The kind and the program; its arguments may be anything."""
        return f"command {self._commands.write_command[0]}"

    def read(self) -> EnvironmentState:
        """The one variable, from the output of ``read_command``; one line break at its end is not part of the value.

        :raises EnvironmentFailed: it cannot be started, does not end in time or with 0, or prints more than a value.
        """
        ended = self._run(
            self._commands.read_command, self._facts("read", self._variable), b"", "read_command"
        )
        if ended.code:
            raise self._ended_with("read_command", ended.code, "The present value is not known.")
        text = re.sub(r"\r?\n\Z", "", ended.output.decode("utf-8", "surrogateescape"))
        if not text.isprintable() or len(ended.output) >= _OUTPUT_BYTES:
            raise EnvironmentFailed(
                "switch.command.read_command prints more than one line, or something that is no text.",
                "It must print the value alone, and nothing where the variable is not set.",
            )
        return EnvironmentState({self._variable: text} if text else {}, fingerprint(text or None) or "")

    def check(self, changes: Changes) -> None:
        """Read the value, and find the programs; what ``write_command`` would do is not known before it is run.

        :raises EnvironmentFailed: as :meth:`read`, or a program or value cannot be used.
        """
        self._refuse_strange(changes)
        self.read()
        for what, command in (
            ("write_command", self._commands.write_command),
            ("confirm_command", self._commands.confirm_command),
        ):
            if command and shutil.which(command[0]) is None:
                raise EnvironmentFailed(
                    f"switch.command.{what} cannot be started.",
                    f"Check the program {command[0]!r} and its rights.",
                )

    def write(self, expected: EnvironmentState, changes: Changes) -> EnvironmentState:
        """Run ``write_command`` for the variable; the phase variable's value travels with it.

        The phase is not read back, so where it is among *changes* the command is run again even if the variable is
        what it should be.

        :raises EnvironmentChanged: the value is not *expected*'s, or the command ended with 3.
        :raises EnvironmentFailed: another variable is asked for, or the command failed; whether it did something is not
            known then.
        """
        self._refuse_strange(changes)
        present = self.read()
        asked = {name: value for name, value in changes.items() if name == self._variable}
        there = bool(asked) and holds(present.values, asked)
        if not there and present.version != expected.version:
            raise self._changed()
        if self._phase_variable in changes:
            self._phase = changes[self._phase_variable] or ""
        if not there or self._phase_variable in changes:
            self._set(present, changes)
        self._written = asked
        state = self.read()
        if not holds(state.values, asked):
            raise EnvironmentFailed(
                "switch.command.write_command ended with 0, but read_command does not print the new value.",
                "Try both by hand; the first must not end before the second sees the change.",
            )
        return state

    def confirm(self, timeout: float) -> str:
        """Read the value again, then wait for ``confirm_command`` where there is one; 0 means rolled out.

        :raises EnvironmentFailed: a command cannot be started, or the value cannot be read.
        """
        if self._written is None:
            return "Nothing was written here that could be confirmed."
        if not holds(self.read().values, self._written):
            return f"{self._variable} no longer has the value that was written; somebody else changed it."
        if not self._commands.confirm_command:
            return ""
        facts = self._facts("confirm", self._variable)
        try:
            ended = self._run_for(timeout, self._commands.confirm_command, facts, b"", "confirm_command")
        except _OutOfTime:
            return f"switch.command.confirm_command did not end within {timeout:g} s."
        return f"switch.command.confirm_command ended with {ended.code}." if ended.code else ""

    def _refuse_strange(self, changes: Changes) -> None:
        for name, value in changes.items():
            if name not in (self._variable, self._phase_variable):
                raise EnvironmentFailed(
                    f"write_command is for {self._variable} and {self._phase_variable} only, not for {name}.",
                    "Set switch.variable and switch.phase_variable.",
                )
            if value is not None and not (value and value.isprintable()):
                raise EnvironmentFailed(
                    f"The new value of {name} is empty or has a line break or control character in it.",
                    "An empty input removes the variable; set a value of one line.",
                )

    def _set(self, present: EnvironmentState, changes: Changes) -> None:
        name = self._variable if self._variable in changes else self._phase_variable
        value = changes[name]
        facts = self._facts("remove" if value is None else "set", name)
        facts["GREENFLY_SWITCH_EXPECTED"] = fingerprint(present.values.get(self._variable)) or ""
        ended = self._run(self._commands.write_command, facts, (value or "").encode(), "write_command")
        if ended.code == EXIT_NOT_AS_EXPECTED:
            raise self._changed()
        if ended.code:
            raise self._ended_with("write_command", ended.code, "Whether it changed anything is not known.")

    def _facts(self, action: str, name: str) -> dict[str, str]:
        facts = {"GREENFLY_SWITCH_ACTION": action, "GREENFLY_SWITCH_NAME": name}
        return facts if self._phase is None else facts | {"GREENFLY_PHASE": self._phase}

    def _run(self, command: tuple[str, ...], facts: Mapping[str, str], given: bytes, what: str) -> _Ended:
        try:
            return self._run_for(self._commands.timeout, command, facts, given, what)
        except _OutOfTime:
            raise EnvironmentFailed(
                f"switch.command.{what} did not end within {self._commands.timeout:g} s and was killed.",
                "Whether it changed anything is not known; try it by hand, or raise switch.command.timeout.",
            ) from None

    def _run_for(
        self, timeout: float, command: tuple[str, ...], facts: Mapping[str, str], given: bytes, what: str
    ) -> _Ended:
        """Run one command in a process group of its own, which is killed when its time is over.

        :raises _OutOfTime: it did not end within *timeout* seconds.
        """
        # Our own settings may hold passwords, and are no business of a command.
        environment = {n: v for n, v in os.environ.items() if not n.startswith("GREENFLY_")} | dict(facts)
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if what == "read_command" else subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # It may quote a value.
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            detail = error.strerror if isinstance(error, OSError) else "an argument cannot be passed on"
            raise EnvironmentFailed(
                f"switch.command.{what} cannot be started ({detail}).",
                f"Check the program {command[0]!r} and its rights.",
            ) from None
        try:
            output, _ = process.communicate(given, timeout)
        except BaseException as error:
            # Also after a Ctrl-C; an ended process must not be killed, since its number may be another's by now.
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()
            if isinstance(error, subprocess.TimeoutExpired):
                raise _OutOfTime from None
            raise
        return _Ended(process.returncode, output or b"")

    def _changed(self) -> EnvironmentChanged:
        return EnvironmentChanged(
            f"{self._variable} is no longer what it was when it was read; it was left as it is.",
            "Look at what changed, and start again.",
        )

    def _ended_with(self, what: str, code: int, then: str) -> EnvironmentFailed:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return EnvironmentFailed(
            f"switch.command.{what} ended with {how}. {then}",
            "Run it by hand to see what it says; its output is not shown here, since it may hold a value.",
        )
