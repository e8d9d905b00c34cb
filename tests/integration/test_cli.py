"""The command line as people and scripts meet it: help, JSON, exit codes, and what it shows of runs and settings."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from greenfly.exit_codes import MEANING
from integrity.version import __version__
from tests.cli import CompletedRun, Greenfly, dig
from tests.inprocess import between, run_here
from tests.servers import Store

COMMANDS = (
    *(
        (),
        ("migrate",),
        ("sync",),
        ("cutover",),
        ("watch",),
        ("rollback",),
        ("approve",),
        ("verify",),
        ("repair",),
        ("snapshot",),
        ("snapshot", "take"),
        ("report",),
        ("demo",),
        ("exit-codes",),
    ),
    *(("runs",), ("runs", "list"), ("runs", "show"), ("runs", "stop"), ("flow",), ("flow", "migrate")),
    *(("config",), ("config", "show")),
    *(("audit",), *(("audit", name) for name in ("verify", "keygen", "checkpoint", "export"))),
    *(("db",), *(("db", name) for name in ("upgrade", "check", "downgrade"))),
    *(
        ("serve",),
        ("flow", "run"),
        ("flow", "list"),
        ("metrics",),
        ("metrics", "serve"),
        ("metrics", "write"),
    ),
    *(
        ("review",),
        *(("review", name) for name in ("list", "approve", "reject", "waive", "unwaive", "waivers", "token")),
    ),
    *(("assess",), *(("assess", name) for name in ("acl", "rights", "waive", "unwaive", "waivers"))),
)
HEAVY = (
    "prefect",
    "pandas",
    "sqlalchemy",
    "alembic",
    "redis",
    "pyarrow",
    "numpy",
    "pydantic",
    "jinja2",
    "httpx",
)
HEAVY_RICH = ("rich.console", "rich.markdown", "rich.syntax", "rich.progress", "rich.traceback")


@pytest.fixture
def a_run(blue: Store, green_redis: Store, greenfly: Greenfly) -> CompletedRun:
    """A finished migration of three keys, one of which only the target has."""
    blue.client.set("k", "v")
    blue.client.rpush("l", 1, 2)
    green_redis.client.set("extra", "v")
    flags = ("--label", "Nacht ü", "--conflict", "replace", "--allow-extra")
    run = run_here(greenfly, "migrate", *between(blue.url, green_redis.url), "--json", *flags)
    assert run.exit_code == 0, run.stderr
    return run


def run_id(run: CompletedRun) -> str:
    found = run.at("run")
    assert isinstance(found, str)
    return found


# -- help --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_a_help(greenfly: Greenfly, command: tuple[str, ...]) -> None:
    run = run_here(greenfly, *command, "--help")

    assert run.exit_code == 0
    assert "Usage:" in run.stdout
    assert run.stderr == ""
    assert not greenfly.state_dir.exists()


def test_all_commands_are_listed_here(greenfly: Greenfly) -> None:
    text = run_here(greenfly, "--help").stdout
    listed = re.findall(r"^  ([a-z][a-z-]*)  ", text[text.index("Commands:") :], re.MULTILINE)

    assert set(listed) == {command[0] for command in COMMANDS if command}


def test_help_imports_nothing_heavy(greenfly: Greenfly) -> None:
    code = (
        "import sys, json; from greenfly.cli import app; loaded = [];\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "print('\\n' + json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=greenfly.folder,
    )

    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert loaded & {*HEAVY, *HEAVY_RICH} == set()


def test_the_version_is_told(greenfly: Greenfly) -> None:
    assert run_here(greenfly, "--version").stdout.strip() == f"greenfly {__version__}"


def test_the_module_can_be_run(greenfly: Greenfly) -> None:
    done = greenfly("exit-codes")

    assert done.exit_code == 0
    assert [int(line.split()[0]) for line in done.stdout.splitlines()] == [int(code) for code in MEANING]


# -- wrong use ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nonsense",),
        ("nonsense",),
        ("migrate", "--nonsense"),
        ("migrate", "--sources", "redis://x"),
        ("verify", "--conflict", "replace"),
        ("snapshot", "take", "--target", "redis://x"),
        ("snapshot", "--source", "redis://x"),
        ("runs", "show"),
        ("runs", "list", "--limit", "0"),
        ("runs", "list", "--limit", "many"),
        ("migrate", "redis://blue", "redis://green"),
        ("report",),
        ("migrate", "--source"),
        ("sync", "--conflict"),
        ("sync", "latest"),
        ("sync", "--feed", "keyspace"),
        ("cutover", "latest", "more"),
        ("cutover", "--abandon-green"),
        ("rollback", "--reason"),
        ("watch", "latest", "--for", "-1"),
        ("runs", "stop"),
        ("approve", "--gate"),
    ],
    ids=" ".join,
)
def test_wrong_use_ends_with_2(greenfly: Greenfly, arguments: tuple[str, ...]) -> None:
    run = run_here(greenfly, *arguments)

    assert run.exit_code == 2
    assert run.stderr
    assert run.stdout == ""


@pytest.mark.parametrize(
    "command",
    [
        *(("runs", "show", "zzz"), ("report", "zzz"), ("runs", "show", "latest")),
        *(("runs", "stop", "zzz"), ("approve", "zzz"), ("watch", "zzz"), ("watch", "latest")),
    ],
    ids=" ".join,
)
def test_an_unknown_run_ends_with_2(greenfly: Greenfly, command: tuple[str, ...]) -> None:
    run = run_here(greenfly, *command, "--json")

    assert (run.exit_code, run.at("error", "kind"), run.at("exit_code")) == (2, "ConfigurationError", 2)


@pytest.mark.parametrize(
    "flags", [("--request", "--reject"), ("--gate", "verdict"), ("--break-glass",)], ids=" ".join
)
def test_a_decision_that_cannot_be_recorded_ends_with_2(greenfly: Greenfly, flags: tuple[str, ...]) -> None:
    run = run_here(greenfly, "approve", "latest", *flags, "--json")

    assert (run.exit_code, run.at("error", "kind")) == (2, "ConfigurationError")


def test_no_servers_ends_with_2_and_tells_how_to_name_them(greenfly: Greenfly) -> None:
    for command in (("migrate",), ("verify",), ("snapshot", "take")):
        run = run_here(greenfly, *command)
        assert run.exit_code == 2
        assert "--source" in run.stderr


@pytest.mark.parametrize("command", ["cutover", "rollback"])
def test_applications_are_not_moved_where_nobody_can_be_asked(
    a_run: CompletedRun, blue: Store, green_redis: Store, greenfly: Greenfly, command: str
) -> None:
    run = run_here(greenfly, command, *between(blue.url, green_redis.url), "--json")

    assert (run.exit_code, run.at("error", "kind")) == (2, "ConfigurationError")
    assert "--yes" in run.stderr


@pytest.mark.parametrize("command", ["cutover", "rollback"])
def test_applications_are_not_moved_by_a_run_that_follows_nothing(
    a_run: CompletedRun, blue: Store, green_redis: Store, greenfly: Greenfly, command: str
) -> None:
    servers = between(blue.url, green_redis.url)
    run = run_here(greenfly, command, run_id(a_run), *servers, "--yes", "--json")

    assert (run.exit_code, run.at("error", "kind")) == (4, "Refused")


# -- JSON --------------------------------------------------------------------------------------------------------------


def test_json_of_every_command_is_one_object(
    a_run: CompletedRun, blue: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    servers = between(blue.url, green_redis.url)
    for command, code in (
        (("verify", *servers), 1),
        (("verify", *servers, "--allow-extra"), 0),
        (("snapshot", "take", "--source", blue.url), 0),
        (("migrate", *servers), 4),
        (("runs", "list"), 0),
        (("runs", "show", "latest"), 0),
        (("report", "latest"), 0),
        (("config", "show"), 0),
        (("audit", "verify"), 0),
        (("exit-codes",), 0),
    ):
        run = run_here(greenfly, *command, "--json")
        assert (command, run.exit_code) == (command, code)
        assert run.json()
        if command[0] in ("verify", "snapshot", "migrate"):
            assert run.at("exit_code") == code
            assert run.at("run")


def test_progress_and_errors_go_to_stderr_and_results_to_stdout(
    blue: Store, green_redis: Store, greenfly: Greenfly
) -> None:
    blue.client.set("k", "v")
    servers = between(blue.url, green_redis.url)

    loud = run_here(greenfly, "migrate", *servers)
    refused = run_here(greenfly, "migrate", *servers, "--quiet")
    quiet = run_here(greenfly, "verify", *servers, "-q")

    assert loud.stdout.lstrip().startswith("PASS")
    assert "stream" in loud.stderr
    assert refused.stdout == ""
    assert "error" in refused.stderr
    assert quiet.stdout.lstrip().startswith("PASS")
    assert quiet.stderr == ""
    assert "\x1b" not in loud.stdout + loud.stderr + refused.stderr


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_is_listed_and_shown(a_run: CompletedRun, greenfly: Greenfly, blue: Store) -> None:
    listed = run_here(greenfly, "runs", "list", "--json")
    shown = run_here(greenfly, "runs", "show", run_id(a_run)[-6:], "--json")

    assert listed.at("runs", 0, "run") == shown.at("run") == run_id(a_run)
    assert listed.at("runs", 0, "label") == "Nacht ü"
    assert (listed.at("runs", 0, "state"), listed.at("runs", 0, "verdict")) == (
        "finished",
        "PASS WITH EXCEPTIONS",
    )
    assert listed.at("runs", 0, "source") == blue.url
    assert (listed.at("runs", 0, "parent"), shown.at("board"), shown.at("steps")) == (None, None, [])
    phases = shown.at("phases")
    assert isinstance(phases, list)
    assert [dig(phase, "name") for phase in phases] == ["check", "assess", "snapshot", "stream", "verify"]
    assert [dig(phase, "state") for phase in phases] == ["done", "skipped", "done", "done", "done"]
    checkpoints = shown.at("checkpoints")
    assert isinstance(checkpoints, list)
    assert {dig(checkpoint, "done") for checkpoint in checkpoints} == {True}


def test_runs_are_shown_to_people_too(a_run: CompletedRun, greenfly: Greenfly) -> None:
    listed, shown = run_here(greenfly, "runs", "list"), run_here(greenfly, "runs", "show", "latest")

    assert run_id(a_run) in listed.stdout
    for part in (run_id(a_run), "PASS WITH EXCEPTIONS", "extra", "verify", "database 0"):
        assert part in shown.stdout


def test_an_empty_ledger_is_listed_as_such(greenfly: Greenfly) -> None:
    assert run_here(greenfly, "runs", "list").exit_code == 0
    assert run_here(greenfly, "runs", "list", "--json").at("runs") == []


def test_the_newest_runs_come_first_and_the_limit_holds(blue: Store, greenfly: Greenfly) -> None:
    made = [run_id(run_here(greenfly, "snapshot", "take", "--source", blue.url, "--json")) for _ in range(3)]

    listed = run_here(greenfly, "runs", "list", "--limit", "2", "--json").at("runs")

    assert isinstance(listed, list)
    assert {dig(item, "run") for item in listed} <= {*made}
    assert len(listed) == 2
    started = [str(dig(item, "started_at")) for item in listed]
    assert started == sorted(started, reverse=True)


# -- report ------------------------------------------------------------------------------------------------------------


def test_a_report_is_written_again_from_the_ledger_alone(
    a_run: CompletedRun, greenfly: Greenfly, tmp_path: Path
) -> None:
    first = Path(str(a_run.at("report", "html")))
    first.unlink()

    again = run_here(greenfly, "report", run_id(a_run), "--json")
    elsewhere = run_here(greenfly, "report", "latest", "--output", str(tmp_path / "out"), "--json")

    assert again.exit_code == elsewhere.exit_code == 0
    assert again.at("report", "html") == str(first)
    assert first.read_text("utf-8")
    for name in ("html", "json", "csv"):
        path = Path(str(elsewhere.at("report", name)))
        assert path.parent == tmp_path / "out"
        assert path.stat().st_size


def test_a_report_folder_that_cannot_be_written_is_no_verdict(
    a_run: CompletedRun, greenfly: Greenfly
) -> None:
    (greenfly.folder / "file").write_text("not a folder")

    run = greenfly("report", "latest", "--output", str(greenfly.folder / "file"))

    assert run.exit_code not in (0, 1), "1 means that two servers differ"
    assert "Traceback" not in run.stderr


# -- settings ----------------------------------------------------------------------------------------------------------


def test_config_show_tells_values_and_origins_and_no_secret(greenfly: Greenfly) -> None:
    (greenfly.folder / "greenfly.toml").write_text(
        '[source]\nurl = "redis://app:n1netyN1ne@blue"\n[copy]\nbatch_keys = 7\n'
    )
    env = {
        "GREENFLY_TARGET__PASSWORD": "n1netyN1ne-too",
        "GREENFLY_LEDGER_URL": "postgresql://a:n1netyN1ne@b/c",
    }

    shown = run_here(greenfly, "config", "show", "--json", env=env)
    plain = run_here(greenfly, "config", "show", env=env)

    listed = shown.at("settings")
    assert isinstance(listed, list)
    settings = {str(dig(item, "name")): (dig(item, "value"), str(dig(item, "origin"))) for item in listed}
    assert settings["copy.batch_keys"] == (7, "file greenfly.toml")
    assert settings["source.url"] == ("redis://app:***@blue", "file greenfly.toml")
    assert settings["target.password"][1] == "environment GREENFLY_TARGET__PASSWORD"
    assert settings["verify.rechecks"][1] == "default"
    assert "n1netyN1ne" not in shown.stdout + plain.stdout
    for name in settings:
        assert name in plain.stdout


def test_a_named_configuration_file_is_used(greenfly: Greenfly, tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text('label = "from the file"\n')

    by_flag = run_here(greenfly, "config", "show", "--config", str(path))
    by_variable = run_here(greenfly, "config", "show", env={"GREENFLY_CONFIG": str(path)})

    assert "from the file" in by_flag.stdout
    assert "from the file" in by_variable.stdout


# -- audit -------------------------------------------------------------------------------------------------------------


def test_an_intact_chain_is_confirmed_and_a_broken_one_ends_with_1(
    a_run: CompletedRun, greenfly: Greenfly
) -> None:
    intact = run_here(greenfly, "audit", "verify", "--json")
    assert (intact.exit_code, intact.at("intact")) == (0, True)
    with closing(sqlite3.connect(greenfly.state_dir / "ledger.sqlite3")) as database:
        database.execute("UPDATE event SET actor = 'nobody' WHERE sequence = 3")
        database.commit()

    broken = run_here(greenfly, "audit", "verify", "--json")
    plain = run_here(greenfly, "audit", "verify")

    assert (broken.exit_code, broken.at("intact"), broken.at("broken_at")) == (1, False, 3)
    assert plain.exit_code == 1
    assert "3" in plain.stdout
