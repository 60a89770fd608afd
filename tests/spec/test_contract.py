"""The contract of the raw tables, rule by rule.

Tables are written as text: columns two spaces apart, `-` for null. As in CSV, every value is text, unless a test
builds the table from typed values. `now` is 2012-01-01.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn.core import contract_rules, raw_columns
from churn.core.breaches import Breach, Rule, Severity
from churn.core.contract import Checked, check
from churn.core.contract_work import Terms
from churn.core.raw_columns import parse_mapping
from churn.core.raw_types import localize
from churn.errors import BadInput, ContractBroken

Options = Mapping[str, Any] | None

NOW = datetime(2012, 1, 1, tzinfo=UTC)
FATAL, QUARANTINED, WARNING, NOTE = Severity.FATAL, Severity.QUARANTINED, Severity.WARNING, Severity.NOTE

GOOD_ORDERS = """
    order_id  user_id  order_amount  order_date
    a         1        10.00         2011-01-01 08:26
    b         1        20.00         2011-01-15
    c         2        5.50          2011-02-01T12:00:00Z
"""


def at(text: str) -> datetime:
    """A naive UTC time, as snapshots keep it."""
    return datetime.fromisoformat(text)


def table(text: str) -> pa.Table:
    header, *rows = [re.split(r"\s{2,}", line.strip()) for line in text.strip().splitlines()]
    cells = [[None if cell == "-" else cell for cell in row] for row in rows]
    assert all(len(row) == len(header) for row in cells), "a row of the test's table has another number of cells"
    return pa.table({name: pa.array([row[at] for row in cells], pa.string()) for at, name in enumerate(header)})


def checked(mapping: Options = None, terms: Options = None, **sources: Any) -> Checked:
    tables = {name: table(source) if isinstance(source, str) else source for name, source in sources.items()}
    return check(tables, mapping or {}, Terms(**{"now": NOW, **(terms or {})}))


def broken(mapping: Options = None, terms: Options = None, **sources: Any) -> list[Breach]:
    with pytest.raises(ContractBroken) as caught:
        checked(mapping, terms, **sources)
    return list(caught.value.facts["breaches"])


def of(breaches: Iterable[Breach], rule: str) -> Breach:
    breaches = list(breaches)
    found = [item for item in breaches if item.rule == rule]
    assert len(found) == 1, f"{rule} was found {len(found)} times among {[item.rule for item in breaches]}"
    return found[0]


def rules_in(breaches: Iterable[Breach], *severities: Severity) -> set[str]:
    return {item.rule for item in breaches if item.severity in severities}


def kept(result: Checked, name: str = "orders") -> list[str]:
    return sorted(result.tables[name].column("session_id" if name == "user_sessions" else "order_id").to_pylist())


def aside(result: Checked, name: str = "orders") -> dict[int, str]:
    """Reason by row number."""
    rows = result.quarantine[name]
    return dict(zip(rows.column("row").to_pylist(), rows.column("reason").to_pylist(), strict=True))


def values(result: Checked, name: str, column: str) -> dict[Any, Any]:
    """Values of a column by key."""
    key = {"users": "user_id", "orders": "order_id", "user_sessions": "session_id"}[name]
    rows = result.tables[name]
    return dict(zip(rows.column(key).to_pylist(), rows.column(column).to_pylist(), strict=True))


def typed(**columns: Any) -> pa.Table:
    """Orders of typed values; ids and dates are filled in where not given."""
    rows = len(next(iter(columns.values())))
    given = {"order_id": [f"o{n}" for n in range(rows)], "user_id": [1] * rows, "order_amount": [1.0] * rows}
    dates = [at("2011-01-01") + timedelta(days=n) for n in range(rows)]
    return pa.table({**given, "order_date": dates, **columns})


def many_orders(rows: int, **columns: Any) -> pa.Table:
    """A log dense enough to be judged by shares: ten orders a day from 2011-01-01."""
    dates = np.datetime64("2011-01-01", "us") + np.arange(rows) * np.timedelta64(144, "m")
    return typed(**{"order_id": [f"o{n}" for n in range(rows)], "order_date": dates, **columns})


# ---- what comes out -------------------------------------------------------------------------------------------------


def test_a_good_log_comes_out_typed_with_nothing_set_aside() -> None:
    result = checked(orders=GOOD_ORDERS)
    assert result.tables["orders"].to_pylist() == [
        {
            "order_id": "a",
            "user_id": 1,
            "order_amount": Decimal("10.0000"),
            "order_date": at("2011-01-01 08:26"),
            "ingested_at": None,
        },
        {
            "order_id": "b",
            "user_id": 1,
            "order_amount": Decimal("20.0000"),
            "order_date": at("2011-01-15"),
            "ingested_at": None,
        },
        {
            "order_id": "c",
            "user_id": 2,
            "order_amount": Decimal("5.5000"),
            "order_date": at("2011-02-01 12:00"),
            "ingested_at": None,
        },
    ]
    assert rules_in(result.breaches, FATAL, QUARANTINED, WARNING) == set()
    assert [result.quarantine[name].num_rows for name in ("users", "orders", "user_sessions")] == [0, 0, 0]


def test_the_three_tables_always_have_the_same_types() -> None:
    result = checked(orders=GOOD_ORDERS)
    stamp, decimal = pa.timestamp("us"), pa.decimal128(18, 4)
    assert dict(zip(result.tables["users"].schema.names, result.tables["users"].schema.types, strict=True)) == {
        "user_id": pa.int64(),
        "email": pa.string(),
        "created_at": stamp,
        "updated_at": stamp,
        "last_login_at": stamp,
        "subscription_tier": pa.string(),
    }
    assert result.tables["orders"].schema.types == [pa.string(), pa.int64(), decimal, stamp, stamp]
    assert result.tables["user_sessions"].schema.types == [pa.string(), pa.int64(), stamp, decimal, stamp]


def test_users_are_derived_from_orders_alone() -> None:
    result = checked(orders=GOOD_ORDERS)
    assert values(result, "users", "created_at") == {1: at("2011-01-01 08:26"), 2: at("2011-02-01 12:00")}
    assert of(result.breaches, "users_derived").count == 2


def test_sessions_alone_suffice() -> None:
    result = checked(
        user_sessions="""
            session_id  user_id  session_start     session_duration_minutes
            s           7        2011-03-01 10:00  12.5
            t           7        2011-03-02 10:00  -
        """
    )
    assert values(result, "user_sessions", "session_duration_minutes") == {"s": Decimal("12.5000"), "t": None}
    assert values(result, "users", "created_at") == {7: at("2011-03-01 10:00")}
    assert result.tables["orders"].num_rows == 0


def test_the_log_ends_at_midnight_after_the_last_event_refunds_included() -> None:
    result = checked(
        orders="""
            order_id  user_id  order_amount  order_date
            a         1        10            2011-01-01
            b         1        -10           2011-12-09 12:50
        """
    )
    assert result.first_event == datetime(2011, 1, 1, tzinfo=UTC)
    assert result.last_event == datetime(2011, 12, 9, 12, 50, tzinfo=UTC)
    assert result.log_end == datetime(2011, 12, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "end"),
    [
        ("2011-02-01 12:30", "2011-02-01"),  # the day of the last event is not over
        ("2011-02-01 23:59:59", "2011-02-01"),
        ("2011-02-02 00:00", "2011-02-02"),
        ("2012-01-01", "2011-02-02"),  # ended long ago
    ],
)
def test_a_live_log_is_complete_until_the_last_midnight(now: str, end: str) -> None:
    result = checked(orders=GOOD_ORDERS, terms={"now": at(now)})
    assert result.last_event == datetime(2011, 2, 1, 12, tzinfo=UTC)
    assert result.log_end == at(end).replace(tzinfo=UTC)
    assert "no_whole_day" not in rules_in(result.breaches, WARNING)


def test_a_log_without_any_day_that_is_over_is_told_and_taken() -> None:
    result = checked(orders=typed(order_date=[at("2011-01-01 09:00")]), terms={"now": at("2011-01-01 10:00")})
    assert result.log_end == datetime(2011, 1, 1, tzinfo=UTC)
    told = of(result.breaches, "no_whole_day")
    assert (told.table, told.severity) == ("log", WARNING)
    assert told.samples == ("first event 2011-01-01 09:00", "complete until 2011-01-01 00:00")


def test_the_same_content_in_another_row_order_is_the_same_result() -> None:
    orders = table(GOOD_ORDERS)
    assert checked(orders=orders).tables == checked(orders=orders.take([2, 0, 1])).tables


def test_a_pandas_frame_is_a_source_too() -> None:
    frame = pd.DataFrame(
        {"order_id": ["a"], "user_id": [5], "order_amount": [1.5], "order_date": [pd.Timestamp("2011-01-01")]}
    )
    assert values(checked(orders=frame), "orders", "order_amount") == {"a": Decimal("1.5000")}


def test_a_frame_with_mixed_types_in_a_column_is_refused_by_name() -> None:
    frame = pd.DataFrame({"user_id": [1, "two"], "order_date": ["2011-01-01", "2011-01-02"]}, dtype=object)
    with pytest.raises(BadInput, match="orders: a column mixes types"):
        checked(orders=frame)


# ---- columns and mapping --------------------------------------------------------------------------------------------

INVOICES = """
    InvoiceNo  CustomerID  Total  InvoiceDate
    i1         17850       10.00  2010-12-01 08:26
"""
INVOICE_MAPPING = ("order_id=InvoiceNo,user_id=CustomerID", "", "orders.order_date=InvoiceDate", "order_amount=Total")


def test_columns_are_mapped_by_name() -> None:
    result = checked(parse_mapping(INVOICE_MAPPING), orders=INVOICES)
    assert values(result, "orders", "user_id") == {"i1": 17850}
    assert values(result, "orders", "order_amount") == {"i1": Decimal("10.0000")}


def test_a_mapping_for_all_tables_leaves_alone_those_without_that_source_column() -> None:
    result = checked(
        {"user_id": "CustomerID"},
        orders="""
            order_id  CustomerID  order_amount  order_date
            a         1           1             2011-01-01
        """,
        users="""
            user_id  created_at
            1        2010-06-01
        """,
    )
    assert values(result, "users", "created_at") == {1: at("2010-06-01")}


def test_a_mapping_for_one_table_beats_the_one_for_all() -> None:
    result = checked(
        {"user_id": "buyer", "orders.user_id": "payer"},
        orders="""
            order_id  buyer  payer  order_amount  order_date
            a         1      2      1             2011-01-01
        """,
    )
    assert values(result, "orders", "user_id") == {"a": 2}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["user_id"], "is no pair"),
        (["user_id="], "is no pair"),
        (["customer=CustomerID"], "no raw table has customer"),
        (["orders.session_start=x"], r"no raw table has orders\.session_start"),
        (["basket.user_id=x"], r"no raw table has basket\.user_id"),
        (["user_id=a", "user_id=b"], "maps user_id twice: to a and to b"),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused(pairs: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_mapping(pairs)


def test_sessions_is_short_for_user_sessions_in_a_mapping() -> None:
    assert parse_mapping(["sessions.user_id=uid"]) == {"user_sessions.user_id": "uid"}


def test_a_mapping_to_a_column_that_is_not_there_is_fatal() -> None:
    found = broken({"orders.order_date": "InvoiceDate"}, orders=GOOD_ORDERS)
    missing = of(found, "mapping_column_missing")
    assert (missing.place, missing.samples) == ("orders.order_date", ("InvoiceDate",))
    assert "Found columns: order_id, user_id, order_amount, order_date." in missing.hint


def test_a_mapping_for_all_tables_that_fits_none_is_fatal() -> None:
    assert of(broken({"user_id": "Customer"}, orders=GOOD_ORDERS), "mapping_column_missing").place == "mapping.user_id"


def test_a_mapping_for_a_table_that_is_not_given_is_fatal() -> None:
    found = broken({"user_sessions.user_id": "uid"}, orders=GOOD_ORDERS)
    assert of(found, "mapping_column_missing").place == "mapping.user_sessions.user_id"


def test_one_source_column_cannot_be_two_columns() -> None:
    found = broken({"order_id": "user_id"}, orders=GOOD_ORDERS)
    assert rules_in(found, FATAL) == {"mapping_column_twice"}


def test_a_missing_column_is_fatal_and_the_way_out_is_shown() -> None:
    found = [item for item in broken(orders=INVOICES) if item.severity is FATAL]
    assert {item.rule for item in found} == {"missing_column"}
    assert [item.place for item in found] == ["orders.user_id", "orders.order_date"]
    assert "Found columns: InvoiceNo, CustomerID, Total, InvoiceDate." in found[0].hint
    assert "--map orders.user_id=" in found[0].hint


def test_two_columns_of_one_name_are_fatal() -> None:
    twice = pa.table([[1], [2], ["2011-01-01"]], names=["user_id", "user_id", "order_date"])
    assert of(broken(orders=twice), "duplicate_column").place == "orders.user_id"


def test_a_column_of_lists_is_fatal() -> None:
    nested = typed(order_amount=[[1.0, 2.0]])
    assert of(broken(orders=nested), "nested_column").place == "orders.order_amount"


def test_neither_orders_nor_sessions_is_fatal() -> None:
    users = """
        user_id  created_at
        1        2011-01-01
    """
    assert rules_in(broken(users=users), FATAL) == {"no_events"}


def test_a_table_nobody_knows_is_refused() -> None:
    with pytest.raises(BadInput, match="'baskets' is no raw table"):
        checked(baskets=GOOD_ORDERS)


def test_orders_without_id_are_numbered_and_amounts_may_be_absent() -> None:
    result = checked(
        orders="""
            user_id  order_date
            1        2011-01-01
            1        2011-01-01
        """
    )
    assert kept(result) == ["row-1", "row-2"]
    assert set(values(result, "orders", "order_amount").values()) == {None}
    assert [item.place for item in result.breaches if item.rule == "optional_column_missing"] == [
        "orders.order_id",
        "orders.order_amount",
    ]


def test_other_columns_are_left_out_and_named() -> None:
    result = checked(
        orders="""
            order_id  user_id  order_amount  order_date  city
            a         1        1             2011-01-01  Leeds
        """
    )
    assert of(result.breaches, "extra_columns").samples == ("city",)
    assert "city" not in result.quarantine["orders"].schema.names


def test_a_file_that_is_not_utf8_is_told() -> None:
    noted = table(GOOD_ORDERS).replace_schema_metadata({b"churn.encoding": b"latin-1"})
    assert of(checked(orders=noted).breaches, "source_encoding").samples == ("latin-1",)


# ---- all at once, and nothing changed -------------------------------------------------------------------------------


def test_all_breaches_are_told_at_once_the_fatal_ones_first() -> None:
    found = broken(
        orders="""
            order_id  user_id  order_amount
            a         -        1
            b         1        lots
            c         1        2
        """,
        user_sessions="""
            session_id  user_id  session_start
            s           1        2099-01-01
            t           1        2011-01-01
        """,
    )
    assert [(item.place, item.rule) for item in found] == [
        ("orders.order_date", "missing_column"),
        ("orders.user_id", "guest"),
        ("orders.order_amount", "number_unreadable"),
        ("user_sessions.session_start", "in_future"),
        ("user_sessions.session_duration_minutes", "optional_column_missing"),
    ]
    assert found[0].severity is FATAL


def test_the_message_says_what_is_fatal_how_often_and_what_to_do() -> None:
    with pytest.raises(ContractBroken) as caught:
        checked(orders=typed(user_id=[1.5, 2.0]))
    assert "orders.user_id: id_not_exact, 1 x" in caught.value.message
    assert "(for example o0)" in caught.value.message
    assert "Export ids as integers or text" in caught.value.message
    assert caught.value.facts["rows"][0][:4] == ("orders.user_id", "id_not_exact", "fatal", "1")


def test_samples_are_keys_and_never_show_an_address() -> None:
    result = checked(
        users="""
            user_id       email          created_at  updated_at
            ann@shop.org  ann@shop.org   2011-01-01  2011-01-01
            ann@shop.org  ann2@shop.org  2011-01-01  2011-02-01
        """,
        orders="""
            order_id  user_id       order_amount  order_date
            a         ann@shop.org  x             2011-01-01
            -         ann@shop.org  1             2011-01-01
            b         ann@shop.org  1             2011-01-01
        """,
    )
    assert of(result.breaches, "duplicate_user").samples == ("a***@***",)
    assert of(result.breaches, "number_unreadable").samples == ("a",)
    assert of(result.breaches, "null_key").samples == ("row 2",)
    assert "shop.org" not in str([item.as_dict() for item in result.breaches])


def test_at_most_five_samples_are_shown() -> None:
    result = checked(orders=typed(user_id=[None] * 9 + [1]))
    assert of(result.breaches, "guest").count == 9
    assert of(result.breaches, "guest").samples == ("o0", "o1", "o2", "o3", "o4")


def test_rows_set_aside_keep_their_values_as_they_came() -> None:
    result = checked(
        orders="""
            order_id  user_id  order_amount  order_date
            a         1        10            2011-01-01
            b         1        £12.50        2011-01-02
        """
    )
    assert result.quarantine["orders"].to_pylist() == [
        {
            "row": 2,
            "reason": "number_unreadable",
            "order_id": "b",
            "user_id": "1",
            "order_amount": "£12.50",
            "order_date": "2011-01-02",
            "ingested_at": None,
        }
    ]


# ---- user ids -------------------------------------------------------------------------------------------------------


def user_ids(*ids: Any, kind: pa.DataType | None = None, **terms: Any) -> Checked:
    return checked(orders=typed(user_id=pa.array(ids, kind)), terms=terms)


def test_user_ids_that_are_floats_become_integers() -> None:
    result = user_ids(17850.0, 12346.0)
    assert values(result, "orders", "user_id") == {"o0": 17850, "o1": 12346}
    assert of(result.breaches, "id_was_float").count == 2


def test_user_ids_printed_by_a_float_column_become_integers() -> None:
    result = user_ids("17850.0", "12346.0", "nan", "")
    assert values(result, "orders", "user_id") == {"o0": 17850, "o1": 12346}
    assert of(result.breaches, "id_was_float").count == 2


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        ([17850.5, 1.0], pa.float64()),
        ([2.0**53, 1.0], pa.float64()),
        ([float("inf"), 1.0], pa.float64()),
        ([2.0**24, 1.0], pa.float32()),
        (["9007199254740993.0", "1.0"], pa.string()),
        ([Decimal("1.5"), Decimal("1.0")], pa.decimal128(10, 1)),
        ([2**64 - 1, 1], pa.uint64()),
    ],
)
def test_user_ids_that_a_number_type_may_have_merged_are_fatal(ids: list[Any], kind: pa.DataType) -> None:
    assert of(broken(orders=typed(user_id=pa.array(ids, kind))), "id_not_exact").samples == ("o0",)


def test_user_ids_kept_as_decimals_become_integers() -> None:
    result = user_ids(Decimal(17850), kind=pa.decimal128(38, 0))
    assert values(result, "orders", "user_id") == {"o0": 17850}


@pytest.mark.parametrize("blank", ["", " ", "\t", "nan", "NaN", "None", "NULL", "<NA>"])
def test_a_blank_user_id_is_a_guest_and_no_user(blank: str) -> None:
    result = user_ids(blank, "17850")
    assert values(result, "orders", "user_id") == {"o1": 17850}
    assert aside(result) == {1: "guest"}
    assert result.tables["users"].column("user_id").to_pylist() == [17850]


def test_null_user_ids_are_guests_in_every_type() -> None:
    assert aside(user_ids(None, 1)) == {1: "guest"}
    assert aside(user_ids(float("nan"), 1.0)) == {1: "guest"}
    assert aside(user_ids(None, "u")) == {1: "guest"}


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["1", "20", "300"], [1, 20, 300]),
        (["1", "007"], ["1", "007"]),
        (["1", "+2"], ["1", "+2"]),
        (["1", "9223372036854775808"], ["1", "9223372036854775808"]),
        (["9223372036854775807"], [9223372036854775807]),
        (["1.0", "x"], ["1.0", "x"]),
        (["0b9e6a52-9d43-4b0e-9d4c-5a0a6f0f7c11"], ["0b9e6a52-9d43-4b0e-9d4c-5a0a6f0f7c11"]),
    ],
)
def test_text_becomes_integers_only_if_every_id_is_a_canonical_one(ids: list[str], expected: list[Any]) -> None:
    found = values(user_ids(*ids), "orders", "user_id")
    assert [found[f"o{n}"] for n in range(len(ids))] == expected


def test_a_deployment_with_text_ids_keeps_text() -> None:
    result = user_ids("1", "2", known_user_id_type="string")
    assert result.user_id_type == "string"
    assert values(result, "orders", "user_id") == {"o0": "1", "o1": "2"}


@pytest.mark.parametrize(
    ("known", "ids", "kind"),
    [("integer", ["1", "x"], pa.string()), ("string", [1, 2], pa.int64()), ("string", [1.0], pa.float64())],
)
def test_another_type_than_the_deployment_has_is_fatal(known: str, ids: list[Any], kind: pa.DataType | None) -> None:
    found = broken(orders=typed(user_id=pa.array(ids, kind)), terms={"known_user_id_type": known})
    assert rules_in(found, FATAL) == {"user_id_type_changed"}


def test_text_in_one_table_and_integers_in_another_is_fatal() -> None:
    users = """
        user_id  created_at
        u1       2011-01-01
        2        2011-01-01
    """
    mixed = of(broken(orders=typed(user_id=[1]), users=users), "user_id_type_mixed")
    assert (mixed.place, mixed.count, mixed.samples) == ("users.user_id", 1, ("u1",))


def test_integers_as_text_in_one_table_meet_integers_in_another() -> None:
    users = """
        user_id  created_at
        1        2010-01-01
    """
    result = checked(orders=typed(user_id=[1]), users=users)
    assert result.tables["users"].num_rows == 1
    assert result.user_id_type == "integer"


def test_a_few_text_ids_among_integers_are_told() -> None:
    result = user_ids(*[str(n) for n in range(200)], "test-user")
    assert result.user_id_type == "string"
    assert of(result.breaches, "nearly_integer_ids").count == 1


def test_user_ids_of_no_sensible_type_are_fatal() -> None:
    assert rules_in(broken(orders=typed(user_id=[True])), FATAL) == {"user_id_unusable"}


def test_spaces_around_user_ids_are_removed_and_told() -> None:
    result = user_ids(" u1", "u1")
    assert values(result, "orders", "user_id") == {"o0": "u1", "o1": "u1"}
    assert of(result.breaches, "id_trimmed").count == 1


def test_user_ids_too_long_are_set_aside() -> None:
    assert aside(user_ids("u" * 256, "u" * 257)) == {2: "user_id_too_long"}


def test_negative_user_ids_are_placeholders_and_set_aside() -> None:
    assert aside(user_ids(-1, 7)) == {1: "user_id_negative"}
    assert aside(user_ids("-1", "7")) == {1: "user_id_negative"}


def test_user_ids_that_differ_by_an_invisible_character_are_set_aside() -> None:
    assert aside(user_ids("u\u200b", "u")) == {1: "user_id_control"}


def test_user_ids_with_control_characters_are_set_aside_and_not_printed() -> None:
    assert aside(user_ids("u\x1b[2J", "u")) == {1: "user_id_control"}


# ---- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", [None, "", " ", "NULL"])
def test_rows_without_key_are_set_aside(blank: str | None) -> None:
    assert aside(checked(orders=typed(order_id=["a", blank]))) == {2: "null_key"}


def test_keys_that_are_numbers_become_text() -> None:
    assert kept(checked(orders=typed(order_id=[536365, 536366]))) == ["536365", "536366"]


def test_keys_that_are_floats_become_text_without_the_point() -> None:
    result = checked(orders=typed(order_id=[536365.0, 536366.0]))
    assert kept(result) == ["536365", "536366"]
    assert of(result.breaches, "key_was_float").count == 2


def test_keys_that_a_float_may_have_merged_are_fatal() -> None:
    assert rules_in(broken(orders=typed(order_id=[2.0**60, 1.0])), FATAL) == {"key_not_exact"}


def test_keys_of_no_sensible_type_are_fatal() -> None:
    assert rules_in(broken(orders=typed(order_id=[date(2011, 1, 1)])), FATAL) == {"key_unusable"}


def test_keys_too_long_are_set_aside() -> None:
    assert aside(checked(orders=typed(order_id=["k" * 256, "k" * 257]))) == {2: "key_too_long"}


def test_keys_with_control_characters_are_set_aside_and_not_printed() -> None:
    result = checked(orders=typed(order_id=["a", "b\x1b[2J"]))
    assert aside(result) == {2: "key_control"}
    assert of(result.breaches, "key_control").samples == ("b?[2J",)


def test_the_same_row_again_is_kept_once() -> None:
    result = checked(
        orders="""
            order_id  user_id  order_amount  order_date
            a         1        10            2011-01-01
            a         1        10.0          2011-01-01 00:00
            b         1        10            2011-01-01
        """
    )
    assert kept(result) == ["a", "b"]
    assert aside(result) == {2: "duplicate_key"}


def test_equal_content_under_two_keys_is_two_orders() -> None:
    result = checked(orders=typed(order_amount=[5.0, 5.0], order_date=[at("2011-01-01")] * 2))
    assert kept(result) == ["o0", "o1"]
    assert aside(result) == {}


def test_of_one_key_with_two_times_the_first_is_kept_whatever_the_order_of_rows() -> None:
    rows = table("""
        order_id  user_id  order_amount  order_date
        a         1        10            2011-01-01 08:31
        a         1        10            2011-01-01 08:30
    """)
    for order in ([0, 1], [1, 0]):
        result = checked(orders=rows.take(order))
        assert values(result, "orders", "order_date") == {"a": at("2011-01-01 08:30")}
        assert list(aside(result).values()) == ["duplicate_key_conflict"]


def test_of_a_row_delivered_twice_the_one_known_first_is_kept() -> None:
    result = checked(
        orders="""
            order_id  user_id  order_amount  order_date  ingested_at
            a         1        10            2011-01-01  2011-01-05
            a         1        10            2011-01-01  2011-01-02
        """
    )
    assert values(result, "orders", "ingested_at") == {"a": at("2011-01-02")}


def test_a_correction_written_later_does_not_replace_what_was_known_before() -> None:
    rows = table("""
        order_id  user_id  order_amount  order_date  ingested_at
        A         1        100.00        2011-01-05  2011-01-05
        A         1        50.00         2011-01-05  2011-03-01
    """)
    for order in ([0, 1], [1, 0]):
        result = checked(orders=rows.take(order))
        assert values(result, "orders", "order_amount") == {"A": Decimal("100.0000")}
        assert result.quarantine["orders"].select(["reason", "order_amount"]).to_pylist() == [
            {"reason": "duplicate_key_conflict", "order_amount": "50.00"}
        ]


def test_a_row_written_late_about_an_earlier_time_does_not_replace_what_was_known_before() -> None:
    result = checked(
        orders="""
            order_id  user_id  order_amount  order_date  ingested_at
            a         1        10            2011-01-01  2011-03-01
            a         1        10            2011-01-05  -
        """
    )
    assert values(result, "orders", "order_date") == {"a": at("2011-01-05")}
    assert aside(result) == {1: "duplicate_key_conflict"}


def test_a_row_that_is_set_aside_does_not_displace_a_good_one_of_the_same_key() -> None:
    result = checked(
        orders="""
            order_id  user_id  order_amount  order_date
            a         -        10            2011-01-01
            a         1        10            2011-01-02
        """
    )
    assert kept(result) == ["a"]
    assert aside(result) == {1: "guest"}


def test_order_lines_instead_of_orders_are_fatal() -> None:
    lines = many_orders(200, order_id=[f"o{n // 2}" for n in range(200)])
    found = of(broken(orders=lines), "order_lines_not_orders")
    assert found.count == 100
    assert "Sum the lines" in found.hint


def test_a_few_repeated_orders_are_not_taken_for_order_lines() -> None:
    result = checked(orders=many_orders(1000, order_id=[f"o{n % 957}" for n in range(1000)]))
    assert of(result.breaches, "duplicate_key_conflict").count == 43


# ---- times ----------------------------------------------------------------------------------------------------------


def times(*moments: Any, **terms: Any) -> Checked:
    return checked(orders=typed(order_date=pa.array(moments)), terms=terms)


def order_dates(result: Checked) -> list[datetime]:
    found = values(result, "orders", "order_date")
    return [found[key] for key in sorted(found)]


def test_times_without_a_zone_are_local_to_tz() -> None:
    assert order_dates(times("2011-07-01 08:00", "2011-12-01 08:00", zone="Europe/London")) == [
        at("2011-07-01 07:00"),
        at("2011-12-01 08:00"),
    ]
    assert order_dates(times(at("2011-07-01 08:00"), zone="Europe/London")) == [at("2011-07-01 07:00")]
    assert order_dates(times(date(2011, 7, 1), zone="Europe/London")) == [at("2011-06-30 23:00")]


def test_times_with_a_zone_keep_their_instant() -> None:
    written = ("2011-07-01T08:00+02:00", "2011-07-01 06:00Z", "2011-07-01 06:00:00 UTC", "2011-07-01T01:00:00.5-0500")
    instants = [at("2011-07-01 06:00")] * 3 + [at("2011-07-01 06:00:00.500000")]
    assert order_dates(times(*written, zone="Europe/London")) == instants
    aware = datetime(2011, 7, 1, 8, tzinfo=ZoneInfo("Europe/Paris"))
    assert order_dates(times(aware, zone="Europe/London")) == [at("2011-07-01 06:00")]


def test_a_repeated_hour_is_its_first_pass_and_a_skipped_one_is_the_jump() -> None:
    assert order_dates(times("2011-10-30 01:30", "2011-03-27 01:30", zone="Europe/London")) == [
        at("2011-10-30 00:30"),
        at("2011-03-27 01:00"),
    ]


ZONES = (
    "Europe/London",
    "Europe/Dublin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Africa/Cairo",
)


@given(
    st.datetimes(at("2005-01-01"), at("2024-12-31")),
    st.sampled_from(ZONES),
)
def test_local_times_agree_with_the_standard_library_outside_skipped_hours(moment: datetime, zone: str) -> None:
    expected = moment.replace(tzinfo=ZoneInfo(zone), fold=0).astimezone(UTC)
    back = expected.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    actual = localize(np.array([moment], dtype="datetime64[us]"), zone)[0].item()
    if back == moment:
        assert actual == expected.replace(tzinfo=None)
    else:  # skipped: the jump lies within the hours around it
        assert abs(actual - expected.replace(tzinfo=None)) <= timedelta(hours=1)


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(BadInput, match="'Europe/Londn' is no time zone"):
        times("2011-01-01", zone="Europe/Londn")


def test_times_whose_order_of_day_and_month_is_unknown_are_fatal_and_only_their_shape_is_shown() -> None:
    found = broken(orders=typed(order_date=["12/1/2010 8:26", "12/1/2010 8:28"]))
    assert rules_in(found, FATAL) == {"time_format"}
    assert of(found, "time_format").samples == ("99/9/9999 9:99",)
    assert "--date-format" in of(found, "time_format").hint


@pytest.mark.parametrize("written", ["20110101", "1293840000", "1 Jan 2011", "Jan 1, 2011", "01.02.2011", "2011-1-5"])
def test_other_formats_are_fatal_too(written: str) -> None:
    assert rules_in(broken(orders=typed(order_date=[written])), FATAL) == {"time_format"}


@pytest.mark.parametrize("numbers", [pa.array([1293840000]), pa.array([1293840000.0]), pa.array([True])])
def test_times_that_are_numbers_are_fatal(numbers: pa.Array) -> None:
    assert rules_in(broken(orders=typed(order_date=numbers)), FATAL) == {"time_format"}


def test_a_date_format_reads_them_and_iso_is_still_read() -> None:
    result = times("12/1/2010 8:26", "2010-12-02", date_format="%m/%d/%Y %H:%M")
    assert order_dates(result) == [at("2010-12-01 08:26"), at("2010-12-02")]
    assert order_dates(times("12/1/2010 8:26", date_format="%d/%m/%Y %H:%M")) == [at("2010-01-12 08:26")]
    assert order_dates(times(20101201, date_format="%Y%m%d")) == [at("2010-12-01")]
    assert order_dates(times("1/7/2011", date_format="%d/%m/%Y", zone="Europe/London")) == [at("2011-06-30 23:00")]
    assert order_dates(times("1/7/2011 +0200", date_format="%d/%m/%Y %z")) == [at("2011-06-30 22:00")]


def test_a_date_format_that_does_not_fit_is_fatal() -> None:
    found = broken(orders=typed(order_date=["13/1/2010", "1/13/2010"]), terms={"date_format": "%m/%d/%Y"})
    assert rules_in(found, FATAL) == {"time_format"}


def test_a_date_format_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="--date-format '%Q' cannot be used"):
        times("12/1/2010", date_format="%Q")


def test_an_unknown_format_of_any_time_column_is_fatal() -> None:
    users = """
        user_id  created_at  updated_at  last_login_at
        1        1/2/2011    1/2/2011    1/2/2011
    """
    orders = """
        order_id  user_id  order_amount  order_date  ingested_at
        a         1        1             2011-01-01  1/2/2011
    """
    found = broken(users=users, orders=orders)
    assert {item.place for item in found if item.rule == "time_format"} == {
        "users.created_at",
        "users.updated_at",
        "users.last_login_at",
        "orders.ingested_at",
    }


def test_stray_times_in_another_format_are_set_aside() -> None:
    written = ["2011-01-01"] * 39 + ["1/2/2011"]
    assert aside(checked(orders=typed(order_date=written))) == {40: "time_unreadable"}


@pytest.mark.parametrize("written", ["soon", "2011-02-30", "2011-01-01 25:00", "1066-10-14"])
def test_times_that_cannot_be_read_are_set_aside(written: str) -> None:
    assert aside(times(written, "2011-01-01")) == {1: "time_unreadable"}


@pytest.mark.parametrize("written", [None, "", " ", "NULL", "NaT"])
def test_events_without_time_are_set_aside(written: str | None) -> None:
    assert aside(times(written, "2011-01-01")) == {1: "time_missing"}


def test_events_in_the_future_are_set_aside_five_minutes_are_granted() -> None:
    result = times("2012-01-01 00:05", "2012-01-01 00:06", "2011-01-01")
    assert aside(result) == {2: "in_future"}


def test_the_last_instant_a_parquet_file_can_hold_is_in_the_future() -> None:
    assert aside(times(at("9999-12-31"), at("2011-01-01"))) == {1: "in_future"}


def year_of_orders(*strays: str) -> pa.Table:
    dates = np.datetime64("2010-07-01", "us") + np.arange(2000) * np.timedelta64(144, "m")
    moments = np.concatenate([np.array(strays, dtype="datetime64[us]"), dates])
    return typed(order_date=moments, order_id=[f"o{n}" for n in range(len(moments))])


def test_events_with_clocks_off_by_a_year_are_set_aside_at_both_ends_of_the_log() -> None:
    result = checked(orders=year_of_orders("2009-08-01", "2011-11-01"))
    assert aside(result) == {1: "isolated_in_time", 2: "isolated_in_time"}
    assert result.log_end == datetime(2011, 1, 17, tzinfo=UTC)


def test_more_than_one_event_in_a_thousand_is_no_stray() -> None:
    assert aside(checked(orders=year_of_orders("2009-08-01", "2009-08-02", "2009-08-03"))) == {}


def test_a_silence_shorter_than_the_horizon_isolates_nothing() -> None:
    early = year_of_orders("2010-03-01")
    assert aside(checked(orders=early)) == {1: "isolated_in_time"}
    assert aside(checked(orders=early, terms={"horizon": timedelta(days=180)})) == {}


def test_small_logs_have_no_strays() -> None:
    result = times("2009-01-01", "2011-01-01", "2011-01-02")
    assert aside(result) == {}


# ---- amounts and durations ------------------------------------------------------------------------------------------


def amounts(*written: Any, kind: pa.DataType | None = None) -> Checked:
    return checked(orders=typed(order_amount=pa.array([*written, "1" if kind == pa.string() else None], kind)))


@pytest.mark.parametrize("written", ["lots", "£12.50", "1,234.50", "12,50", "1.2.3", "0x10", "--1"])
def test_amounts_that_cannot_be_read_are_set_aside(written: str) -> None:
    assert aside(amounts(written, kind=pa.string())) == {1: "number_unreadable"}


@pytest.mark.parametrize(
    ("written", "kind"),
    [("nan", pa.string()), ("-inf", pa.string()), (float("nan"), pa.float64()), (float("inf"), pa.float64())],
)
def test_amounts_that_are_no_number_are_set_aside(written: Any, kind: pa.DataType) -> None:
    assert aside(amounts(written, kind=kind)) == {1: "number_not_finite"}


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("100000000000000", pa.string()),
        (-1e14, pa.float64()),
        (10**14, pa.int64()),
        (Decimal(10**14), pa.decimal128(38, 2)),
    ],
)
def test_amounts_too_large_are_set_aside(written: Any, kind: pa.DataType) -> None:
    assert aside(amounts(written, kind=kind)) == {1: "number_too_large"}


@pytest.mark.parametrize(
    ("written", "kind", "expected"),
    [
        ("77183.60", pa.string(), "77183.6000"),
        (" +5 ", pa.string(), "5.0000"),
        ("1e3", pa.string(), "1000.0000"),
        ("99999999999999.9999", pa.string(), "99999999999999.9999"),
        (11.77, pa.float64(), "11.7700"),
        (0.1 + 0.2, pa.float64(), "0.3000"),
        (7, pa.int32(), "7.0000"),
        (Decimal("12345678901234.5678"), pa.decimal128(38, 9), "12345678901234.5678"),
    ],
)
def test_amounts_are_exact_to_four_decimals(written: Any, kind: pa.DataType, expected: str) -> None:
    result = amounts(written, kind=kind)
    assert values(result, "orders", "order_amount")["o0"] == Decimal(expected)
    assert "number_rounded" not in rules_in(result.breaches, WARNING)


@pytest.mark.parametrize(
    ("written", "kind"), [("0.00005", pa.string()), (1 / 3, pa.float64()), (Decimal("0.33333"), pa.decimal128(9, 5))]
)
def test_amounts_with_more_decimals_are_rounded_and_told(written: Any, kind: pa.DataType) -> None:
    assert of(amounts(written, kind=kind).breaches, "number_rounded").count == 1


def test_negative_amounts_are_refunds_zero_and_empty_ones_are_orders() -> None:
    result = checked(
        orders="""
            order_id  user_id  order_amount  order_date
            bought    12346    77183.60      2011-01-18 10:01
            returned  12346    -77183.60     2011-01-18 10:17
            free      12346    0             2011-01-19
            unknown   12346    -             2011-01-20
        """
    )
    assert aside(result) == {}
    assert of(result.breaches, "refunds").samples == ("returned",)
    assert of(result.breaches, "zero_amounts").samples == ("free",)
    assert values(result, "orders", "order_amount")["unknown"] is None


def test_a_log_whose_amounts_are_all_empty_is_told() -> None:
    result = checked(orders=typed(order_amount=pa.array([None, None], pa.float64())))
    assert of(result.breaches, "all_numbers_missing").place == "orders"


def test_sessions_of_impossible_length_are_set_aside() -> None:
    result = checked(
        user_sessions="""
            session_id  user_id  session_start  session_duration_minutes
            s           1        2011-01-01     0
            t           1        2011-01-01     10080
            u           1        2011-01-01     10080.5
            v           1        2011-01-01     -0.1
        """
    )
    assert kept(result, "user_sessions") == ["s", "t"]
    assert aside(result, "user_sessions") == {3: "duration_out_of_range", 4: "duration_out_of_range"}


# ---- when an event was written --------------------------------------------------------------------------------------


def test_an_event_counts_as_written_when_it_happened_if_nobody_knows_better() -> None:
    result = checked(
        orders="""
            order_id  user_id  order_amount  order_date  ingested_at
            a         1        1             2011-01-01  2011-01-03 08:00
            b         1        1             2011-01-01  -
            c         1        1             2011-01-01  whenever
        """
    )
    assert values(result, "orders", "ingested_at") == {"a": at("2011-01-03 08:00"), "b": None, "c": None}
    assert of(result.breaches, "ingested_at_unknown").samples == ("b", "c")


def test_events_written_long_before_they_happened_are_told() -> None:
    result = checked(
        orders="""
            order_id  user_id  order_amount  order_date        ingested_at
            a         1        1             2011-01-03        2011-01-02
            b         1        1             2011-01-03 00:01  2011-01-02
        """
    )
    assert kept(result) == ["a", "b"]
    assert of(result.breaches, "ingested_before_event").samples == ("b",)


def test_events_written_in_the_future_are_told() -> None:
    result = checked(
        orders="""
            order_id  user_id  order_amount  order_date  ingested_at
            a         1        1             2011-01-03  2013-01-02
        """
    )
    assert of(result.breaches, "ingested_in_future").samples == ("a",)


# ---- users ----------------------------------------------------------------------------------------------------------


def test_of_several_rows_of_a_user_the_one_updated_last_is_kept() -> None:
    rows = table("""
        user_id  subscription_tier  created_at  updated_at
        1        free               2011-01-01  2011-01-01
        1        pro                2011-01-01  2011-03-01
        1        old                2011-01-01  -
    """)
    for order in ([0, 1, 2], [2, 1, 0]):
        result = checked(users=rows.take(order), orders=typed(user_id=[1]))
        assert values(result, "users", "subscription_tier") == {1: "pro"}
        assert set(aside(result, "users").values()) == {"duplicate_user"}


def test_users_updated_at_the_same_time_are_told_apart_by_content_not_by_the_order_of_rows() -> None:
    rows = table("""
        user_id  subscription_tier  created_at  updated_at
        1        free               2011-01-01  2011-01-01
        1        pro                2011-01-01  2011-01-01
    """)
    tiers = [
        values(checked(users=rows.take(order), orders=typed(user_id=[1])), "users", "subscription_tier")
        for order in ([0, 1], [1, 0])
    ]
    assert tiers == [{1: "free"}, {1: "free"}]


def test_users_without_id_are_set_aside() -> None:
    users = """
        user_id  created_at
        -        2011-01-01
        1        2011-01-01
    """
    assert aside(checked(users=users, orders=typed(user_id=[1])), "users") == {1: "null_key"}


def test_a_missing_or_future_sign_up_is_the_first_event() -> None:
    users = """
        user_id  created_at
        1        -
        2        2013-01-01
        3        sometime
        4        2010-01-01
    """
    orders = """
        order_id  user_id  order_amount  order_date
        a         1        1             2011-01-01
        b         2        1             2011-01-02
        c         3        1             2011-01-03
        d         4        1             2011-01-04
    """
    result = checked(users=users, orders=orders)
    assert values(result, "users", "created_at") == {
        1: at("2011-01-01"),
        2: at("2011-01-02"),
        3: at("2011-01-03"),
        4: at("2010-01-01"),
    }
    assert of(result.breaches, "created_at_derived").samples == ("1", "2", "3")


def test_users_with_neither_sign_up_nor_event_are_set_aside() -> None:
    users = """
        user_id  created_at
        1        -
        2        -
        3        2011-01-01
    """
    result = checked(users=users, orders=typed(user_id=[1]))
    assert aside(result, "users") == {2: "user_without_time"}
    assert result.tables["users"].column("user_id").to_pylist() == [1, 3]


def test_users_whom_only_the_events_know_are_derived_and_told() -> None:
    users = """
        user_id  created_at
        1        2010-01-01
    """
    result = checked(users=users, orders=typed(user_id=[1, 9]))
    assert values(result, "users", "created_at") == {1: at("2010-01-01"), 9: at("2011-01-02")}
    assert of(result.breaches, "orphan_users").samples == ("9",)


def test_other_user_columns_may_be_absent_and_unreadable_times_are_left_out() -> None:
    users = """
        user_id  created_at  updated_at  last_login_at
        1        2010-01-01  lately      just now
    """
    result = checked(users=users, orders=typed(user_id=[1]))
    assert result.tables["users"].to_pylist() == [
        {
            "user_id": 1,
            "email": None,
            "created_at": at("2010-01-01"),
            "updated_at": None,
            "last_login_at": None,
            "subscription_tier": None,
        }
    ]
    told = [item.place for item in result.breaches if item.rule == "user_time_unreadable"]
    assert told == ["users.updated_at", "users.last_login_at"]


# ---- the log as a whole ---------------------------------------------------------------------------------------------


def test_no_row_at_all_is_fatal() -> None:
    assert rules_in(broken(orders=table(GOOD_ORDERS).slice(0, 0)), FATAL) == {"no_usable_rows"}


def test_no_usable_row_is_fatal() -> None:
    assert rules_in(broken(orders=typed(user_id=["", ""])), FATAL) == {"no_usable_rows"}


def test_an_empty_sessions_table_beside_orders_is_fine() -> None:
    sessions = pa.table({"session_id": [], "user_id": [], "session_start": [], "session_duration_minutes": []})
    assert rules_in(checked(orders=GOOD_ORDERS, user_sessions=sessions).breaches, FATAL, QUARANTINED, WARNING) == set()


def test_a_table_mostly_set_aside_is_fatal_guests_do_not_count() -> None:
    bad = ["x"] * 101 + ["1"] * 100
    assert rules_in(broken(orders=many_orders(201, order_amount=bad)), FATAL) == {"mostly_set_aside"}
    guests = [None] * 150 + [1] * 51
    assert of(checked(orders=many_orders(201, user_id=guests)).breaches, "guest").count == 150


def test_quantiles_are_of_days_between_active_days_refunds_left_out() -> None:
    result = checked(
        orders="""
            order_id  user_id  order_amount  order_date
            a         1        10            2011-01-01 08:00
            b         1        10            2011-01-01 20:00
            c         1        -10           2011-01-05
            d         1        10            2011-01-11
            e         2        10            2011-02-01
        """,
        user_sessions="""
            session_id  user_id  session_start
            s           1        2011-01-31
        """,
    )
    assert result.gap_quantiles == {"p50": 15.0, "p75": 17.5, "p90": 19.0, "p95": 19.5, "p99": 19.9}


def test_without_a_second_active_day_there_are_no_quantiles() -> None:
    assert set(checked(orders=typed(user_id=[1, 2])).gap_quantiles.values()) == {None}


def test_a_horizon_shorter_than_the_pauses_of_one_user_in_ten_is_told() -> None:
    rare = typed(order_date=[at("2011-01-01"), at("2011-04-01")])
    assert of(checked(orders=rare).breaches, "horizon_too_short").samples == ("p90 90 days", "horizon 60 days")
    long_enough = checked(orders=rare, terms={"horizon": timedelta(days=90)})
    assert rules_in(long_enough.breaches, WARNING) == set()


KEYS = st.sampled_from(["a", "b", "c", "d", "", None])
USERS = st.sampled_from(["1", "2", "3", "", "nan"])
NUMBERS = st.sampled_from(["1", "-1", "0", "1.23456", "lots", "inf", "1e20", None])
MOMENTS = st.sampled_from(
    ["2011-01-01", "2011-01-01 00:00", "2011-01-01T05:00Z", "2011-06-01", "soon", "2099-01-01", None]
)
ANY_ORDERS = st.lists(st.tuples(KEYS, USERS, NUMBERS, MOMENTS, MOMENTS), min_size=1, max_size=12)
ANY_USERS = st.lists(st.tuples(USERS, MOMENTS, MOMENTS, KEYS), max_size=6)


def columns(names: str, rows: list[tuple[str | None, ...]]) -> pa.Table:
    cells = zip(*rows, strict=True) if rows else [[] for _ in names.split()]
    return pa.table(
        {name: pa.array(list(column), pa.string()) for name, column in zip(names.split(), cells, strict=True)}
    )


@given(ANY_ORDERS, ANY_USERS, st.randoms(use_true_random=False))
def test_whatever_comes_every_row_is_kept_or_set_aside_and_row_order_does_not_matter(
    orders: list[tuple[str | None, ...]], users: list[tuple[str | None, ...]], random: Any
) -> None:
    def run() -> Checked | set[str]:
        try:
            return checked(
                orders=columns("order_id user_id order_amount order_date ingested_at", orders),
                users=columns("user_id created_at updated_at subscription_tier", users),
            )
        except ContractBroken as error:
            return rules_in(error.facts["breaches"], FATAL)

    result = run()
    random.shuffle(orders)
    random.shuffle(users)
    again = run()
    if isinstance(result, set) or isinstance(again, set):
        assert result == again == {"no_usable_rows"}
        return
    assert result.tables == again.tables
    rows, known = result.tables["orders"], result.tables["users"].column("user_id").to_pylist()
    assert rows.num_rows + result.quarantine["orders"].num_rows == len(orders)
    assert len(set(rows.column("order_id").to_pylist())) == rows.num_rows
    assert len(set(known)) == len(known)
    assert set(rows.column("user_id").to_pylist()) <= set(known) <= {1, 2, 3}
    assert rows.column("order_date").null_count == result.tables["users"].column("created_at").null_count == 0


def test_every_rule_is_named_in_a_test_above() -> None:
    rules = [*contract_rules.ROW_RULES, *contract_rules.USER_RULES, *contract_rules.TABLE_RULES]
    named = [*vars(contract_rules).values(), *vars(raw_columns).values()]
    rules += [value for value in named if isinstance(value, Rule)]
    rules += raw_columns.OPTIONAL_MISSING.values()
    text = Path(__file__).read_text()
    assert [rule.name for rule in rules if f'"{rule.name}"' not in text] == []
