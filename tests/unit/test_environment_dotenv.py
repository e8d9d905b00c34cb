"""A dotenv file: only what was asked for changes, and every reader reads it the same."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import dotenv
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from integrity.switch.dotenv import PREVIOUS_SUFFIX, DotenvSwitch
from integrity.switch.environment import (
    EnvironmentChanged,
    EnvironmentFailed,
    EnvironmentState,
    environment_switch,
)
from integrity.switch.settings import DotenvSettings, SwitchSettings

VARIABLE: Final = "DRAGONFLY_URL"
GREEN: Final = "rediss://app:s3cret@green.example:6380/0?x=1"


def switch_for(path: Path, *, lock_timeout: float = 10.0) -> DotenvSwitch:
    return DotenvSwitch(DotenvSettings(path=path, lock_timeout=lock_timeout))


@contextmanager
def env_file(content: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ".env"
        path.write_bytes(content)
        yield path


def write(path: Path, value: str | None, variable: str = VARIABLE) -> EnvironmentState:
    switch = switch_for(path)
    return switch.write(switch.read(), {variable: value})


def as_read(path: Path) -> dict[str, str | None]:
    return dict(dotenv.dotenv_values(path, interpolate=False))


def sourced(path: Path, shell: Literal["sh", "bash"]) -> dict[bytes, bytes]:
    done = subprocess.run(
        [shell, "-c", 'set -a; . "$1"; env -0', shell, str(path)],
        env={"PATH": os.environ["PATH"], "HOME": "/home/somebody"},
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    pairs = (entry.partition(b"=") for entry in done.stdout.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}


# -- files of every shape --------------------------------------------------------------------------------------------

OTHER_NAMES: Final = st.sampled_from(
    ["REDIS_URL", "DRAGONFLY_URL_OLD", "XDRAGONFLY_URL", "A", "b_2", "dotted.name"]
)
OTHER_VALUES: Final = st.sampled_from(
    [
        "",
        "1",
        "'it is # no comment'",
        '"a \\"b\\" c"',
        '"two\nlines"',
        "a b",
        "redis://blue:6379 # the old one",
        "é",
    ]
)
ASSIGNMENTS: Final = st.builds(
    "{}{}{}={}{}".format,
    st.sampled_from(["", "  ", "\t"]),
    st.sampled_from(["", "export "]),
    OTHER_NAMES,
    OTHER_VALUES,
    st.sampled_from(["", "  # said"]),
)
BYSTANDERS: Final = st.one_of(
    ASSIGNMENTS,
    st.sampled_from(
        ["", "   ", "# a comment", f"#{VARIABLE}=redis://commented", "words that are none", "A = 1", "B"]
    ),
)
OURS: Final = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "  ", "export ", " export  "]),
    st.just(VARIABLE),
    st.sampled_from(["=", " = ", "= "]),
    st.sampled_from(
        ["", "redis://old:1", "'redis://old:1'", '"redis://old:1"', "redis://old:1 # why", "'o' # why"]
    ),
) | st.just(f"export {VARIABLE}")
OUR_LINE: Final = re.compile(rf"\s*(export\s+)?{VARIABLE}\b")
FILES: Final = st.lists(
    st.one_of(BYSTANDERS.map(lambda t: (t, False)), OURS.map(lambda t: (t, True))), max_size=8
)
VALUES: Final = st.sampled_from(
    ["redis://green:6379/1", GREEN, "", "it's", 'say "no"', "two words", "#", "a$b", "~x"]
)


@given(lines=FILES, newline=st.sampled_from(["\n", "\r\n"]), complete=st.booleans(), value=VALUES | st.none())
def test_only_the_named_variable_changes_whatever_the_file_looks_like(
    lines: list[tuple[str, bool]], newline: str, complete: bool, value: str | None
) -> None:
    def joined(texts: list[str]) -> bytes:
        text = newline.join(text.replace("\n", newline) for text in texts)
        return (text + newline if complete and texts else text).encode()

    with env_file(joined([text for text, _ in lines])) as path:
        before = as_read(path)
        state = write(path, value)
        after = as_read(path)

        assert after.get(VARIABLE) == value
        assert {n: v for n, v in after.items() if n != VARIABLE} == {
            n: v for n, v in before.items() if n != VARIABLE
        }
        assert state.values == {n: v for n, v in after.items() if v is not None}
        if value is None:
            rest = joined([text for text, ours in lines if not ours])
            assert path.read_bytes() in (rest, rest + newline.encode(), rest.removesuffix(newline.encode()))
        else:
            written, original = path.read_bytes().decode(), joined([text for text, _ in lines]).decode()
            assert bystanders(written) == bystanders(original)
            if newline in original:
                assert re.findall(r"\r?\n", written) == [newline] * written.count("\n")


def bystanders(text: str) -> list[str]:
    """The lines that are not the variable's; the empty one after a final newline left out."""
    lines = re.split(r"\r?\n", text)
    return [line for line in lines[: None if lines[-1] else -1] if not OUR_LINE.match(line)]


@given(
    text=st.lists(
        st.sampled_from([*"AB=#'\"\\$ \t\n\r;:{}\ufeff\u00a0\x00\x0b", VARIABLE, "export "]), max_size=30
    ).map("".join)
)
@example(text='A="open\n')
@example(text="A=b\\\n")
@example(text=f"{VARIABLE}: yaml\n")
@example(text=f"export A=1 {VARIABLE}=2\n")
def test_a_file_that_is_not_understood_is_left_alone_and_any_other_reads_as_asked(text: str) -> None:
    content = text.encode()
    with env_file(content) as path:
        before = as_read(path)
        try:
            write(path, GREEN)
        except EnvironmentFailed:
            assert path.read_bytes() == content
            assert os.listdir(path.parent) == [".env"]
            return
        after = as_read(path)
        assert after.pop(VARIABLE) == GREEN
        before.pop(VARIABLE, None)
        assert after == before


@given(content=st.binary(max_size=40))
def test_bytes_that_are_no_text_stay_as_they_are(content: bytes) -> None:
    with env_file(b"# " + re.sub(rb"[\r\n]", b"", content) + b"\nA=1\n") as path:
        before = path.read_bytes()
        write(path, GREEN)
        assert path.read_bytes().startswith(before)
        write(path, None)
        assert path.read_bytes() == before


@given(
    lines=st.lists(BYSTANDERS, max_size=6), complete=st.booleans(), newline=st.sampled_from(["\n", "\r\n"])
)
def test_setting_and_removing_gives_the_file_back_byte_for_byte(
    lines: list[str], complete: bool, newline: str
) -> None:
    text = newline.join(line.replace("\n", newline) for line in lines) + (newline if complete else "")
    with env_file(text.encode()) as path:
        write(path, GREEN)
        write(path, None)
        assert path.read_bytes() == text.encode()


@pytest.mark.parametrize(
    "text",
    [
        f"{VARIABLE}: redis://yaml\n",
        f"export A=1 {VARIABLE}=2\n",
        f"A=1; {VARIABLE}=2\n",
        "A=b\\\n",
        f"A=b\\\n{VARIABLE}=1\n",
        "A='open\n",
        'A="open\\"\n',
    ],
    ids=["yaml", "second on a line", "after a semicolon", "continued", "continued before ours", "'", '"'],
)
def test_a_file_that_readers_understand_differently_is_refused(text: str) -> None:
    with env_file(text.encode()) as path:
        before = path.read_bytes()
        state = EnvironmentState({}, "of no matter")
        with pytest.raises(EnvironmentFailed):
            switch_for(path).write(state, {VARIABLE: GREEN})
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["# why \\\n", f"OTHER=${{{VARIABLE}:-x}}\n", f"A='{VARIABLE}=1'\n", f"# {VARIABLE}: x\n"]
)
def test_a_file_that_only_speaks_of_the_variable_is_written(text: str) -> None:
    with env_file(text.encode()) as path:
        write(path, GREEN)
        assert path.read_text() == f"{text}{VARIABLE}='{GREEN}'\n"


def test_commented_lines_stay_and_every_other_one_of_a_removed_variable_goes() -> None:
    text = f"#{VARIABLE}=a\n{VARIABLE}=b\nA=1\nexport {VARIABLE}='c'\n# {VARIABLE}=d\n"
    with env_file(text.encode()) as path:
        write(path, None)
        assert path.read_text() == f"#{VARIABLE}=a\nA=1\n# {VARIABLE}=d\n"


def test_of_several_lines_of_a_variable_the_last_one_is_changed() -> None:
    with env_file(f"{VARIABLE}=a\n{VARIABLE}=b # why\nA=1\n".encode()) as path:
        write(path, "redis://c")
        assert path.read_text() == f"{VARIABLE}=a\n{VARIABLE}=redis://c # why\nA=1\n"


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_the_style_of_quotes_is_kept(quote: str) -> None:
    with env_file(f"{VARIABLE}={quote}redis://a{quote}\n".encode()) as path:
        write(path, "redis://b")
        assert path.read_text() == f"{VARIABLE}={quote}redis://b{quote}\n"


def test_a_file_that_exports_everything_gets_an_exported_line() -> None:
    with env_file(b"# for the shell\nexport A=1\nexport B=2\n") as path:
        write(path, "redis://b")
        assert path.read_text().endswith(f"\nexport {VARIABLE}=redis://b\n")


# -- values ----------------------------------------------------------------------------------------------------------

TRICKY: Final = [*"ab1/:@?&=#%~!*[]{}()<>|;,.-_+^ '\"$`\\", "${A}", "$A", " #", "é", "\t", "\n"]


@settings(max_examples=150)
@given(value=st.lists(st.sampled_from(TRICKY), max_size=6).map("".join))
@example(value="~/x:~")
@example(value="redis://:p$A@h")
@example(value="-n")
def test_a_written_value_means_the_same_to_python_dotenv_and_to_shells(value: str) -> None:
    with env_file(b"A=1\n") as path:
        try:
            write(path, value)
        except EnvironmentFailed:
            assert path.read_bytes() == b"A=1\n"
            assert set(value) & set("\\\n\t'") or "${" in value
            return
        assert dict(dotenv.dotenv_values(path)) == {"A": "1", VARIABLE: value}
        for shell in ("sh", "bash"):
            assert sourced(path, shell)[VARIABLE.encode()] == value.encode()


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "a\\b", "a'b$c", "${HOME}", "a\udc80b"])
def test_a_value_that_readers_would_read_differently_is_refused(value: str) -> None:
    with env_file(b"A=1\n") as path:
        with pytest.raises(EnvironmentFailed):
            write(path, value)
        assert path.read_bytes() == b"A=1\n"


def test_a_name_that_is_no_variable_is_refused() -> None:
    with env_file(b"") as path, pytest.raises(EnvironmentFailed):
        write(path, "1", variable="A=1\nB")


@pytest.mark.parametrize("secret", ["hunter2", "hunter2\n", "hunter2\\"])
def test_no_text_shows_a_value(secret: str) -> None:
    with env_file(f"PASSWORD={secret}\nA='open".encode()) as path:
        with pytest.raises(EnvironmentFailed) as caught:
            switch_for(path).read()
        assert "hunter2" not in str(caught.value)
    with env_file(b"A='hunter2'\n") as path:
        state = switch_for(path).read()
        assert state.values == {"A": "hunter2"}
        assert "hunter2" not in repr(state)


# -- the file --------------------------------------------------------------------------------------------------------


def test_what_is_there_already_is_not_written_again_and_needs_no_version() -> None:
    with env_file(b"A=1\n") as path:
        switch = switch_for(path)
        before = switch.read()
        after = switch.write(before, {VARIABLE: GREEN, "GREENFLY_PHASE": "green"})
        facts = path.stat()
        again = switch.write(before, {VARIABLE: GREEN, "GREENFLY_PHASE": "green"})
        assert again == after
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (facts.st_ino, facts.st_mtime_ns)
        assert path.with_name(path.name + PREVIOUS_SUFFIX).read_bytes() == b"A=1\n"


def test_a_file_that_somebody_else_changed_is_not_written() -> None:
    with env_file(b"A=1\n") as path:
        switch = switch_for(path)
        state = switch.read()
        path.write_bytes(b"A=2\n")
        with pytest.raises(EnvironmentChanged):
            switch.write(state, {VARIABLE: GREEN})
        assert path.read_bytes() == b"A=2\n"


def test_a_change_between_reading_and_replacing_is_not_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    with env_file(b"A=1\n") as path:
        switch = switch_for(path)
        state = switch.read()
        replace = os.replace

        def edit_after_the_previous_file_is_kept(source: Path, target: Path) -> None:
            replace(source, target)
            path.write_bytes(b"A=2\n")

        monkeypatch.setattr(os, "replace", edit_after_the_previous_file_is_kept)
        with pytest.raises(EnvironmentChanged):
            switch.write(state, {VARIABLE: GREEN})
        assert path.read_bytes() == b"A=2\n"
        assert sorted(os.listdir(path.parent)) == [".env", ".env" + PREVIOUS_SUFFIX]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o400])
def test_the_mode_stays_and_the_previous_file_is_for_its_owner_only(mode: int) -> None:
    with env_file(b"A=1\n") as path:
        path.chmod(mode)
        write(path, GREEN)
        previous = path.with_name(path.name + PREVIOUS_SUFFIX)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert stat.S_IMODE(previous.stat().st_mode) == mode & 0o600
        assert previous.read_bytes() == b"A=1\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_owner_stays() -> None:
    with env_file(b"A=1\n") as path:
        os.chown(path, 1234, 2345)
        write(path, GREEN)
        for file in (path, path.with_name(path.name + PREVIOUS_SUFFIX)):
            assert (file.stat().st_uid, file.stat().st_gid) == (1234, 2345)


def test_the_previous_file_is_on_the_disk_before_the_new_one_is_put_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(handle: int) -> None:
        steps.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        fsync(handle)

    def recorded_replace(source: Path, target: Path) -> None:
        steps.append(f"{source.name} -> {target.name}")
        replace(source, target)

    with env_file(b"A=1\n") as path:
        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(os, "replace", recorded_replace)
        write(path, GREEN)
        previous = path.name + PREVIOUS_SUFFIX
        assert steps == [
            f"fsync {previous}.greenfly-new",
            f"{previous}.greenfly-new -> {previous}",
            f"fsync {path.parent.name}",
            "fsync .env.greenfly-new",
            ".env.greenfly-new -> .env",
            f"fsync {path.parent.name}",
        ]


def test_a_symlink_is_followed_and_stays_one(tmp_path: Path) -> None:
    real = tmp_path / "shared" / "app.env"
    real.parent.mkdir()
    real.write_bytes(b"A=1\n")
    link = tmp_path / ".env"
    link.symlink_to(real)
    write(link, GREEN)
    assert link.is_symlink()
    assert as_read(real) == {"A": "1", VARIABLE: GREEN}
    assert real.with_name(real.name + PREVIOUS_SUFFIX).read_bytes() == b"A=1\n"


def test_what_cannot_be_replaced_in_one_step_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    with pytest.raises(EnvironmentFailed):
        switch_for(path).read()
    path.write_bytes(b"A=1\n")
    (tmp_path / "other").hardlink_to(path)
    with pytest.raises(EnvironmentFailed):
        switch_for(path).read()
    with pytest.raises(EnvironmentFailed):
        switch_for(tmp_path).read()


def test_a_write_that_fails_leaves_the_file_and_nothing_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    with env_file(b"A=1\n") as path:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(EnvironmentFailed):
            write(path, GREEN)
        assert path.read_bytes() == b"A=1\n"
        assert os.listdir(path.parent) == [".env"]


def test_checking_leaves_everything_as_it_is_and_finds_what_a_write_would_find(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    with env_file(b"A=1\n") as path:
        facts = path.stat()
        switch_for(path).check({VARIABLE: GREEN})
        assert os.listdir(path.parent) == [".env"]
        assert path.stat().st_mtime_ns == facts.st_mtime_ns
        with pytest.raises(EnvironmentFailed):
            switch_for(path).check({VARIABLE: "a\\b"})
        with pytest.raises(EnvironmentFailed):
            switch_for(path).check({"A B": "1"})
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(EnvironmentFailed):
            switch_for(path).check({VARIABLE: GREEN})
        assert os.listdir(path.parent) == [".env"]


def test_confirming_reads_the_file_again() -> None:
    with env_file(b"A=1\n") as path:
        switch = switch_for(path)
        assert switch.confirm(1.0)
        switch.write(switch.read(), {VARIABLE: GREEN})
        assert switch.confirm(1.0) == ""
        path.write_bytes(path.read_bytes() + b"B=2\n")
        assert switch.confirm(1.0) == ""
        path.write_bytes(b"A=1\n")
        assert switch.confirm(1.0)


def test_the_settings_choose_it() -> None:
    with env_file(b"A=1\n") as path:
        switch = environment_switch(SwitchSettings(kind="dotenv", dotenv=DotenvSettings(path=path)))
        assert isinstance(switch, DotenvSwitch)
        assert switch.name == f"dotenv {path}"
