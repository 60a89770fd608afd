"""How a process that runs for long says what happens: one JSON line an event, or text for a person at a terminal.

A line is ASCII and at most LINE_BYTES long, whatever is in it: so it stays one line, and so lines of two processes on
one pipe never mix. Facts are what our own code names; messages of exceptions are left out, for they repeat what was
stumbled over, and that may be a user's id or a secret.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from traceback import extract_tb
from types import TracebackType
from typing import Any

LINE_BYTES = 4096  # PIPE_BUF: what a pipe takes in one piece (POSIX asks for 512, Linux gives this)
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
_FRAMES = 12
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]*@")
_LOG = logging.getLogger("churn")


def configure(*, plain: bool = False) -> None:
    """Makes everything that this process says a line on standard error: ours, libraries', warnings and crashes."""
    handler = logging.StreamHandler()
    handler.setFormatter(PlainText() if plain else JsonLines())
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    _LOG.setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.excepthook = _crashed
    threading.excepthook = _thread_crashed


def adopt() -> None:
    """Takes from libraries that were imported meanwhile the handlers that they made for themselves."""
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True


def facts(**known: str | int | float | None) -> dict[str, Any]:
    """What a line tells besides its message, for the logger's `extra`."""
    return {"facts": known}


class JsonLines(logging.Formatter):
    """time (UTC), level, logger, message; request_id, facts and error where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _moment(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_more(record),
        }
        return _fitted({name: _plain(value) for name, value in fields.items()})


class PlainText(logging.Formatter):
    """The same for the eye."""

    def format(self, record: logging.LogRecord) -> str:
        more = _more(record)
        error = more.pop("error", "")
        told = "".join(f" {name}={value}" for name, value in more.items())
        head = f"{_moment(record):%H:%M:%S} {record.levelname.lower()} {record.name}:"
        return f"{head} {_message(record)}{told}" + (f"\n{error}" if error else "")


def without_data(error: BaseException) -> str:
    """The kinds of an error and of those behind it, and where they came from, innermost first: names of code only."""
    frames = [f"  {_short(frame.filename)}:{frame.lineno} in {frame.name}" for frame in extract_tb(error.__traceback__)]
    behind = error.__cause__ or error.__context__
    told = "\n".join([type(error).__name__, *frames[::-1][:_FRAMES]])
    return f"{told}\nafter {without_data(behind)}" if behind else told


def _short(filename: str) -> str:
    return "/".join(Path(filename).parts[-3:])


def _moment(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception as error:  # arguments that do not fit must not cost the line
        text = f"{record.msg} ({type(error).__name__} in its arguments)"
    return _CREDENTIALS.sub("", text)


def _more(record: logging.LogRecord) -> dict[str, Any]:
    request_id, error = REQUEST_ID.get(), record.exc_info[1] if record.exc_info else None
    return {
        **({"request_id": request_id} if request_id else {}),
        **getattr(record, "facts", {}),
        **({"error": without_data(error)} if error else {}),
    }


def _plain(value: Any) -> Any:
    """What JSON has a form for; else its text. A nan has none."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _fitted(fields: dict[str, Any]) -> str:
    """The fields as JSON, their longest texts cut until the line has its length, with the newline that follows."""
    while len(line := json.dumps(fields)) >= LINE_BYTES:
        longest = max(_texts(fields), key=lambda name: len(json.dumps(fields[name])))
        fields[longest] = fields[longest][: len(fields[longest]) // 2]
    return line


def _texts(fields: dict[str, Any]) -> Iterator[str]:
    return (name for name, value in fields.items() if isinstance(value, str))


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _LOG.critical("ended by a bug", exc_info=(kind, error, trace))


def _thread_crashed(found: threading.ExceptHookArgs) -> None:
    error = found.exc_value or found.exc_type()
    name = found.thread.name if found.thread else "unknown"
    _LOG.critical("the thread %s was ended by a bug", name, exc_info=(found.exc_type, error, found.exc_traceback))
