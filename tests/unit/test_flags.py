"""Flags become settings: over the file where they are given, and not at all where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenfly.commands import options
from integrity.errors import ConfigurationError


def test_flags_about_the_pace_reach_the_settings(tmp_path: Path) -> None:
    given = options.pace_overrides(4, "redis://app:secret@replica:6379", 2.5, 5_000, "50MB")
    settings = options.load(None, tmp_path, given).settings
    assert settings.workers == 4
    assert settings.replica.url is not None
    assert settings.replica.url.get_secret_value() == "redis://app:secret@replica:6379"
    assert settings.reads_from is settings.replica
    assert settings.reconnect_seconds == 2.5
    assert (settings.throttle.keys_per_second, settings.throttle.bytes_per_second) == (5_000, 50_000_000)


def test_flags_that_were_not_given_leave_the_file_alone(tmp_path: Path) -> None:
    config = tmp_path / "greenfly.toml"
    config.write_text(
        "workers = 3\nreconnect_seconds = 7\n[throttle]\nkeys_per_second = 9\nmax_latency_ms = 5\n"
    )
    assert options.pace_overrides() == {}
    settings = options.load(config, tmp_path, options.pace_overrides()).settings
    assert (settings.workers, settings.reconnect_seconds, settings.throttle.keys_per_second) == (3, 7, 9)
    over = options.load(config, tmp_path, options.pace_overrides(keys_per_second=11)).settings
    assert (over.throttle.keys_per_second, over.throttle.max_latency_ms) == (11, 5)


@pytest.mark.parametrize(
    "given",
    [
        options.pace_overrides(workers=0),
        options.pace_overrides(reconnect=-1.0),
        options.pace_overrides(keys_per_second=0),
        options.pace_overrides(bytes_per_second="fast"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path: Path, given: dict[str, object | None]) -> None:
    with pytest.raises(ConfigurationError, match="flag"):
        options.load(None, tmp_path, given)
