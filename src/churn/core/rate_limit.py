"""How often is too often."""

from __future__ import annotations


class Bucket:
    """A token bucket: `rate` requests a second in the long run, as many as one second's at once, at least one.

    `now` is any steady clock's time in seconds, and never goes back.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._size = max(1.0, rate)
        self._tokens = self._size
        self._at = now

    def take(self, now: float) -> float:
        """0 when one more is within the limit, else the seconds until one will be; only then nothing is taken."""
        self._tokens = min(self._size, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0
