"""THE table of rules about rows and tables: for each its name, what it does, what it means, and how it is found.

To add a rule: one entry in ROW_RULES (a question asked of every row) or TABLE_RULES (asked of a table as a whole),
and one table in `tests/spec/test_contract.py` that fails without it. Rules are asked in order; a row that one rule
has set aside is not asked about by the rules below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from churn.core import contract_finds as finds
from churn.core.breaches import Breach, Rule, Severity, breach
from churn.core.contract_finds import USER_TIMES, Count, Find
from churn.core.contract_work import Work
from churn.core.raw_types import Mask, plain, texts
from churn.domain.schema import RAW_COLUMNS, RAW_EVENT_TIMES

EVENTS = tuple(RAW_EVENT_TIMES)
USERS = ("users",)
EVERY_TABLE = tuple(RAW_COLUMNS)
Samples = Callable[[Work, str, Mask], Iterator[str]]


def keys_of_rows(work: Work, _role: str, mask: Mask) -> Iterator[str]:
    return work.keys(mask)


def shapes_of_values(work: Work, role: str, mask: Mask) -> Iterator[str]:
    """`12/1/2010 8:26` as `99/9/9999 9:99`: shows the format, and nobody's data."""
    values = texts(plain(work.source.column(work.column_of(role)).filter(pa.array(mask)).slice(0, 1000)))
    digits = pc.replace_substring_regex(values, "[0-9]", "9")
    yield from pc.unique(pc.replace_substring_regex(digits, "[A-Za-z]", "a").drop_null()).to_pylist()


@dataclass(frozen=True)
class RowRule(Rule):
    """Rows that break it are those that `find` names, or those whose column `role` carries `flag`."""

    role: str = "key"
    flag: str = ""
    find: Find | None = None
    tables: tuple[str, ...] = EVERY_TABLE
    samples: Samples = keys_of_rows

    def found(self, work: Work) -> Mask:
        return self.find(work) if self.find else work.column(self.role).flag(self.flag)


# ---- the table ------------------------------------------------------------------------------------------------

F, Q, W, N = Severity.FATAL, Severity.QUARANTINED, Severity.WARNING, Severity.NOTE
ONE_TYPE = "Write ids as text or as integers in every table and every export."
FORMAT_HINT = "Write ISO 8601 (2010-12-01 08:26), or say how it is written: --date-format '%d/%m/%Y %H:%M'."

ROW_RULES: tuple[RowRule, ...] = (
    # ids
    RowRule("user_id_unusable", F, "user ids are neither integers nor text", ONE_TYPE, role="user_id", flag="unusable"),
    RowRule("key_unusable", F, "ids are neither integers nor text", ONE_TYPE, flag="unusable", tables=EVENTS),
    RowRule(
        "id_not_exact",
        F,
        "user ids are fractions, or too large for the number type they are kept in: two users may have become one",
        "Export ids as integers or text, never as floats.",
        role="user_id",
        flag="not_exact",
    ),
    RowRule(
        "key_not_exact",
        F,
        "ids are fractions, or too large for the number type they are kept in",
        "Export ids as integers or text, never as floats.",
        flag="not_exact",
        tables=EVENTS,
    ),
    RowRule("guest", Q, "no user id: counted, and belongs to nobody", role="user_id", flag="missing", tables=EVENTS),
    RowRule("null_key", Q, "the key is empty", flag="missing"),
    RowRule(
        "user_id_too_long",
        Q,
        "the user id has more than 256 characters",
        role="user_id",
        flag="too_long",
        tables=EVENTS,
    ),
    RowRule("key_too_long", Q, "the key has more than 256 characters", flag="too_long"),
    RowRule("user_id_control", Q, "the user id has control characters", role="user_id", flag="control", tables=EVENTS),
    RowRule(
        "user_id_negative",
        Q,
        "the user id is negative: a placeholder such as -1, which stands for many people",
        role="user_id",
        flag="negative",
        tables=EVENTS,
    ),
    RowRule("key_control", Q, "the key has control characters", flag="control"),
    # times
    *(
        RowRule(
            "time_format",
            F,
            "times are neither ISO 8601 nor in the format given, and the order of day and month is not guessed",
            FORMAT_HINT,
            role=role,
            find=finds.foreign(role),
            tables=tables,
            samples=shapes_of_values,
        )
        for role, tables in (("time", EVENTS), ("ingested_at", EVENTS), *((column, USERS) for column in USER_TIMES))
    ),
    RowRule("time_missing", Q, "the event has no time", role="time", flag="missing", tables=EVENTS),
    RowRule(
        "time_unreadable",
        Q,
        "the event's time cannot be read",
        FORMAT_HINT,
        role="time",
        find=finds.unreadable_time,
        tables=EVENTS,
    ),
    RowRule("in_future", Q, "the event lies in the future", role="time", find=finds.in_future("time"), tables=EVENTS),
    RowRule(
        "isolated_in_time",
        Q,
        "few events beyond a silence longer than the horizon at an end of the log: a clock that was off",
        role="time",
        find=finds.isolated,
        tables=EVENTS,
    ),
    # numbers
    RowRule(
        "number_unreadable",
        Q,
        "the number cannot be read",
        "Write 1234.50, without currency or thousands separator.",
        role="number",
        flag="unreadable",
        tables=EVENTS,
    ),
    RowRule("number_not_finite", Q, "the number is NaN or infinite", role="number", flag="not_finite", tables=EVENTS),
    RowRule(
        "number_too_large", Q, "the number does not fit DECIMAL(18,4)", role="number", flag="too_large", tables=EVENTS
    ),
    RowRule(
        "duration_out_of_range",
        Q,
        "the session lasts less than nothing or more than seven days",
        "Durations are minutes.",
        role="number",
        find=finds.out_of_range,
        tables=("user_sessions",),
    ),
    # keys
    RowRule("duplicate_key", Q, "the same row again: one is kept", find=finds.identical_repeats, tables=EVENTS),
    RowRule(
        "duplicate_key_conflict",
        Q,
        "one key, several rows: the one known first is kept",
        find=finds.conflicting_repeats,
        tables=EVENTS,
    ),
    RowRule(
        "duplicate_user",
        Q,
        "several rows of one user: the one updated last is kept",
        find=finds.older_users,
        tables=USERS,
    ),
    # told, nothing set aside
    RowRule(
        "id_was_float",
        W,
        "user ids came as floats (17850.0); they were made integers",
        role="user_id",
        flag="was_float",
    ),
    RowRule("key_was_float", W, "ids came as floats; they were made integers", flag="was_float", tables=EVENTS),
    RowRule("id_trimmed", W, "spaces around user ids were removed", role="user_id", flag="trimmed"),
    RowRule("number_rounded", W, "numbers were rounded to four decimals", role="number", flag="rounded", tables=EVENTS),
    RowRule(
        "ingested_at_unknown",
        W,
        "it is not known when the event was written: it counts as written when it happened",
        role="ingested_at",
        find=lambda work: work.column("ingested_at").flag("missing") | work.column("ingested_at").flag("unreadable"),
        tables=EVENTS,
    ),
    RowRule(
        "ingested_before_event",
        W,
        "the event was written more than a day before it happened",
        "Is --tz right for both columns?",
        role="ingested_at",
        find=finds.written_before,
        tables=EVENTS,
    ),
    RowRule(
        "ingested_in_future",
        W,
        "the event was written in the future: no feature knows it yet",
        role="ingested_at",
        find=finds.in_future("ingested_at"),
        tables=EVENTS,
    ),
    *(
        RowRule(
            "user_time_unreadable", W, "the time cannot be read: left out", role=role, flag="unreadable", tables=USERS
        )
        for role in ("updated_at", "last_login_at")
    ),
    RowRule(
        "refunds",
        N,
        "negative amounts are refunds: money, not activity",
        role="number",
        find=finds.compared(pc.less),
        tables=("orders",),
    ),
    RowRule(
        "zero_amounts", N, "orders of 0 are activity", role="number", find=finds.compared(pc.equal), tables=("orders",)
    ),
)

# Asked once the events are checked: `first_seen` is the first event of each user.
USER_RULES: tuple[RowRule, ...] = (
    RowRule(
        "user_without_time",
        Q,
        "neither a sign-up time nor any event",
        role="created_at",
        find=finds.has_no_time,
        tables=USERS,
    ),
    RowRule(
        "created_at_derived",
        W,
        "the sign-up time is empty, unreadable or in the future: the first event counts as sign-up",
        role="created_at",
        find=finds.sign_up_derived,
        tables=USERS,
    ),
)


@dataclass(frozen=True)
class TableRule(Rule):
    """Holds for a table as a whole, after its rows were judged. `count` is how many rows break it; 0 is none."""

    count: Count = finds.nothing_left
    tables: tuple[str, ...] = EVERY_TABLE


TABLE_RULES: tuple[TableRule, ...] = (
    TableRule(
        "order_lines_not_orders",
        F,
        "many orders have several rows: these are order lines",
        "Sum the lines of each order first: one row per order.",
        count=finds.order_lines,
        tables=("orders",),
    ),
    TableRule(
        "mostly_set_aside",
        F,
        "more than half of the rows cannot be used",
        "See the other rules for why.",
        count=finds.mostly_set_aside,
    ),
    TableRule(
        "no_usable_rows", F, "no row can be used", "Correct the rows, or leave the table out.", count=finds.nothing_left
    ),
    TableRule("all_numbers_missing", W, "every amount or duration is empty", count=finds.no_amount, tables=EVENTS),
    TableRule(
        "nearly_integer_ids",
        W,
        "nearly all user ids are integers, but these are not: all are kept as text",
        ONE_TYPE,
        count=finds.nearly_integer,
    ),
)

# ---- rules about the log as a whole: contract.py finds them ---------------------------------------------------------

NO_USABLE_EVENTS = Rule("no_usable_rows", F, "orders and sessions have no usable row", "Is this the right file?")
TYPES_MIXED = Rule(
    "user_id_type_mixed", F, "user ids are integers in one table and text in another: they would never meet", ONE_TYPE
)
TYPE_CHANGED = Rule(
    "user_id_type_changed",
    F,
    "user ids have another type than in the snapshots before: one deployment has one type",
    "Export ids as before, or start a new deployment (another CHURN_HOME).",
)
ORPHANS = Rule(
    "orphan_users", W, "users with events but without a row in users: derived, the first event counts as sign-up"
)
USERS_DERIVED = Rule("users_derived", N, "no users given: derived from the events, the first event counts as sign-up")
NO_WHOLE_DAY = Rule(
    "no_whole_day",
    W,
    "the log holds no day that is over: there is nothing yet to build features or labels at",
    "Ingest a newer export once a day (UTC) has passed.",
)
HORIZON_TOO_SHORT = Rule(
    "horizon_too_short",
    W,
    "one in ten pauses between active days is longer than the horizon: many silent users are not gone",
    "Set a longer horizon: CHURN_HORIZON_DAYS.",
)


def judge_rows(work: Work, rules: tuple[RowRule, ...]) -> list[Breach]:
    """Ask `rules` in order; rows that break a quarantine rule are set aside with its name as reason."""
    return [found for rule in rules if work.name in rule.tables and (found := _judge(work, rule))]


def _judge(work: Work, rule: RowRule) -> Breach | None:
    mask = rule.found(work) & work.alive
    if not mask.any():
        return None
    if rule.severity is Severity.QUARANTINED:
        work.set_aside(rule.name, mask)
    work.stopped |= rule.severity is Severity.FATAL
    samples = rule.samples(work, rule.role, mask)
    return breach(rule, work.name, int(mask.sum()), column=work.column_of(rule.role), samples=samples)


def judge_table(work: Work) -> list[Breach]:
    rules = [(rule, rule.count(work)) for rule in TABLE_RULES if work.name in rule.tables]
    return [breach(rule, work.name, count) for rule, count in rules if count]
