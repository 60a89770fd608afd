"""The ledger: nothing in it can be changed or lost unseen, and no crash makes it unusable."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from churn.domain.ledger import History, Kind
from churn.errors import Unavailable
from churn.stores import ledger as module
from churn.stores.ledger import FIRST, Ledger
from tests.servers import program_environment

START = datetime(2026, 11, 20, 10, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "ledger.jsonl"


def ledger_at(path: Path) -> Ledger:
    """A ledger whose clock goes on by a second at each entry."""
    moments = (START + timedelta(seconds=second) for second in range(10**6))
    return Ledger(path, lambda: next(moments))


def filled(path: Path, entries: int = 5) -> Ledger:
    ledger = ledger_at(path)
    for number in range(1, entries + 1):
        ledger.note(Kind.VERDICT, {"version": str(number), "passed": True})
    return ledger


def versions(history: History) -> list[str]:
    return [str(entry.facts["version"]) for entry in history.entries]


# -- the file ----------------------------------------------------------------------------------------------------------


def test_entries_are_read_back_in_order_with_their_times(path: Path) -> None:
    ledger = ledger_at(path)
    ledger.note(Kind.TOOK_UP, {"version": "7", "digest": "ab"})
    ledger.note(Kind.ALIAS_SEEN, {"alias": "champion", "version": None})
    first, second = ledger.read().entries
    assert (first.sequence, first.at, first.kind, first.facts) == (
        1,
        START,
        Kind.TOOK_UP,
        {"version": "7", "digest": "ab"},
    )
    assert (second.sequence, second.at, second.facts["version"]) == (2, START + timedelta(seconds=1), None)


def test_a_line_is_json_with_the_hash_of_the_line_before(path: Path) -> None:
    filled(path, 2)
    first, second = path.read_bytes().splitlines()
    assert json.loads(first) == {
        "at": "2026-11-20T10:00:00+00:00",
        "facts": {"version": "1", "passed": True},
        "kind": "verdict",
        "previous": FIRST,
        "sequence": 1,
    }
    assert json.loads(second)["previous"] == module._hash(first)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_ledger_that_does_not_exist_yet_is_empty(path: Path) -> None:
    assert ledger_at(path).read() == History()


# -- what is noticed ---------------------------------------------------------------------------------------------------


CHANGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "an edited entry": lambda lines: [lines[0], lines[1].replace(b'"2"', b'"9"'), *lines[2:]],
    "a removed entry": lambda lines: [lines[0], *lines[2:]],
    "two entries exchanged": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "an entry said twice": lambda lines: [lines[0], lines[1], lines[1], *lines[2:]],
    "an added line": lambda lines: [lines[0], b"{}", *lines[1:]],
    "the first entries removed": lambda lines: lines[2:],
    "another kind": lambda lines: [lines[0], lines[1].replace(b"verdict", b"rollback"), *lines[2:]],
    "an entry made unreadable": lambda lines: [lines[0], lines[1].replace(b"verdict", b"verdicts"), *lines[2:]],
}


@pytest.mark.fault("M5")
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_before_the_last_entry_breaks_the_chain(change: str, path: Path) -> None:
    ledger = filled(path)
    assert ledger.read().breaks == ()
    path.write_bytes(b"\n".join(CHANGES[change](path.read_bytes().splitlines())) + b"\n")
    assert ledger.read().breaks != ()


def test_the_break_names_its_line(path: Path) -> None:
    ledger = filled(path)
    path.write_bytes(path.read_bytes().replace(b'"version": "3"', b'"version": "9"'))
    assert ledger.read().breaks == ("line 4: what stands before it is not what stood there when it was written",)


def test_a_chain_that_was_forged_with_right_hashes_still_shows_the_missing_number(path: Path) -> None:
    filled(path, 3)
    first, _, third = (json.loads(line) for line in path.read_bytes().splitlines())
    kept = json.dumps(first, sort_keys=True).encode()
    forged = json.dumps({**third, "previous": module._hash(kept)}, sort_keys=True).encode()
    path.write_bytes(kept + b"\n" + forged + b"\n")
    assert ledger_at(path).read().breaks == ("line 2: it is entry 3, not 2",)


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
FACTS = st.dictionaries(st.text(max_size=8), VALUES, max_size=4)
NOTES = st.lists(st.tuples(st.sampled_from(list(Kind)), FACTS), min_size=2, max_size=6)
FEW = settings(max_examples=40)  # each entry waits for the disk


@FEW
@given(notes=NOTES, data=st.data())
def test_whatever_is_noted_is_read_back_and_no_byte_before_the_last_line_changes_unseen(
    notes: list[tuple[Kind, dict[str, Any]]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("chain") / "ledger.jsonl"
    ledger = ledger_at(path)
    for note in notes:
        ledger.note(*note)
    read = ledger.read()
    assert [(entry.kind, dict(entry.facts)) for entry in read.entries] == notes
    assert (read.torn, read.breaks) == (0, ())
    whole = path.read_bytes()
    place = data.draw(st.integers(0, whole[:-1].rindex(b"\n") - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[place]))
    path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
    assert ledger.read().breaks != ()


@FEW
@given(cut=st.integers(1, 400))
def test_a_tail_torn_at_any_byte_is_counted_sealed_off_and_built_upon(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("torn") / "ledger.jsonl"
    ledger = filled(path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    before = ledger.read()
    assert before.breaks == () and before.torn <= 1
    ledger.note(Kind.VERDICT, {"version": "after"})
    ledger.note(Kind.VERDICT, {"version": "later"})
    after = ledger.read()
    assert (after.breaks, after.torn) == ((), before.torn)
    assert versions(after) == [*versions(before), "after", "later"]


# -- several processes, killed ones, full disks ------------------------------------------------------------------------

APPEND = """
import sys
from pathlib import Path
from churn.domain.ledger import Kind
from churn.stores.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    ledger.note(Kind.TOOK_UP, {"version": f"{sys.argv[2]}-{number}"})
"""


def appending(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", APPEND, str(path), name, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=program_environment(),
    )


def released(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def test_two_processes_that_append_at_once_make_one_whole_chain(path: Path) -> None:
    processes = [appending(path, name, 50) for name in ("a", "b")]
    released(processes)
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    history = Ledger(path).read()
    assert (history.torn, history.breaks) == (0, ())
    found = versions(history)
    assert sorted(found) == sorted(f"{name}-{number}" for name in ("a", "b") for number in range(50))
    assert found != sorted(found), "they took turns"


@pytest.mark.fault("M5")
def test_a_process_killed_while_it_appends_leaves_a_ledger_that_goes_on(path: Path) -> None:
    process = appending(path, "a", 100_000)
    released([process])
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    ledger = Ledger(path)
    ledger.note(Kind.VERDICT, {"version": "after"})
    history = ledger.read()
    assert history.breaks == () and history.torn <= 1
    assert len(history.entries) > 3 and versions(history)[-1] == "after"


def test_a_process_that_hangs_with_the_ledger_is_not_waited_for_without_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.1)
    ledger = filled(path, 1)
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="the ledger cannot be used"):
            ledger.note(Kind.VERDICT, {"version": "2"})
    ledger.note(Kind.VERDICT, {"version": "3"})
    assert versions(ledger.read()) == ["1", "3"]


def test_a_disk_that_fills_up_in_the_middle_of_an_entry_leaves_the_ledger_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, write = filled(path, 2), os.write
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: write(handle, data[:10]))
        with pytest.raises(Unavailable, match=os.strerror(errno.ENOSPC)):
            ledger.note(Kind.VERDICT, {"version": "3"})
    assert path.read_bytes() == before


def test_a_ledger_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").mkdir()
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(Unavailable, match="the ledger cannot be used"):
        ledger.note(Kind.VERDICT, {})
    with pytest.raises(Unavailable, match="the ledger cannot be used"):
        ledger.read()
