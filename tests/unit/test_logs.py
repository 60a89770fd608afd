"""A line of the log is one line of JSON, whatever is in it, and names neither people nor secrets."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from churn.logs import LINE_BYTES, REQUEST_ID, JsonLines, PlainText, facts, without_data

ANYTHING = st.text(st.characters(exclude_categories=[]))
LONG = st.builds(str.__mul__, ANYTHING, st.integers(0, 2000))


def record_of(message: str, *args: Any, **fields: Any) -> logging.LogRecord:
    record = logging.LogRecord("churn.serving", logging.WARNING, "", 0, message, args, fields.pop("exc_info", None))
    record.created = 1_795_507_200.25
    vars(record).update(fields)
    return record


def line_of(message: str, *args: Any, **fields: Any) -> dict[str, Any]:
    """The line, read back; it is one, ASCII and within its length."""
    line = JsonLines().format(record_of(message, *args, **fields))
    assert len(line) < LINE_BYTES and line.isascii() and line.isprintable()
    read: dict[str, Any] = json.loads(line, parse_constant=pytest.fail)
    return read


def test_a_line_says_when_how_grave_who_and_what() -> None:
    assert line_of("version %s is in service", "7", **facts(version="7", ms=1.5, reason=None)) == {
        "time": "2026-11-24T08:00:00.250Z",
        "level": "warning",
        "logger": "churn.serving",
        "message": "version 7 is in service",
        "version": "7",
        "ms": 1.5,
        "reason": None,
    }


def test_a_line_within_a_request_carries_its_id() -> None:
    token = REQUEST_ID.set("abc-1")
    try:
        assert line_of("slow")["request_id"] == "abc-1"
    finally:
        REQUEST_ID.reset(token)
    assert "request_id" not in line_of("no request")


@given(message=ANYTHING | LONG, argument=ANYTHING | LONG, fact=ANYTHING | LONG | st.floats())
def test_whatever_is_said_stays_one_line_of_json(message: str, argument: str, fact: object) -> None:
    line = line_of("%s", message + argument, **facts(fact=fact))  # type: ignore[arg-type]
    assert line["logger"] == "churn.serving"


@pytest.mark.parametrize(
    "injected", ['x"}\n{"level": "critical"', "\r\nHTTP/1.1", "a\u2028b\u2029c\x85d", "\x1b[31m", "\ud800", "\0"]
)
def test_what_would_break_out_of_a_line_is_data(injected: str) -> None:
    line = line_of("%s", injected, **facts(found=injected))
    assert (line["message"], line["found"], line["level"]) == (injected, injected, "warning")


def test_arguments_that_do_not_fit_do_not_cost_the_line() -> None:
    assert line_of("%d users", "x")["message"] == "%d users (TypeError in its arguments)"


def test_a_value_without_a_form_in_json_is_told_as_text() -> None:
    line = line_of("x", **facts(nan=float("nan"), kind=ValueError))  # type: ignore[arg-type]
    assert (line["nan"], line["kind"]) == ("nan", "<class 'ValueError'>")


def test_credentials_of_an_address_are_left_out() -> None:
    message = line_of("MLflow failed: http://churn:s3cret@mlflow:5000/api, http://a.example/b")["message"]
    assert message == "MLflow failed: http://mlflow:5000/api, http://a.example/b"


def failed(user_id: str) -> BaseException:
    try:
        try:
            raise KeyError(user_id)
        except KeyError as error:
            raise RuntimeError(f"cannot read {user_id}") from error
    except RuntimeError as error:
        return error


def test_an_exception_is_told_by_its_kinds_and_places_alone() -> None:
    error = failed("jane@example.com")
    line = line_of("a bug", exc_info=(type(error), error, error.__traceback__))
    assert line["error"] == without_data(error)
    first, where, after, cause = line["error"].splitlines()
    assert (first, after) == ("RuntimeError", "after KeyError")
    assert "/unit/test_logs.py:" in where
    assert where.endswith(" in failed") and cause.endswith(" in failed")
    assert "jane" not in json.dumps(line)


def test_a_person_at_a_terminal_reads_text() -> None:
    text = PlainText().format(record_of("took %s", "long", **facts(ms=7)))
    assert text == "08:00:00 warning churn.serving: took long ms=7"


PROGRAM = """
import logging, sys, threading, warnings
from churn import logs
logs.configure()
library = logging.getLogger("library")
library.addHandler(logging.StreamHandler())
logs.adopt()
logging.getLogger("churn.x").info("ours")
library.warning("theirs\\nin two lines")
library.info("not worth a line")
warnings.warn("a warning")
def die(): raise ValueError("secret")
thread = threading.Thread(target=die, name="score-0")
thread.start()
thread.join()
die()
"""


def test_all_that_a_process_says_is_lines_even_its_end() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert [(line["logger"], line["message"].splitlines()[0].split(": ")[-1]) for line in lines] == [
        ("churn.x", "ours"),
        ("library", "theirs"),
        ("py.warnings", "a warning"),
        ("churn", "the thread score-0 was ended by a bug"),
        ("churn", "ended by a bug"),
    ]
    assert "secret" not in done.stderr and lines[-1]["error"].startswith("ValueError\n")
