"""The deployment's own key: made once, for its owner alone."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from churn.errors import BadInput, Unavailable
from churn.stores.signing_key import read_or_make


def test_the_first_use_makes_a_key_that_stays_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "signing.key"
    key = read_or_make(path)
    assert re.fullmatch(r"[0-9a-f]{64}", key)
    assert read_or_make(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["signing.key"]


def test_two_homes_have_two_keys(tmp_path: Path) -> None:
    assert read_or_make(tmp_path / "a" / "signing.key") != read_or_make(tmp_path / "b" / "signing.key")


def test_all_who_need_it_first_at_the_same_time_get_the_same_key(tmp_path: Path) -> None:
    for round_number in range(20):
        path = tmp_path / str(round_number) / "signing.key"
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(read_or_make, [path] * 8))) == 1


@pytest.mark.fault("S10")
@pytest.mark.parametrize("text", ["", "short", "k" * 31, "k" * 31 + "\n"])
def test_a_file_that_holds_no_key_is_refused_and_never_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "signing.key").write_text(text)
    with pytest.raises(BadInput, match="less than 32 characters") as caught:
        read_or_make(tmp_path / "signing.key")
    assert "kkk" not in caught.value.message + caught.value.hint


def test_a_key_that_cannot_be_read_or_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "signing.key").mkdir()
    with pytest.raises(Unavailable, match="the signing key cannot be read"):
        read_or_make(tmp_path / "signing.key")
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="the signing key cannot be read"):
        read_or_make(tmp_path / "file" / "signing.key")
