"""Every setting: described here, read from `CHURN_…` variables or the deployment's `churn.toml`.

Order: environment, then the file named by CHURN_CONFIG (default `<home>/churn.toml`), then the defaults below.
Unknown keys are refused.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from churn.domain.versions import SHORTEST_KEY
from churn.domain.windows import parse_instant
from churn.errors import BadInput

PREFIX = "CHURN_"
CHECKOUT = Path(__file__).resolve().parents[2]
# Beside the code in a checkout, inside the package once it is installed from a wheel.
PROJECT = CHECKOUT if (CHECKOUT / "warehouse").is_dir() else Path(__file__).resolve().parent / "project"


class Settings(BaseModel):
    """The settings of one deployment. Paths are absolute once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Path = Field(Path(".churn"), description="Folder of everything the deployment writes")
    project_dir: Path = Field(PROJECT, description="Folder that holds warehouse/ and feature_repo/")
    horizon_days: int = Field(60, ge=1, le=730, description="Days after the cutoff in which churn is looked for")
    clock: str = Field(
        "system", description="What 'now' means: system, snapshot (end of the newest raw tables), or a fixed ISO time"
    )
    max_feature_age_days: int = Field(31, ge=1, description="Older features are stale: no probability is served")
    online_store: Literal["sqlite", "redis"] = Field("sqlite", description="Online feature store")
    redis_address: str = Field(
        "127.0.0.1:6379", description="host:port[,option=value] of Redis, used when online_store=redis"
    )
    mlflow_tracking_uri: str = Field(
        "", description="MLflow tracking and registry; default: MLFLOW_TRACKING_URI, else ./mlflow.db"
    )
    experiment: str = Field("churn_prediction", description="MLflow experiment of the training runs")
    model_name: str = Field("churn_prediction", description="Registered model")
    policy: Path = Field(PROJECT / "policy.yaml", description="Promotion policy")
    contact_cost: float = Field(1.0, ge=0, allow_inf_nan=False, description="What contacting one user costs")
    contact_margin: float = Field(
        10.0,
        ge=0,
        allow_inf_nan=False,
        description="What a contact brings, on average, when the user would have gone silent; in the cost's currency",
    )
    contact_budget: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="Most that contacts may cost at one cutoff; not set: no bound"
    )
    signing_key: SecretStr = Field(
        SecretStr(""),
        description="Signs verdicts: a secret of 32 characters or more, the same on every host of a deployment;"
        " default: `signing.key` in the deployment's folder, made at the first use",
    )
    webhook_secret: SecretStr = Field(
        SecretStr(""),
        description="Secret of an MLflow webhook that wakes the side process, 32 characters or more; not set: the"
        " service takes no webhooks",
    )
    mode: Literal["production", "development"] = Field(
        "production",
        description="development: the service asks for no API key, shows /docs, and binds to the loopback only",
    )
    keys_file: Path | None = Field(
        None,
        description="API keys, hashed, as `churn keys` writes them; default: `keys.json` in the deployment's folder",
    )
    host: str = Field("127.0.0.1", description="Address the service binds to")
    port: int = Field(8000, ge=0, le=65535, description="Port the service binds to; 0 lets the system choose")
    workers: int = Field(
        1, ge=1, le=64, description="Processes that answer; each also listens at one of the ports after `port`"
    )
    drain_seconds: float = Field(
        2.0,
        ge=0,
        le=60,
        allow_inf_nan=False,
        description="How long after SIGTERM the service goes on answering, while /readyz says that it is not ready",
    )
    poll_seconds: float = Field(1.0, gt=0, le=60, description="Pause between two looks at the champion alias")
    batch_limit: int = Field(1000, ge=1, description="Most user ids or vectors in one request")
    body_limit_bytes: int = Field(2_000_000, ge=1024, description="Largest request body")
    prediction_log: Literal["sync", "buffered"] = Field(
        "sync",
        description="When a prediction is on disk: sync, before it is answered; buffered, within a second after it",
    )
    otel_endpoint: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="OpenTelemetry collector that gets the service's traces, by OTLP over HTTP, such as"
        " http://127.0.0.1:4318; needs the extra `otel`; not set: no traces",
    )
    memory_limit_gb: float = Field(4.0, gt=0, description="Memory DuckDB may take before it spills to disk")
    monitor_min_rows: int = Field(200, ge=1, description="Fewer predictions in a window are 'insufficient'")
    fairness_column: Literal["", "subscription_tier"] = Field(
        "",
        description="Column of users whose groups each training compares; snapshots keep subscription_tier only",
    )
    drift_psi: float = Field(0.1, gt=0, description="Population stability index from which a feature counts as drifted")

    @field_validator("clock")
    @classmethod
    def _clock_is_known(cls, value: str) -> str:
        if value not in ("system", "snapshot"):
            try:
                parse_instant(value)
            except BadInput as error:
                raise ValueError(error.message) from error
        return value

    @field_validator("signing_key", "webhook_secret")
    @classmethod
    def _key_is_long(cls, value: SecretStr) -> SecretStr:
        if value and len(value.get_secret_value()) < SHORTEST_KEY:
            raise ValueError(f"a key has at least {SHORTEST_KEY} characters; for example: openssl rand -hex 32")
        return value

    @property
    def horizon(self) -> timedelta:
        return timedelta(days=self.horizon_days)

    @property
    def max_feature_age(self) -> timedelta:
        return timedelta(days=self.max_feature_age_days)

    @property
    def key_file(self) -> Path:
        return self.keys_file or self.home / "keys.json"

    @property
    def tracking_uri(self) -> str:
        """MLflow's address: the setting, else what `mlflow` itself would use here."""
        default = f"sqlite:///{Path.cwd() / 'mlflow.db'}"
        return self.mlflow_tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default

    @property
    def artifact_root(self) -> Path:
        """Where artifacts of an embedded registry go: `mlruns/` beside its database."""
        database = self.tracking_uri.removeprefix("sqlite:///")
        return (Path(database).absolute().parent if database != self.tracking_uri else Path.cwd()) / "mlruns"


def load_settings(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings from the environment and the deployment's file; raises BadInput that names every bad key.

    An empty variable counts as not set: compose files and CI pass those on.
    """
    environ = os.environ if environ is None else environ
    given = {key[len(PREFIX) :].lower(): value for key, value in environ.items() if key.startswith(PREFIX) and value}
    config = given.pop("config", None)
    home = Path(overrides.get("home") or given.get("home") or Settings.model_fields["home"].default).expanduser()
    merged = {
        **_read_file(Path(config) if config else home / "churn.toml", required=config is not None),
        **given,
        **overrides,
    }
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise _bad_settings(error) from error
    paths = {name: value for name, value in settings if isinstance(value, Path)}
    return settings.model_copy(update={name: path.expanduser().absolute() for name, path in paths.items()})


def _read_file(path: Path, *, required: bool) -> dict[str, Any]:
    if not path.is_file():
        if required:
            raise BadInput(f"CHURN_CONFIG names {path}, which does not exist", hint="Correct the path or unset it.")
        return {}
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid TOML: {error}", hint="Write one `name = value` a line.") from error


def _bad_settings(error: ValidationError) -> BadInput:
    problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
    return BadInput(
        "settings cannot be used: " + "; ".join(problems),
        hint="`churn settings` lists every setting; each may be set as CHURN_<NAME> or in churn.toml.",
    )
