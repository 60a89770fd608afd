"""Settings to real stores: the only place that chooses an implementation.

Imports stand inside the functions, so that a verb loads only the libraries it uses (Feast alone costs 4 s), and the
service never loads MLflow, dbt or Evidently.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from churn.core.admission import Admission, Admit, admit
from churn.core.artifact import Expected, digest_of, open_artifact
from churn.core.scoring import ServedModel
from churn.core.value import Economics
from churn.domain.artifacts import SERVED_FILES, Artifact
from churn.domain.ports import PredictionSink, RawTables, Snapshot, UserIdType
from churn.domain.records import CompactedDay
from churn.domain.schema import FEATURE_SERVICE
from churn.domain.versions import CHAMPION, REFERENCE_FILE, ModelVersion
from churn.domain.windows import parse_instant
from churn.errors import BadInput, ChurnError, NotReady, Refused
from churn.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from churn.core.lineage import Checkout
    from churn.core.policy import Policy
    from churn.jobs.rebuild import Workshop
    from churn.stores.api_keys import KeyFile
    from churn.stores.drift_reports import EvidentlyReports
    from churn.stores.feature_store import Features
    from churn.stores.ledger import Ledger
    from churn.stores.model_cache import ModelCache
    from churn.stores.model_registry import Registry
    from churn.stores.online.store import OnlineStore
    from churn.stores.raw_tables import SnapshotStore
    from churn.stores.shop_files import ParquetShop
    from churn.stores.warehouse import Warehouse


CLOCK_SECONDS = 5.0

# Nothing we ship phones home.
os.environ.update(
    DO_NOT_TRACK="true",
    MLFLOW_DISABLE_TELEMETRY="true",
    DBT_SEND_ANONYMOUS_USAGE_STATS="false",
    GX_ANALYTICS_ENABLED="false",
    FEAST_USAGE="False",
)


def clock(settings: Settings) -> Callable[[], datetime]:
    """What 'now' means in this deployment; see Settings.clock."""
    if settings.clock == "system":
        return lambda: datetime.now(UTC)
    if settings.clock == "snapshot":
        return SnapshotClock(raw_tables(settings))
    moment = parse_instant(settings.clock)
    return lambda: moment


class SnapshotClock:
    """The end of the newest raw tables, looked up again every few seconds: a newer ingest moves it."""

    def __init__(self, raw: RawTables) -> None:
        self._raw = raw
        self._moment, self._looked = raw.current().log_end, time.monotonic()

    def __call__(self) -> datetime:
        if time.monotonic() - self._looked > CLOCK_SECONDS:
            self._looked = time.monotonic()
            with suppress(ChurnError):  # while a snapshot is being put in place the last one still holds
                self._moment = self._raw.current().log_end
        return self._moment


def ingest_time(settings: Settings) -> datetime:
    """When an ingest happens: the system's time, unless the deployment replays a fixed one."""
    return datetime.now(UTC) if settings.clock in ("system", "snapshot") else parse_instant(settings.clock)


def shop_files(folder: Path) -> ParquetShop:
    from churn.stores.shop_files import ParquetShop

    return ParquetShop(folder)


def raw_tables(settings: Settings) -> SnapshotStore:
    from churn.stores.raw_tables import SnapshotStore

    return SnapshotStore(settings.home / "raw")


def warehouse(settings: Settings) -> Warehouse:
    from churn.stores.warehouse import Warehouse

    return Warehouse(settings.project_dir / "warehouse", settings.home, settings.memory_limit_gb)


def online_store(settings: Settings) -> OnlineStore:
    """The rows that the service reads; needs no Feast."""
    from churn.stores.online.store import OnlineStore, open_table

    return OnlineStore(open_table(settings.home, _redis_address(settings)))


def _redis_address(settings: Settings) -> str:
    return settings.redis_address if settings.online_store == "redis" else ""


def features(settings: Settings, user_id_type: UserIdType | None = None) -> Features:
    """The feature store; the type of user ids is that of the current snapshot unless given."""
    from churn.stores.feature_store import Features, FeatureStoreConfig

    config = FeatureStoreConfig(
        repo=settings.project_dir / "feature_repo",
        home=settings.home,
        user_id_type=user_id_type or raw_tables(settings).current().user_id_type,
        ttl=settings.max_feature_age,
        redis_address=_redis_address(settings),
        memory_limit_gb=settings.memory_limit_gb,
    )
    return Features(config, online_store(settings))


def features_of(settings: Settings) -> Callable[[Snapshot], Features]:
    return lambda snapshot: features(settings, snapshot.user_id_type)


def registry(settings: Settings) -> Registry:
    from churn.stores.model_registry import Registry

    return Registry(
        tracking_uri=settings.tracking_uri,
        experiment=settings.experiment,
        model_name=settings.model_name,
        artifact_root=settings.artifact_root,
        digest_of=digest_of,
    )


def model_cache(settings: Settings) -> ModelCache[ServedModel]:
    from churn.stores.model_cache import ModelCache
    from churn.stores.skops_file import SKLEARN_VERSION, load_skops

    opened = partial(open_artifact, load_estimator=load_skops, expected=Expected(sklearn_version=SKLEARN_VERSION))
    return ModelCache(settings.home / "cache", opened)


def load_version(settings: Settings) -> Callable[[ModelVersion], ServedModel]:
    """Fetch a version into a scratch folder and open it under the service's own guards."""
    from churn.stores.skops_file import SKLEARN_VERSION, load_skops

    def load(version: ModelVersion) -> ServedModel:
        files = _fetched(settings, version)
        artifact = Artifact(version.version, version.digest, files)
        return open_artifact(artifact, load_skops, Expected(sklearn_version=SKLEARN_VERSION))

    return load


def _fetched(settings: Settings, version: ModelVersion) -> Mapping[str, bytes]:
    from churn.stores.model_cache import SIZE_LIMIT, fetched_files

    names = (*SERVED_FILES, REFERENCE_FILE)
    with tempfile.TemporaryDirectory() as scratch:
        return fetched_files(partial(registry(settings).fetch, version), Path(scratch), names, SIZE_LIMIT)


def hasty_registry(settings: Settings) -> Registry:
    """The registry for one who cannot wait: a server that does not answer is given up after three seconds."""
    os.environ.update(MLFLOW_HTTP_REQUEST_TIMEOUT="3", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    return registry(settings)


def champion(settings: Settings) -> ModelVersion:
    """The version with alias champion, if it may serve.

    Raises NotReady when there is none, Refused when it is not admitted or was rolled back from on this host.
    """
    found = registry(settings).by_alias(CHAMPION)
    if found is None:
        raise NotReady("no version carries the alias champion", hint="churn promote, or one click in `make ui`.")
    judged = admission(settings)(found)
    if not judged.admitted:
        raise Refused(
            f"the champion, version {found.version}, must not serve: {judged.found}",
            hint=f"churn promote --version {found.version} judges it; or move the alias back.",
            facts={"reason": judged.reason},
        )
    pointer = model_cache(settings).champion()
    if pointer is not None and pointer.held == found.key:
        raise Refused(
            f"version {found.version} carries the alias champion, but was rolled back from here",
            hint="Move the alias to the version that serves.",
            facts={"reason": "held"},
        )
    return found


def ledger(settings: Settings) -> Ledger:
    from churn.stores.ledger import Ledger

    return Ledger(settings.home / "ledger.jsonl")


def signing_key(settings: Settings) -> str:
    """The setting, else the deployment's own key. Raises BadInput, Unavailable."""
    from churn.stores.signing_key import read_or_make

    return settings.signing_key.get_secret_value() or read_or_make(settings.home / "signing.key")


def key_file(settings: Settings) -> KeyFile:
    from churn.stores.api_keys import KeyFile

    return KeyFile(settings.key_file)


def keys_of_service(settings: Settings) -> KeyFile | None:
    """What opens the service; None in development, where it is open.

    Raises NotReady when nothing would open it, BadInput, Unavailable.
    """
    if settings.mode == "development":
        return None
    keys = key_file(settings)
    if all(key.revoked_at is not None for key in keys.read()):
        raise NotReady(
            "no API key is configured, and without one the service would answer nobody",
            hint="churn keys add NAME --scope score; or, on your own machine only: CHURN_MODE=development churn serve.",
            facts={"reason": "api_keys"},
        )
    return keys


def policy(settings: Settings) -> Policy:
    """The promotion policy; raises BadInput when it is missing or cannot be used."""
    from churn.core.policy import parse_policy

    try:
        return parse_policy(settings.policy.read_text())
    except OSError as error:
        raise BadInput(
            f"there is no promotion policy at {settings.policy}", hint="Set CHURN_POLICY to a policy.yaml."
        ) from error


def admission(settings: Settings) -> Admit:
    """Judges whether a version may serve here. Key and policy are read anew each time, so that a change holds."""

    def judge(version: ModelVersion) -> Admission:
        allowed, trouble = _allows_override(settings)
        judged = admit(
            version,
            signing_key(settings),
            model_name=settings.model_name,
            feature_service=FEATURE_SERVICE,
            allow_override=allowed,
        )
        told = f"{judged.found} ({trouble})" if trouble and not judged.admitted else judged.found
        return replace(judged, found=told)

    return judge


def _allows_override(settings: Settings) -> tuple[bool, str]:
    """Whether the policy allows overrides. One that cannot be read allows none, and the reason is told."""
    try:
        return policy(settings).allow_override, ""
    except BadInput as error:
        return False, error.message


def prediction_log(settings: Settings) -> PredictionSink:
    """The log in the mode that the settings say."""
    from churn.stores.prediction_log import BufferedPredictionLog, PredictionLog

    kind = BufferedPredictionLog if settings.prediction_log == "buffered" else PredictionLog
    return kind(settings.home / "predictions")


@dataclass(frozen=True)
class ServiceParts:
    """What the service is made of."""

    online: OnlineStore
    cache: ModelCache[ServedModel]
    log: PredictionSink
    ledger: Ledger
    clock: Callable[[], datetime]
    user_id_type: UserIdType
    keys: KeyFile | None


def service_parts(settings: Settings) -> ServiceParts:
    """The service's stores; raises NotReady before the first snapshot and, in production, the first API key."""
    keys = keys_of_service(settings)
    user_id_type = raw_tables(settings).current().user_id_type
    return ServiceParts(
        online=online_store(settings),
        cache=model_cache(settings),
        log=prediction_log(settings),
        ledger=ledger(settings),
        clock=clock(settings),
        user_id_type=user_id_type,
        keys=keys,
    )


@dataclass(frozen=True)
class LoggedPredictions:
    """The prediction log as those see it who do not write it."""

    folder: Path

    def read(self, since: datetime, until: datetime) -> tuple[pd.DataFrame, int]:
        """See the port PredictionReader."""
        from churn.stores.prediction_log.reading import read_predictions

        return read_predictions(self.folder, since, until)

    def compact(self, today: date) -> list[CompactedDay]:
        """The days that changed; raises Unavailable."""
        from churn.stores.prediction_log.compaction import compact

        return compact(self.folder, today)


def logged_predictions(settings: Settings) -> LoggedPredictions:
    return LoggedPredictions(settings.home / "predictions")


@dataclass(frozen=True)
class ChampionReference:
    """The champion's reference rows, out of the registry."""

    settings: Settings

    def champion_reference(self) -> tuple[pd.DataFrame, str, bool]:
        """Rows, version, and whether they are those that training stored. The card's own digest is checked too."""
        import io
        from hashlib import sha256

        import pandas as pd

        from churn.core.artifact import parse_card
        from churn.domain.versions import CARD_FILE

        version = champion(self.settings)
        files = _fetched(self.settings, version)
        if digest_of(files) != version.digest:
            raise Refused(f"version {version.version}: its files are not those registered", hint="churn train")
        reference = files[REFERENCE_FILE]
        intact = sha256(reference).hexdigest() == parse_card(files[CARD_FILE]).reference_sha256
        return (pd.read_parquet(io.BytesIO(reference)) if intact else pd.DataFrame()), version.version, intact


def drift_reports(settings: Settings) -> EvidentlyReports:
    from churn.stores.drift_reports import EvidentlyReports

    return EvidentlyReports(settings.home / "reports", settings.drift_psi)


def economics(settings: Settings) -> Economics:
    """The money that contacts are weighed with."""
    return Economics(settings.contact_cost, settings.contact_margin, settings.contact_budget)


@contextmanager
def workshop(settings: Settings, snapshot: Snapshot) -> Iterator[Workshop]:
    """Empty stores in a scratch folder below `home`, gone at the end; the deployment's own stores are not touched."""
    from churn.jobs.rebuild import Workshop

    parent = settings.home / "tmp"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rebuild-", dir=parent) as scratch:
        apart = settings.model_copy(update={"home": Path(scratch), "online_store": "sqlite"})
        yield Workshop(warehouse(apart), features(apart, snapshot.user_id_type))


def artifact_files(settings: Settings) -> Callable[[ModelVersion], Mapping[str, bytes]]:
    """A version's files by name, out of the registry."""
    return partial(_fetched, settings)


def checkout(settings: Settings) -> Checkout:
    """The code that this process would rebuild a version with."""
    from churn.core.lineage import Checkout

    return Checkout(dbt_sha256=warehouse(settings).dbt_hash(), **code_facts(settings))


def code_facts(settings: Settings) -> dict[str, Any]:
    """Which code this is, as a training records it."""
    from churn.stores.code_state import code_state, packages

    return {**asdict(code_state(settings.project_dir)), "packages": packages()}


def previous_user_id_type(settings: Settings) -> UserIdType | None:
    """The deployment's type of user ids, None before the first snapshot."""
    try:
        return raw_tables(settings).current().user_id_type
    except NotReady:
        return None
