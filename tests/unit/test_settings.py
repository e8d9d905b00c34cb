"""Settings: where values come from, what is refused and how, and that no secret is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from integrity.endpoint import Endpoint
from integrity.errors import ConfigurationError
from integrity.settings import (
    MASK,
    ConflictPolicy,
    EndpointSettings,
    ExtraPolicy,
    LoadedSettings,
    Settings,
    load_settings,
    public_view,
)

SECRET = "n1netyN1ne-balloons"


@pytest.fixture(autouse=True)
def an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ``greenfly.toml`` of the developer's is read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GREENFLY_CONFIG", raising=False)


def load(
    toml: str = "", environ: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> LoadedSettings:
    if toml:
        Path("greenfly.toml").write_text(toml, "utf-8")
    return load_settings(flags, environ=environ or {})


def refusal(
    toml: str = "", environ: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(toml, environ, flags)
    assert caught.value.remedy
    return str(caught.value)


# -- where values come from --------------------------------------------------------------------------------------------


def test_everything_has_a_default() -> None:
    loaded = load()

    assert loaded.origins == {}
    assert loaded.settings.copying.conflict is ConflictPolicy.FAIL
    assert loaded.settings.verify.extra_keys is ExtraPolicy.FAIL
    assert loaded.settings.source.url is None
    assert loaded.settings.snapshot_dir == loaded.settings.state_dir / "snapshots"


def test_a_file_gives_way_to_the_environment_and_that_to_a_flag() -> None:
    toml = '[copy]\nbatch_keys = 10\nbatch_bytes = 100000\nconflict = "skip"\n'
    environ = {"GREENFLY_COPY__BATCH_KEYS": "20", "GREENFLY_COPY__CONFLICT": "replace"}

    loaded = load(toml, environ, {"copy": {"batch_keys": 30}})

    copying = loaded.settings.copying
    assert (copying.batch_keys, copying.conflict, copying.batch_bytes) == (
        30,
        ConflictPolicy.REPLACE,
        100_000,
    )
    assert loaded.origins["copy.batch_keys"] == "flag"
    assert loaded.origins["copy.conflict"] == "environment GREENFLY_COPY__CONFLICT"
    assert loaded.origins["copy.batch_bytes"].startswith("file ")
    assert "verify.batch_keys" not in loaded.origins


def test_a_table_from_the_environment_does_not_wipe_out_the_files() -> None:
    loaded = load('[source]\nurl = "redis://blue"\n', {"GREENFLY_SOURCE__PASSWORD": SECRET})

    assert loaded.settings.source.url == SecretStr("redis://blue")
    assert loaded.settings.source.password == SecretStr(SECRET)


def test_lists_and_paths_and_booleans_are_read_from_the_environment() -> None:
    environ = {
        "GREENFLY_DATABASES": "0, 3,5",
        "GREENFLY_SNAPSHOT__ENABLED": "false",
        "GREENFLY_STATE_DIR": "/srv/greenfly",
        "GREENFLY_VERIFY__RECHECK_DELAY": "0.25",
    }

    found = load(environ=environ).settings

    assert found.databases == (0, 3, 5)
    assert found.snapshot.enabled is False
    assert found.state_dir == Path("/srv/greenfly")
    assert found.verify.recheck_delay == 0.25


def test_a_named_file_is_read_instead_of_the_one_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "greenfly.toml").write_text('label = "here"\n')
    other = tmp_path / "other.toml"
    other.write_text('label = "there"\n')

    assert load_settings(environ={}).settings.label == "here"
    assert load_settings(config_file=other, environ={}).settings.label == "there"


def test_the_environment_can_name_the_file_and_a_flag_can_name_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text(f'label = "{name}"\n')
    monkeypatch.setenv("GREENFLY_CONFIG", str(tmp_path / "a.toml"))

    assert load_settings(environ={}).settings.label == "a"
    assert load_settings(config_file=tmp_path / "b.toml", environ={}).settings.label == "b"


def test_settings_cannot_be_changed_afterwards() -> None:
    found = load().settings

    with pytest.raises(ValidationError):
        found.label = "x"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        found.copying.batch_keys = 1  # type: ignore[misc]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "name"),
    [
        ("speed = 3\n", "speed"),
        ("[copy]\nbatchkeys = 3\n", "copy.batchkeys"),
        ("[source]\ntls_verfy = false\n", "source.tls_verfy"),
        ("[copying]\nbatch_keys = 3\n", "copying"),
    ],
)
def test_an_unknown_name_in_a_file_is_refused_and_named_with_its_file(toml: str, name: str) -> None:
    text = refusal(toml)

    assert name in text
    assert "greenfly.toml" in text


def test_an_unknown_variable_is_refused_and_named() -> None:
    text = refusal(environ={"GREENFLY_COPY__BATCHES": "3"})

    assert "copy.batches" in text
    assert "GREENFLY_COPY__BATCHES" in text


def test_variables_of_the_test_suite_and_of_others_are_passed_over() -> None:
    environ = {"GREENFLY_TEST_REDIS_URL": "x", "GREENFLY_REQUIRE_SERVERS": "1", "PATH": "/bin"}

    assert load(environ=environ).origins == {}


WRONG: dict[str, Mapping[str, object]] = {
    "copy.conflict": {"copy": {"conflict": SECRET}},
    "copy.batch_keys": {"copy": {"batch_keys": SECRET}},
    "verify.extra_keys": {"verify": {"extra_keys": SECRET}},
    "verify.expiry_tolerance_ms": {"verify": {"expiry_tolerance_ms": SECRET}},
    "snapshot.enabled": {"snapshot": {"enabled": SECRET}},
    "databases": {"databases": [SECRET]},
    "source.url": {"source": {"url": [SECRET]}},
    "source.password": {"source": {"password": {"text": SECRET}}},
    "source.tls_verify": {"source": {"tls_verify": SECRET}},
    "source": {"source": f"redis://app:{SECRET}@blue"},
    "label": {"label": SECRET * 20},
    "lease_seconds": {"lease_seconds": SECRET},
    "ledger_url": {"ledger_url": [SECRET]},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_refused_by_name_and_never_repeated(name: str) -> None:
    text = refusal(flags=WRONG[name])

    assert name in text
    assert SECRET not in text


@pytest.mark.parametrize(
    "flags",
    [
        {"copy": {"batch_keys": 0}},
        {"copy": {"batch_keys": 1001}},
        {"verify": {"rechecks": 0}},
        {"verify": {"recheck_delay": -1}},
        {"databases": [-1]},
        {"lease_seconds": 0.9},
        {"source": {"connect_timeout": 0}},
        {"source": {"io_timeout": -1}},
    ],
    ids=str,
)
def test_a_number_out_of_range_is_refused(flags: Mapping[str, object]) -> None:
    assert "flag" in refusal(flags=flags)


def test_several_problems_are_told_at_once() -> None:
    text = refusal("speed = 1\n[copy]\nconflict = 'maybe'\n")

    assert "speed" in text
    assert "copy.conflict" in text


@pytest.mark.parametrize(
    "environ",
    [
        {"GREENFLY_SOURCE": f"redis://:{SECRET}@blue", "GREENFLY_SOURCE__URL": "redis://blue"},
        {"GREENFLY_SOURCE__URL": "redis://blue", "GREENFLY_SOURCE": f"redis://:{SECRET}@blue"},
        {"GREENFLY_SOURCE__URL__X": SECRET},
    ],
    ids=["table last", "table first", "too deep"],
)
def test_variables_that_contradict_each_other_are_refused(environ: Mapping[str, str]) -> None:
    text = refusal(environ=environ)

    assert "source" in text.lower()
    assert SECRET not in text


@pytest.mark.parametrize(
    "content", [b"copy = [", b"label = 'x", b"\xff\xfe", b"label = 'a'\nlabel = 'b'\n", b"[source\nurl=1"]
)
def test_a_file_that_is_no_toml_is_refused_by_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"broken\.toml"):
        load_settings(config_file=path, environ={})


def test_a_broken_file_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(f'[source]\nurl = "redis://:{SECRET}@blue\n')

    with pytest.raises(ConfigurationError) as caught:
        load_settings(config_file=path, environ={})

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["nothing-here.toml", "."])
def test_a_file_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError):
        load_settings(config_file=tmp_path / name, environ={})


# -- secrets -----------------------------------------------------------------------------------------------------------


def view(flags: Mapping[str, object]) -> str:
    return json.dumps(public_view(load(flags=flags).settings))


def test_the_public_view_masks_every_secret_and_shows_the_rest() -> None:
    shown = view(
        {
            "source": {"url": f"redis://app:{SECRET}@blue:6390/1", "password": SECRET},
            "target": {"url": "redis://green", "password_file": "/run/secrets/green"},
            "ledger_url": f"postgresql://greenfly:{SECRET}@db/ledger",
            "label": "night",
        }
    )

    assert SECRET not in shown
    for part in ("app", "blue:6390/1", "redis://green", "/run/secrets/green", "@db/ledger", "night", MASK):
        assert part in shown


def test_the_public_view_names_settings_as_a_file_does() -> None:
    shown = public_view(load().settings)

    assert set(shown) == {
        *("source", "target", "replica", "databases", "copy", "snapshot", "big_values", "verify", "rules"),
        *("scratch", "flows", "metrics", "tracing", "review"),
        *(
            "throttle",
            "sync",
            "switch",
            "cutover",
            "rollback",
            "watch",
            "audit",
            "assess",
            "native",
            "strategy",
            "state_dir",
            "ledger_url",
            "label",
            "workers",
            "reconnect_seconds",
            "lease_seconds",
        ),
    }
    sections = (
        *("copy", "snapshot", "big_values", "verify", "rules", "throttle"),
        *("sync", "switch", "cutover", "rollback", "watch"),
    )
    again = Settings.model_validate({name: shown[name] for name in sections})
    assert public_view(again) | {"state_dir": ""} == shown | {"state_dir": ""}


@given(st.text(min_size=1, max_size=10), st.sampled_from(["", "://", "redis://", "@", "a://b:c@"]))
@example("b", "a://")
@settings(max_examples=100, deadline=None)
def test_no_password_shows_in_the_public_view_whatever_it_looks_like(text: str, beginning: str) -> None:
    password = f"{beginning}{SECRET}{text}"
    found = Settings(source=EndpointSettings(password=SecretStr(password)))

    assert SECRET not in json.dumps(public_view(found))


@pytest.mark.parametrize("separator", ["@", "/", "#", "?", ":", " ", "%40"])
def test_no_part_of_a_password_in_a_url_shows_in_the_public_view(separator: str) -> None:
    url = f"redis://app:hunter2{separator}{SECRET}@blue"
    shown = view({"source": {"url": url}, "ledger_url": url.replace("redis", "postgresql")})

    assert SECRET not in shown
    assert "hunter2" not in shown


def test_settings_do_not_show_secrets_when_printed() -> None:
    found = load(
        flags={"source": {"url": f"redis://:{SECRET}@b", "password": SECRET}, "ledger_url": f"x://{SECRET}"}
    )

    assert SECRET not in repr(found)
    assert SECRET not in str(found.settings)


# -- which password is taken -------------------------------------------------------------------------------------------


def endpoint(url: str, **values: object) -> Endpoint:
    table = EndpointSettings.model_validate({"url": url, **values})
    return Endpoint.from_settings("source", table)


def test_the_url_comes_before_the_setting_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from the file\nsecond line\n")

    in_url = endpoint("redis://:from-url@blue", password="from the setting", password_file=file)
    in_setting = endpoint("redis://blue", password="from the setting", password_file=file)
    in_file = endpoint("redis://blue", password_file=file)

    assert in_url.target.password == "from-url"
    assert in_setting.target.password == "from the setting"
    assert in_file.target.password == "from the file"
    assert endpoint("redis://blue").target.password is None


def test_the_users_name_comes_from_the_url_or_else_from_the_setting() -> None:
    assert endpoint("redis://ann:pw@blue", username="bob").target.username == "ann"
    assert endpoint("redis://:pw@blue", username="bob").target.username == "bob"


@pytest.mark.parametrize("content", [b"pass word \r\nx", b"pass word "])
def test_only_the_line_end_of_a_password_file_is_cut_off(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)

    assert endpoint("redis://blue", password_file=file).target.password == "pass word "


def test_a_password_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe" + SECRET.encode())
    for path in (tmp_path / "missing", tmp_path, binary):
        with pytest.raises(ConfigurationError) as caught:
            endpoint("redis://blue", password_file=path)
        assert str(path) in str(caught.value)
        assert SECRET not in str(caught.value)


def test_an_endpoint_never_prints_its_password() -> None:
    found = endpoint(f"redis://app:{SECRET}@blue")

    assert SECRET not in f"{found} {found!r} {found.target!r} {found.address!r}"


def test_an_endpoint_without_a_url_is_refused_by_its_role() -> None:
    with pytest.raises(ConfigurationError, match="--target"):
        Endpoint.from_settings("target", EndpointSettings())


# -- the tables of a live move -----------------------------------------------------------------------------------------


def test_a_live_move_is_set_in_tables_of_their_own() -> None:
    toml = """
[sync]
feed = "tracking"
max_backlog_bytes = "1MiB"
[switch]
kind = "dotenv"
green_url = "redis://app:n1netyN1ne-balloons@green"
[switch.dotenv]
path = "/srv/app/.env"
[cutover]
approvals = 2
keep_users = ["ops"]
[rollback]
prove = "changed"
[watch]
on_breach = "rollback"
[watch.rules.lag_seconds]
limit = 5
"""

    found = load(toml).settings

    assert (found.sync.feed, found.sync.max_backlog_bytes) == ("tracking", 1024 * 1024)
    assert (found.switch.kind, found.switch.dotenv.path) == ("dotenv", Path("/srv/app/.env"))
    assert (found.cutover.approvals, found.cutover.keep_users) == (2, ("ops",))
    assert (found.rollback.prove, found.watch.on_breach) == ("changed", "rollback")
    assert found.watch.rules.lag_seconds.limit == 5
    assert SECRET not in json.dumps(public_view(found))


@pytest.mark.parametrize(
    ("toml", "name"),
    [
        ("[sync]\nfeed = 'keyspace'\n", "sync.feed"),
        ("[sync]\nbatch_keys = 1001\n", "sync.batch_keys"),
        ("[cutover]\ndrain_seconds = 0\n", "cutover.drain_seconds"),
        ("[cutover]\nmin_headroom = 1\n", "cutover.min_headroom"),
        ("[cutover]\nunconfirmed = 'wait'\n", "cutover.unconfirmed"),
        ("[rollback]\nprove = 'nothing'\n", "rollback.prove"),
        ("[rollback]\nabandon = true\n", "rollback.abandon"),
        ("[watch]\non_dead = 'rollback'\n", "watch.on_dead"),
    ],
)
def test_what_a_live_move_cannot_do_is_refused_by_name(toml: str, name: str) -> None:
    assert name in refusal(toml)


def test_a_live_move_is_set_by_variables_too() -> None:
    environ = {
        "GREENFLY_SYNC__HEARTBEAT_KEY": "beat",
        "GREENFLY_CUTOVER__FALLBACK": "false",
        "GREENFLY_ROLLBACK__DRAIN_SECONDS": "7.5",
        "GREENFLY_SWITCH__KIND": "dotenv",
        "GREENFLY_SWITCH__DOTENV__PATH": "/srv/app/.env",
    }

    found = load(environ=environ).settings

    assert (found.sync.heartbeat_key, found.cutover.fallback) == ("beat", False)
    assert (found.rollback.drain_seconds, found.switch.dotenv.path) == (7.5, Path("/srv/app/.env"))
