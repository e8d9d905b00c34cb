"""The file of names that are not known to be carried over: whatever a kill leaves of it, no whole name is lost."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrity.errors import LedgerError
from integrity.sync import spool as spool_module
from integrity.sync.spool import Spool, read_spool

Names = st.sets(st.binary(max_size=40), max_size=8)


def test_a_file_that_is_not_there_holds_no_name(tmp_path: Path) -> None:
    assert read_spool(tmp_path / "none") == set()


def test_names_of_any_bytes_come_back(tmp_path: Path) -> None:
    names = {b"", b"\r\n\x00", bytes(range(256)), b"k" * 70_000}
    spool = Spool(tmp_path / "names")
    spool.add(names)
    spool.close()
    assert read_spool(spool.path) == names


@settings(max_examples=60, deadline=None)
@given(before=st.lists(Names, min_size=1, max_size=4), cut=st.integers(1, 60), after=Names)
def test_whoever_goes_on_after_a_kill_appends_names_that_can_be_read(
    before: list[set[bytes]], cut: int, after: set[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("spool") / "names"
    spool = Spool(path)
    for names in before:
        spool.add(names)
    spool.close()
    os.truncate(path, max(0, path.stat().st_size - cut))
    left = read_spool(path)
    spool = Spool(path)
    spool.add(after)
    spool.close()
    assert read_spool(path) == left | after


def test_only_what_is_kept_stays(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "names")
    spool.add([b"carried", b"dirty"])
    spool.keep(lambda: [b"dirty"])
    assert read_spool(spool.path) == {b"dirty"}
    spool.add([b"new"])
    assert read_spool(spool.path) == {b"dirty", b"new"}
    spool.close()


def test_the_file_is_not_written_anew_more_often_than_it_has_time_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(spool_module, "monotonic", lambda: clock[0])
    spool = Spool(tmp_path / "names")
    asked = []

    def slow() -> list[bytes]:
        asked.append(clock[0])
        clock[0] += 0.5
        return []

    for _ in range(300):
        spool.keep(slow)
        clock[0] += 0.1
    spool.close()
    assert len(asked) == pytest.approx(30 / 10, abs=1)


def test_a_full_disk_is_told_and_what_was_there_stays(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "names")
    spool.add([b"old"])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(LedgerError):
            spool.add([b"%04d" % n * 20 for n in range(100)])
        with pytest.raises(LedgerError):
            spool.keep(lambda: [b"%04d" % n * 20 for n in range(100)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    spool.close()
    assert b"old" in read_spool(spool.path)
    Spool(spool.path).close()
    assert b"old" in read_spool(spool.path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LedgerError):
        Spool(tmp_path / "file" / "names")


_WRITER = """
import sys
from itertools import count
from pathlib import Path
from integrity.sync import spool
spool._KEEP_SECONDS, spool._REST = 0.0, 0
file = spool.Spool(Path(sys.argv[1]))
for n in count():
    file.add([b"%d-a" % n, b"%d-b" % n * 300])
    print(n, flush=True)
    if n % 3 == 0:
        file.keep(lambda: [b"%d-a" % n, b"%d-b" % n * 300, b"kept"])
"""


@pytest.mark.parametrize("seconds", [0.01, 0.03, 0.08])
def test_a_kill_at_any_moment_leaves_the_newest_names(seconds: float, tmp_path: Path) -> None:
    path = tmp_path / "names"
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
        process.kill()
        said = [int(line) for line in process.stdout.read().split("\n") if line.isdecimal()]
    last = max(said, default=0)
    names = read_spool(path)
    assert {b"%d-a" % last, b"%d-b" % last * 300} <= names
    assert all(name == b"kept" or name[-1:] in b"ab" for name in names)
