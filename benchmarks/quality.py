"""`make quality`: the shipped model beside its baselines on real logs -> docs/quality.md, build/quality.json.

The logs are read from `../shared/data` beside the repository, or from the folder that QUALITY_DATA names; the
Online Retail orders are in the repository. A log that is not there is named as missing, never left out in silence.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from churn import river, wiring
from churn.core.model import ForestParameters
from churn.core.plots import SHIPPED
from churn.core.training import intervals_table, train
from churn.core.training_rows import load_rows
from churn.core.training_set import SplitRows
from churn.domain.windows import cutoffs_between, parse_instant, split_cutoffs
from churn.jobs.train import TrainingStores
from churn.settings import load_settings

REPOSITORY = Path(__file__).resolve().parents[1]
LOGS = Path(os.environ.get("QUALITY_DATA", REPOSITORY.parent / "shared" / "data"))
FIGURES = ("auc", "pr_auc", "brier", "ece", "lift10")
COMPARED = ("auc", "brier")
NAMES = {"auc": "auc_score", "lift10": "lift_10"}
# Figures to beat, measured once on the same rows by other code: ROC-AUC, PR-AUC, Brier, lift at 10 %.
TO_BEAT: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "cdnow/60": {
        "recency": (0.576, 0.639, 0.241, 1.22),
        "logistic_seed": (0.711, 0.750, 0.211, 1.44),
        "logistic_rich": (0.717, 0.748, 0.209, 1.42),
        "hist_gradient_boosting": (0.717, 0.753, 0.209, 1.44),
        "bg_nbd": (0.713, 0.748, 0.211, 1.44),
    },
    "online_retail/60": {
        "recency": (0.527, 0.416, 0.244, 1.14),
        "logistic_seed": (0.747, 0.608, 0.197, 1.79),
        "logistic_rich": (0.750, 0.620, 0.198, 1.84),
        "hist_gradient_boosting": (0.737, 0.592, 0.203, 1.70),
        "bg_nbd": (0.737, 0.581, 0.214, 1.65),
    },
    "complete_journey/30": {
        "recency": (0.732, 0.214, 0.080, 2.70),
        "logistic_seed": (0.832, 0.338, 0.073, 4.05),
        "logistic_rich": (0.849, 0.335, 0.072, 4.18),
        "hist_gradient_boosting": (0.849, 0.332, 0.071, 4.13),
        "bg_nbd": (0.825, 0.317, 0.074, 3.92),
    },
    "complete_journey/60": {
        "recency": (0.765, 0.172, 0.046, 3.92),
        "logistic_seed": (0.830, 0.227, 0.045, 4.27),
        "logistic_rich": (0.861, 0.241, 0.043, 4.53),
        "hist_gradient_boosting": (0.866, 0.237, 0.043, 4.36),
        "bg_nbd": (0.849, 0.250, 0.045, 4.62),
    },
}


@dataclass(frozen=True)
class Case:
    """One log at one horizon with its cutoffs. `every_month` = first and last of the monthly training cutoffs."""

    log: str
    horizon: int
    every_month: tuple[str, str]
    more: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.log}/{self.horizon}"

    @property
    def cutoffs(self) -> list[datetime]:
        first, last = map(parse_instant, self.every_month)
        return [*cutoffs_between(first, last, "month"), *map(parse_instant, (*self.more, *self.test))]


CASES = (
    Case("cdnow", 60, ("1997-06-01", "1997-12-01"), ("1997-12-31",), ("1998-03-01", "1998-05-02")),
    Case("online_retail", 60, ("2011-03-01", "2011-08-01"), ("2011-08-11",), ("2011-10-10",)),
    Case("complete_journey", 30, ("2017-04-01", "2017-10-01"), (), ("2017-11-01", "2017-12-01")),
    Case("complete_journey", 60, ("2017-04-01", "2017-09-01"), (), ("2017-11-01",)),
)


def main() -> None:
    console = Console(stderr=True)
    rows: list[dict[str, Any]] = []
    missing = [case.name for case in CASES if not _orders(case).is_file()]
    for case in track([case for case in CASES if case.name not in missing], "quality", console=console):
        rows += measure(case)
    _write(REPOSITORY / "build" / "quality.json", json.dumps(rows, indent=1))
    _write(REPOSITORY / "docs" / "quality.md", page(rows))
    console.print(f"docs/quality.md, build/quality.json; missing logs: {', '.join(missing) or 'none'}")


def measure(case: Case) -> list[dict[str, Any]]:
    """One row per model."""
    rows = rows_of_case(case)
    result = train(rows, ForestParameters(), timedelta(days=case.horizon))
    less = intervals_table(rows.test, result)["less"]
    return [_row(case, name, figures) | _shipped_less(less.get(name)) for name, figures in result.comparison.items()]


def rows_of_case(case: Case) -> SplitRows:
    """The river from raw orders to training and test rows, in a home of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = load_settings({}, home=Path(scratch), horizon_days=case.horizon)
        river.ingest_tables(settings, {"orders": str(_orders(case))}, [], tz="UTC", date_format="")
        river.build(settings, lambda snapshot: case.cutoffs, lambda done, total: None)
        stores = TrainingStores(
            wiring.raw_tables(settings),
            wiring.warehouse(settings),
            wiring.features(settings),
            wiring.registry(settings),
        )
        split = split_cutoffs(case.cutoffs, settings.horizon, len(case.test))
        return load_rows(stores, split, settings.horizon)


def _row(case: Case, model: str, figures: dict[str, float]) -> dict[str, Any]:
    found = {name: round(figures[NAMES.get(name, name)], 5) for name in FIGURES}
    return {"log": case.log, "horizon": case.horizon, "model": model, **found, "n": int(figures["n"])}


def _shipped_less(apart: dict[str, dict[str, float]] | None) -> dict[str, Any]:
    """The shipped model's figures less a baseline's, with 95 % intervals of a paired bootstrap by user."""
    if apart is None:
        return {}
    chosen = {name: apart[NAMES.get(name, name)] for name in COMPARED}
    return {"shipped_less": {name: {key: round(end, 5) for key, end in each.items()} for name, each in chosen.items()}}


def page(rows: list[dict[str, Any]]) -> str:
    """docs/quality.md."""
    parts = [
        "# Quality on real logs",
        "",
        "Written by `make quality`. Eligible users, split by cutoff; every model is fitted on the same training rows"
        " and judged on the same test rows. `shipped` is the calibrated RandomForest with its default parameters."
        " The last two columns are shipped less the model of the line, with 95 % intervals of a paired bootstrap by"
        " user (1,000 draws): bold where the interval excludes zero. Credits of the logs: `NOTICE`.",
        "",
    ]
    for case in CASES:
        of_case = [row for row in rows if (row["log"], row["horizon"]) == (case.log, case.horizon)]
        parts += _section(case, of_case) if of_case else [f"## {case.name}", "", "The log was not there.", ""]
    return "\n".join(parts)


def _section(case: Case, rows: list[dict[str, Any]]) -> list[str]:
    heads = (
        *("model", "ROC-AUC", "PR-AUC", "Brier", "ECE", "lift 10 %", "n"),
        *("to beat: ROC-AUC / PR-AUC / Brier / lift", "shipped less: ROC-AUC", "shipped less: Brier"),
    )
    lines = [f"## {case.name}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        name = f"**{row['model']}**" if row["model"] == SHIPPED else row["model"]
        lines.append(
            f"| {name} | {row['auc']:.4f} | {row['pr_auc']:.4f} | {row['brier']:.4f} | {row['ece']:.4f}"
            f" | {row['lift10']:.2f} | {row['n']:,} | {_to_beat(case, row['model'])}"
            f" | {_apart(row, 'auc')} | {_apart(row, 'brier')} |"
        )
    return [*lines, "", *_told(case, rows), ""]


def _apart(row: dict[str, Any], figure: str) -> str:
    if "shipped_less" not in row:
        return ""
    apart = row["shipped_less"][figure]
    told = f"{_signed(apart['estimate'])} [{_signed(apart['low'])}, {_signed(apart['high'])}]"
    return f"**{told}**" if apart["low"] > 0 or apart["high"] < 0 else told


def _to_beat(case: Case, model: str) -> str:
    known = TO_BEAT[case.name].get(model)
    return "" if known is None else f"{known[0]:.3f} / {known[1]:.3f} / {known[2]:.3f} / {known[3]:.2f}"


def _told(case: Case, rows: list[dict[str, Any]]) -> list[str]:
    """Where the shipped model wins and loses, in words."""
    ours = next(row for row in rows if row["model"] == SHIPPED)
    others = [row for row in rows if row["model"] != SHIPPED]
    known = TO_BEAT[case.name].values()
    best_auc, best_brier = max(others, key=lambda row: row["auc"]), min(others, key=lambda row: row["brier"])
    return [
        f"ROC-AUC: {_against(ours['auc'] - best_auc['auc'], best_auc['model'])};"
        f" Brier: {_against(best_brier['brier'] - ours['brier'], best_brier['model'])}."
        f" Against the best figures to beat: ROC-AUC {_signed(ours['auc'] - max(each[0] for each in known))},"
        f" Brier {_signed(min(each[2] for each in known) - ours['brier'])} (positive is better).",
    ]


def _against(ahead: float, rival: str) -> str:
    return f"{'ahead of' if ahead >= 0 else 'behind'} {rival} by {abs(ahead):.4f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _orders(case: Case) -> Path:
    ours = REPOSITORY / "data" / case.log / "orders.parquet"
    return ours if ours.is_file() else LOGS / case.log / "orders.parquet"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.rstrip("\n") + "\n")


if __name__ == "__main__":
    main()
