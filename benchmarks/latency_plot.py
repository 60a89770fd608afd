"""docs/images/latency.png: which share of the answers takes longer than so long."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np

from benchmarks.figures import out_folder
from benchmarks.load import Run

STORES = ("SQLite", "Redis")
POINTS = 400


def draw(runs: Mapping[tuple[str, str], Run]) -> None:
    """Ours at every rate of the open loop, and the plain service at half of what it can, a panel for each store."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(STORES), figsize=(11, 4), sharey=True, layout="constrained")
    for panel, store in zip(panels, STORES, strict=True):
        for (who, name), found in runs.items():
            if name.startswith(f"{store} open"):
                _line(panel, f"{who}, {found.rate:,.0f} req/s", found, plain=who != "ours")
        panel.set(
            title=f"One user by id, {store}, log sync",
            xlabel="ms since the request was due",
            xscale="log",
            yscale="log",
        )
        panel.set_ylim(0.001, 1)
        panel.grid(visible=True, alpha=0.3)
        panel.legend(fontsize=8)
    panels[0].set_ylabel("share of answers that take longer")
    path = out_folder() / "docs" / "images" / "latency.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _line(panel: object, label: str, found: Run, *, plain: bool) -> None:
    shares = np.logspace(0, -3, POINTS)
    panel.plot(np.quantile(found.latencies, 1 - shares) * 1000, shares, "--" if plain else "-", label=label)  # type: ignore[attr-defined]
