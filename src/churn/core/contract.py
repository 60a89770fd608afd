"""The contract of the raw tables: whatever a team exports goes in, typed tables and everything found come out.

The rules are in `contract_rules.py` (rows and tables) and `raw_columns.py` (columns); this module asks them in order.
A fatal breach raises only after everything else has been looked for, so that one run tells all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from churn.core import contract_rules as rules
from churn.core.breaches import Breach, Rule, Severity, breach, breach_rows, worst_first
from churn.core.contract_finds import USER_TIMES, usable_sign_up
from churn.core.contract_rules import EVENTS, USER_RULES
from churn.core.contract_work import NUMBERS, Terms, Work
from churn.core.log_facts import Span, first_events, gap_quantiles, joint_span, span
from churn.core.raw_columns import NO_EVENTS, Selected, mapping_breaches, select
from churn.core.raw_types import (
    DECIMAL,
    Parsed,
    localize,
    parse_decimals,
    parse_keys,
    parse_times,
    parse_user_ids,
    plain,
    texts,
)
from churn.domain.ports import UserIdType
from churn.domain.schema import RAW_COLUMNS, RAW_EVENT_TIMES, RAW_KEYS
from churn.domain.windows import complete_until
from churn.errors import BadInput, ContractBroken

TIMESTAMP = pa.timestamp("us")
TIME_COLUMNS = (*RAW_EVENT_TIMES.values(), "ingested_at", *USER_TIMES)
ID_TYPES: dict[str, pa.DataType] = {"integer": pa.int64(), "string": pa.string()}


@dataclass(frozen=True)
class Checked:
    """A log that keeps the contract: the three raw tables, typed and sorted; the rows set aside; what was found."""

    tables: dict[str, pa.Table]
    quarantine: dict[str, pa.Table]
    breaches: tuple[Breach, ...]
    user_id_type: UserIdType
    spans: dict[str, Span]
    first_event: datetime
    last_event: datetime
    log_end: datetime
    gap_quantiles: dict[str, float | None]


def check(sources: Mapping[str, pa.Table | pd.DataFrame], mapping: Mapping[str, str], terms: Terms) -> Checked:
    """The raw tables `users`, `orders`, `user_sessions` (any subset with events) out of `sources`.

    `mapping` is what `parse_mapping` returns. Raises ContractBroken with every breach (`facts["breaches"]`) when one is
    fatal, BadInput for a source that is no table and for an unknown zone or date format.
    """
    _known_zone(terms.zone)
    given = {name: _arrow(name, source) for name, source in sources.items()}
    selected = {name: select(name, table, mapping) for name, table in given.items()}
    found = [*mapping_breaches(mapping, given), *(item for each in selected.values() for item in each.breaches)]
    works = {name: _work(name, each, terms) for name, each in selected.items()}
    user_id_type, type_breaches = _one_id_type(works.values(), terms.known_user_id_type)
    found += type_breaches
    for work in works.values():
        found += [*rules.judge_rows(work, rules.ROW_RULES), *rules.judge_table(work)]
    _stop_if_fatal([*found, *_events_exist(works)])
    return _checked(works, user_id_type, found)


def _known_zone(zone: str) -> None:
    try:
        ZoneInfo(zone)
        localize(np.array([], dtype="datetime64[us]"), zone)
    except (KeyError, ValueError, OSError) as error:
        raise BadInput(f"--tz {zone!r} is no time zone", hint="Write a name such as UTC or Europe/London.") from error


def _arrow(name: str, source: pa.Table | pd.DataFrame) -> pa.Table:
    if name not in RAW_COLUMNS:
        raise BadInput(f"{name!r} is no raw table", hint=f"Raw tables are {', '.join(RAW_COLUMNS)}.")
    if isinstance(source, pa.Table):
        return source
    try:
        return pa.Table.from_pandas(source, preserve_index=False)
    except pa.ArrowException as error:
        raise BadInput(f"{name}: a column mixes types: {error}", hint="Give every column one type.") from error


def _work(name: str, selected: Selected, terms: Terms) -> Work:
    parsed = {column: _parse(name, column, selected.table, terms) for column in selected.table.column_names}
    key = RAW_KEYS[name]
    if key not in parsed and name in EVENTS:
        parsed[key] = _row_numbers(selected.rows)
    return Work(name, selected.rows, selected.table, parsed, terms)


def _parse(name: str, column: str, table: pa.Table, terms: Terms) -> Parsed:
    values = table.column(column)
    if column == "user_id":
        return parse_user_ids(values)
    if column == RAW_KEYS[name]:
        return parse_keys(values)
    if column in TIME_COLUMNS:
        return parse_times(values, terms.zone, terms.date_format)
    if column == NUMBERS.get(name):
        return parse_decimals(values)
    return Parsed(texts(plain(values)), table.num_rows)


def _row_numbers(rows: int) -> Parsed:
    numbers = pa.array(np.arange(1, rows + 1)).cast(pa.string())
    return Parsed(pc.binary_join_element_wise("row", numbers, "-"), rows, kind="text")


# ---- one type of user id ----------------------------------------------------------------------------------------


def _one_id_type(works: Iterable[Work], known: UserIdType | None) -> tuple[UserIdType, list[Breach]]:
    """The deployment's type of user ids, which every table is brought to; text becomes integers if all of it can."""
    works = [work for work in works if "user_id" in work.parsed]
    numbers = [work for work in works if work.column("user_id").kind == "integer"]
    odd = [work for work in works if work.column("user_id").flag("not_integer").any()]
    found = _type_breaches(numbers, odd, known)
    user_id_type: UserIdType = "integer" if known == "integer" or (known is None and not odd) else "string"
    if not found:
        for work in works:
            _bring_to(work, user_id_type)
    return user_id_type, found


def _type_breaches(numbers: list[Work], odd: list[Work], known: UserIdType | None) -> list[Breach]:
    if known == "integer":
        return [_odd_ids(rules.TYPE_CHANGED, work) for work in odd]
    if known == "string":
        return [breach(rules.TYPE_CHANGED, work.name, work.rows, column="user_id") for work in numbers]
    return [_odd_ids(rules.TYPES_MIXED, work) for work in odd] if numbers else []


def _odd_ids(rule: Rule, work: Work) -> Breach:
    mask = work.column("user_id").flag("not_integer")
    values = work.column("user_id").values
    samples = (str(values[int(row)]) for row in np.flatnonzero(mask))
    return breach(rule, work.name, int(mask.sum()), column="user_id", samples=samples)


def _bring_to(work: Work, user_id_type: UserIdType) -> None:
    parsed = work.column("user_id")
    values = parsed.values.cast(ID_TYPES[user_id_type])
    work.parsed["user_id"] = Parsed(values, parsed.rows, parsed.flags, parsed.kind)


# ---- what stops, and what comes out ----------------------------------------------------------------------------


def _events_exist(works: Mapping[str, Work]) -> list[Breach]:
    events = [works[name] for name in EVENTS if name in works]
    if not events:
        return [breach(NO_EVENTS, "orders, user_sessions")]
    empty = not any(work.alive.any() for work in events)
    told = any(work.rows for work in events)  # no_usable_rows was found in the table that has rows
    return [breach(rules.NO_USABLE_EVENTS, "orders, user_sessions")] if empty and not told else []


def _stop_if_fatal(found: list[Breach]) -> None:
    breaches = worst_first(found)
    fatal = [item for item in breaches if item.severity is Severity.FATAL]
    if fatal:
        lines = "".join(f"\n  {item}" for item in fatal)
        raise ContractBroken(
            f"the raw tables break the contract, nothing was changed:{lines}",
            hint="Correct these and ingest again.",
            facts={"breaches": breaches, "rows": breach_rows(breaches)},
        )


def _checked(works: Mapping[str, Work], user_id_type: UserIdType, found: list[Breach]) -> Checked:
    events = {name: _table(name, works.get(name), user_id_type) for name in EVENTS}
    firsts = first_events(events)
    users, about_users = _users(works.get("users"), firsts, user_id_type)
    found += about_users
    _stop_if_fatal(found)
    tables = {name: _in_order(name, table) for name, table in {"users": users, **events}.items()}
    spans = {name: span(tables[name], time) for name, time in RAW_EVENT_TIMES.items()}
    first, last = joint_span(spans)
    quantiles = gap_quantiles(tables)
    terms = next(iter(works.values())).terms
    end = complete_until(last, terms.now)
    found += [*_too_short(quantiles, terms.horizon), *_no_whole_day(first, end)]
    return Checked(
        tables=tables,
        quarantine={name: _quarantine(name, works.get(name)) for name in RAW_COLUMNS},
        breaches=worst_first(found),
        user_id_type=user_id_type,
        spans=spans,
        first_event=first,
        last_event=last,
        log_end=end,
        gap_quantiles=quantiles,
    )


def _too_short(quantiles: Mapping[str, float | None], horizon: timedelta) -> list[Breach]:
    p90 = quantiles["p90"]
    if p90 is None or p90 <= horizon / timedelta(days=1):
        return []
    return [breach(rules.HORIZON_TOO_SHORT, "log", samples=[f"p90 {p90:.0f} days", f"horizon {horizon.days} days"])]


def _no_whole_day(first: datetime, end: datetime) -> list[Breach]:
    if end > first:
        return []
    samples = [f"first event {first:%Y-%m-%d %H:%M}", f"complete until {end:%Y-%m-%d %H:%M}"]
    return [breach(rules.NO_WHOLE_DAY, "log", samples=samples)]


def schema_of(name: str, user_id_type: UserIdType) -> pa.Schema:
    """The columns of a raw table in a snapshot: ids, naive UTC times in microseconds, DECIMAL(18,4)."""

    def kind(column: str) -> pa.DataType:
        if column == "user_id":
            return ID_TYPES[user_id_type]
        if column in TIME_COLUMNS:
            return TIMESTAMP
        return DECIMAL if column == NUMBERS.get(name) else pa.string()

    return pa.schema([(column, kind(column)) for column in RAW_COLUMNS[name]])


def _table(name: str, work: Work | None, user_id_type: UserIdType) -> pa.Table:
    schema = schema_of(name, user_id_type)
    if work is None:
        return schema.empty_table()
    alive = pa.array(np.flatnonzero(work.alive))
    arrays = [_values(work, column.name, column.type).take(alive) for column in schema]
    return pa.table(arrays, schema=schema)


def _values(work: Work, column: str, kind: pa.DataType) -> pa.Array:
    if column not in work.parsed:
        return pa.nulls(work.rows, kind)
    return pa.array(work.parsed[column].values, type=kind)


def _in_order(name: str, table: pa.Table) -> pa.Table:
    """The same content is the same file, whatever order it came in."""
    time = [RAW_EVENT_TIMES[name]] if name in EVENTS else []
    keys = dict.fromkeys(["user_id", *time, RAW_KEYS[name]])
    return table.sort_by([(key, "ascending") for key in keys])


def _quarantine(name: str, work: Work | None) -> pa.Table:
    """Rows set aside as they came, all as text, with their row number in the source (from 1) and the reason."""
    text = [(column, pa.string()) for column in ("reason", *RAW_COLUMNS[name])]
    schema = pa.schema([("row", pa.int64()), *text])
    if work is None:
        return schema.empty_table()
    rows = np.flatnonzero(~work.alive)
    taken = {column: plain(work.source.column(column).take(pa.array(rows))) for column in work.source.column_names}
    nothing = pa.nulls(len(rows), pa.string())
    columns = [texts(taken[column]) if column in taken else nothing for column in RAW_COLUMNS[name]]
    return pa.table([pa.array(rows + 1), pa.array(work.reasons[rows], pa.string()), *columns], schema=schema)


# ---- users ------------------------------------------------------------------------------------------------------


def _users(work: Work | None, firsts: pa.Table, user_id_type: UserIdType) -> tuple[pa.Table, list[Breach]]:
    """Users as given, their sign-up time completed from the events, and the users whom only the events know."""
    if work is None:
        derived = _derived_users(firsts, user_id_type)
        return derived, [breach(rules.USERS_DERIVED, "users", derived.num_rows)]
    places = pc.index_in(work.column("user_id").values, value_set=firsts.column("user_id"))
    seen = firsts.column("known_at_min").take(places)
    work.parsed["first_seen"] = Parsed(np.asarray(seen.to_numpy(), dtype="datetime64[us]"), work.rows)
    found = rules.judge_rows(work, USER_RULES)
    created = usable_sign_up(work)
    completed = np.where(np.isnat(created), work.times("first_seen"), created)
    work.parsed["created_at"] = Parsed(completed, work.rows)
    known = _table("users", work, user_id_type)
    is_known = pc.is_in(firsts.column("user_id"), known.column("user_id"))
    orphans = _derived_users(firsts.filter(pc.invert(is_known)), user_id_type)
    if orphans.num_rows:
        samples = (str(value) for value in orphans.column("user_id"))
        found.append(breach(rules.ORPHANS, "users", orphans.num_rows, column="user_id", samples=samples))
    return pa.concat_tables([known, orphans]), found


def _derived_users(firsts: pa.Table, user_id_type: UserIdType) -> pa.Table:
    schema = schema_of("users", user_id_type)
    filled = {"user_id": firsts.column("user_id"), "created_at": firsts.column("known_at_min")}
    arrays = [filled.get(column.name, pa.nulls(firsts.num_rows, column.type)) for column in schema]
    return pa.table(arrays, schema=schema)
