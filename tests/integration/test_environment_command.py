"""An environment behind commands: real small scripts, with everything that a command can do wrong."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import Final

import pytest
from pydantic import ValidationError

from integrity.switch.command import CommandSwitch
from integrity.switch.environment import (
    EnvironmentChanged,
    EnvironmentFailed,
    EnvironmentState,
    environment_switch,
    fingerprint,
)
from integrity.switch.settings import CommandSettings, SwitchSettings

GREEN: Final = "rediss://app:s3cret@green.example:6380/0?a=$b&c='d'"
TO_GREEN: Final = {"DRAGONFLY_URL": GREEN, "GREENFLY_PHASE": "green"}
TO_BLUE: Final = {"DRAGONFLY_URL": None, "GREENFLY_PHASE": None}
RECORDING: Final = """
cat > "$0.input"
env > "$0.env"
echo "$GREENFLY_SWITCH_ACTION" >> "$0.runs"
"""
WRITE: Final = RECORDING + 'cp "$0.input" "$(dirname "$0")/value"\n'


class Scripts:
    """A value in a file, and scripts that read and write it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.value = folder / "value"
        self.value.touch()
        self.read = self.script("read", f'cat "{self.value}"')
        self.write = self.script("write", WRITE)

    def script(self, name: str, text: str) -> tuple[str, ...]:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return (str(path),)

    def switch(
        self,
        *,
        read: tuple[str, ...] = (),
        write: tuple[str, ...] = (),
        confirm: tuple[str, ...] = (),
        timeout: float = 20.0,
    ) -> CommandSwitch:
        commands = CommandSettings(
            read_command=read or self.read,
            write_command=write or self.write,
            confirm_command=confirm,
            timeout=timeout,
        )
        return CommandSwitch(SwitchSettings(kind="command", command=commands))

    def told(self, script: str = "write") -> dict[str, str]:
        """The environment that a script was given."""
        lines = (self.folder / f"{script}.env").read_text().splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    @property
    def runs(self) -> list[str]:
        """The actions that the write script was run for."""
        path = self.folder / "write.runs"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path)


# -- reading and writing ---------------------------------------------------------------------------------------------


def test_a_value_goes_in_on_the_input_and_comes_back_and_empty_input_removes_it(scripts: Scripts) -> None:
    switch = scripts.switch()
    before = switch.read()
    assert before.values == {}
    green = switch.write(before, TO_GREEN)
    assert scripts.value.read_text() == GREEN
    assert green.values == {"DRAGONFLY_URL": GREEN}
    assert switch.confirm(5.0) == ""
    blue = switch.write(green, TO_BLUE)
    assert scripts.value.read_bytes() == b""
    assert blue == before
    assert scripts.runs == ["set", "remove"]


def test_the_command_is_told_what_to_do_by_its_environment_and_no_value_is_in_it(scripts: Scripts) -> None:
    switch = scripts.switch()
    green = switch.write(switch.read(), TO_GREEN)
    told = scripts.told()
    assert told["GREENFLY_SWITCH_ACTION"] == "set"
    assert told["GREENFLY_SWITCH_NAME"] == "DRAGONFLY_URL"
    assert told["GREENFLY_SWITCH_EXPECTED"] == ""
    assert told["GREENFLY_PHASE"] == "green"
    assert "s3cret" not in str(told)
    switch.write(green, TO_BLUE)
    told = scripts.told()
    assert told["GREENFLY_SWITCH_ACTION"] == "remove"
    assert told["GREENFLY_SWITCH_EXPECTED"] == fingerprint(GREEN)
    assert told["GREENFLY_PHASE"] == ""
    assert "s3cret" not in str(told)


def test_a_change_without_the_phase_does_not_speak_of_it(scripts: Scripts) -> None:
    switch = scripts.switch()
    switch.write(switch.read(), {"DRAGONFLY_URL": GREEN})
    assert "GREENFLY_PHASE" not in scripts.told()


def test_settings_of_greenfly_are_not_handed_on(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENFLY_SOURCE__PASSWORD", "hunter2")
    monkeypatch.setenv("PLATFORM_TOKEN", "wanted")
    switch = scripts.switch()
    switch.write(switch.read(), TO_GREEN)
    assert "GREENFLY_SOURCE__PASSWORD" not in scripts.told()
    assert scripts.told()["PLATFORM_TOKEN"] == "wanted"


def test_one_line_of_shell_is_enough(tmp_path: Path) -> None:
    store = tmp_path / "store"
    commands = CommandSettings(
        read_command=("sh", "-c", f'cat "{store}" 2>/dev/null || true'),
        write_command=("sh", "-c", f'cat > "{store}"'),
    )
    switch = CommandSwitch(SwitchSettings(kind="command", command=commands))
    switch.write(switch.read(), TO_GREEN)
    assert switch.read().values == {"DRAGONFLY_URL": GREEN}


def test_a_line_break_after_the_printed_value_is_not_part_of_it(scripts: Scripts) -> None:
    scripts.value.write_text("redis://a\n")
    assert scripts.switch().read().values == {"DRAGONFLY_URL": "redis://a"}
    scripts.value.write_text("\n")
    assert scripts.switch().read() == EnvironmentState({}, "")


def test_what_somebody_else_changed_since_is_not_written(scripts: Scripts) -> None:
    switch = scripts.switch()
    state = switch.read()
    scripts.value.write_text("redis://elsewhere")
    for changes in (TO_GREEN, {"GREENFLY_PHASE": "green"}):
        with pytest.raises(EnvironmentChanged):
            switch.write(state, changes)
    assert scripts.value.read_text() == "redis://elsewhere"
    assert scripts.runs == []


def test_exit_code_3_says_that_the_environment_is_not_as_expected(scripts: Scripts) -> None:
    switch = scripts.switch(write=scripts.script("write", RECORDING + "exit 3"))
    with pytest.raises(EnvironmentChanged):
        switch.write(switch.read(), TO_GREEN)


def test_a_script_can_compare_the_fingerprint_itself(scripts: Scripts) -> None:
    scripts.value.write_text("redis://old")
    write = scripts.script(
        "write",
        f"""
printf %s redis://new > "{scripts.value}"  # somebody is quicker
now=$(sha256sum < "{scripts.value}" | cut -c1-16)
test "$now" = "$GREENFLY_SWITCH_EXPECTED" || exit 3
cat > "{scripts.value}"
""",
    )
    switch = scripts.switch(write=write)
    with pytest.raises(EnvironmentChanged):
        switch.write(switch.read(), TO_GREEN)
    assert scripts.value.read_text() == "redis://new"


def test_what_is_there_already_is_not_written_again_unless_the_phase_has_to_be(scripts: Scripts) -> None:
    switch = scripts.switch()
    before = switch.read()
    switch.write(before, {"DRAGONFLY_URL": GREEN})
    assert scripts.switch().write(before, {"DRAGONFLY_URL": GREEN}).values == {"DRAGONFLY_URL": GREEN}
    assert scripts.runs == ["set"]
    scripts.switch().write(before, TO_GREEN)
    assert scripts.runs == ["set", "set"]
    assert scripts.told()["GREENFLY_PHASE"] == "green"


def test_another_variable_or_a_value_that_input_cannot_carry_is_refused(scripts: Scripts) -> None:
    switch = scripts.switch()
    refused: list[dict[str, str | None]] = [
        {"OTHER": "1"},
        {"DRAGONFLY_URL": ""},
        {"DRAGONFLY_URL": "two\nlines"},
    ]
    for changes in refused:
        with pytest.raises(EnvironmentFailed):
            switch.write(switch.read(), changes)
    assert scripts.runs == []


def test_checking_reads_finds_the_programs_and_writes_nothing(scripts: Scripts) -> None:
    scripts.switch(confirm=("true",)).check(TO_GREEN)
    bad = [
        scripts.switch(write=("/nowhere/at-all",)),
        scripts.switch(confirm=("/etc/passwd",)),
        scripts.switch(read=("false",)),
    ]
    for switch in bad:
        with pytest.raises(EnvironmentFailed):
            switch.check(TO_GREEN)
    with pytest.raises(EnvironmentFailed):
        scripts.switch().check({"OTHER": "1"})
    assert scripts.runs == []
    assert scripts.value.read_bytes() == b""


# -- commands that fail ----------------------------------------------------------------------------------------------


def failed(switch: CommandSwitch) -> EnvironmentFailed:
    with pytest.raises(EnvironmentFailed) as caught:
        switch.write(EnvironmentState({}, ""), TO_GREEN)
    assert caught.value.remedy
    for secret in ("s3cret", "hunter2"):
        assert secret not in str(caught.value)
        assert secret not in repr(caught.value.__cause__)
    return caught.value


def test_any_other_exit_code_is_named_and_the_output_is_not(scripts: Scripts) -> None:
    write = scripts.script("write", "cat; echo hunter2; echo hunter2 >&2; exit 7")
    assert "7" in failed(scripts.switch(write=write)).problem
    killed = scripts.script("killed", "kill -9 $$")
    assert "9" in failed(scripts.switch(write=killed)).problem
    read = scripts.script("read", "echo hunter2; exit 1")
    failed(scripts.switch(read=read))
    assert scripts.runs == []


def test_a_command_that_does_not_read_its_input_or_is_silent_about_it_is_found_out(scripts: Scripts) -> None:
    failed(scripts.switch(write=scripts.script("write", "exit 0")))


@pytest.mark.parametrize(
    "output", ["printf 'hunter2\\nhunter2'", "printf '\\377'", "printf '\\033[1mhunter2'"]
)
def test_output_that_is_more_than_a_value_is_refused(scripts: Scripts, output: str) -> None:
    failed(scripts.switch(read=scripts.script("read", output)))
    assert scripts.runs == []


@pytest.mark.parametrize("program", ["/nowhere/at-all", "/etc/passwd", "a\0b"])
def test_a_command_that_cannot_be_started_is_named(scripts: Scripts, program: str) -> None:
    failed(scripts.switch(write=(program,)))


@pytest.mark.parametrize(
    "body", ["sleep 300", "sleep 300 & wait", "trap '' TERM INT HUP; while :; do sleep 1; done"]
)
def test_a_command_that_hangs_is_killed_with_everything_it_started(scripts: Scripts, body: str) -> None:
    write = scripts.script("write", f'ps -o pgid= -p $$ > "$0.group"\n{body}')
    began = monotonic()
    failed(scripts.switch(write=write, timeout=1.0))
    assert monotonic() - began < 15.0
    group = int((scripts.folder / "write.group").read_text())
    assert group != os.getpgrp()
    for _ in range(100):
        if not group_lives(group):
            break
        sleep(0.05)
    assert not group_lives(group)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_command_may_leave_something_running(scripts: Scripts) -> None:
    write = scripts.script("write", f'cat > "{scripts.value}"; sleep 60 & echo $! > "$0.left"')
    switch = scripts.switch(write=write, timeout=40.0)
    began = monotonic()
    switch.write(switch.read(), TO_GREEN)
    assert monotonic() - began < 30.0
    os.kill(int((scripts.folder / "write.left").read_text()), signal.SIGKILL)


# -- confirming ------------------------------------------------------------------------------------------------------


def test_confirming_obeys_the_exit_code_and_its_time(scripts: Scripts) -> None:
    for body, good, seconds in (("exit 0", True, 20.0), ("exit 1", False, 20.0), ("sleep 60", False, 0.5)):
        switch = scripts.switch(confirm=scripts.script("confirm", body))
        assert switch.confirm(1.0) != ""
        switch.write(switch.read(), TO_GREEN)
        assert (switch.confirm(seconds) == "") is good


def test_a_value_that_is_changed_back_meanwhile_is_told(scripts: Scripts) -> None:
    switch = scripts.switch(confirm=("true",))
    switch.write(switch.read(), TO_GREEN)
    scripts.value.write_text("redis://elsewhere")
    assert switch.confirm(5.0) != ""


# -- where it is -----------------------------------------------------------------------------------------------------


def test_the_settings_choose_it_and_both_commands_are_needed(scripts: Scripts) -> None:
    commands = CommandSettings(read_command=scripts.read, write_command=scripts.write)
    switch = environment_switch(SwitchSettings(kind="command", command=commands))
    assert isinstance(switch, CommandSwitch)
    assert switch.name == f"command {scripts.write[0]}"
    with pytest.raises(ValidationError):
        SwitchSettings(kind="command", command=CommandSettings(read_command=scripts.read))


def test_any_program_will_do(tmp_path: Path) -> None:
    store = tmp_path / "store.json"
    store.write_text("{}")
    program = (
        "import json, os, sys; from pathlib import Path;"
        "store = Path(sys.argv[1]); held = json.loads(store.read_text());"
        "name = os.environ['GREENFLY_SWITCH_NAME']; action = os.environ['GREENFLY_SWITCH_ACTION'];"
        "print(held.get(name, '')) if action == 'read' else held.update({name: sys.stdin.read()});"
        "store.write_text(json.dumps({n: v for n, v in held.items() if v}))"
    )
    command = (sys.executable, "-c", program, str(store))
    switch = CommandSwitch(
        SwitchSettings(kind="command", command=CommandSettings(read_command=command, write_command=command))
    )
    green = switch.write(switch.read(), TO_GREEN)
    assert json.loads(store.read_text()) == {"DRAGONFLY_URL": GREEN}
    switch.write(green, TO_BLUE)
    assert json.loads(store.read_text()) == {}
