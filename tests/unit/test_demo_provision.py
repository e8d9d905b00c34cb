"""Where the test suite itself looks for servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import provide


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_url_comes_first_and_its_password_is_not_shown() -> None:
    provision = provide("blue", "redis", {"GREENFLY_TEST_REDIS_URL": "redis://:s3cret@127.0.0.1:1"})
    assert provision.start is not None
    assert "127.0.0.1:1" in provision.found
    assert "s3cret" not in provision.found


@pytest.mark.usefixtures("empty_path")
def test_nothing_found_tells_where_it_looked() -> None:
    provision = provide("green dragonfly", "dragonfly", {})
    assert provision.start is None
    for place in ("GREENFLY_TEST_DRAGONFLY_URL", "PATH", "Docker"):
        assert place in provision.found


@pytest.mark.parametrize(
    ("variable", "missing"),
    [("GREENFLY_REQUIRE_SERVERS", "blue"), ("GREENFLY_REQUIRE_DRAGONFLY", "green dragonfly")],
)
def test_a_required_server_that_is_missing_stops_the_whole_run(
    tmp_path: Path, variable: str, missing: str
) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GREENFLY_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", __file__],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
        env=plain | {"PATH": str(tmp_path), variable: "1"},
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"{missing}: none" in done.stdout + done.stderr
