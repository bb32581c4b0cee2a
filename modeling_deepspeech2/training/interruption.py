"""Handles SIGINT (Ctrl-C) and SIGTERM (sent by clusters): a training saves once, says how to continue, and ends."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tqdm.auto import tqdm


IMPATIENCE = 1.0  # seconds after which a second signal ends the process at once; launchers repeat the first one


class Interrupted(BaseException):
    """A signal has ended the run; no `except Exception` of a library stops it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Interruption:
    """Handles both signals within `with`: at once, or, in `deferred`, when the training asks."""

    def __init__(self) -> None:
        self.number = 0  # of the signal that was received
        self.error: Exception | None = None  # of reading the next step, which ends the run as a signal does
        self.is_agreed = False  # between all processes, that the run ends
        self._received_at = 0.0
        self._is_deferred = False
        self._process = os.getpid()

    def __enter__(self) -> "Interruption":
        self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def is_requested(self) -> bool:
        """By this process, that the run ends after this step."""
        return self.number > 0 or self.error is not None

    @contextmanager
    def deferred(self, is_deferred: bool = True) -> Iterator[None]:
        """Within it a signal waits for the end of the step, or, with False, acts at once again."""
        before, self._is_deferred = self._is_deferred, is_deferred
        try:
            if not is_deferred and self.number:
                raise Interrupted(self.number)
            yield
        finally:
            self._is_deferred = before

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a data worker that was forked: its parent ends it
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        again = self.number and time.monotonic() - self._received_at > IMPATIENCE
        if not self.number:
            self.number, self._received_at = number, time.monotonic()
        if again or not self._is_deferred:
            raise Interrupted(number)
        tqdm.write(f"{signal.Signals(number).name}: the run ends after this step, and saves it.")
