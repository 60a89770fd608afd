"""Settings: where they come from, in which order, and that a mistake is named."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from churn.core.value import Economics
from churn.domain.versions import EXPERIMENT, MODEL_NAME
from churn.errors import BadInput
from churn.settings import Settings, load_settings
from churn.wiring import economics


def write_config(home: Path, text: str) -> Path:
    home.mkdir(parents=True, exist_ok=True)
    path = home / "churn.toml"
    path.write_text(text)
    return path


def refused(environ: dict[str, str], home: Path) -> str:
    with pytest.raises(BadInput) as caught:
        load_settings(environ, home=home)
    return caught.value.message


# -- order -----------------------------------------------------------------------------------------------------------


def test_an_argument_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    write_config(tmp_path, "horizon_days = 30\nbatch_limit = 10\nport = 8001\n")
    environ = {"CHURN_HORIZON_DAYS": "45", "CHURN_PORT": "8002"}
    found = load_settings(environ, home=tmp_path, port=8003)
    assert (found.port, found.horizon_days, found.batch_limit, found.max_feature_age_days) == (8003, 45, 10, 31)


def test_the_file_lies_in_the_home_that_the_environment_names(tmp_path: Path) -> None:
    write_config(tmp_path / "elsewhere", "horizon_days = 30\n")
    assert load_settings({"CHURN_HOME": str(tmp_path / "elsewhere")}).horizon_days == 30


def test_another_file_can_be_named(tmp_path: Path) -> None:
    write_config(tmp_path, "horizon_days = 30\n")
    other = tmp_path / "other.toml"
    other.write_text("horizon_days = 90\n")
    assert load_settings({"CHURN_CONFIG": str(other)}, home=tmp_path).horizon_days == 90


def test_without_any_file_or_variable_the_defaults_hold(tmp_path: Path) -> None:
    found = load_settings({"PATH": "/bin", "OTHER_CHURN_HOME": "x"}, home=tmp_path)
    assert (found.horizon, found.max_feature_age) == (timedelta(days=60), timedelta(days=31))
    assert (found.clock, found.online_store, found.host) == ("system", "sqlite", "127.0.0.1")
    assert (found.experiment, found.model_name) == (EXPERIMENT, MODEL_NAME)


def test_the_money_of_contacts_is_a_setting_and_an_empty_budget_is_no_bound(tmp_path: Path) -> None:
    assert economics(load_settings({"CHURN_CONTACT_BUDGET": ""}, home=tmp_path)) == Economics(1.0, 10.0, None)
    given = {"CHURN_CONTACT_COST": "0.5", "CHURN_CONTACT_MARGIN": "40", "CHURN_CONTACT_BUDGET": "1000"}
    assert economics(load_settings(given, home=tmp_path)) == Economics(0.5, 40.0, 1000.0)
    assert "contact_budget" in refused({"CHURN_CONTACT_BUDGET": "-1"}, tmp_path)
    assert "contact_cost" in refused({"CHURN_CONTACT_COST": "nan"}, tmp_path)


def test_paths_are_absolute_once_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = load_settings({"CHURN_HOME": "here", "CHURN_POLICY": "mine.yaml"})
    assert (found.home, found.policy) == (tmp_path / "here", tmp_path / "mine.yaml")


def test_a_tilde_is_the_users_folder_also_where_the_file_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_config(tmp_path / "shop", "horizon_days = 30\n")
    found = load_settings({"CHURN_HOME": "~/shop"})
    assert (found.home, found.horizon_days) == (tmp_path / "shop", 30)


def test_the_project_folder_is_the_checkout(repository: Path, tmp_path: Path) -> None:
    found = load_settings({}, home=tmp_path)
    assert found.project_dir == repository
    assert found.policy == repository / "policy.yaml"


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


# -- mistakes --------------------------------------------------------------------------------------------------------


def test_an_unknown_variable_is_refused_by_its_name(tmp_path: Path) -> None:
    assert "horizon_day: " in refused({"CHURN_HORIZON_DAY": "30"}, tmp_path)


def test_an_unknown_key_in_the_file_is_refused_by_its_name(tmp_path: Path) -> None:
    write_config(tmp_path, "horizont = 30\n")
    assert "horizont: " in refused({}, tmp_path)


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("HORIZON_DAYS", "0", "horizon_days: "),
        ("HORIZON_DAYS", "sixty", "horizon_days: "),
        ("HORIZON_DAYS", "30.5", "horizon_days: "),
        ("ONLINE_STORE", "Redis", "online_store: "),
        ("PORT", "65536", "port: "),
        ("POLL_SECONDS", "0", "poll_seconds: "),
        ("POLL_SECONDS", "nan", "poll_seconds: "),
        ("BODY_LIMIT_BYTES", "12", "body_limit_bytes: "),
        ("MEMORY_LIMIT_GB", "-1", "memory_limit_gb: "),
        ("CLOCK", "yesterday", "clock: .*'yesterday' is not a date"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_the_name_of_its_setting(
    tmp_path: Path, variable: str, value: str, named: str
) -> None:
    with pytest.raises(BadInput, match=named):
        load_settings({f"CHURN_{variable}": value}, home=tmp_path)


@pytest.mark.fault("S10")
@pytest.mark.parametrize("name", ["signing_key", "webhook_secret"])
def test_a_short_secret_is_refused_without_being_shown(name: str, tmp_path: Path) -> None:
    message = refused({f"CHURN_{name.upper()}": "secret-but-short"}, tmp_path)
    assert f"{name}: " in message and "at least 32 characters" in message
    assert "secret-but-short" not in message


@pytest.mark.fault("S10")
@pytest.mark.parametrize("name", ["signing_key", "webhook_secret"])
def test_a_secret_shows_in_no_text_of_the_settings(name: str, tmp_path: Path) -> None:
    found = load_settings({f"CHURN_{name.upper()}": "s3cret" * 8}, home=tmp_path)
    assert getattr(found, name).get_secret_value() == "s3cret" * 8
    assert "s3cret" not in f"{found!r} {found} {getattr(found, name)} {found.model_dump_json()}"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    message = refused({"CHURN_PORT": "x", "CHURN_BATCH_LIMIT": "0", "CHURN_TYPO": "1"}, tmp_path)
    assert all(f"{name}: " in message for name in ("port", "batch_limit", "typo"))


@pytest.mark.parametrize("text", ["horizon_days: 30\n", "horizon_days = \n", "= 3"])
def test_a_file_that_is_no_toml_is_refused_with_its_path(tmp_path: Path, text: str) -> None:
    path = write_config(tmp_path, text)
    assert refused({}, tmp_path).startswith(f"{path} is not valid TOML")


def test_a_file_that_is_no_text_is_refused_with_its_path(tmp_path: Path) -> None:
    path = write_config(tmp_path, "")
    path.write_bytes("horizon_days = 30".encode("utf-16"))
    assert refused({}, tmp_path).startswith(f"{path} is not valid TOML")


def test_a_named_file_that_does_not_exist_is_refused_while_the_default_one_may_be_absent(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    assert refused({"CHURN_CONFIG": str(missing)}, tmp_path) == f"CHURN_CONFIG names {missing}, which does not exist"


# -- what follows from them ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["system", "snapshot", "2011-12-10", "2011-12-10T06:00:00Z"])
def test_the_clock_is_the_systems_the_snapshots_or_a_fixed_time(tmp_path: Path, clock: str) -> None:
    assert load_settings({"CHURN_CLOCK": clock}, home=tmp_path).clock == clock


def test_mlflow_is_where_the_setting_says_else_where_mlflow_itself_would_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert load_settings({}, home=tmp_path).tracking_uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert load_settings({}, home=tmp_path).tracking_uri == "http://mlflow:5000"
    mine = {"CHURN_MLFLOW_TRACKING_URI": "sqlite:////data/m.db"}
    assert load_settings(mine, home=tmp_path).tracking_uri == "sqlite:////data/m.db"


def test_artifacts_of_an_embedded_registry_lie_beside_its_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    embedded = {"CHURN_MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/deep/mlflow.db"}
    assert load_settings(embedded, home=tmp_path).artifact_root == tmp_path / "deep" / "mlruns"
    server = {"CHURN_MLFLOW_TRACKING_URI": "http://mlflow:5000"}
    assert load_settings(server, home=tmp_path).artifact_root == tmp_path / "mlruns"


def test_an_empty_variable_counts_as_not_set() -> None:
    settings = load_settings({"CHURN_HOME": "", "CHURN_HORIZON_DAYS": "", "CHURN_CONFIG": ""})
    assert (settings.home, settings.horizon_days) == (Path(".churn").absolute(), 60)
