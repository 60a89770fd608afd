"""A circuit breaker: a store that failed again and again is not asked for a moment, so that nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock


class Breaker:
    """Opens after `failures` failures in a row; every `pause` seconds one call may try again (half open).

    `clock` is any steady clock. Safe to use from several threads.
    """

    def __init__(self, failures: int = 3, pause: float = 0.5, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._pause, self._clock = failures, pause, clock
        self._lock = Lock()
        self._failed = 0
        self._next_try = 0.0

    def admits(self) -> bool:
        """Whether the store may be asked now. While open, the one call that is let through is the trial."""
        if self._failed < self._limit:
            return True
        with self._lock:
            now = self._clock()
            if now < self._next_try:
                return False
            self._next_try = now + self._pause
            return True

    def succeeded(self) -> None:
        """Closes the breaker."""
        if self._failed:
            with self._lock:
                self._failed = 0

    def failed(self) -> None:
        """One more failure in a row."""
        with self._lock:
            self._failed += 1
            self._next_try = self._clock() + self._pause
