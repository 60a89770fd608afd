"""Features and labels, as dbt builds them.

The first part is for reading: one user, a few events, and what comes out. The second part lets Hypothesis draw
histories, and asks that dbt and the plain twin (tests/twin.py) agree on all of them to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from churn.domain.ports import UserIdType
from churn.domain.schema import FEATURE_NAMES
from churn.domain.windows import DAY
from churn.stores.warehouse import Warehouse
from tests.shops import day, drawn, histories, town, with_ids, write_snapshot
from tests.twin import Order, Session, Shop, User, features_as_of, labels, user_segment

HORIZON = 30 * DAY
MIDNIGHT, MIDDAY, LATEST = day("2024-03-01"), day("2024-03-20 13:45:30"), day("2024-09-01")
CUTOFFS = (MIDNIGHT, MIDDAY, LATEST)
LOG_END = day("2024-09-15")  # so LATEST has no labels


def build(repository: Path, home: Path, shop: Shop, user_id_type: UserIdType = "integer") -> Warehouse:
    warehouse = Warehouse(repository / "warehouse", home, memory_limit_gb=1)
    warehouse.build(write_snapshot(shop, home / "snapshot", user_id_type, LOG_END), CUTOFFS, HORIZON)
    return warehouse


def exported(home: Path, cutoff: datetime) -> dict[Any, dict[str, Any]]:
    """{user_id: row} of one exported cutoff, None for null."""
    rows = pd.read_parquet(home / "offline" / "user_analytics" / f"{cutoff:%Y-%m-%dT%H%M%SZ}.parquet")
    return {row["user_id"]: row for row in rows.astype(object).where(rows.notna(), None).to_dict("records")}


# -- to be read ------------------------------------------------------------------------------------------------


def order(user_id: int, at: str, amount: str | None = "10", ingested_at: str | None = None) -> Order:
    money = None if amount is None else Decimal(amount)
    return Order(f"o-{user_id}-{at}-{amount}", user_id, day(at), money, day(ingested_at) if ingested_at else None)


def session(user_id: int, at: str, minutes: str | None = "5") -> Session:
    return Session(f"s-{user_id}-{at}", user_id, day(at), None if minutes is None else Decimal(minutes))


REGULAR, REFUNDED, SILENT, FUTURE, LATE, EDGE, TIED, UNKNOWN, RETURNED = range(1, 10)
KNOWN = (REGULAR, REFUNDED, SILENT, LATE, EDGE, TIED, UNKNOWN, RETURNED)  # at MIDNIGHT
SHOP = Shop(
    users=[
        User(REGULAR, day("2024-01-01")),
        User(REFUNDED, day("2024-02-10")),
        User(SILENT, day("2023-10-01")),
        User(FUTURE, day("2024-03-01")),
        User(LATE, day("2024-02-20")),
        User(EDGE, day("2023-01-01")),
        User(TIED, day("2024-01-01")),
        User(UNKNOWN, day("2024-01-01")),
        User(RETURNED, day("2024-01-01")),
    ],
    orders=[
        order(REGULAR, "2024-01-11", "20.10"),
        order(REGULAR, "2024-01-21 23:59", "0.20"),
        order(REGULAR, "2024-02-10", "600"),
        order(REGULAR, "2024-02-10 12:00", "600"),
        order(REFUNDED, "2024-02-12", "77183.60"),
        order(REFUNDED, "2024-02-12 00:16", "-77183.60"),
        order(LATE, "2024-02-21", "30"),
        order(LATE, "2024-02-25", "40", ingested_at="2024-03-01"),
        order(EDGE, "2024-02-23", "1"),  # 7 days before MIDNIGHT: inside the window
        order(EDGE, "2024-02-22 23:59:59", "2"),
        order(EDGE, "2024-03-01", "4"),  # at MIDNIGHT: belongs to the horizon
        order(TIED, "2024-02-01", "11"),
        order(TIED, "2024-02-01", "12"),
        order(UNKNOWN, "2024-02-01", None),
        order(UNKNOWN, "2024-01-31", "0"),
        order(RETURNED, "2024-01-10", "5"),
        order(RETURNED, "2024-02-29", "-5"),
        order(RETURNED, "2024-03-31", "8"),  # at the end of MIDNIGHT's horizon: outside
    ],
    sessions=[
        session(REGULAR, "2024-02-20", "10"),
        session(REGULAR, "2024-02-25", "5.5"),
        session(REGULAR, "2024-02-25 01:00", None),
    ],
)

EXPECTED: list[tuple[str, int, Mapping[str, float | str | None]]] = [
    (
        "a regular user: money, counts and rhythm",
        REGULAR,
        {
            "days_since_signup": 60.0,
            "total_orders": 4.0,
            "total_spent": 1220.3,
            "avg_order_value": 1220.3 / 4,
            "days_since_last_order": 19.5,
            "total_sessions": 3.0,
            "avg_session_duration": 7.75,  # the session of unknown length is left out
            "days_since_last_activity": 4 + 23 / 24,
            "order_frequency": 4 / 60,
            "customer_lifetime_value": 1220.3 / 4 * 4 * 1.2,
            "active_days": 5.0,  # gaps: 10, 20, 10 and 5 days
            "mean_gap_days": 11.25,
            "std_gap_days": (4 * 625 - 45**2) ** 0.5 / 4,
            "max_gap_days": 20.0,
            "recency_over_max_gap": (4 + 23 / 24) / 20,
            "activity_trend": 1.0,
            "orders_30d": 2.0,
            "spent_30d": 1200.0,
            "sessions_7d": 2.0,
            "user_segment": "High Value",
        },
    ),
    (
        "a refund is money, not activity",
        REFUNDED,
        {
            "total_orders": 1.0,
            "total_spent": 0.0,
            "refund_share": 0.5,
            "active_days": 1.0,
            "days_since_last_order": 18.0,
        },
    ),
    (
        "a refund after the last order does not make the user active",
        RETURNED,
        {"days_since_last_activity": 51.0, "total_spent": 0.0, "spent_7d": -5.0, "last_order_amount": 5.0},
    ),
    (
        "a user without events has no averages, no recency and no gaps, and counts of 0",
        SILENT,
        {
            "days_since_signup": 152.0,
            "total_orders": 0.0,
            "avg_order_value": None,
            "days_since_last_order": None,
            "avg_session_duration": None,
            "days_since_last_activity": None,
            "customer_lifetime_value": 0.0,
            "mean_gap_days": None,
            "recency_over_mean_gap": None,
            "activity_trend": 0.0,
            "last_order_amount": None,
            "refund_share": 0.0,
            "user_segment": "At Risk",
        },
    ),
    (
        "an order written at the cutoff is not known yet",
        LATE,
        {"total_orders": 1.0, "total_spent": 30.0, "user_segment": "New"},
    ),
    (
        "a window is closed on its left and open on its right",
        EDGE,
        {"total_orders": 2.0, "orders_7d": 1.0, "spent_7d": 1.0, "orders_30d": 2.0},
    ),
    ("of two orders at one instant the greater id is the last", TIED, {"last_order_amount": 12.0, "active_days": 1.0}),
    (
        "an unknown amount is no money, and an amount of 0 is an order",
        UNKNOWN,
        {"total_orders": 2.0, "total_spent": 0.0, "avg_order_value": 0.0, "last_order_amount": 0.0, "active_days": 2.0},
    ),
]


@pytest.fixture(scope="module")
def crowd() -> Shop:
    """The users above, and 250 more whose histories Hypothesis drew."""
    strangers = drawn(histories(CUTOFFS, HORIZON), 250)
    return town([SHOP, *(with_ids(history, 1000 + number) for number, history in enumerate(strangers))])


@pytest.fixture(scope="module")
def built(repository: Path, crowd: Shop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Warehouse]:
    home = tmp_path_factory.mktemp("home")
    return home, build(repository, home, crowd)


@pytest.mark.parametrize(("user_id", "expected"), [row[1:] for row in EXPECTED], ids=[row[0] for row in EXPECTED])
def test_features_at_a_cutoff(
    built: tuple[Path, Warehouse], user_id: int, expected: Mapping[str, float | str | None]
) -> None:
    row = exported(built[0], MIDNIGHT)[user_id]
    assert {name: row[name] for name in expected} == expected


def test_a_user_who_signs_up_at_the_cutoff_is_not_known_yet(built: tuple[Path, Warehouse]) -> None:
    assert FUTURE not in exported(built[0], MIDNIGHT)
    assert FUTURE in exported(built[0], MIDDAY)


def test_labels_look_at_the_horizon_and_at_what_was_known_before(built: tuple[Path, Warehouse]) -> None:
    rows = built[1].read_labels([MIDNIGHT], HORIZON).set_index("user_id").loc[list(KNOWN)]
    assert rows[["eligible", "churned"]].to_dict("index") == {
        REGULAR: {"eligible": True, "churned": True},
        REFUNDED: {"eligible": True, "churned": True},
        SILENT: {"eligible": False, "churned": True},
        LATE: {"eligible": True, "churned": True},
        EDGE: {"eligible": True, "churned": False},  # an order at the cutoff
        TIED: {"eligible": True, "churned": True},
        UNKNOWN: {"eligible": True, "churned": True},
        RETURNED: {"eligible": False, "churned": True},  # an order at the end of the horizon
    }


# -- to be believed --------------------------------------------------------------------------------------------


def assert_dbt_agrees_with_the_twin(home: Path, warehouse: Warehouse, shop: Shop) -> None:
    for cutoff in CUTOFFS:
        rows, expected = exported(home, cutoff), features_as_of(shop, cutoff)
        assert rows.keys() == expected.keys()
        for user_id, features in expected.items():
            assert {name: rows[user_id][name] for name in FEATURE_NAMES} == features, (user_id, cutoff)
            assert rows[user_id]["user_segment"] == user_segment(features)
    for cutoff in (MIDNIGHT, MIDDAY):
        found = warehouse.read_labels([cutoff], HORIZON).set_index("user_id")[["eligible", "churned"]]
        twin = {user_id: vars(label) for user_id, label in labels(shop, cutoff, HORIZON).items()}
        assert found.to_dict("index") == twin


def test_dbt_agrees_with_the_twin_on_random_histories(built: tuple[Path, Warehouse], crowd: Shop) -> None:
    assert_dbt_agrees_with_the_twin(*built, crowd)


def test_dbt_agrees_with_the_twin_when_ids_are_strings(repository: Path, tmp_path: Path) -> None:
    examples = drawn(histories(CUTOFFS, HORIZON, most=3), 30)
    shop = town([with_ids(history, f"7b1e-é{number}") for number, history in enumerate(examples)])
    assert_dbt_agrees_with_the_twin(tmp_path, build(repository, tmp_path, shop, "string"), shop)
