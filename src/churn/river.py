"""Each verb on real stores: wire, run the job, return what it came to. The command line and the demo share these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from churn import wiring
from churn.core.model import CALIBRATIONS, SHAPES, ForestParameters
from churn.domain.ports import ModelRegistry, Snapshot, Window
from churn.domain.versions import CHAMPION, ModelVersion
from churn.domain.windows import EVERY, Every, as_utc, cutoff_name, cutoffs_between, parse_instant
from churn.errors import BadInput, NotReady
from churn.jobs.build_features import BuildStores, Built, Progress, build_features
from churn.jobs.ingest import IngestReport, IngestRequest, ingest
from churn.jobs.lineage import Chain, trace
from churn.jobs.monitor import MonitorResult, MonitorStores, monitor, recent
from churn.jobs.promote import Promotion, PromotionStores, judge_version, promote
from churn.jobs.rebuild import RebuildStores, Rebuilt, rebuild
from churn.jobs.score import Scored, score_users
from churn.jobs.simulate import SimulationReport, simulate_shop
from churn.jobs.train import Trained, TrainingPlan, TrainingStores, train
from churn.jobs.verify import Verified, verify
from churn.settings import Settings
from churn.simulator.shop import ShopConfig

Tell = Callable[[str], None]
Word = TypeVar("Word", bound=str)


@dataclass(frozen=True)
class Simulated:
    """A simulated shop, and where it lies."""

    folder: Path
    report: SimulationReport


def simulate(settings: Settings, *, users: int, days: int, seed: int, folder: str) -> Simulated:
    """Make a shop with known truth in `folder`, default `<home>/shop`."""
    where = Path(folder) if folder else settings.home / "shop"
    config = ShopConfig(users=users, days=days, seed=seed)
    return Simulated(where, simulate_shop(config, wiring.shop_files(where), horizon=settings.horizon))


def ingest_tables(
    settings: Settings, sources: Mapping[str, str], mapping: Sequence[str], *, tz: str, date_format: str
) -> IngestReport:
    """Check the given files (empty = not given) and keep them as a snapshot."""
    request = IngestRequest(
        sources={name: Path(path) for name, path in sources.items() if path},
        mapping=mapping,
        tz=tz or "UTC",
        date_format=date_format or None,
        horizon=settings.horizon,
    )
    return ingest(request, wiring.raw_tables(settings), wiring.ingest_time(settings))


def has_raw_tables(settings: Settings) -> bool:
    return wiring.previous_user_id_type(settings) is not None


def step(every: str) -> Every:
    """The step between cutoffs; raises BadInput."""
    for known in EVERY:
        if every == known:
            return known
    raise BadInput(f"--every {every} is not known", hint=f"Choose one of {', '.join(EVERY)}.")


def forest_parameters(*, calibration: str, shape: str, **numbers: int) -> ForestParameters:
    """The forest's parameters; raises BadInput on an unknown calibration or shape."""
    return ForestParameters(
        calibration=_one_of("--calibration", calibration, CALIBRATIONS),
        shape=_one_of("--shape", shape, ("auto", *SHAPES)),
        **numbers,
    )


def _one_of(option: str, given: str, known: Sequence[Word]) -> Word:
    for word in known:
        if given == word:
            return word
    raise BadInput(f"{option} {given} is not known", hint=f"Choose one of {', '.join(known)}.")


def build(
    settings: Settings,
    wanted: Callable[[Snapshot], Sequence[datetime]],
    on_progress: Progress,
    *,
    replace_online: bool = False,
) -> Built:
    """Build the wanted cutoffs and bring the newest one online."""
    raw, warehouse = wiring.raw_tables(settings), wiring.warehouse(settings)
    stores = BuildStores(raw, warehouse, wiring.features_of(settings))
    return build_features(stores, wanted, settings.horizon, on_progress, replace_online=replace_online)


def wanted_cutoffs(cutoff: str, start: str, end: str, every: Every) -> Callable[[Snapshot], Sequence[datetime]]:
    """Which cutoffs the options ask for; without any, the latest possible. Raises BadInput on a half range."""
    if cutoff and (start or end):
        raise BadInput("--cutoff and --from/--to exclude each other", hint="Give one cutoff, or a range.")
    if end and not start:
        raise BadInput("--to needs --from", hint="Give both, or --cutoff for one.")
    if cutoff:
        return lambda snapshot: [parse_instant(cutoff)]
    if start:
        return lambda snapshot: _range(snapshot, parse_instant(start), parse_instant(end) if end else None, every)
    return lambda snapshot: [snapshot.log_end]


def _range(snapshot: Snapshot, start: datetime, end: datetime | None, every: Every) -> list[datetime]:
    if end is not None and end > snapshot.log_end:
        raise BadInput(
            f"--to {end:%Y-%m-%d} lies after the end of the log, {snapshot.log_end:%Y-%m-%d}",
            hint="Nothing is known there: leave --to away for the end of the log.",
        )
    return cutoffs_between(start, end or snapshot.log_end, every)


def train_model(settings: Settings, parameters: ForestParameters, test_cutoffs: int, tell: Tell) -> Trained:
    """Train and register a challenger."""
    stores = TrainingStores(
        raw=wiring.raw_tables(settings),
        labels=wiring.warehouse(settings),
        features=wiring.features(settings),
        registry=wiring.registry(settings),
    )
    plan = TrainingPlan(
        parameters,
        settings.horizon,
        test_cutoffs,
        wiring.economics(settings),
        fairness_column=settings.fairness_column,
        **wiring.code_facts(settings),
    )
    return train(stores, plan, tell)


def promote_version(settings: Settings, version: str, override: str = "") -> Promotion:
    """Judge a version (default: the challenger) under the policy and move the alias if it passes."""
    policy = wiring.policy(settings)
    return promote(_promotion_stores(settings), policy, version or None, override)


def only_judge(settings: Settings, version: str, override: str = "") -> Promotion:
    """The same, but the alias stays for a person to move."""
    policy = wiring.policy(settings)
    return judge_version(_promotion_stores(settings), policy, version or None, override)


def _promotion_stores(settings: Settings) -> PromotionStores:
    def in_service() -> str | None:
        pointer = wiring.model_cache(settings).champion()
        return pointer.version if pointer else None

    return PromotionStores(
        raw=wiring.raw_tables(settings),
        registry=wiring.registry(settings),
        labels=wiring.warehouse(settings),
        features=wiring.features(settings),
        load=wiring.load_version(settings),
        ledger=wiring.ledger(settings),
        in_service=in_service,
        key=wiring.signing_key(settings),
        money=wiring.economics(settings),
    )


def find_version(registry: ModelRegistry, text: str) -> ModelVersion:
    """The version that `7`, `champion` or `@champion` names; an empty text names the champion. Raises NotReady."""
    name = text.removeprefix("@") or CHAMPION
    if name.isdecimal():
        return registry.get(name)
    found = registry.by_alias(name)
    if found is None:
        raise NotReady(f"no version carries the alias {name}", hint="Give a number, or an alias that a version has.")
    return found


def rebuild_version(settings: Settings, version: str, tell: Tell) -> Rebuilt:
    """Make a version once more out of its lineage, in a scratch folder, and compare."""
    stores = RebuildStores(
        raw=wiring.raw_tables(settings),
        files=wiring.artifact_files(settings),
        workshop=partial(wiring.workshop, settings),
    )
    return rebuild(stores, find_version(wiring.registry(settings), version), wiring.checkout(settings), tell)


def lineage_of(settings: Settings, version: str) -> Chain:
    """The chain that a version came from."""
    return trace(find_version(wiring.registry(settings), version), wiring.raw_tables(settings))


def score_all(settings: Settings, cutoff: str, on_progress: Progress, *, explain: bool = False) -> Scored:
    """Score all eligible users at a cutoff (default: the newest built, unless it is stale) with the champion."""
    at = parse_instant(cutoff) if cutoff else _fresh(newest_cutoff(settings), settings)
    model = wiring.load_version(settings)(wiring.champion(settings))
    return score_users(wiring.features(settings), model, at, on_progress, explain=explain)


def _fresh(cutoff: datetime, settings: Settings) -> datetime:
    """The cutoff, if the service would still answer from it; raises NotReady when it is older than that."""
    if wiring.clock(settings)() - cutoff > settings.max_feature_age:
        raise NotReady(
            f"the newest features are of {cutoff:%Y-%m-%d}, older than {settings.max_feature_age_days} days",
            hint="churn ingest and churn build-features bring newer ones; an explicit --cutoff scores old ones.",
        )
    return cutoff


def score_to_file(
    settings: Settings, cutoff: str, path: str, on_progress: Progress, *, explain: bool = False
) -> tuple[Scored, Path]:
    """Score all eligible users and keep the table; default `<home>/scores/<cutoff>.parquet`."""
    scored = score_all(settings, cutoff, on_progress, explain=explain)
    name = f"{cutoff_name(scored.cutoff)}.parquet"
    target = Path(path) if path else settings.home / "scores" / name
    write_scores(scored, target)
    return scored, target


def write_scores(scored: Scored, path: Path) -> None:
    """The scores as Parquet, in place whole or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scored.table.to_parquet(unfinished, index=False)
        unfinished.replace(path)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror or error}", hint="Choose another --out.") from error


def verify_online(settings: Settings, cutoff: str) -> Verified:
    """Compare the online store with the offline rows of a cutoff (default: the newest exported)."""
    store = wiring.features(settings)
    return verify(store, store, parse_instant(cutoff) if cutoff else newest_cutoff(settings))


def monitor_window(settings: Settings, since: str, until: str) -> MonitorResult:
    """Judge a window of the prediction log (default: the last 30 days)."""
    from churn.core.drift_rules import DriftPolicy

    stores = MonitorStores(
        wiring.logged_predictions(settings),
        wiring.ChampionReference(settings),
        wiring.drift_reports(settings),
    )
    window = _window(since, until, wiring.clock(settings)())
    return monitor(window, stores, DriftPolicy(min_rows=settings.monitor_min_rows, psi=settings.drift_psi))


def _window(since: str, until: str, now: datetime) -> Window:
    default = recent(now, days=30)
    start = parse_instant(since) if since else default.since
    end = parse_instant(until) if until else default.until
    if end <= start:
        raise BadInput(f"the window ends ({end:%Y-%m-%d}) before it starts ({start:%Y-%m-%d})", hint="Swap the two.")
    return Window(start, end)


def newest_cutoff(settings: Settings) -> datetime:
    """The newest cutoff built from the current snapshot; raises NotReady when none was."""
    snapshot_id = wiring.raw_tables(settings).current().snapshot_id
    cutoffs = wiring.warehouse(settings).cutoffs(snapshot_id)
    if not cutoffs:
        raise NotReady(f"no features were built from snapshot {snapshot_id} yet", hint="churn build-features")
    return as_utc(max(cutoffs))
