"""Drift reports on disk, with Evidently's pictures. The only importer of evidently.

Layout: <folder>/<window>/{drift.html, drift.json, evidently.json}. drift.json is written last: where it lies, the
others do. evidently.json restores Evidently's own view (`evidently.core.report.Snapshot.loads`).
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from churn.domain.ports import Pictures, ReportPaths, Window
from churn.errors import Unavailable

MOST_ROWS = 100_000  # Evidently takes 3 s for 100,000 rows and 40 s for 1,000,000; pictures look the same
FEWEST_ROWS = 30
SEED = 42
# Evidently puts names into a <script> as they are: a name with </script> in it would run.
_SAFE_NAME = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True)
class EvidentlyReports:
    """Reports in `folder`. `psi` is where Evidently's pictures say "drift"; the verdict is not theirs."""

    folder: Path
    psi: float = 0.1

    def draw(self, current: pd.DataFrame, reference: pd.DataFrame) -> Pictures:
        """Pictures of two sets of rows (n, c) and (m, c), sampled with a fixed seed to 100,000 rows each.

        Columns on which Evidently would give up (no value, infinite, text, one-sided, odd name) are left out and
        named. With fewer than 30 rows on a side nothing is drawn. Never raises: an error is told in the answer.
        """
        left_out = tuple(str(name) for name in current if not _drawable(name, current, reference))
        columns = [name for name in current if name not in left_out]
        if not columns or min(len(current), len(reference)) < FEWEST_ROWS:
            return Pictures(left_out=left_out)
        try:
            html, text = _run_evidently(_sample(current[columns]), _sample(reference[columns]), self.psi)
        except Exception as error:  # whatever Evidently dies of, the verdict must get out
            return Pictures(left_out=left_out, error=f"{type(error).__name__}: {error}")
        return Pictures(html, text, left_out)

    def write(self, window: Window, page: str, document: Mapping[str, Any], pictures: Pictures) -> ReportPaths:
        """Puts the report of `window` in place, file by file, replacing an older one; raises Unavailable."""
        folder = self.folder / window.name
        paths = ReportPaths(folder / "drift.html", folder / "drift.json")
        text = json.dumps(document, indent=2, allow_nan=False) + "\n"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _replace(folder / "evidently.json", pictures.json)
            _replace(paths.html, page)
            _replace(paths.json, text)
        except OSError as error:
            raise Unavailable(
                f"the drift report cannot be written to {folder}: {error.strerror}",
                hint="Make room or correct the folder's rights, then run `churn monitor` again: it is safe to repeat.",
            ) from error
        return paths


def _drawable(name: object, current: pd.DataFrame, reference: pd.DataFrame) -> bool:
    if not (isinstance(name, str) and _SAFE_NAME.fullmatch(name) and name in reference):
        return False
    if not all(types.is_numeric_dtype(rows[name]) for rows in (current, reference)):
        return False
    sides = [rows[name].to_numpy(dtype=np.float64, na_value=np.nan) for rows in (current, reference)]
    return all(np.isfinite(values).any() and not np.isinf(values).any() for values in sides)


def _sample(rows: pd.DataFrame) -> pd.DataFrame:
    """At most MOST_ROWS rows as plain float64: Evidently trips over nullable types."""
    chosen = rows.sample(MOST_ROWS, random_state=SEED) if len(rows) > MOST_ROWS else rows
    return pd.DataFrame({name: chosen[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in chosen})


def _run_evidently(current: pd.DataFrame, reference: pd.DataFrame, psi: float) -> tuple[str, str]:
    os.environ.setdefault("DO_NOT_TRACK", "true")  # read by Evidently when it is imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own dependencies' deprecations
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import DatasetMissingValueCount, RowCount, ValueDrift

        columns = list(current)
        definition = DataDefinition(numerical_columns=columns)
        drifts = [ValueDrift(column=name, method="psi", threshold=psi) for name in columns]
        report = Report([RowCount(), DatasetMissingValueCount(), *drifts])
        sides = (Dataset.from_pandas(rows, data_definition=definition) for rows in (current, reference))
        snapshot = report.run(*sides)
        return snapshot.get_html_str(as_iframe=False), snapshot.dumps()


def _replace(path: Path, text: str) -> None:
    """`text` as the file at `path`, whole or not at all; an empty text leaves no file."""
    if not text:
        path.unlink(missing_ok=True)
        return
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
