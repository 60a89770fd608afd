"""A simulated shop as Parquet files in one folder, its truth beside the raw tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from churn.errors import BadInput

MARK = "truth"  # only a simulated shop has this table


@dataclass(frozen=True)
class ParquetShop:
    """`<folder>/<table>.parquet`, one file per table."""

    folder: Path

    def write(self, tables: Mapping[str, pa.Table]) -> None:
        """Puts every table in place, replacing an older simulated shop; raises BadInput.

        Tables of a real shop in the folder, known by the missing truth, are never written over.
        """
        self._refuse_real_tables(tables)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The truth goes first, so that a folder left half written is still known as a simulated one.
            for name in sorted(tables, key=lambda each: each != MARK):
                draft = self.folder / f".{name}.parquet.new"
                pq.write_table(tables[name], draft)
                draft.replace(self._path(name))
        except OSError as error:
            raise BadInput(
                f"cannot write to {self.folder}: {error.strerror or error}", hint="Choose another --out."
            ) from error

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.parquet"

    def _refuse_real_tables(self, tables: Mapping[str, pa.Table]) -> None:
        found = [self._path(name).name for name in tables if self._path(name).exists()]
        if found and not self._path(MARK).exists():
            raise BadInput(
                f"{self.folder} holds {', '.join(found)} of a shop that was not simulated",
                hint="Choose another --out, or move those files away.",
            )
