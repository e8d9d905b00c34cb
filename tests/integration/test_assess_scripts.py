"""Scripts, function libraries and modules: what is said beforehand is what a real Dragonfly does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from integrity.assess.model import Finding, Outcome, Severity
from integrity.assess.registry import find_check
from integrity.strategy import Strategy
from tests.assessing import subject_of
from tests.conftest import StartDragonfly, StartServer
from tests.fencing import each_program
from tests.matrix.servers import Program
from tests.raw import Raw, as_int
from tests.servers import Store

dragonfly = pytest.mark.dragonfly

FIT = {
    "get.lua": "return redis.call('GET', KEYS[1])",
    "all.lua": "local n = 0\nfor _, k in ipairs(KEYS) do n = n + redis.call('EXISTS', k) end\nreturn n",
    "allowed.lua": "--!df flags=allow-undeclared-keys\nreturn redis.call('GET', KEYS[1] .. ':x')",
    "json.lua": "return cjson.encode({redis.call('SET', KEYS[1], ARGV[1])})",
}
UNFIT = {
    "scripts.keys": {
        "lock.lua": "return redis.call('SET', KEYS[1] .. ':lock', '1')",
        "argument.lua": "return redis.call('GET', ARGV[1])",
        "loop.lua": "for _, k in ipairs(ARGV) do redis.call('INCR', k) end return 1",
    },
    "scripts.language": {
        "shebang.lua": "#!lua flags=no-writes\nreturn redis.call('GET', KEYS[1])",
        "power.lua": "return math.pow(2, 3)",
        "load.lua": "return loadstring('return 1')()",
        "broken.lua": "return 1 +",
    },
    "scripts.commands": {"lcs.lua": "return redis.call('LCS', KEYS[1], KEYS[2])"},
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    folders = (tmp_path / f"lua{number}" for number in range(9))

    def write_all(scripts: dict[str, str]) -> Path:
        folder = next(folders)
        folder.mkdir()
        for name, text in scripts.items():
            (folder / name).write_text(text)
        return folder

    return write_all


def look(name: str, source: Store, target: Store, *scripts: Path, road: Strategy = Strategy.COPY) -> Finding:
    subject = subject_of(source.url, target.url, road, assess={"scripts": tuple(map(str, scripts))})
    finding = find_check(name).look(subject)
    json.dumps(dict(finding.evidence))
    return finding


def runs(store: Store, text: str) -> bool:
    with Raw(store.url) as raw:
        return not isinstance(raw.many([("EVAL", text, 2, "{k}1", "{k}2", "a", "b")])[0], ResponseError)


@dragonfly
@pytest.mark.parametrize("name", sorted(UNFIT))
def test_what_blocks_is_what_dragonfly_refuses(
    blue: Store, green_dragonfly: Store, write: Callable[[dict[str, str]], Path], name: str
) -> None:
    folder = write(FIT | UNFIT[name])
    finding = look(name, blue, green_dragonfly, folder)
    assert (finding.outcome, finding.severity) == (Outcome.FOUND, Severity.BLOCKING)
    assert finding.items == tuple(sorted(str(folder / script) for script in UNFIT[name]))
    assert all(runs(green_dragonfly, text) for text in FIT.values())
    assert not any(runs(green_dragonfly, text) for text in UNFIT[name].values())


@dragonfly
def test_fit_scripts_pass_and_nothing_of_theirs_stays_on_the_target(
    blue: Store, green_dragonfly: Store, write: Callable[[dict[str, str]], Path]
) -> None:
    folder = write(FIT)
    with Raw(green_dragonfly.url) as raw:
        raw("SCRIPT", "FLUSH")
        for name in (*UNFIT, "scripts.numbers"):
            assert look(name, blue, green_dragonfly, folder).outcome is Outcome.PASSED
        hashes = [as_script_hash(text) for text in FIT.values()]
        assert raw("SCRIPT", "EXISTS", *hashes) == [0] * len(hashes)
        assert raw("DBSIZE") == 0


def as_script_hash(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@dragonfly
def test_what_a_tool_puts_together_before_it_is_sent_may_be_defined_in_another_file(
    blue: Store, green_dragonfly: Store, write: Callable[[dict[str, str]], Path]
) -> None:
    parts = {
        "job.lua": '--- @include "part"\nlocal rcall = redis.call\nreturn part(KEYS[1])',
        "part.lua": "local function part(key) return rcall('GET', key) end",
    }
    assert look("scripts.language", blue, green_dragonfly, write(parts)).outcome is Outcome.PASSED
    alone = look("scripts.language", blue, green_dragonfly, write({"job.lua": parts["part.lua"]}))
    assert alone.outcome is Outcome.FOUND


@dragonfly
def test_a_target_that_lets_scripts_touch_any_key_is_not_blamed(
    blue: Store, start_dragonfly: StartDragonfly, write: Callable[[dict[str, str]], Path]
) -> None:
    lax = start_dragonfly("--default_lua_flags=allow-undeclared-keys")
    folder = write(UNFIT["scripts.keys"])
    assert look("scripts.keys", blue, lax, folder).outcome is Outcome.PASSED
    assert runs(lax, UNFIT["scripts.keys"]["argument.lua"])


@dragonfly
def test_a_division_reads_differently_in_lua_5_4(
    blue: Store, green_dragonfly: Store, write: Callable[[dict[str, str]], Path]
) -> None:
    text = "return 'n:' .. (10 / 2)"
    finding = look("scripts.numbers", blue, green_dragonfly, write({"half.lua": text}))
    assert finding.severity is Severity.WARNING
    with Raw(blue.url) as ours, Raw(green_dragonfly.url) as theirs:
        assert (ours("EVAL", text, 0), theirs("EVAL", text, 0)) == (b"n:5", b"n:5.0")


@pytest.mark.parametrize("name", [*UNFIT, "scripts.numbers"])
def test_scripts_that_cannot_be_read_are_not_passed_over(
    blue: Store, green_redis: Store, tmp_path: Path, name: str
) -> None:
    finding = look(name, blue, green_redis, tmp_path / "nowhere")
    assert (finding.outcome, finding.severity) == (Outcome.UNKNOWN, Severity.BLOCKING)
    assert look(name, blue, green_redis).outcome is Outcome.NOT_APPLICABLE


def test_between_two_redis_scripts_pass(
    blue: Store, green_redis: Store, write: Callable[[dict[str, str]], Path]
) -> None:
    scripts = FIT | UNFIT["scripts.keys"] | UNFIT["scripts.commands"] | UNFIT["scripts.language"]
    folder = write({name: text for name, text in scripts.items() if name != "broken.lua"})
    for name in UNFIT:
        assert look(name, blue, green_redis, folder).outcome is Outcome.PASSED, name


@dragonfly
def test_scripts_in_use_that_nobody_named_are_a_warning(
    blue: Store, green_dragonfly: Store, write: Callable[[dict[str, str]], Path]
) -> None:
    blue.client.config_resetstat()
    assert look("scripts.cached", blue, green_dragonfly).outcome is Outcome.PASSED
    assert runs(blue, FIT["get.lua"])
    finding = look("scripts.cached", blue, green_dragonfly)
    assert (finding.outcome, finding.severity) == (Outcome.FOUND, Severity.WARNING)
    assert finding.evidence["calls"] == {"eval": 1}
    assert look("scripts.cached", blue, green_dragonfly, write(FIT)).outcome is Outcome.PASSED


@dragonfly
def test_a_function_library_blocks_replication_and_blocks_a_copy_once_it_is_called(
    start_redis: StartServer, green_dragonfly: Store
) -> None:
    source = start_redis()
    name = "functions.libraries"
    assert look(name, source, green_dragonfly).outcome is Outcome.PASSED
    with Raw(source.url) as raw:
        raw("FUNCTION", "LOAD", "#!lua name=shop\nredis.register_function('price', function() return 7 end)")
        native = look(name, source, green_dragonfly, road=Strategy.NATIVE)
        assert (native.severity, native.items) == (Severity.BLOCKING, ("shop",))
        assert look(name, source, green_dragonfly).severity is Severity.WARNING
        assert as_int(raw("FCALL", "price", 0)) == 7
        used = look(name, source, green_dragonfly)
        assert (used.severity, used.evidence["libraries"]) == (Severity.BLOCKING, {"shop": ["price"]})


def test_a_function_library_has_to_be_loaded_on_a_redis_target(start_redis: StartServer) -> None:
    source, target = start_redis(), start_redis()
    library = "#!lua name=shop\nredis.register_function('price', function() return 7 end)"
    with Raw(source.url) as ours, Raw(target.url) as theirs:
        ours("FUNCTION", "LOAD", library)
        assert look("functions.libraries", source, target).items == ("shop",)
        theirs("FUNCTION", "LOAD", library)
        assert look("functions.libraries", source, target).outcome is Outcome.PASSED


@dragonfly
@pytest.mark.parametrize("program", each_program())
def test_modules_matter_by_the_commands_that_are_used(program: Program, green_dragonfly: Store) -> None:
    with program.start() as running, Raw(running.url) as raw:
        subject = subject_of(running.url, green_dragonfly.url)
        if program.engine != "redis" or program.version < (8,):
            assert find_check("modules.loaded").look(subject).outcome is Outcome.PASSED
            return
        unused = find_check("modules.loaded").look(subject)
        assert (unused.severity, unused.items) == (Severity.INFO, ("vectorset",))
        raw("VADD", "v", "VALUES", "2", "1", "1", "x")
        subject = subject_of(running.url, green_dragonfly.url)
        used = find_check("modules.loaded").look(subject)
        assert (used.severity, used.evidence["used_and_unknown"]) == (Severity.WARNING, {"vadd": 1})
        assert find_check("commands.unknown").look(subject).items == ("vadd",)
