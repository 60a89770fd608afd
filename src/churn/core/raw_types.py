"""Columns as they come, turned into the one type that each has in a snapshot: ids, times, decimals.

Nothing is refused here. A value that cannot be read becomes null and gets a flag; the contract says what a flag
means. Everything works on whole columns: a log has millions of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from churn.errors import BadInput

Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.datetime64]
IdKind = Literal["integer", "text", "none", "unusable"]

MAX_ID_LENGTH = 256
DECIMAL = pa.decimal128(18, 4)
MAX_AMOUNT = 1e14  # DECIMAL(18,4) holds 14 digits before the point
EXACT_UP_TO = {"halffloat": 2**11, "float": 2**24, "double": 2**53}  # integers a float type still tells apart
MICROSECONDS = "datetime64[us]"
EARLIEST = np.datetime64("1678-01-01", "us")  # pandas reads no text older than that

# What exports write for "no value". "nan" is what a float column makes of a missing id: never a user of that name.
NULL_WORDS = pa.array(["null", "none", "<na>", "nat", r"\n"])
NULL_IDS = pa.array(["", "nan", "null", "none", "<na>", "nat", r"\n"])

INTEGER_TEXT = r"^(0|-?[1-9][0-9]{0,18})$"
FLOAT_TEXT = r"^(0|-?[1-9][0-9]*)\.0+$"
# Control, format and separator characters: two ids that look alike must not differ by what nobody sees.
CONTROL_CHARACTER = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\x{FFFD}]"
PLAIN_NUMBER = r"^[+-]?([0-9]{1,14}(\.[0-9]{0,4})?|\.[0-9]{1,4})$"
NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
NOT_FINITE = r"^[+-]?(nan|inf|infinity)$"
ISO_LOCAL = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?$"
ISO_AWARE = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z| ?UTC|[+-]\d{2}(:?\d{2})?)$"
DATE_LIKE = r"^(\d{1,4}[/.-]\d{1,2}[/.-]\d{1,4}\b|\d{1,2}[ -]?[A-Za-z]{3,9}[ -,]|[A-Za-z]{3,9}[ -]\d{1,2}\b|\d{8,19}$)"


@dataclass(frozen=True)
class Parsed:
    """A column of `rows` values: an Arrow array; for times datetime64[us] in UTC. An absent flag is all False."""

    values: Any
    rows: int
    flags: Mapping[str, Mask] = field(default_factory=dict)
    kind: IdKind = "none"

    def flag(self, name: str) -> Mask:
        return self.flags.get(name, np.zeros(self.rows, dtype=bool))


def plain(column: pa.ChunkedArray) -> pa.Array:
    """One array of a plain type: dictionaries, extension types and the other text types undone."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if types.is_null(array.type) or types.is_large_string(array.type) or types.is_string_view(array.type):
        array = array.cast(pa.string())
    return _binary_text(array) if types.is_binary(array.type) else array


def _binary_text(array: pa.Array) -> pa.Array:
    """Older writers of Parquet do not mark their text as text; what is no UTF-8 stays as it is."""
    try:
        return array.cast(pa.string())
    except pa.ArrowInvalid:
        return array


def texts(array: pa.Array) -> pa.Array:
    """A plain array as text; bytes that are no UTF-8 become null, times with a zone are written in UTC."""
    if types.is_timestamp(array.type) and array.type.tz:
        array = array.cast(pa.int64()).cast(pa.timestamp(array.type.unit))
    return pa.nulls(len(array), pa.string()) if types.is_binary(array.type) else array.cast(pa.string())


def as_mask(array: pa.Array) -> Mask:
    """A boolean Arrow array as numpy; null is False."""
    return np.asarray(array.fill_null(False).to_numpy(zero_copy_only=False), dtype=bool)


def nulls(array: pa.Array) -> Mask:
    return as_mask(array.is_null())


# ---- ids ------------------------------------------------------------------------------------------------------


def parse_user_ids(column: pa.ChunkedArray) -> Parsed:
    """User ids as int64 (kind "integer") or trimmed text (kind "text").

    Flags: missing, not_exact, was_float, trimmed, too_long, control, negative, not_integer (text that is no
    int64), unusable.
    """
    array = plain(column)
    parsed = _text_ids(array, undo_floats=True) if types.is_string(array.type) else _numeric_ids(array)
    return replace(parsed, flags={**parsed.flags, "negative": _is_negative(parsed)})


def _is_negative(ids: Parsed) -> Mask:
    if ids.kind == "text":
        return as_mask(pc.match_substring_regex(ids.values, r"^-[0-9]+$"))
    return as_mask(pc.less(ids.values.cast(pa.int64()), 0))


def parse_keys(column: pa.ChunkedArray) -> Parsed:
    """Order and session ids as trimmed text, numbers in digits.

    Flags: missing, not_exact, was_float, too_long, control, unusable.
    """
    array = plain(column)
    if types.is_string(array.type):
        return _text_ids(array, undo_floats=False)
    numeric = _numeric_ids(array)
    return Parsed(numeric.values.cast(pa.string()), numeric.rows, numeric.flags, "text")


def _numeric_ids(array: pa.Array) -> Parsed:
    if types.is_floating(array.type):
        return _float_ids(array)
    if types.is_integer(array.type) or types.is_decimal(array.type):
        return _exact_ids(array)
    missing = nulls(array)
    return Parsed(pa.nulls(len(array), pa.int64()), len(array), {"missing": missing, "unusable": ~missing}, "unusable")


def _exact_ids(array: pa.Array) -> Parsed:
    numbers = array.cast(pa.decimal256(60, 10)) if types.is_decimal(array.type) else array.cast(pa.decimal128(38, 0))
    in_range = pc.less(pc.abs(numbers), pa.scalar(Decimal(2**63), numbers.type))
    fits = pc.and_(pc.equal(pc.round(numbers), numbers), in_range)
    values = pc.if_else(fits, numbers, None).cast(pa.int64())
    missing = nulls(array)
    return _ids(values, "integer", {"missing": missing, "not_exact": ~as_mask(fits) & ~missing})


def _float_ids(array: pa.Array) -> Parsed:
    limit = EXACT_UP_TO[str(array.type)]
    floats = _floats(array)
    missing = np.isnan(floats)
    exact = (np.abs(floats) < limit) & (np.trunc(floats) == floats)
    values = pa.array(np.where(exact, floats, 0).astype(np.int64), mask=~exact)
    return _ids(values, "integer", {"missing": missing, "not_exact": ~exact & ~missing, "was_float": exact})


def _text_ids(array: pa.Array, *, undo_floats: bool) -> Parsed:
    coded = array.dictionary_encode()  # a user has many events: look at every distinct id once
    words = pc.utf8_trim_whitespace(coded.dictionary)
    missing = as_mask(pc.is_in(pc.utf8_lower(words), NULL_IDS))
    flags = {"trimmed": as_mask(pc.not_equal(words, coded.dictionary)) & ~missing}
    if undo_floats:
        words, flags = _undo_float_text(words, missing, flags)
        flags["not_integer"] = ~_is_integer(words) & ~missing
    flags["too_long"] = as_mask(pc.greater(pc.utf8_length(words), MAX_ID_LENGTH))
    flags["control"] = as_mask(pc.match_substring_regex(words, CONTROL_CHARACTER))
    values = pc.if_else(pa.array(missing), None, words).take(coded.indices)
    spread = {name: _spread(mask, coded.indices) for name, mask in flags.items()}
    return _ids(values, "text", {**spread, "missing": nulls(values)})


def _undo_float_text(words: pa.Array, missing: Mask, flags: dict[str, Mask]) -> tuple[pa.Array, dict[str, Mask]]:
    """`17850.0` back to `17850`, when all ids are written so or as integers: a float column was printed."""
    floats = as_mask(pc.match_substring_regex(words, FLOAT_TEXT)) & ~missing
    integers = as_mask(pc.match_substring_regex(words, INTEGER_TEXT))
    if not floats.any() or not (floats | integers | missing).all():
        return words, flags
    undone = pc.replace_substring_regex(words, r"\.0+$", "")
    numbers = pc.if_else(pa.array(floats), undone, "0").cast(pa.float64()).to_numpy(zero_copy_only=False)
    inexact = floats & (np.abs(numbers) >= EXACT_UP_TO["double"])
    return undone, {**flags, "was_float": floats & ~inexact, "not_exact": inexact}


def _is_integer(words: pa.Array) -> Mask:
    """Canonical integers (no leading zero, no plus) that fit int64."""
    shaped = as_mask(pc.match_substring_regex(words, INTEGER_TEXT))
    digits = pc.utf8_ltrim(words, "-")
    fits = pc.or_(pc.less(pc.utf8_length(digits), 19), pc.less_equal(digits, str(2**63 - 1)))
    return shaped & as_mask(fits)


def _spread(mask: Mask, indices: pa.Array) -> Mask:
    """What holds of a distinct value, at every row that has it; False at null rows."""
    codes = indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.asarray(np.append(mask, False)[codes], dtype=bool)


def _ids(values: pa.Array, kind: IdKind, flags: Mapping[str, Mask]) -> Parsed:
    known_kind: IdKind = kind if len(values) > int(flags["missing"].sum()) else "none"
    return Parsed(values, len(values), flags, known_kind)


# ---- times ----------------------------------------------------------------------------------------------------


def parse_times(column: pa.ChunkedArray, zone: str, date_format: str | None) -> Parsed:
    """Instants as datetime64[us] in UTC. A time without a zone is local to `zone`; text is ISO 8601 or `date_format`.

    An hour that the clock repeats is its first pass; one that it skips is the instant of the jump.
    Flags: missing, unreadable, foreign (unreadable, but in the shape of some other date format).
    """
    array = plain(column)
    if types.is_integer(array.type):
        array = array.cast(pa.string())
    if types.is_string(array.type):
        return _text_times(array, zone, date_format)
    missing = nulls(array)
    if not (types.is_timestamp(array.type) or types.is_date(array.type)):
        flags = {"missing": missing, "unreadable": ~missing, "foreign": ~missing}
        return Parsed(_no_times(len(array)), len(array), flags)
    return _times(_instants(array, zone), missing)


def _times(values: Times, missing: Mask, foreign: Mask | None = None) -> Parsed:
    values = np.where(values < EARLIEST, np.datetime64("NaT", "us"), values)
    unreadable = np.isnat(values) & ~missing
    flags = {"missing": missing, "unreadable": unreadable}
    return Parsed(values, len(values), flags if foreign is None else {**flags, "foreign": foreign & unreadable})


def _instants(array: pa.Array, zone: str) -> Times:
    aware = types.is_timestamp(array.type) and array.type.tz is not None
    micros = array.cast(pa.timestamp("us", "UTC") if aware else pa.timestamp("us"), safe=False).cast(pa.int64())
    values = np.asarray(micros.fill_null(np.iinfo(np.int64).min).to_numpy(zero_copy_only=False)).view(MICROSECONDS)
    return values if aware else localize(values, zone)


def _no_times(rows: int) -> Times:
    return np.full(rows, np.datetime64("NaT", "us"))


def localize(values: Times, zone: str) -> Times:
    """Local clock times as UTC: the first pass of a repeated hour, the instant of the jump for a skipped one."""
    if zone == "UTC":
        return values
    first_pass = np.ones(len(values), dtype=bool)
    local = pd.DatetimeIndex(values).tz_localize(zone, ambiguous=first_pass, nonexistent="shift_forward")
    return np.asarray(local.tz_convert("UTC").tz_localize(None).to_numpy(), dtype=MICROSECONDS)


def _text_times(array: pa.Array, zone: str, date_format: str | None) -> Parsed:
    text = pc.utf8_trim_whitespace(array)
    text = pc.if_else(pc.or_(pc.equal(text, ""), pc.is_in(pc.utf8_lower(text), _null_times())), None, text)
    values, missing = _no_times(len(text)), nulls(text)
    local, aware = (as_mask(pc.match_substring_regex(text, shape)) for shape in (ISO_LOCAL, ISO_AWARE))
    values[local] = localize(_read_times(text.filter(pa.array(local)), "ISO8601", aware=False), zone)
    zoned = pc.replace_substring_regex(text.filter(pa.array(aware)), " ?UTC$", "Z")
    values[aware] = _read_times(zoned, "ISO8601", aware=True)
    rest = ~(local | aware | missing)
    if date_format and rest.any():
        values[rest] = _formatted_times(text.filter(pa.array(rest)), zone, date_format)
    return _times(values, missing, as_mask(pc.match_substring_regex(text, DATE_LIKE)) & rest)


def _null_times() -> pa.Array:
    return pa.concat_arrays([NULL_WORDS, pa.array(["nan"])])


def _formatted_times(text: pa.Array, zone: str, date_format: str) -> Times:
    aware = "%z" in date_format
    values = _read_times(text, date_format, aware=aware)
    return values if aware else localize(values, zone)


def _read_times(text: pa.Array, date_format: str, *, aware: bool) -> Times:
    try:
        read = pd.to_datetime(pd.Series(text.to_pandas(), dtype=object), format=date_format, errors="coerce", utc=aware)
    except ValueError as error:
        message = f"--date-format {date_format!r} cannot be used: {error}"
        raise BadInput(message, hint="Write it as strptime does: '%d/%m/%Y %H:%M'.") from error
    return np.asarray(read.dt.tz_localize(None).to_numpy(), dtype=MICROSECONDS)


# ---- decimals -------------------------------------------------------------------------------------------------


def parse_decimals(column: pa.ChunkedArray) -> Parsed:
    """Amounts and durations as DECIMAL(18,4), rounded half away from zero.

    Flags: missing, unreadable, not_finite, too_large, rounded (had more than four decimals).
    """
    array = plain(column)
    if types.is_string(array.type):
        return _text_decimals(array)
    if types.is_floating(array.type):
        return _float_decimals(_floats(array), nulls(array))
    if types.is_integer(array.type) or types.is_decimal(array.type):
        return _exact_decimals(array)
    missing = nulls(array)
    return Parsed(pa.nulls(len(array), DECIMAL), len(array), {"missing": missing, "unreadable": ~missing})


def _floats(array: pa.Array) -> npt.NDArray[np.float64]:
    return np.asarray(array.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _exact_decimals(array: pa.Array) -> Parsed:
    numbers = array.cast(pa.decimal256(60, 10 if types.is_decimal(array.type) else 0))
    rounded = pc.round(numbers, ndigits=4, round_mode="half_towards_infinity")
    fits = pc.less(pc.abs(rounded), pa.scalar(Decimal(10**14), numbers.type))
    values = pc.if_else(fits, rounded, None).cast(pa.decimal256(60, 4)).cast(DECIMAL)
    missing = nulls(array)
    changed = as_mask(pc.not_equal(rounded, numbers))
    flags = {"missing": missing, "too_large": ~as_mask(fits) & ~missing, "rounded": changed}
    return Parsed(values, len(array), flags)


def _float_decimals(numbers: npt.NDArray[np.float64], missing: Mask) -> Parsed:
    finite = np.isfinite(numbers)
    usable = finite & (np.abs(np.where(finite, numbers, 0)) < MAX_AMOUNT)
    scaled = np.where(usable, numbers, 0) * 10_000
    noise = np.maximum(1e-6, np.abs(scaled) * 2.0**-50)  # what a float adds to a decimal of four places
    flags = {
        "missing": missing,
        "not_finite": ~finite & ~missing,
        "too_large": finite & ~usable,
        "rounded": np.abs(scaled - np.rint(scaled)) > noise,
    }
    values = pa.array(np.where(usable, numbers, 0), mask=~usable).cast(DECIMAL)
    return Parsed(values, len(numbers), flags)


def _text_decimals(array: pa.Array) -> Parsed:
    coded = array.dictionary_encode()
    words = pc.utf8_trim_whitespace(coded.dictionary)
    words = pc.if_else(pc.or_(pc.equal(words, ""), pc.is_in(pc.utf8_lower(words), NULL_WORDS)), None, words)
    exact, number = (pc.match_substring_regex(words, shape) for shape in (PLAIN_NUMBER, NUMBER))
    inexact = pc.if_else(pc.and_not(number, exact), words, None)
    other = _float_decimals(_floats(inexact), nulls(inexact))
    values = pc.if_else(exact.fill_null(False), pc.if_else(exact, words, None).cast(DECIMAL), other.values)
    not_finite = as_mask(pc.match_substring_regex(words, NOT_FINITE, ignore_case=True)) | other.flag("not_finite")
    flags = {
        "unreadable": ~as_mask(number) & ~nulls(words) & ~not_finite,
        "not_finite": not_finite,
        "too_large": other.flag("too_large"),
        "rounded": other.flag("rounded"),
    }
    spread = {name: _spread(mask, coded.indices) for name, mask in flags.items()}
    missing = _spread(nulls(words), coded.indices) | nulls(array)
    return Parsed(values.take(coded.indices), len(array), {**spread, "missing": missing})
