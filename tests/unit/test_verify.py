"""verify: a changed, lost, older or surplus online row is found. (Real stores: stores/test_feature_store.py.)"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from churn.domain.predictions import FeatureRow, UserId
from churn.domain.schema import FEATURE_NAMES
from churn.errors import Mismatch, NotReady
from churn.jobs.verify import Verified, verify
from tests.exports import at, feature_frame
from tests.memory import BuiltShop

CUTOFF = at("2011-10-10")
SHOP = BuiltShop(feature_frame(range(1, 2501), CUTOFF, mean_gap_days=[float("nan"), *[2.0] * 2499]))


def mismatch(online: dict[UserId, FeatureRow | None]) -> str:
    shop = replace(SHOP, online=online)
    with pytest.raises(Mismatch) as caught:
        verify(shop, shop, CUTOFF)
    return caught.value.message


def changed(user: int, **values: float) -> dict[UserId, FeatureRow | None]:
    (row,) = SHOP.read([user])
    assert row is not None
    vector = {**dict(zip(FEATURE_NAMES, row.vector, strict=True)), **values}
    return {user: replace(row, vector=tuple(vector.values()))}


def test_equal_stores_verify_for_all_users() -> None:
    assert verify(SHOP, SHOP, CUTOFF) == Verified(2500, CUTOFF)


@pytest.mark.fault("F15")
def test_one_bit_in_one_feature_of_one_user_is_found_and_named() -> None:
    (row,) = SHOP.read([1234])
    assert row is not None
    spent = row.vector[FEATURE_NAMES.index("total_spent")]
    assert mismatch(changed(1234, total_spent=float(np.nextafter(spent, np.inf)))) == (
        "1 of 2500 users differ between offline and online store at 2011-10-10: user 1234: total_spent"
    )


@pytest.mark.parametrize(("user", "value"), [(1, 2.0), (2, float("nan"))], ids=["null became 2", "2 became null"])
def test_null_equals_null_and_nothing_else(user: int, value: float) -> None:
    assert mismatch(changed(user, mean_gap_days=value)).endswith(f"user {user}: mean_gap_days")


def test_every_feature_that_differs_is_named() -> None:
    assert mismatch(changed(7, total_orders=-1.0, refund_share=9.0)).endswith("user 7: total_orders, refund_share")


def test_a_user_who_is_not_online_is_named() -> None:
    assert mismatch({2500: None}).endswith(
        "1 of 2500 users differ between offline and online store at 2011-10-10: user 2500 is not online"
    )


def test_a_user_online_as_of_another_cutoff_is_named_with_it() -> None:
    (row,) = SHOP.read([3])
    assert row is not None
    assert mismatch({3: replace(row, as_of=at("2011-09-10"))}).endswith("user 3 is online as of 2011-09-10")


def test_of_many_differences_the_first_five_are_shown_and_all_are_counted() -> None:
    message = mismatch(dict.fromkeys(range(1, 2501)))
    assert message.startswith("2500 of 2500 users differ")
    assert message.count("is not online") == 5


@pytest.mark.parametrize(
    ("others", "found"),
    [((9001,), "1 user is online"), ((9001, 9002, "x"), "3 users are online")],
    ids=["one", "three"],
)
def test_users_who_are_online_only_are_counted(others: tuple[UserId, ...], found: str) -> None:
    (row,) = SHOP.read([3])
    assert mismatch(dict.fromkeys(others, row)) == f"{found} but not at the cutoff 2011-10-10"


def test_a_lost_user_does_not_make_up_for_one_who_is_online_only() -> None:
    (row,) = SHOP.read([3])
    assert mismatch({7: None, 9001: row}).endswith("user 7 is not online")


def test_a_user_whom_feast_reads_otherwise_than_the_service_is_named() -> None:
    shop = replace(SHOP, by_feast=changed(26, total_spent=1.5))
    with pytest.raises(Mismatch, match="by Feast, user 26: total_spent"):
        verify(shop, shop, CUTOFF)


def test_a_cutoff_that_was_not_built_is_not_ready() -> None:
    with pytest.raises(NotReady):
        verify(SHOP, SHOP, at("2011-11-10"))
