"""When the same thing is tried again."""

from __future__ import annotations

from churn.core.backoff import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff, now, pauses = Backoff(1.0, 5.0), 100.0, []
    for _ in range(5):
        backoff.failed("a", now)
        until = now
        while backoff.waits("a", until):
            until += 0.5
        pauses.append(until - now)
        now = until
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_another_key_is_tried_at_once_and_starts_anew() -> None:
    backoff = Backoff(1.0, 60.0)
    backoff.failed("a", 0.0)
    backoff.failed("a", 1.0)
    assert not backoff.waits("b", 1.0)
    backoff.failed("b", 1.0)
    assert backoff.waits("b", 1.9)
    assert not backoff.waits("b", 2.0)


def test_nothing_waits_before_it_failed() -> None:
    assert not Backoff(1.0, 60.0).waits(None, 0.0)
