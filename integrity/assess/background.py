"""A sampled census taken while other checks are made: over a long line both mostly wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Event
from typing import Final, Generic, TypeVar

from integrity.progress import Progress

_T = TypeVar("_T")

_PAUSE_SECONDS: Final = 0.1


class _Ended(Exception):
    """Nobody waits for it any more."""


class Relay:
    """Progress of a thread, handed on by the one that people look at."""

    def __init__(self) -> None:
        self._texts: SimpleQueue[tuple[bool, str]] = SimpleQueue()
        self._ended = Event()

    def end(self) -> None:
        """Let the thread end at its next word."""
        self._ended.set()

    def hand_on(self, to: Progress) -> None:
        """Say what was said, and show what was shown last."""
        shown = ""
        while True:
            try:
                lasting, text = self._texts.get_nowait()
            except Empty:
                break
            if lasting:
                to.say(text)
            else:
                shown = text
        if shown:
            to.show(shown)

    def _put(self, text: str, *, lasting: bool) -> None:
        if self._ended.is_set():
            raise _Ended
        self._texts.put((lasting, text))

    def phase(self, name: str, keys_expected: int) -> None:
        """A census has no phases."""

    def advance(self, keys: int, size: int) -> None:
        """It is shown as a whole."""

    def say(self, text: str) -> None:
        """Keep it."""
        self._put(text, lasting=True)

    def show(self, text: str) -> None:
        """Keep it until the next."""
        self._put(text, lasting=False)

    def phase_ended(self) -> None:
        """A census has no phases."""


class Background(Generic[_T]):
    """Something that goes on in a thread."""

    def __init__(self, future: Future[_T], relay: Relay, progress: Progress) -> None:
        self._future = future
        self._relay = relay
        self._progress = progress

    def wait(self) -> None:
        """Return when it has ended, in whatever way."""
        while not self._future.done():
            self._relay.hand_on(self._progress)
            try:
                self._future.exception(_PAUSE_SECONDS)
            except TimeoutError:
                continue
        self._relay.hand_on(self._progress)

    def result(self) -> _T | None:
        """What came of it; None where it failed: whoever asks again is told why."""
        self.wait()
        return None if self._future.exception() is not None else self._future.result()


@contextmanager
def meanwhile(work: Callable[[Progress], _T], progress: Progress) -> Iterator[Background[_T]]:
    """Do *work* in a thread; it is ended with the block."""
    relay = Relay()
    with ThreadPoolExecutor(1, "census") as threads:
        try:
            yield Background(threads.submit(work, relay), relay, progress)
        finally:
            relay.end()
