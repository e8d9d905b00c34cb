"""`greenfly assess`: what it says, what it ends with, what is let pass, and that migrate and sync obey it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from integrity.assess.gate import GateLook, look
from integrity.assess.model import Check, Finding, Outcome, Result, Severity, found, passed
from integrity.assess.runner import make_check, make_checks
from integrity.assess.subject import Subject
from integrity.assess.waivers import pair as pair_of
from integrity.assess.waivers import waive
from integrity.endpoint import Endpoint
from integrity.errors import Interrupted, ServerUnreachable
from integrity.ledger import Ledger, open_ledger
from integrity.ledger.assessments import (
    AssessmentRecord,
    RecordedResult,
    read_assessment,
    read_results,
    record_assessment,
)
from integrity.ledger.vocabulary import PhaseName, PhaseState, RunKind
from integrity.ledger.waivers import read_waivers
from integrity.migration import Run
from integrity.progress import Silent
from integrity.settings import Settings, load_settings
from integrity.strategy import Strategy
from tests.cli import ASSESS_VARIABLE, CompletedRun, Greenfly, dig
from tests.conftest import StartServer
from tests.inprocess import between, run_here
from tests.raw import Raw
from tests.runs import calls, report
from tests.servers import Store

ASSESSED = {ASSESS_VARIABLE: "true"}
ONE = {"GREENFLY_ASSESS__ONLY": "commands.unknown", **ASSESSED}
"""One check, so that these tests are about what becomes of a result."""
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202eevil"


@pytest.fixture
def pair(start_redis: StartServer) -> tuple[Store, Store]:
    """Blue, whose applications use LCS, and a green that does not know it."""
    blue, green = start_redis(), start_redis("--rename-command", "LCS", "", "--rename-command", "SORT_RO", "")
    blue.client.mset({"a": "ohmytext", "b": "mynewtext"})
    blue.client.lcs("a", "b")
    return blue, green


@pytest.fixture
def run(greenfly: Greenfly, pair: tuple[Store, Store]) -> Callable[..., CompletedRun]:
    """A command about the two."""
    servers = between(pair[0].url, pair[1].url)

    def command(*words: str, env: dict[str, str] = ONE) -> CompletedRun:
        return run_here(greenfly, *words, *servers, env=env)

    return command


@pytest.fixture
def ledger(greenfly: Greenfly) -> Iterator[Ledger]:
    """The ledger of this test, for what no command shows."""
    opened = open_ledger(settings_of("redis://a", "redis://b", greenfly.state_dir))
    yield opened
    opened.close()


# -- what it says ------------------------------------------------------------------------------------------------------


def test_servers_that_nothing_parts_pass_and_are_not_written_to(
    blue: Store, green: Store, greenfly: Greenfly
) -> None:
    blue.client.mset({f"k:{number}": number for number in range(50)})
    done = run_here(greenfly, "assess", *between(blue.url, green.url), "--json", "--only", "commands.unknown")
    assert (done.exit_code, done.at("verdict"), done.at("kind")) == (0, "PASS", "assess"), done.stdout
    assert (done.at("assessment", "verdict"), done.at("assessment", "grade", "letter")) == ("PASS", "A")
    assert [dig(phase, "name") for phase in as_list(done.at("phases"))] == ["check", "assess"]
    assert dig(report(done), "assessment", "results", 0, "check") == "commands.unknown"
    assert "commands.unknown" not in as_list(done.at("assessment", "left_out"))
    assert green.client.dbsize() == 0
    assert blue.client.dbsize() == 50


def test_what_blocks_comes_first_with_what_to_do_and_fails_the_run(run: Callable[..., CompletedRun]) -> None:
    done = run("assess")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "Blocking (1)"
    assert "lcs" in done.stdout
    assert any(line.strip().startswith("do: ") for line in lines)
    assert "FAIL: 1 check blocking: commands.unknown." in done.stdout


def test_what_may_not_be_asked_is_unknown_and_inconclusive_where_it_could_block(
    start_redis: StartServer, green_redis: Store, greenfly: Greenfly
) -> None:
    blue = start_redis()
    blue.client.acl_setuser(
        "mover", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-dbsize"]
    )
    url = blue.url.replace("redis://", "redis://mover:x@")

    def refused(subject: Subject) -> Finding:
        with subject.source.connect("assess") as connection:
            connection.command(b"DBSIZE")
        return passed("fine")

    made = make_check(subject_of(url, green_redis.url), Check("a.b", "A title", Severity.BLOCKING, refused))
    assert (made.outcome, made.severity, made.blocks) == (Outcome.UNKNOWN, Severity.BLOCKING, True)
    assert made.evidence == {"error": "PermissionRefused"}
    softer = make_check(subject_of(url, green_redis.url), Check("a.b", "A title", Severity.WARNING, refused))
    assert not softer.blocks


def as_list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def subject_of(source: str, target: str, strategy: Strategy = Strategy.COPY) -> Subject:
    settings = settings_of(source, target)
    ours = Endpoint.from_settings("source", settings.source)
    theirs = Endpoint.from_settings("target", settings.target)
    return Subject(settings, ours, theirs, ours.identify(), theirs.identify(), strategy, (0,), Silent())


def settings_of(source: str, target: str, state_dir: Path | None = None, **more: object) -> Settings:
    values: dict[str, object] = {"source": {"url": source}, "target": {"url": target}, **more}
    if state_dir is not None:
        values["state_dir"] = state_dir
    return load_settings(values, environ={}).settings


def test_a_connection_that_one_check_loses_leaves_that_check_unknown(blue: Store, green_redis: Store) -> None:
    def cut_off(subject: Subject) -> Finding:
        with subject.source.connect("assess") as connection:
            number = connection.command(b"CLIENT", b"ID")
            with subject.source.connect("assess") as other:
                other.command(b"CLIENT", b"KILL", b"ID", str(number).encode())
            connection.command(b"PING")
        return passed("fine")

    checks = (
        Check("a.cut", "A title", Severity.WARNING, cut_off),
        Check("a.next", "A title", Severity.INFO, lambda _: passed("fine")),
    )
    first, second = make_checks(subject_of(blue.url, green_redis.url), checks)
    assert (first.outcome, second.outcome) == (Outcome.UNKNOWN, Outcome.PASSED)


def test_a_server_that_is_gone_ends_the_run(start_redis: StartServer, green_redis: Store) -> None:
    blue = start_redis()
    subject = subject_of(blue.url, green_redis.url)
    assert blue.server is not None

    def ask(subject: Subject) -> Finding:
        with subject.source.connect("assess") as connection:
            connection.command(b"PING")
        return passed("fine")

    blue.client.shutdown(nosave=True)
    with pytest.raises(ServerUnreachable):
        make_checks(subject, (Check("a.b", "A title", Severity.INFO, ask),))


def test_a_check_about_another_road_is_not_made(blue: Store, green_redis: Store) -> None:
    def never(subject: Subject) -> Finding:
        raise AssertionError

    check = Check("a.b", "A title", Severity.BLOCKING, never, strategies=frozenset({Strategy.NATIVE}))
    assert make_check(subject_of(blue.url, green_redis.url), check).outcome is Outcome.NOT_APPLICABLE


def test_the_same_thing_is_found_once_whatever_the_order(blue: Store, green_redis: Store) -> None:
    check = Check(
        "a.b",
        "A title",
        Severity.WARNING,
        lambda _: found(Severity.WARNING, "s", "r", items=("b", "a", "b")),
    )
    assert make_check(subject_of(blue.url, green_redis.url), check).items == ("a", "b")


@pytest.mark.parametrize(
    "flags",
    [("--only", "nonsense"), ("--skip", "commands.nonsense"), ("--mode", "deep"), ("--strategy", "fast")],
)
def test_a_name_that_there_is_not_is_refused_before_anything_is_recorded(
    flags: tuple[str, str], greenfly: Greenfly, blue: Store, green_redis: Store
) -> None:
    done = run_here(greenfly, "assess", *between(blue.url, green_redis.url), *flags, "--json")
    assert done.exit_code == 2
    assert done.at("error", "kind") == "ConfigurationError"
    assert not (greenfly.state_dir / "ledger.sqlite3").exists()


def test_the_list_of_checks_needs_no_server(greenfly: Greenfly) -> None:
    done = run_here(greenfly, "assess", "--list", "--json")
    assert done.exit_code == 0
    assert "commands.unknown" in [dig(check, "id") for check in as_list(done.at("checks"))]
    assert "commands.unknown" in run_here(greenfly, "assess", "--list").stdout


def sort_read_only(blue: Store) -> None:
    """Use one more command that green does not know."""
    with Raw(blue.url) as raw:
        raw("SORT_RO", "list")


# -- waivers -----------------------------------------------------------------------------------------------------------


def test_what_is_waived_passes_with_exceptions_until_something_new_is_found_or_it_is_withdrawn(
    run: Callable[..., CompletedRun], pair: tuple[Store, Store]
) -> None:
    assert run("assess").exit_code == 1
    waived = run(
        "assess", "waive", "commands.unknown", "--why", "gone on Friday", "--until", "30d", "--by", "ann"
    )
    assert waived.exit_code == 0, waived.stderr
    done = run("assess", "--json")
    assert (done.exit_code, done.at("verdict")) == (0, "PASS WITH EXCEPTIONS")
    shown = done.at("assessment", "results", 0)
    assert dig(shown, "group") == "waived"
    assert (dig(shown, "waivers", 0, "by"), dig(shown, "waivers", 0, "why")) == ("ann", "gone on Friday")
    assert dig(shown, "waivers", 0, "items") == ["lcs"]

    sort_read_only(pair[0])
    assert run("assess").exit_code == 1
    assert run("assess", "waive", "commands.unknown", "--why", "this too", "--until", "1w").exit_code == 0
    assert run("assess").exit_code == 0

    listed = run("assess", "waivers", "--json")
    assert [dig(each, "items") for each in as_list(listed.at("waivers"))] == [["lcs"], ["lcs", "sort_ro"]]
    withdrawn = run("assess", "unwaive", "commands.unknown", "--json")
    assert [dig(each, "state") for each in as_list(withdrawn.at("waivers"))] == ["in force", "in force"]
    assert run("assess").exit_code == 1
    assert run("assess", "waivers", "--json").at("waivers") == []
    ended = run("assess", "waivers", "--all", "--json")
    assert {dig(each, "state") for each in as_list(ended.at("waivers"))} == {"withdrawn"}
    assert run("assess", "unwaive", "commands.unknown").exit_code == 4


def test_a_waiver_for_one_item_leaves_the_others_blocking_and_is_an_audit_event(
    run: Callable[..., CompletedRun], pair: tuple[Store, Store], ledger: Ledger
) -> None:
    sort_read_only(pair[0])
    run("assess")
    flags = ("--why", "w", "--until", "1d", "--item", "sort_ro")
    assert run("assess", "waive", "commands.unknown", *flags).exit_code == 0
    blocked = run("migrate", "--no-snapshot", "--json")
    assert blocked.exit_code == 4
    assert "[lcs]" in str(blocked.at("error", "problem"))
    (waiver,) = read_waivers(ledger.engine)
    assert [event.kind for event in ledger.events(waiver.run_id)].count("waiver.granted") == 1
    assert ledger.chain_state().intact


CANNOT_BE_GIVEN: tuple[tuple[int, str, tuple[str, ...]], ...] = (
    (2, "no.such", ("--why", "w", "--until", "1d")),
    (2, "commands.unknown", ("--why", "", "--until", "1d")),
    (2, "commands.unknown", ("--why", " \n ", "--until", "1d")),
    (2, "commands.unknown", ("--why", "w" * 2001, "--until", "1d")),
    (2, "commands.unknown", ("--why", "w", "--until", "2020-01-01")),
    (2, "commands.unknown", ("--why", "w", "--until", "60w")),
    (2, "commands.unknown", ("--why", "w", "--until", "soon")),
    (2, "commands.unknown", ("--why", "w", "--until", "1d", "--by", "")),
    (2, "commands.unknown", ("--why", "w", "--until", "1d", "--item", "get")),
    (2, "commands.unknown", ("--until", "1d")),
    (4, "commands.errors", ("--why", "w", "--until", "1d")),
)
"""Exit code, check, flags."""


def test_a_waiver_that_cannot_be_given_is_refused_and_nothing_is_recorded(
    run: Callable[..., CompletedRun], ledger: Ledger
) -> None:
    run("assess", env={"GREENFLY_ASSESS__ONLY": "commands.unknown,commands.errors"})
    ended = [run("assess", "waive", check, *flags).exit_code for _, check, flags in CANNOT_BE_GIVEN]
    assert ended == [code for code, _, _ in CANNOT_BE_GIVEN]
    assert read_waivers(ledger.engine) == []


def test_nothing_is_waived_that_was_never_assessed(run: Callable[..., CompletedRun]) -> None:
    done = run("assess", "waive", "commands.unknown", "--why", "w", "--until", "1d", "--json")
    assert (done.exit_code, done.at("error", "kind")) == (4, "Refused")


def test_flags_before_the_word_waivers_are_refused_not_dropped(
    greenfly: Greenfly, pair: tuple[Store, Store]
) -> None:
    done = run_here(greenfly, "assess", *between(pair[0].url, pair[1].url), "waivers")
    assert done.exit_code == 2


def test_hostile_words_of_a_waiver_do_no_harm_in_terminal_page_and_json(
    run: Callable[..., CompletedRun],
) -> None:
    run("assess")
    given = run("assess", "waive", "commands.unknown", "--why", HOSTILE, "--until", "1d", "--by", HOSTILE)
    listed = run("assess", "waivers")
    done = run("assess")
    for shown in (given.stdout, listed.stdout, done.stdout, done.stderr):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
    again = run("assess", "--json")
    page = Path(str(again.at("report", "html"))).read_text("utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\u202e" not in page
    assert "\x1b" not in again.stdout


# -- migrate and sync --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["migrate", "sync"])
def test_what_blocks_stops_a_run_before_anything_is_written(
    command: str, run: Callable[..., CompletedRun], pair: tuple[Store, Store]
) -> None:
    done = run(command, "--no-snapshot", "--json")
    assert (done.exit_code, done.at("error", "kind")) == (4, "Refused")
    assert "commands.unknown" in str(done.at("error", "problem"))
    assert "greenfly assess" in str(done.at("error", "remedy"))
    assert pair[1].client.dbsize() == 0
    assert "commands.unknown" in Path(str(done.at("report"))).read_text("utf-8")


@pytest.mark.parametrize(("command", "flags"), [("migrate", ()), ("sync", ("--until-equal",))])
def test_what_is_waived_lets_a_run_go_on_and_stands_in_its_report(
    command: str, flags: tuple[str, ...], run: Callable[..., CompletedRun], pair: tuple[Store, Store]
) -> None:
    run("assess")
    run("assess", "waive", "commands.unknown", "--why", "gone on Friday", "--until", "1d", "--by", "ann")
    done = run(command, "--no-snapshot", "--json", *flags)
    assert (done.exit_code, done.at("verdict")) == (0, "PASS"), done.stderr
    assert pair[1].client.dbsize() == 2
    assert "waived    commands.unknown" in done.stderr
    written = report(done)
    assert dig(written, "assessment", "results", 0, "waivers", 0, "by") == "ann"
    assert any("waived by ann" in str(note) for note in as_list(dig(written, "verdict", "notes")))


def test_an_assessment_that_is_switched_off_is_recorded_and_said(run: Callable[..., CompletedRun]) -> None:
    done = run("migrate", "--no-snapshot", "--json", env={ASSESS_VARIABLE: "false"})
    assert done.exit_code == 0
    phases = {str(dig(phase, "name")): dig(phase, "state") for phase in as_list(done.at("phases"))}
    assert phases["assess"] == "skipped"
    assert any("switched off" in str(note) for note in as_list(dig(report(done), "verdict", "notes")))


def test_a_run_that_goes_on_is_not_assessed_again_unless_its_assessment_did_not_finish(
    blue: Store, green_redis: Store, greenfly: Greenfly, ledger: Ledger
) -> None:
    settings = settings_of(
        blue.url, green_redis.url, greenfly.state_dir, assess={"only": ["commands.unknown"]}
    )
    run = Run.start(settings, ledger, RunKind.MIGRATE, Silent())
    with broken_off(run):
        servers = run.check()
        first = run.assess(servers)
        run.handle.phase_started(PhaseName.STREAM)
    assert first.strategy is Strategy.COPY
    made_at = assessed_at(ledger, run.id)

    again = Run.resume(settings, ledger, Silent())
    with broken_off(again):
        assert again.assess(again.check()) == first
    assert assessed_at(ledger, run.id) == made_at

    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE phase SET state = 'failed' WHERE name = 'assess'")
    anew = Run.resume(settings, ledger, Silent())
    with broken_off(anew):
        anew.assess(anew.check())
    assert assessed_at(ledger, run.id) > made_at
    (phase,) = [each for each in ledger.phases(run.id) if each.name is PhaseName.ASSESS]
    assert (phase.state, phase.attempts) == (PhaseState.DONE, 2)
    assert [each.result.check for each in read_results(ledger.engine, run.id)] == ["commands.unknown"]


@contextmanager
def broken_off(run: Run) -> Iterator[None]:
    """Do what stands in the block, and stop the run there, as Ctrl-C does."""
    try:
        with run.recorded():
            yield
            raise KeyboardInterrupt
    except Interrupted:
        return


def assessed_at(ledger: Ledger, run_id: str) -> datetime:
    record = read_assessment(ledger.engine, run_id)
    assert record is not None
    return record.at.astimezone(UTC)


def test_a_run_keeps_the_road_that_its_assessment_chose(
    blue: Store, green_redis: Store, greenfly: Greenfly, ledger: Ledger
) -> None:
    settings = settings_of(blue.url, green_redis.url, greenfly.state_dir, strategy="auto")
    settings = settings.model_copy(
        update={"assess": settings.assess.model_copy(update={"only": ("commands.unknown",)})}
    )
    run = Run.start(settings, ledger, RunKind.MIGRATE, Silent())
    with broken_off(run):
        made = run.assess(run.check())
    assert made.strategy is Strategy.COPY
    assert "not a Dragonfly" in made.why[0]
    record = read_assessment(ledger.engine, run.id)
    assert record is not None
    assert (record.strategy, record.facts["asked"]) == (Strategy.COPY, "auto")
    off = replace_assess(settings, enabled=False)
    unassessed = Run.start(off, ledger, RunKind.MIGRATE, Silent())
    with broken_off(unassessed):
        assert unassessed.assess(unassessed.check()).strategy is Strategy.COPY


def replace_assess(settings: Settings, **more: object) -> Settings:
    return settings.model_copy(update={"assess": settings.assess.model_copy(update=more)})


# -- the gate of a cutover ---------------------------------------------------------------------------------------------


def looked(ledger: Ledger, blue: Store, green: Store) -> GateLook:
    """What the gate says now."""
    settings = settings_of(blue.url, green.url)
    ours = Endpoint.from_settings("source", settings.source)
    theirs = Endpoint.from_settings("target", settings.target)
    return look(settings, ledger, ours, theirs, ours.identify(), theirs.identify())


@pytest.mark.dragonfly
def test_the_gate_looks_at_no_key_and_at_nothing_that_only_matters_before_the_copy(
    start_redis: StartServer, green_dragonfly: Store, ledger: Ledger
) -> None:
    blue = start_redis()
    blue.client.set("k", "v")
    green_dragonfly.client.set("k", "v")

    seen = looked(ledger, blue, green_dragonfly)

    assert [result.check for result in seen.open] == []
    assert (seen.made > 10, seen.assessed_at) == (True, None)
    assert [calls(blue, name) for name in ("scan", "type", "dump", "memory|usage")] == [0, 0, 0, 0]
    assert (blue.client.dbsize(), green_dragonfly.client.dbsize()) == (1, 1)


def test_what_the_newest_assessment_found_about_keys_closes_the_gate_until_it_is_waived(
    blue: Store, green_redis: Store, ledger: Ledger
) -> None:
    settings = settings_of(blue.url, green_redis.url)
    source, target = pair_of(settings)
    run = ledger.start_run(RunKind.ASSESS, settings)
    at = datetime.now(UTC)
    results = [
        RecordedResult(Result(name, "A title", Outcome.FOUND, Severity.BLOCKING, "s", items=("ReJSON-RL",)))
        for name in ("data.types", "data.empty", "commands.unknown")
    ]
    record = AssessmentRecord(run.id, source, target, Strategy.COPY, "full", at, {})
    record_assessment(ledger.engine, record, results)

    seen = looked(ledger, blue, green_redis)
    # What can be asked now is asked now, and an empty source does not matter any more.
    assert [result.check for result in seen.open] == ["data.types"]
    assert seen.assessed_at == at

    waive(settings, ledger, "data.types", why="exported by hand", until="1d", by="ann")
    seen = looked(ledger, blue, green_redis)
    assert ([r.check for r in seen.open], [r.check for r in seen.waived]) == ([], ["data.types"])

    with ledger.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE waiver SET until = '2020-01-01 00:00:00.000000'")
    assert [result.check for result in looked(ledger, blue, green_redis).open] == ["data.types"]
