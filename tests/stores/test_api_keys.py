"""The file of API keys: hashed, its owner's alone, changed whole or not at all."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from churn.domain.access import ApiKey, Scope
from churn.errors import BadInput, Unavailable
from churn.stores.api_keys import KeyFile

NOW = datetime(2026, 11, 24, 8, tzinfo=UTC)
SCORE = frozenset({Scope.SCORE})


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "home" / "keys.json", lambda: NOW)


@pytest.mark.fault("S1")
def test_a_key_is_told_once_and_kept_as_its_sha256(keys: KeyFile, tmp_path: Path) -> None:
    key = keys.add("shop", frozenset({Scope.SCORE, Scope.METRICS}), 50.0)
    assert re.fullmatch(r"churn_[A-Za-z0-9_-]{43}", key)
    (kept,) = keys.read()
    digest = sha256(key.encode()).hexdigest()
    assert kept == ApiKey("shop", digest, frozenset({Scope.METRICS, Scope.SCORE}), 50.0, NOW)
    text = (tmp_path / "home" / "keys.json").read_text()
    assert digest in text and key.removeprefix("churn_") not in text


def test_the_file_is_its_owners_alone_and_nothing_is_left_beside_it(keys: KeyFile, tmp_path: Path) -> None:
    keys.add("shop", SCORE)
    keys.revoke("shop")
    assert [each.name for each in (tmp_path / "home").iterdir()] == ["keys.json"]
    assert (tmp_path / "home" / "keys.json").stat().st_mode & 0o777 == 0o600


def test_without_a_file_there_are_no_keys(keys: KeyFile) -> None:
    assert list(keys.read()) == []


def test_a_revoked_key_stays_on_record_and_its_name_is_free_again(keys: KeyFile) -> None:
    first = keys.add("shop", SCORE)
    keys.revoke("shop")
    assert first != keys.add("shop", SCORE)
    assert [(key.name, key.revoked_at) for key in keys.read()] == [("shop", NOW), ("shop", None)]


def test_a_name_that_has_a_key_gets_no_second_one(keys: KeyFile) -> None:
    keys.add("shop", SCORE)
    with pytest.raises(BadInput, match="there is a key of the name shop already"):
        keys.add("shop", SCORE)
    assert len(keys.read()) == 1


def test_what_holds_no_more_cannot_be_revoked(keys: KeyFile) -> None:
    keys.add("shop", SCORE)
    keys.revoke("shop")
    for name in ("shop", "nobody"):
        with pytest.raises(BadInput, match="no key of that name holds"):
            keys.revoke(name)


@pytest.mark.parametrize("name", ["", "jane@example.com", "a b", "-x", "a" * 65, "a\nb", "é"])
def test_a_name_that_could_harm_a_log_or_be_a_person_is_refused(name: str, keys: KeyFile) -> None:
    with pytest.raises(BadInput, match="such a key cannot be made: name: "):
        keys.add(name, SCORE)
    assert list(keys.read()) == []


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_bounds_nothing_is_refused(rate: float, keys: KeyFile) -> None:
    with pytest.raises(BadInput, match="such a key cannot be made: rate: "):
        keys.add("shop", SCORE, rate)


def test_a_key_that_opens_nothing_is_refused(keys: KeyFile) -> None:
    with pytest.raises(BadInput, match="such a key cannot be made: scopes: "):
        keys.add("shop", frozenset())


def test_keys_made_at_the_same_time_are_all_kept(keys: KeyFile, tmp_path: Path) -> None:
    def add(number: int) -> str:
        return KeyFile(tmp_path / "home" / "keys.json").add(f"k{number}", SCORE)

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(add, range(24)))
    assert {key.digest for key in keys.read()} == {sha256(key.encode()).hexdigest() for key in made}


@pytest.mark.fault("S10")
@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"keys": [{}]}', '{"keys": [], "more": 1}', '{"keys": [{"name": "shop", "sha256": "hunter2"}]}'],
)
def test_a_file_that_is_none_of_ours_is_refused_and_never_shown_or_replaced(
    text: str, keys: KeyFile, tmp_path: Path
) -> None:
    path = tmp_path / "home" / "keys.json"
    path.parent.mkdir()
    path.write_text(text)
    for act in (keys.read, lambda: keys.add("shop", SCORE), lambda: keys.revoke("shop")):
        with pytest.raises(BadInput, match=r"keys\.json is not a file of keys") as caught:
            act()
        assert "hunter2" not in caught.value.message + caught.value.hint
    assert path.read_text() == text


@pytest.mark.fault("S2")
def test_an_unknown_scope_in_the_file_opens_nothing(keys: KeyFile, tmp_path: Path) -> None:
    keys.add("shop", SCORE)
    path = tmp_path / "home" / "keys.json"
    document = json.loads(path.read_text())
    document["keys"][0]["scopes"] = ["everything"]
    path.write_text(json.dumps(document))
    with pytest.raises(BadInput, match=r"keys\.0\.scopes"):
        keys.read()


def test_a_file_that_cannot_be_read_is_unavailable(keys: KeyFile, tmp_path: Path) -> None:
    (tmp_path / "home" / "keys.json").mkdir(parents=True)
    with pytest.raises(Unavailable, match="the API keys cannot be used"):
        keys.read()
    with pytest.raises(Unavailable, match="the API keys cannot be used"):
        KeyFile(Path("/dev/null/keys.json")).add("shop", SCORE)
