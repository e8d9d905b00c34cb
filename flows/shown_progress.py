"""Progress of a flow: lines in its log, and a bar on Prefect's page."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import copy_context
from threading import Event, Thread
from types import TracebackType
from typing import Final, Self
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from integrity.progress import Progress

_EVERY_SECONDS: Final = 2.0
KEY: Final = "greenfly-progress"


class FlowProgress(Progress):
    """A context manager.  The bar is drawn by a thread of its own: a Prefect that is slow or away holds nothing up."""

    def __init__(
        self, logger: logging.Logger | logging.LoggerAdapter[logging.Logger], inner: Progress | None
    ) -> None:
        self._logger = logger
        self._inner = inner
        self._name = ""
        self._expected = self._keys = 0
        self._ended = Event()
        self._drawing: Callable[[], None] = self._draw
        context = copy_context()
        self._thread = Thread(target=lambda: context.run(self._drawing), name="greenfly-bar", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(2 * _EVERY_SECONDS)

    def phase(self, name: str, keys_expected: int) -> None:
        """Log the begin."""
        self._name, self._expected, self._keys = name, keys_expected, 0
        if self._inner:
            self._inner.phase(name, keys_expected)

    def advance(self, keys: int, size: int) -> None:
        """Count."""
        self._keys += keys
        if self._inner:
            self._inner.advance(keys, size)

    def say(self, text: str) -> None:
        """Log a line, and show it where somebody waits for the flow at a terminal."""
        self._logger.info(text)
        if self._inner:
            self._inner.say(text)

    def show(self, text: str) -> None:
        """On a terminal only; a log would fill with it."""
        if self._inner:
            self._inner.show(text)

    def phase_ended(self) -> None:
        """Log the end."""
        self._logger.info(
            "%s ended: %s keys of %s expected", self._name, f"{self._keys:,}", f"{self._expected:,}"
        )
        if self._inner:
            self._inner.phase_ended()

    # -- the thread ---------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        bar: UUID | None = None
        drawn: tuple[str, int] | None = None
        while not self._ended.wait(_EVERY_SECONDS):
            name, keys, expected = self._name, self._keys, self._expected
            if not expected or (name, keys) == drawn:
                continue
            percent = min(100.0, 100.0 * keys / expected)
            text = f"{name}: {keys:,} of {expected:,} keys"
            try:
                if bar is None:
                    created = create_progress_artifact(percent, key=KEY, description=text)
                    bar = created if isinstance(created, UUID) else None
                else:
                    update_progress_artifact(bar, percent, description=text)
            except (PrefectException, httpx.HTTPError, RuntimeError) as error:
                self._logger.warning("Prefect takes no progress at this moment (%s).", type(error).__name__)
                return
            drawn = (name, keys)
