"""JSON as the service accepts it: one reading of every body, or none."""

from __future__ import annotations

import json
import math
from typing import Any

_MOST_DIGITS = 20  # 2**63 has 19; more digits are no id and no feature


class Malformed(ValueError):
    """The body is not one JSON text in UTF-8, or could be read in two ways."""


class UnusableNumber(ValueError):
    """A number that no field can hold: NaN, Infinity, 1e999, or an endless integer."""


def parse(body: bytes) -> Any:
    """The value in `body`; raises Malformed or UnusableNumber.

    Python's own reader takes UTF-16, the last of two equal keys, NaN and Infinity.
    """
    try:
        return json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Malformed("the body is not valid JSON in UTF-8") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("an object holds the same key twice")
    return found


def _constant(name: str) -> Any:
    raise UnusableNumber(f"{name} is not a number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise UnusableNumber("a number is too large")
    return value


def _int(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise UnusableNumber("an integer has too many digits")
    return int(text)
