"""Dragonfly in a container, when this machine has a container engine that answers."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from greenfly.demo.process import START_SECONDS, RunningServer, dragonfly_options, wait_until_ready
from integrity.errors import ServerUnreachable

DRAGONFLY_IMAGE: Final = "docker.dragonflydb.io/dragonflydb/dragonfly:v1.40.1"
_ANSWER_SECONDS: Final = 5
_PULL_SECONDS: Final = 180
_RUN_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why a server could not be had this way; for people."""

    reason: str


def docker_answers() -> bool:
    """Whether a container engine answers within five seconds."""
    return not isinstance(
        _docker("info", "--format", "{{.ServerVersion}}", seconds=_ANSWER_SECONDS), Unavailable
    )


def dragonfly_from_docker(
    name: str = "dragonfly", say: Callable[[str], None] | None = None, start_seconds: float = START_SECONDS
) -> RunningServer | Unavailable:
    """Run Dragonfly's image with a port on 127.0.0.1, or tell why that cannot be.

    :param say: is told, in one sentence, when an image is about to be pulled.
    """
    engine = _docker("info", "--format", "{{.ServerVersion}}", seconds=_ANSWER_SECONDS)
    if isinstance(engine, Unavailable):
        return engine
    if isinstance(_docker("image", "inspect", DRAGONFLY_IMAGE, seconds=_ANSWER_SECONDS), Unavailable):
        if say is not None:
            say(f"Pulling {DRAGONFLY_IMAGE}.")
        pulled = _docker("pull", "--quiet", DRAGONFLY_IMAGE, seconds=_PULL_SECONDS)
        if isinstance(pulled, Unavailable):
            return pulled
    container = f"greenfly-{secrets.token_hex(4)}"
    options = ("--rm", "--detach", "--name", container, "--publish", "127.0.0.1::6379")
    program = (DRAGONFLY_IMAGE, "dragonfly", "--port", "6379", *dragonfly_options())
    # Kernels before 5.12 count io_uring's memory as locked; a rootless engine may not raise that limit.
    started = _docker("run", *options, "--ulimit", "memlock=-1", *program, seconds=_RUN_SECONDS)
    if isinstance(started, Unavailable) and "rlimit" in started.reason:
        started = _docker("run", *options, *program, seconds=_RUN_SECONDS)

    def stop() -> None:
        # A container that has ended is gone already (--rm); that is what is wanted, so the answer is not looked at.
        _docker("stop", "--time", "5", container, seconds=_RUN_SECONDS)

    def log() -> str:
        said = _docker("logs", "--tail", "12", container, seconds=_ANSWER_SECONDS)
        return said.reason if isinstance(said, Unavailable) else said

    def ended() -> bool:
        return (
            _docker("inspect", "--format", "{{.State.Running}}", container, seconds=_ANSWER_SECONDS) != "true"
        )

    if isinstance(started, Unavailable):
        # A run that only answered too late may still have made the container.
        stop()
        return started
    try:
        port = _docker("port", container, "6379/tcp", seconds=_ANSWER_SECONDS)
        if isinstance(port, Unavailable):
            stop()
            return port
        url = f"redis://127.0.0.1:{port.splitlines()[0].rpartition(':')[2]}"
        found, version, _ = wait_until_ready(name, url, start_seconds, ended=ended, log=log)
    except ServerUnreachable as error:
        stop()
        return Unavailable(error.problem)
    except BaseException:
        stop()
        raise
    return RunningServer(name, url, found, version, None, stop, log)


def _docker(*arguments: str, seconds: float) -> str | Unavailable:
    """What a ``docker`` command printed, or why it did not work."""
    shown = f"docker {arguments[0]}"
    try:
        done = subprocess.run(
            ["docker", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        return Unavailable("docker is not installed")
    except PermissionError:
        return Unavailable("docker may not be run by this user")
    except subprocess.TimeoutExpired:
        return Unavailable(f"{shown} did not answer within {seconds:g} s")
    if done.returncode:
        lines = (line.strip() for line in done.stderr.splitlines())
        said = [line for line in lines if line and not line.startswith(("Run 'docker", "See 'docker"))]
        return Unavailable(f"{shown}: {said[-1] if said else f'exit code {done.returncode}'}")
    return (done.stdout or done.stderr).strip()
