"""A dotenv file under SIGKILL at every system call of a write, and under several writers at once."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import pytest

from integrity.switch.dotenv import PREVIOUS_SUFFIX, DotenvSwitch
from integrity.switch.environment import EnvironmentChanged, EnvironmentFailed, EnvironmentState
from integrity.switch.settings import DotenvSettings

OLD: Final = b"# the application\nREDIS_URL=redis://blue:6379\nA='x y'\n"
NEW: Final = OLD + b"DRAGONFLY_URL=redis://green:6379\nGREENFLY_PHASE=green\n"
OLDER: Final = b"# what a write before this one kept\n"
CHANGES: Final = {"DRAGONFLY_URL": "redis://green:6379", "GREENFLY_PHASE": "green"}
PTRACE_TRACEME, PTRACE_SYSCALL, PTRACE_KILLED = 0, 24, -1


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What a write that was killed left, and what the next one makes of it."""

    content: str
    previous: str
    mode: int
    repeated: str
    beside: list[str]


def switch_for(path: Path, lock_timeout: float = 10.0) -> DotenvSwitch:
    return DotenvSwitch(DotenvSettings(path=path, lock_timeout=lock_timeout))


# -- killed ----------------------------------------------------------------------------------------------------------


def test_sigkill_at_any_system_call_leaves_the_old_or_the_new_file_whole_and_a_repetition_finishes(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.test_environment_dotenv_faults", str(tmp_path)],
        capture_output=True,
        check=True,
        timeout=300,
    )
    aftermaths = [Aftermath(**entry) for entry in json.loads(done.stdout)]
    if not aftermaths:
        pytest.skip("this machine does not let a process trace its child")

    old, new = OLD.decode(), NEW.decode()
    contents = [aftermath.content for aftermath in aftermaths]
    assert set(contents) == {old, new}
    assert contents == sorted(contents, key=[old, new].index), "once replaced it stays so"
    assert {a.previous for a in aftermaths if a.content == old} == {OLDER.decode(), old}
    assert {a.previous for a in aftermaths if a.content == new} == {old}
    assert {a.mode for a in aftermaths} == {0o640}
    assert {a.repeated for a in aftermaths} == {new}
    assert {tuple(a.beside) for a in aftermaths if a.content == old} == {(".env", ".env" + PREVIOUS_SUFFIX)}


def _kill_at_every_call(folder: Path) -> list[Aftermath]:
    """Write again and again, each time stopped one system call later; empty where tracing is not allowed."""
    path = folder / ".env"
    previous = folder / (".env" + PREVIOUS_SUFFIX)
    aftermaths = []
    calls = 0
    while True:
        for file in folder.iterdir():
            file.unlink()
        path.write_bytes(OLD)
        path.chmod(0o640)
        previous.write_bytes(OLDER)
        expected = switch_for(path).read()
        calls += 1
        killed = _write_until(path, expected, calls)
        if killed is None:
            return []
        content, kept, mode = path.read_text(), previous.read_text(), path.stat().st_mode & 0o7777
        switch_for(path).write(expected, CHANGES)
        beside = sorted(file.name for file in folder.iterdir())
        aftermaths.append(Aftermath(content, kept, mode, path.read_text(), beside))
        if not killed:
            return aftermaths


def _write_until(path: Path, expected: EnvironmentState, calls: int) -> bool | None:
    """Whether a write was killed at the start or end of its system call number *calls*; None: it cannot be traced."""
    libc = ctypes.CDLL(None, use_errno=True)
    child = os.fork()
    if child == 0:
        if libc.ptrace(PTRACE_TRACEME, 0, None, None) != 0:
            os._exit(77)
        os.kill(os.getpid(), signal.SIGSTOP)
        switch_for(path).write(expected, CHANGES)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    for _ in range(calls):
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status) not in (0, 77):
                raise RuntimeError("the write that was to be killed failed by itself")
            return None if os.WEXITSTATUS(status) else False
        libc.ptrace(PTRACE_SYSCALL, child, None, None)
        _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


# -- at once ---------------------------------------------------------------------------------------------------------


def test_of_writers_that_read_the_same_state_one_wins_every_time(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(OLD)
    writers = 8

    def attempt(number: int, expected: EnvironmentState) -> str | None:
        try:
            switch_for(path).write(expected, {"DRAGONFLY_URL": f"redis://green-{number}"})
        except EnvironmentChanged:
            return None
        return f"redis://green-{number}"

    with ThreadPoolExecutor(writers) as pool:
        for first in range(0, 20 * writers, writers):
            state = switch_for(path).read()
            outcomes = list(pool.map(attempt, range(first, first + writers), [state] * writers))
            won = [value for value in outcomes if value is not None]
            assert len(won) == 1
            assert switch_for(path).read().values["DRAGONFLY_URL"] == won[0]


def test_of_processes_that_read_the_same_state_one_wins(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(OLD)
    version = switch_for(path).read().version
    program = """
import sys
from pathlib import Path
from integrity.switch.dotenv import DotenvSwitch
from integrity.switch.environment import EnvironmentChanged, EnvironmentState
from integrity.switch.settings import DotenvSettings
print("ready", flush=True)
sys.stdin.readline()
try:
    DotenvSwitch(DotenvSettings(path=Path(sys.argv[1]))).write(
        EnvironmentState({}, sys.argv[2]), {"DRAGONFLY_URL": sys.argv[3]}
    )
except EnvironmentChanged:
    sys.exit(3)
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(path), version, f"redis://green-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 3, 3, 3]
    winner = codes.index(0)
    assert switch_for(path).read().values["DRAGONFLY_URL"] == f"redis://green-{winner}"


def test_a_lock_that_is_never_let_go_is_named_after_its_time(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(OLD)
    holder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        switch = switch_for(path, lock_timeout=0.1)
        with pytest.raises(EnvironmentFailed):
            switch.write(switch.read(), CHANGES)
        assert path.read_bytes() == OLD
    finally:
        os.close(holder)
    switch.write(switch.read(), CHANGES)
    assert path.read_bytes() == NEW


if __name__ == "__main__":
    json.dump([asdict(aftermath) for aftermath in _kill_at_every_call(Path(sys.argv[1]))], sys.stdout)
