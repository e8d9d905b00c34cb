"""The demonstration: two servers of its own, a realistic application's data, the migrate flow, the verdict."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

from redis.exceptions import RedisError

from flows.parameters import MigrateParameters
from flows.sequence import Outcome
from greenfly.demo.dataset import fill
from greenfly.demo.servers import start_blue, start_green
from greenfly.orchestrator import run_flow
from integrity.errors import ServerUnreachable
from integrity.progress import Progress
from integrity.settings import load_settings


def run_demo(folder: Path, keys: int, progress: Progress) -> Outcome:
    """Start blue and green, fill blue, migrate as a flow, stop both; also on Ctrl-C.

    :param folder: where the ledger, the snapshot and the report go; it stays.
    :param keys: how many keys blue gets.
    :raises GreenflyError: a server could not be started, or the run broke off.
    """
    wheels = folder / "redis-server"
    with start_blue(wheels, progress.say) as blue:
        progress.say(f"blue   {blue.title} at {blue.url}")
        green = start_green(wheels, progress.say)
        with green.server as server:
            role = " (a stand-in for Dragonfly)" if green.stand_in else ""
            progress.say(f"green  {server.title} at {server.url}{role}")
            if green.stand_in:
                progress.say(f"       {green.found}")
            started = monotonic()
            try:
                families = fill(blue.url, keys)
            except RedisError as error:
                raise ServerUnreachable(
                    "source", blue.url, f"filling it failed ({error}).", "Try again."
                ) from error
            total = sum(sum(counts.values()) for counts in families.values())
            progress.say(
                f"filled {total:,} keys in {len(families)} databases in {monotonic() - started:.1f} s"
            )
            settings = load_settings(
                {
                    "source": {"url": blue.url},
                    "target": {"url": server.url},
                    "state_dir": folder / "state",
                    "label": f"demo{role}",
                },
                environ={},
            ).settings
            outcome = run_flow(settings, progress, "migrate", MigrateParameters.showing(settings))
            assert outcome is not None  # noqa: S101  (a migration that makes no run raises)
            return outcome
