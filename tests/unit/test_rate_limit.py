"""The token bucket, by the clock's hands."""

from __future__ import annotations

from churn.core.rate_limit import Bucket


def test_one_seconds_worth_may_come_at_once_and_then_one_each_interval() -> None:
    bucket = Bucket(4.0, now=100.0)
    assert [bucket.take(100.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.25]
    assert bucket.take(100.125) == 0.125
    assert bucket.take(100.25) == 0.0
    assert bucket.take(100.25) == 0.25


def test_below_one_a_second_one_may_come_and_the_wait_is_told() -> None:
    bucket = Bucket(0.125, now=0.0)
    assert (bucket.take(0.0), bucket.take(0.0), bucket.take(4.0), bucket.take(8.0)) == (0.0, 8.0, 4.0, 0.0)


def test_a_long_rest_saves_up_no_more_than_one_seconds_worth() -> None:
    bucket = Bucket(2.0, now=0.0)
    assert [bucket.take(1_000_000.0) for _ in range(3)] == [0.0, 0.0, 0.5]
