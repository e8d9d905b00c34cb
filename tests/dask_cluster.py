"""A Dask cluster of processes on loopback, as people start one: a scheduler, and workers with settings of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from greenfly.demo.process import end_process
from tests.prefect_server import wait_for


@dataclass(frozen=True, slots=True)
class DaskCluster:
    """A cluster that is up."""

    scheduler: str
    config: Path
    """The ``greenfly.toml`` that every worker reads, anew for every range; a test writes it."""
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)


@contextmanager
def dask_cluster(folder: Path, workers: int, env: Mapping[str, str]) -> Iterator[DaskCluster]:
    """Start one; it ends with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    config, told = folder / "greenfly.toml", folder / "scheduler.json"
    config.write_text("")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GREENFLY_")}
    environment |= {"GREENFLY_CONFIG": str(config), **env}
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
            stack.callback(end_process, process)
            return process

        files = ("--scheduler-file", str(told))
        start("scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0", *files, "--no-dashboard")
        options = ("--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", "--no-dashboard")
        wait_for(lambda: told.exists() and bool(told.read_text()), "Dask's scheduler is up", 60)
        yield DaskCluster(
            str(json.loads(told.read_text())["address"]),
            config,
            [start(f"worker-{number}", "worker", *files, *options) for number in range(workers)],
        )
