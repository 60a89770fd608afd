"""Labels and eligibility on real logs, from the raw orders through the contract: the published counts, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from churn import river, wiring
from churn.domain.windows import parse_instant
from churn.settings import load_settings


@dataclass(frozen=True)
class Golden:
    """Eligible users at the test cutoffs of a log, and the share of them that churned."""

    log: str
    horizon_days: int
    cutoffs: tuple[str, ...]
    eligible: int
    churned: float


GOLDEN = (
    Golden("cdnow", 60, ("1998-03-01", "1998-05-02"), 5574, 0.579),
    Golden("online_retail", 60, ("2011-10-10",), 1846, 0.387),
    Golden("complete_journey", 30, ("2017-11-01", "2017-12-01"), 4108, 0.094),
    Golden("complete_journey", 60, ("2017-11-01",), 2225, 0.052),
)


def orders_of(repository: Path, log: str) -> Path:
    """The orders kept in the repository, else those beside it."""
    ours = repository / "data" / log / "orders.parquet"
    return ours if ours.is_file() else repository.parent / "shared" / "data" / log / "orders.parquet"


def test_eligible_users_and_churn_rates_are_the_published_ones(repository: Path, tmp_path: Path) -> None:
    """Online Retail always; the others where they lie beside the repository."""
    here = [golden for golden in GOLDEN if orders_of(repository, golden.log).is_file()]
    assert "online_retail" in {golden.log for golden in here}
    for golden in here:
        settings = load_settings(
            {}, home=tmp_path / f"{golden.log}-{golden.horizon_days}", horizon_days=golden.horizon_days
        )
        orders = str(orders_of(repository, golden.log))
        snapshot = river.ingest_tables(settings, {"orders": orders}, [], tz="UTC", date_format="").snapshot
        warehouse = wiring.warehouse(settings)
        cutoffs = [parse_instant(cutoff) for cutoff in golden.cutoffs]
        report = warehouse.build(snapshot, cutoffs, settings.horizon)
        assert list(report.labelled) == cutoffs
        rows = warehouse.read_labels(cutoffs, settings.horizon)
        eligible = rows[rows["eligible"]]
        assert len(eligible) == golden.eligible, golden
        assert eligible["churned"].mean() == pytest.approx(golden.churned, abs=0.0005), golden
