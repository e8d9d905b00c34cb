"""What is common to every environment switch: settings, and what may be shown of a value."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from integrity.errors import ConfigurationError, Refused
from integrity.section import Section
from integrity.settings import load_settings
from integrity.switch.environment import (
    EnvironmentChanged,
    EnvironmentState,
    environment_switch,
    fingerprint,
    holds,
    masked,
)
from integrity.switch.settings import CommandSettings, DotenvSettings, KubernetesSettings, SwitchSettings


def test_without_a_kind_there_is_no_switch() -> None:
    assert SwitchSettings().kind == "none"
    with pytest.raises(ConfigurationError):
        environment_switch(SwitchSettings())


@pytest.mark.parametrize("kind", ["dotenv", "kubernetes", "command", "heroku"])
def test_a_kind_without_what_it_needs_is_no_setting(kind: str) -> None:
    with pytest.raises(ValidationError):
        SwitchSettings.model_validate({"kind": kind})


@pytest.mark.parametrize("name", ["", "1A", "A B", "A=B", "A-B", "É"])
def test_a_name_that_some_reader_does_not_take_is_no_setting(name: str) -> None:
    with pytest.raises(ValidationError):
        SwitchSettings(variable=name)


def test_the_three_variables_are_three() -> None:
    with pytest.raises(ValidationError):
        SwitchSettings(variable="REDIS_URL")


@pytest.mark.parametrize(
    "workload", ["web", "daemonset/web", "deployment/", "deployment/../secrets", "deployment/A"]
)
def test_a_workload_that_cannot_be_followed_is_no_setting(workload: str) -> None:
    with pytest.raises(ValidationError):
        KubernetesSettings(workloads=(workload,))


@pytest.mark.parametrize("section", [SwitchSettings, DotenvSettings, KubernetesSettings, CommandSettings])
def test_every_setting_is_described(section: type[Section]) -> None:
    for name, field in section.model_fields.items():
        assert field.description or name in ("dotenv", "kubernetes", "command")


def test_a_variable_holds_a_command_as_a_shell_quotes_it_and_a_list_as_text() -> None:
    loaded = load_settings(
        environ={
            "GREENFLY_SWITCH__COMMAND__READ_COMMAND": "heroku config:get 'A B'",
            "GREENFLY_SWITCH__KUBERNETES__WORKLOADS": "deployment/web, statefulset/worker",
        }
    )
    switch = loaded.settings.switch
    assert switch.command.read_command == ("heroku", "config:get", "A B")
    assert switch.kubernetes.workloads == ("deployment/web", "statefulset/worker")


def test_settings_do_not_show_the_url() -> None:
    settings = SwitchSettings.model_validate(
        {"kind": "dotenv", "dotenv": DotenvSettings(path=Path(".env")), "green_url": "redis://:hunter2@h"}
    )
    assert "hunter2" not in repr(settings)


def test_an_environment_does_not_show_its_values() -> None:
    assert "hunter2" not in repr(EnvironmentState({"A": "hunter2"}, "1"))


def test_a_changed_environment_counts_as_a_refusal() -> None:
    assert issubclass(EnvironmentChanged, Refused)


def test_a_fingerprint_can_be_made_by_hand() -> None:
    value = "redis://app:s3cret@h:6379/0"
    by_hand = subprocess.run(
        ["sh", "-c", 'printf %s "$1" | sha256sum | cut -c1-16', "sh", value], capture_output=True, check=True
    )
    assert fingerprint(value) == by_hand.stdout.decode().strip()
    assert fingerprint(None) is None
    assert fingerprint("") is not None


@given(value=st.text())
def test_a_fingerprint_tells_values_apart_and_shows_none(value: str) -> None:
    made = fingerprint(value)
    assert made is not None
    assert len(made) == 16
    assert made != fingerprint(value + "x")


@pytest.mark.parametrize("value", ["redis://:hunter2@h:1", "redis://u:hun@ter2@h", "hunter2", "u:hunter2@h"])
def test_a_masked_value_shows_no_password(value: str) -> None:
    assert "ter2" not in masked(value)


def test_a_masked_url_still_says_where() -> None:
    assert "green.example:6380" in masked("rediss://app:s3cret@green.example:6380/0")
    assert masked(None) != masked("")


def test_changes_are_held_where_each_value_is_there_and_each_removed_one_is_not() -> None:
    assert holds({"A": "1", "B": "2"}, {"A": "1", "C": None})
    assert not holds({"A": "1"}, {"A": "2"})
    assert not holds({"A": "1"}, {"A": None})
    assert not holds({}, {"A": ""})
