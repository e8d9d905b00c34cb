"""The load's log, its environment file, and what is read from the times in it, without a server."""

from __future__ import annotations

import os
from pathlib import Path
from time import sleep

import pytest
from hiredis import ReplyError

from tests.load.environment import EnvironmentFile, Target
from tests.load.journal import Command, Journal, Outcome, Reply, big, expand, pack, read
from tests.load.timing import gaps, overlaps, switch_gaps

_BLUE = Target("blue", 6379, "", "", 1)
_GREEN = Target("green", 6379, "", "", 2)
_BLUE_AGAIN = Target("blue", 6379, "", "", 3)
_SET: Command = (b"SET", b"load:app-0.0:string:1", b"\r\n\x00$3")


def _log(journal: Journal, number: int, target: Target, sent: int, ended: int, outcome: Outcome) -> None:
    journal.intend(number, target, 0, pack((_SET,)), (sent, sent))
    replies: list[Reply] = [b"OK"] if outcome is Outcome.ACKNOWLEDGED else []
    journal.tell(number, (sent, sent), outcome, replies, (ended, ended))


def _acknowledge(folder: Path, worker: str, *writes: tuple[Target, int, int]) -> None:
    with Journal(folder, worker) as journal:
        for number, (target, sent, ended) in enumerate(writes):
            _log(journal, number, target, sent, ended, Outcome.ACKNOWLEDGED)


# -- the log -----------------------------------------------------------------------------------------------------------


def test_what_is_logged_is_read_back_with_every_kind_of_answer(tmp_path: Path) -> None:
    commands: tuple[Command, ...] = ((b"MULTI",), _SET, (b"LPOP", b"k"), (b"EXEC",))
    replies: list[Reply] = [b"OK", b"QUEUED", b"QUEUED", [b"", None, -3, [], [b"1-0", [b"a", b"b"]]]]
    with Journal(tmp_path, "app-0") as journal:
        journal.intend(7, _BLUE, 5, pack(commands), (10, 20))
        journal.tell(7, (11, 21), Outcome.ACKNOWLEDGED, replies, (12, 22))

    (write,) = read(tmp_path)

    assert (write.commands, write.replies, write.database) == (commands, replies, 5)
    timed = write.timed
    assert (timed.worker, timed.number, timed.side, timed.generation) == ("app-0", 7, "blue:6379", 1)
    assert (timed.sent_ns, timed.sent_wall_ns, timed.ended_ns, timed.ended_wall_ns) == (11, 21, 12, 22)


def test_a_refusal_is_read_back_as_an_error(tmp_path: Path) -> None:
    with Journal(tmp_path, "app-0") as journal:
        journal.intend(1, _BLUE, 0, pack((_SET,)), (1, 1))
        journal.tell(1, (1, 1), Outcome.REFUSED, [ReplyError("NOPERM no")], (2, 2))

    (write,) = read(tmp_path)

    assert isinstance(write.replies[0], ReplyError)
    assert str(write.replies[0]) == "NOPERM no"


def test_a_log_that_ends_in_the_middle_of_a_record_has_a_write_without_outcome(tmp_path: Path) -> None:
    _acknowledge(tmp_path, "app-0", (_BLUE, 1, 2), (_BLUE, 3, 4))
    path = tmp_path / "app-0.log"
    path.write_bytes(path.read_bytes()[:-3])

    outcomes = [write.timed.outcome for write in read(tmp_path)]

    assert outcomes == [Outcome.ACKNOWLEDGED, Outcome.UNKNOWN]


def test_a_second_process_of_the_same_name_cannot_write_the_log(tmp_path: Path) -> None:
    _acknowledge(tmp_path, "app-0", (_BLUE, 1, 2))

    with pytest.raises(FileExistsError):
        Journal(tmp_path, "app-0")


def test_a_large_value_is_the_same_whenever_it_is_made_again() -> None:
    assert expand(big(7, 100_001)) == expand(big(7, 100_001))
    assert len(expand(big(7, 100_001))) == 100_001
    assert expand(big(7, 100_001)) != expand(big(8, 100_001))
    assert expand(b"plain") == b"plain"


# -- the environment file ----------------------------------------------------------------------------------------------


def test_dragonfly_goes_before_redis_and_an_empty_value_is_none(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# a comment\nREDIS_URL='redis://u:p%40ss@blue:1'\nexport DRAGONFLY_URL=\nOTHER=1\n")
    environment = EnvironmentFile(path)
    blue = environment.look()
    assert (blue.side, blue.user, blue.password) == ("blue:1", "u", "p@ss")

    fresh = tmp_path / "fresh"
    fresh.write_text('REDIS_URL=redis://blue:1\nDRAGONFLY_URL="redis://green:2"\n')
    os.replace(fresh, path)
    green = environment.look()

    assert green.side == "green:2"
    assert green.generation > blue.generation


def test_an_old_file_that_is_put_back_is_the_newest(tmp_path: Path) -> None:
    path, kept, fresh = tmp_path / ".env", tmp_path / ".env.previous", tmp_path / "fresh"
    path.write_text("REDIS_URL=redis://blue:1\n")
    environment = EnvironmentFile(path)
    blue = environment.look()
    fresh.write_text("REDIS_URL=redis://green:2\n")
    sleep(0.02)
    os.replace(path, kept)
    os.replace(fresh, path)
    green = environment.look()
    sleep(0.02)
    os.replace(kept, path)
    again = environment.look()

    assert (blue.side, green.side, again.side) == ("blue:1", "green:2", "blue:1")
    assert blue.generation < green.generation < again.generation


def test_a_file_that_is_away_for_a_moment_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("REDIS_URL=redis://blue:1\n")
    environment = EnvironmentFile(path)
    path.unlink()

    assert environment.look().side == "blue:1"
    with pytest.raises(OSError, match="env"):
        EnvironmentFile(path)


# -- times -------------------------------------------------------------------------------------------------------------


def test_the_pause_is_from_the_last_answer_of_one_side_to_the_first_of_the_other(tmp_path: Path) -> None:
    _acknowledge(
        tmp_path,
        "app-probe",
        (_BLUE, 0, 10_000_000),
        (_BLUE, 11_000_000, 20_000_000),
        (_GREEN, 300_000_000, 320_000_000),
        (_GREEN, 330_000_000, 331_000_000),
        (_BLUE_AGAIN, 500_000_000, 531_000_000),
    )
    _acknowledge(tmp_path, "app-0", (_BLUE, 0, 10_000_000), (_GREEN, 900_000_000, 910_000_000))

    assert [gap.seconds for gap in gaps(tmp_path)] == pytest.approx([0.01, 0.3, 0.011, 0.2])
    assert [gap.seconds for gap in gaps(tmp_path, at_least_s=0.1)] == pytest.approx([0.3, 0.2])
    assert [(gap.from_side, gap.to_side) for gap in switch_gaps(tmp_path)] == [
        ("blue:6379", "green:6379"),
        ("green:6379", "blue:6379"),
    ]


def test_one_side_after_the_other_is_no_overlap_nor_is_a_late_answer(tmp_path: Path) -> None:
    _acknowledge(tmp_path, "app-0", (_BLUE, 1, 2), (_BLUE, 3, 60), (_BLUE_AGAIN, 80, 81))
    _acknowledge(tmp_path, "app-1", (_GREEN, 40, 50), (_GREEN, 51, 70))

    # Sent at 3, before the first answer of green: it may well have been done before green's.
    assert overlaps(tmp_path) == []


def test_a_write_sent_to_the_old_side_after_the_new_one_has_answered_is_an_overlap(tmp_path: Path) -> None:
    _acknowledge(tmp_path, "app-0", (_BLUE, 1, 2), (_BLUE, 51, 60))
    _acknowledge(tmp_path, "app-1", (_GREEN, 40, 50))

    (overlap,) = overlaps(tmp_path)

    assert (overlap.old.side, overlap.old.sent_ns) == ("blue:6379", 51)
    assert (overlap.new.side, overlap.new.ended_ns) == ("green:6379", 50)


def test_an_overlap_on_the_way_back_is_seen_as_well(tmp_path: Path) -> None:
    _acknowledge(tmp_path, "app-0", (_BLUE, 1, 2), (_GREEN, 40, 50), (_GREEN, 91, 95))
    _acknowledge(tmp_path, "app-1", (_BLUE_AGAIN, 80, 90))

    (overlap,) = overlaps(tmp_path)

    assert (overlap.old.side, overlap.new.side) == ("green:6379", "blue:6379")


def test_a_write_that_was_refused_or_never_answered_is_no_overlap(tmp_path: Path) -> None:
    _acknowledge(tmp_path, "app-1", (_GREEN, 40, 50))
    with Journal(tmp_path, "app-0") as journal:
        _log(journal, 1, _BLUE, 1, 2, Outcome.ACKNOWLEDGED)
        _log(journal, 2, _BLUE, 55, 60, Outcome.REFUSED)
        _log(journal, 3, _BLUE, 65, 70, Outcome.UNKNOWN)

    assert overlaps(tmp_path) == []
