"""Where the metrics go: a port for Prometheus, a file for the node exporter, both beside a run."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile

from integrity.errors import ConfigurationError, GreenflyError
from integrity.metrics_settings import is_loopback, split_address
from integrity.settings import Settings
from reports.metrics.exporter import Exporter

_STOP_SECONDS: Final = 5.0


@contextmanager
def served(registry: CollectorRegistry, listen: str, *, allow_remote: bool) -> Iterator[int]:
    """Serve *registry* on ``host:port`` as long as the block runs; hands over the port.

    :raises ConfigurationError: the address cannot be used, or is not a loopback address and that is not allowed.
    """
    try:
        host, port = split_address(listen)
    except ValueError as error:
        raise ConfigurationError(f"The address of the metrics is wrong: {error}.", "Correct it.") from None
    if not is_loopback(host) and not allow_remote:
        raise ConfigurationError(
            f"{host} is not a loopback address: other machines could read the metrics.",
            "Listen on 127.0.0.1, or say --allow-remote (metrics.allow_remote) where that is wanted.",
        )
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        why = (
            "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror or error})"
        )
        raise ConfigurationError(
            f"The address of the metrics, {listen}, {why}.", "Choose another."
        ) from error
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(_STOP_SECONDS)


def write_text_file(registry: CollectorRegistry, path: Path) -> None:
    """Write *registry* to a file that is replaced at once, so that nobody reads half of it.

    :raises ConfigurationError: it cannot be written.
    """
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise ConfigurationError(
            f"The metrics cannot be written to {path} ({error.strerror}).", "Name another file."
        ) from error


@contextmanager
def told_meanwhile(settings: Settings, say: Callable[[str], None]) -> Iterator[None]:
    """Tell the metrics as the settings say, as long as the block runs.

    What cannot be told is said, and ends nothing: a rollback must go through without monitoring, too.  Where another
    process serves on the same address already, that one tells of this run as well, since it reads the same ledger.
    """
    metrics = settings.metrics
    if not metrics.active:
        yield
        return
    exporter = Exporter(settings, say)
    with ExitStack() as stack:
        stack.callback(exporter.close)
        if metrics.listen is not None:
            try:
                served_here = served(exporter.registry(), metrics.listen, allow_remote=metrics.allow_remote)
                stack.enter_context(served_here)
            except GreenflyError as error:
                say(f"Metrics are not served by this process: {error.problem}")
        if metrics.textfile is not None:
            stack.enter_context(_written(exporter, metrics.textfile, metrics.every_seconds, say))
        yield


@contextmanager
def _written(
    exporter: Exporter, path: Path, every_seconds: float, say: Callable[[str], None]
) -> Iterator[None]:
    """Write the file now and then, and once more at the end."""
    registry, stop = exporter.registry(), Event()
    failed: list[str] = []

    def write() -> None:
        try:
            write_text_file(registry, path)
        except GreenflyError as error:
            if not failed:
                failed.append(error.problem)
                say(error.problem)
        else:
            failed.clear()

    def repeat() -> None:
        while not stop.wait(every_seconds):
            write()

    write()
    thread = Thread(target=repeat, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_STOP_SECONDS)
        exporter.forget()
        write()
