"""Which column of a source is which column of a raw table: the mapping, and the rules about columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyarrow import types

from churn.core.breaches import Breach, Rule, Severity, breach
from churn.core.raw_types import plain
from churn.domain.ports import ENCODING_NOTE
from churn.domain.schema import RAW_COLUMNS
from churn.errors import BadInput

TABLE_ALIASES = {"sessions": "user_sessions"}

REQUIRED: dict[str, tuple[str, ...]] = {
    "users": ("user_id",),
    "orders": ("user_id", "order_date"),
    "user_sessions": ("user_id", "session_start"),
}

NO_EVENTS = Rule(
    "no_events",
    Severity.FATAL,
    "neither orders nor sessions are given, so nothing says who is active",
    "Give --orders, --sessions, or both.",
)
MISSING_COLUMN = Rule("missing_column", Severity.FATAL, "a column that the table cannot do without is missing")
DUPLICATE_COLUMN = Rule(
    "duplicate_column", Severity.FATAL, "the source has several columns of this name", "Rename all but one of them."
)
NESTED_COLUMN = Rule(
    "nested_column",
    Severity.FATAL,
    "the column holds lists or records, not single values",
    "Export one plain value a row.",
)
MAPPED_MISSING = Rule(
    "mapping_column_missing", Severity.FATAL, "the mapping names a column that the source does not have"
)
MAPPED_TWICE = Rule(
    "mapping_column_twice",
    Severity.FATAL,
    "one source column is mapped to several columns",
    "Map each source column once.",
)
OPTIONAL_MISSING: dict[str, Rule] = {
    column: Rule("optional_column_missing", Severity.WARNING, meaning)
    for column, meaning in {
        "order_id": "orders have no id: rows are numbered, so repeats cannot be told from true repeats",
        "session_id": "sessions have no id: rows are numbered, so repeats cannot be told from true repeats",
        "order_amount": "orders have no amounts: every feature about money will be 0 or null, and no refund is seen",
        "session_duration_minutes": "sessions have no durations: their mean will be null",
        "created_at": "users have no sign-up time: the first event counts as sign-up",
    }.items()
}
EXTRA_COLUMNS = Rule("extra_columns", Severity.NOTE, "columns that the raw table does not have are left out")
ENCODING = Rule("source_encoding", Severity.WARNING, "the file is not UTF-8; it was read in the encoding shown")


@dataclass(frozen=True)
class Selected:
    """The columns of a source under their raw-table names, values as they came, and what was found on the way."""

    table: pa.Table
    rows: int
    breaches: tuple[Breach, ...]


def parse_mapping(pairs: Iterable[str]) -> dict[str, str]:
    """`["user_id=CustomerID", "orders.order_date=InvoiceDate"]` as {canonical or table.canonical: source column}.

    One string may hold several pairs with commas between; empty ones are ignored. Raises BadInput for anything
    that is no pair, for a name no raw table has, and for a name mapped to two columns.
    """
    mapping: dict[str, str] = {}
    for pair in (part.strip() for text in pairs for part in text.split(",")):
        if pair:
            name, source = _parse_pair(pair)
            if mapping.setdefault(name, source) != source:
                raise BadInput(
                    f"--map maps {name} twice: to {mapping[name]} and to {source}", hint="Keep one of the two."
                )
    return mapping


def _parse_pair(pair: str) -> tuple[str, str]:
    name, equals, source = (part.strip() for part in pair.partition("="))
    if not (name and equals and source):
        raise BadInput(f"--map {pair!r} is no pair", hint="Write canonical=Source, for example user_id=CustomerID.")
    table, dot, column = name.rpartition(".")
    table = TABLE_ALIASES.get(table, table)
    columns = RAW_COLUMNS.get(table, ()) if dot else {each for names in RAW_COLUMNS.values() for each in names}
    if column not in columns:
        known = "; ".join(f"{each}: {', '.join(names)}" for each, names in RAW_COLUMNS.items())
        raise BadInput(f"--map {pair!r}: no raw table has {name}", hint=f"Columns are {known}.")
    return (f"{table}.{column}" if dot else column), source


def select(name: str, source: pa.Table, mapping: Mapping[str, str]) -> Selected:
    """The raw table `name` out of `source`: columns of RAW_COLUMNS that exist, renamed, nothing converted."""
    chosen = {column: _source_of(name, column, source.column_names, mapping) for column in RAW_COLUMNS[name]}
    present = {column: origin for column, origin in chosen.items() if origin in source.column_names}
    arrays = [plain(source.column(source.column_names.index(origin))) for origin in present.values()]
    table = pa.table(arrays, names=list(present))
    nested = _nested(name, table)
    found = (*_column_breaches(name, source.column_names, chosen), *nested, *_notes(name, source, present))
    return Selected(table.drop_columns([item.column for item in nested]), source.num_rows, found)


def _source_of(name: str, column: str, found: Sequence[str], mapping: Mapping[str, str]) -> str:
    own = mapping.get(f"{name}.{column}")
    shared = mapping.get(column)
    return own or (shared if shared in found else None) or column


def _column_breaches(name: str, found: Sequence[str], chosen: Mapping[str, str]) -> list[Breach]:
    breaches: list[Breach] = []
    for column, origin in chosen.items():
        if origin not in found:
            breaches += _absent(name, column, found, origin)
        elif found.count(origin) > 1:
            breaches.append(breach(DUPLICATE_COLUMN, name, found.count(origin), column=column, samples=[origin]))
        elif list(chosen.values()).count(origin) > 1:
            breaches.append(breach(MAPPED_TWICE, name, column=column, samples=[origin]))
    return breaches


def _nested(name: str, table: pa.Table) -> list[Breach]:
    columns = [field.name for field in table.schema if types.is_nested(field.type)]
    return [breach(NESTED_COLUMN, name, column=column) for column in columns]


def _absent(name: str, column: str, found: Sequence[str], origin: str) -> list[Breach]:
    columns = f"Found columns: {', '.join(found) or 'none'}."
    if origin != column:
        return [breach(MAPPED_MISSING, name, column=column, samples=[origin], hint=columns)]
    if column in REQUIRED[name]:
        return [
            breach(
                MISSING_COLUMN, name, column=column, hint=f"{columns} Say which it is: --map {name}.{column}=<column>."
            )
        ]
    return [breach(OPTIONAL_MISSING[column], name, column=column, hint=columns)] if column in OPTIONAL_MISSING else []


def _notes(name: str, source: pa.Table, present: Mapping[str, str]) -> list[Breach]:
    extra = [column for column in source.column_names if column not in present.values()]
    notes = [breach(EXTRA_COLUMNS, name, len(extra), samples=extra)] if extra else []
    encoding = (source.schema.metadata or {}).get(ENCODING_NOTE)
    return [*notes, breach(ENCODING, name, samples=[encoding.decode()])] if encoding else notes


def mapping_breaches(mapping: Mapping[str, str], sources: Mapping[str, pa.Table]) -> list[Breach]:
    """Mapped columns that no given table has: the mapping would be without effect."""
    unused = [name for name, origin in mapping.items() if not _applies(name, origin, sources)]
    everything = sorted({column for table in sources.values() for column in table.column_names})
    hint = f"Found columns: {', '.join(everything) or 'none'}."
    return [breach(MAPPED_MISSING, "mapping", column=name, samples=[mapping[name]], hint=hint) for name in unused]


def _applies(name: str, origin: str, sources: Mapping[str, pa.Table]) -> bool:
    table, dot, column = name.rpartition(".")
    if dot:
        return table in sources  # a missing column of a given table is told by `select`
    return any(column in RAW_COLUMNS[each] and origin in source.column_names for each, source in sources.items())
