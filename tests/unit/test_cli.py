"""The command line: exit codes, and that a mistake ends with a sentence."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from churn import errors
from churn.cli import DRIFT_CODES, EXIT_HELP, app, exit_code, show_contacts
from churn.core.scoring import ServedModel
from churn.core.value import ContactPlan, Economics
from churn.domain.ledger import Kind
from churn.domain.verdicts import DriftStatus
from churn.errors import BadInput, ChurnError, ContractBroken, Mismatch, NotReady, Refused, Unavailable
from churn.following import check_access
from churn.jobs.score import Scored
from churn.settings import Settings, load_settings
from churn.stores.ledger import Ledger
from churn.stores.model_cache import ModelCache
from tests.house.command_line import verbs
from tests.models import FakeRegistry, model_cache

# -- exit codes ------------------------------------------------------------------------------------------------------

CODES: dict[type[ChurnError], int] = {
    BadInput: 2,
    ContractBroken: 3,
    NotReady: 4,
    Refused: 5,
    Unavailable: 8,
    Mismatch: 9,
}


@pytest.mark.parametrize(("kind", "code"), CODES.items(), ids=[kind.__name__ for kind in CODES])
def test_each_error_has_its_exit_code(kind: type[ChurnError], code: int) -> None:
    assert exit_code(kind("found")) == code


def descendants(kind: type[ChurnError]) -> Iterator[type[ChurnError]]:
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


def test_no_error_of_the_family_is_without_a_code_of_its_own() -> None:
    family = {kind for kind in descendants(ChurnError) if kind.__module__ == errors.__name__}
    assert family == set(CODES)


def test_a_child_of_an_error_leaves_with_the_code_of_its_parent() -> None:
    class StillNotReady(NotReady):
        pass

    assert exit_code(StillNotReady("found")) == 4


def test_an_error_without_a_code_leaves_as_a_bug_does() -> None:
    assert exit_code(ChurnError("found")) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (DriftStatus.OK, 0),
        (DriftStatus.WARN, 0),
        (DriftStatus.DRIFT, 6),
        (DriftStatus.INSUFFICIENT, 7),
        (DriftStatus.FAILED, 7),
    ],
)
def test_each_drift_status_has_its_exit_code(status: DriftStatus, code: int) -> None:
    assert DRIFT_CODES[status] == code
    assert set(DRIFT_CODES) == set(DriftStatus)


def test_the_help_names_every_exit_code() -> None:
    told = set(map(int, re.findall(r"(?:^|[·:] ?)(\d) ", EXIT_HELP, re.MULTILINE)))
    assert told == {0, 1, *CODES.values(), *DRIFT_CODES.values()}


# -- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_a_verb_explains_itself_and_each_of_its_options(verb: str) -> None:
    done = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert done.exit_code == 0
    assert all(flag in done.output for flag in verbs()[verb].flags())


def test_help_lists_every_verb_but_the_services_own_side_process() -> None:
    done = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert all(re.search(rf"^\W*{verb} ", done.output, re.MULTILINE) for verb in set(verbs()) - {"stage", "worker"})
    assert not re.search(r"^\W*stage ", done.output, re.MULTILINE)
    assert "4 an earlier step is missing" in done.output


# -- mistakes, as a user makes them ----------------------------------------------------------------------------------


def churn(home: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`python -m churn …` in an empty folder."""
    environment = {"CHURN_HOME": str(home), **{f"CHURN_{name.upper()}": value for name, value in settings.items()}}
    return subprocess.run(
        [sys.executable, "-m", "churn", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=home,
        env={**os.environ, "COLUMNS": "80", **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "sentence", "way_out"),
    [
        (["build-features"], {}, 4, "no raw tables were ingested yet", "churn ingest"),
        (["build-features", "--every", "year"], {}, 2, "--every year is not known", "day, week, month"),
        (["build-features", "--to", "2011-10-10"], {}, 2, "--to needs --from", "--cutoff"),
        (["settings"], {"horizon_dayz": "1"}, 2, "horizon_dayz", "CHURN_<NAME> or in churn.toml."),
        (["settings"], {"clock": "[red]noon"}, 2, "clock: Value error, '[red]noon' is not a date", "churn settings"),
        (["train", "--calibration", "none"], {}, 2, "--calibration none is not known", "sigmoid"),
        (["serve"], {}, 4, "no API key is configured", "churn keys add NAME --scope score"),
        (["serve"], {"mode": "none"}, 2, "mode: ", "churn settings"),
        (["serve", "--host", "0.0.0.0"], {"mode": "development"}, 2, "does not bind to 0.0.0.0", "Bind to 127.0.0.1"),
        (["serve"], {"mode": "development", "host": "::"}, 2, "does not bind to ::", "churn keys add"),
        (["serve"], {"mode": "development", "host": "shop.example"}, 2, "does not bind to shop", "Bind to 127.0.0.1"),
        (["keys", "revoke", "nobody"], {}, 2, "no key of that name holds", "churn keys list"),
        (["keys", "add", "jane@example.com", "--scope", "score"], {}, 2, "such a key cannot be made", "64 at most"),
        (["keys", "add", "shop", "--scope", "score", "--rate", "nan"], {}, 2, "cannot be made: rate", "above 0"),
    ],
)
def test_a_mistake_ends_with_a_sentence_a_way_out_and_its_exit_code(
    tmp_path: Path, arguments: list[str], settings: dict[str, str], code: int, sentence: str, way_out: str
) -> None:
    done = churn(tmp_path, *arguments, **settings)
    assert (done.returncode, done.stdout) == (code, "")
    first, second = done.stderr.strip().splitlines()
    assert first.startswith("error: ")
    assert sentence in first
    assert second.startswith("  → ")
    assert way_out in second
    assert not list(tmp_path.iterdir())  # nothing was begun


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["train", "--n-estimators", "0"],
        ["train", "--random-state", str(2**32)],  # more than scikit-learn takes
        ["train", "--random-state", "-1"],
        ["train", "--test-cutoffs", "0"],
        ["simulate", "--users", "many"],
        ["score", "--unknown"],
        ["keys", "add", "shop"],
        ["keys", "add", "shop", "--scope", "everything"],
    ],
    ids=" ".join,
)
def test_wrong_usage_leaves_with_code_two(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)


def test_settings_lists_every_setting_with_the_value_it_has_here(tmp_path: Path) -> None:
    done = churn(tmp_path, "settings", horizon_days="45")
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines() if line.strip().startswith("CHURN_")]
    assert [words[0] for words in rows] == [f"CHURN_{name.upper()}" for name in Settings.model_fields]
    assert {words[0]: words[1] for words in rows}["CHURN_HORIZON_DAYS"] == "45"


# -- showing ---------------------------------------------------------------------------------------------------------


def test_scores_tell_how_many_to_contact_for_what_money(capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame({"contact": [True, False, True], "expected_contact_value": [1500.0, 9.0, 2.5]})
    plan = ContactPlan(Economics(cost=0.5, margin=40.0, budget=1000.0), 0.0125, 1.0, 1.0)
    show_contacts(Scored(table, datetime(2011, 10, 10, tzinfo=UTC), {}, plan))
    assert capsys.readouterr().out == (
        "to contact: 2, expected value 1,502.50 (probability from 0.0125 on; a contact costs 0.5 and brings 40 from"
        " those who would go silent, at most 1,000 is spent)\n"
    )


@pytest.mark.fault("S10")
def test_settings_never_shows_the_signing_key(tmp_path: Path) -> None:
    done = churn(tmp_path, "settings", signing_key="s3cret" * 8)
    assert done.returncode == 0
    assert "s3cret" not in done.stdout + done.stderr
    assert "**********" in done.stdout


# -- API keys --------------------------------------------------------------------------------------------------------


def test_a_key_is_shown_alone_and_once_listed_without_it_and_revoked(tmp_path: Path) -> None:
    made = churn(tmp_path, "keys", "add", "shop", "--scope", "score", "--scope", "metrics", "--rate", "50")
    assert made.returncode == 0
    key = made.stdout.removesuffix("\n")
    assert re.fullmatch(r"churn_[A-Za-z0-9_-]{43}", key)
    assert "cannot be shown again" in made.stderr and key not in made.stderr
    listed = churn(tmp_path, "keys", "list")
    assert listed.stdout.splitlines()[1].split()[:4] == ["shop", "metrics,", "score", "50"]
    assert churn(tmp_path, "keys", "revoke", "shop").stdout == "the key shop does not hold any more\n"
    assert key[6:] not in listed.stdout + churn(tmp_path, "keys", "list").stdout
    refused = churn(tmp_path, "serve")
    assert refused.returncode == 4, "a revoked key opens nothing"


def test_the_keys_lie_in_the_file_that_the_setting_names(tmp_path: Path) -> None:
    churn(tmp_path, "keys", "add", "shop", "--scope", "score", keys_file="other/mine.json")
    assert [each.name for each in tmp_path.iterdir()] == ["other"]
    assert [each.name for each in (tmp_path / "other").iterdir()] == ["mine.json"]


def test_a_file_of_keys_that_cannot_be_used_keeps_the_service_from_starting(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{}")
    done = churn(tmp_path, "serve")
    assert done.returncode == 2
    assert "keys.json is not a file of keys" in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_in_development_the_service_may_start_on_the_loopback_without_a_key(host: str, tmp_path: Path) -> None:
    check_access(load_settings({}, home=tmp_path, mode="development", host=host))


def test_development_is_told_at_start(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        done = churn(tmp_path, "serve", "--port", str(taken.getsockname()[1]), mode="development")
    assert done.returncode == 8, "it got as far as the port, which is taken"
    assert "development mode: no API key is asked for" in done.stderr


# -- rollback and history --------------------------------------------------------------------------------------------


def deployment(home: Path, versions: int) -> ModelCache[ServedModel]:
    """A home where that many versions were in service, one after the other."""
    cache, registry = model_cache(home / "cache"), FakeRegistry()
    ledger = Ledger(home / "ledger.jsonl", iter_times())
    for number in range(1, versions + 1):
        version = registry.promote(number, str(number))
        cache.stage(version, registry.fetch)
        facts = {"version": str(number), "digest": version.digest, "host": "shop", "pid": 1, "service": "a"}
        ledger.note(Kind.TOOK_UP, facts)
    return cache


def iter_times() -> Callable[[], datetime]:
    """The starts of 2026-11-20 and of the days after."""
    moments = (datetime(2026, 11, 20, tzinfo=UTC) + timedelta(days=day) for day in range(1000))
    return lambda: next(moments)


NOBODY = "http://127.0.0.1:9"


def test_a_rollback_without_a_registry_serves_the_version_before_and_warns(tmp_path: Path) -> None:
    cache = deployment(tmp_path, 2)
    done = churn(tmp_path, "rollback", "--why", "it flags everybody", mlflow_tracking_uri=NOBODY)
    assert done.returncode == 0, done.stderr
    assert "version 1 is in service again on this host, version 2 is not" in " ".join(done.stdout.split())
    assert "warning: the alias champion could not be moved" in done.stderr
    champion = cache.champion()
    assert champion is not None and champion.version == "1"
    last = Ledger(tmp_path / "ledger.jsonl").read().entries[-1]
    assert (last.kind, last.facts["left"], last.facts["why"]) == (Kind.ROLLBACK, "2", "it flags everybody")


def test_where_there_is_nothing_to_roll_back_to_the_way_out_is_told(tmp_path: Path) -> None:
    deployment(tmp_path, 1)
    done = churn(tmp_path, "rollback", mlflow_tracking_uri=NOBODY)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith("error: there is nothing to roll back to")
    assert "  → Move the alias champion to the version wanted" in done.stderr


def test_history_says_who_served_on_a_day(tmp_path: Path) -> None:
    deployment(tmp_path, 3)
    day = churn(tmp_path, "history", "--on", "2026-11-21")
    assert day.returncode == 0, day.stderr
    assert [line.split()[0] for line in day.stdout.splitlines()] == ["version", "2"]
    before = churn(tmp_path, "history", "--on", "2026-11-19")
    assert (before.returncode, before.stdout) == (0, "no version is known to have served on 2026-11-19\n")


def test_history_lists_every_entry_newest_last(tmp_path: Path) -> None:
    deployment(tmp_path, 2)
    Ledger(tmp_path / "ledger.jsonl").note(Kind.REFUSED, {"version": "3", "reason": "no_verdict", "found": "[b] none"})
    done = churn(tmp_path, "history")
    assert done.returncode == 0
    told = done.stdout.splitlines()[-3:]
    assert [line[21:36].strip() for line in told] == ["took_up", "took_up", "refused"]
    assert told[-1].endswith("version 3, reason no_verdict, found [b] none")


def test_history_for_programs_is_json(tmp_path: Path) -> None:
    deployment(tmp_path, 2)
    document = json.loads(churn(tmp_path, "history", "--json").stdout)
    assert [(each["version"], each["until"]) for each in document["served"]] == [
        ("1", "2026-11-21 00:00:00+00:00"),
        ("2", None),
    ]
    assert (len(document["entries"]), document["torn"], document["breaks"]) == (2, 0, [])


def test_a_ledger_that_was_changed_is_shown_and_ends_with_code_nine(tmp_path: Path) -> None:
    deployment(tmp_path, 3)
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"version": "2"', b'"version": "9"'))
    done = churn(tmp_path, "history")
    assert done.returncode == 9
    assert "error: the ledger was changed after it was written: line 3:" in done.stderr
    assert "version 9" in done.stdout
