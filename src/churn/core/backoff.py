"""When to try the same thing again."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass
class Backoff:
    """Doubling pauses from `first` to `longest` seconds; another key starts anew. `now` is any steady clock's time."""

    first: float
    longest: float
    _key: Hashable = None
    _due: float = float("-inf")
    _pause: float = 0.0

    def waits(self, key: Hashable, now: float) -> bool:
        """Whether `key` failed last, and its pause is not over."""
        return key == self._key and now < self._due

    def failed(self, key: Hashable, now: float) -> None:
        """Notes a failure of `key`."""
        again = key == self._key and self._pause > 0
        self._pause = min(2 * self._pause, self.longest) if again else self.first
        self._key, self._due = key, now + self._pause
