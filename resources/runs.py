"""Measured runs kept in a table: utilities per task, or losses per document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from grasp_pipeline import tables
from resources.notes import UtilitiesNote

if TYPE_CHECKING:
    import polars as pl

    from grasp_pipeline.arrays import Floats
    from grasp_pipeline.proxy.retrain import Run
    from resources.delta.commits import Provenance
    from resources.delta.tables import DeltaTables


APART = "@"
"""Between a subset's id and the head of the recipe's: the table's key does not hold the recipe."""

VALUES = {tables.SUBSET_UTILITIES.name: "utility", tables.DOCUMENT_LOSSES.name: "loss_sum"}
"""Table -> the column of what was measured."""


class DeltaRuns:
    """A `RunStore` over one split of a table; every batch of retrainings is one commit.

    Args:
        delta, provenance, table, split: where and as what runs are kept.
        rows: what is the same in the k rows of every run, in the order of its values: task, document...
        apart: runs under one recipe stay beside those under another, and say nothing of their seconds; else they take
            their place.
    """

    def __init__(
        self,
        delta: DeltaTables,
        provenance: Provenance,
        table: tables.Table,
        split: str,
        rows: pl.DataFrame,
        apart: bool = False,
    ) -> None:
        self._delta, self._provenance, self._table, self._rows = delta, provenance, table, rows
        self._partition, self._apart, self._column = {"split": split}, apart, VALUES[table.name]

    @classmethod
    def laboratory(
        cls, delta: DeltaTables, provenance: Provenance, split: str, tasks: Sequence[str], tokens: int
    ) -> DeltaRuns:
        """Return a store of utilities of T tasks; tokens: that every model is trained on."""
        import polars as pl

        rows = pl.DataFrame({"task": list(tasks), "tokens": tokens, "checkpoint_id": ""})
        return cls(delta, provenance, tables.SUBSET_UTILITIES, split, rows, apart=True)

    def known(self, recipe: str) -> Mapping[Run, Floats]:
        """Return the (k,) values of every run measured under a recipe."""
        commit = self._delta.latest(self._table, self._partition)
        if commit is None:
            return {}
        stored = self._delta.read(self._table, commit.version, self._partition).filter(recipe=recipe)
        by = [name for name in self._table.key if name in self._rows.columns]
        places = self._rows.lazy().select(by).with_row_index("place")
        found = stored.join(places, on=by).sort("place").group_by("subset_id", "seed").agg(self._column)
        return {
            (subset.partition(APART)[0], seed): np.asarray(values, dtype=np.float64)
            for subset, seed, values in found.collect().iter_rows()
        }

    def keep(self, recipe: str, values: Mapping[Run, Floats], seconds: Mapping[Run, float]) -> None:
        """Keep the (k,) values of some runs in one commit.

        Raises:
            StoreError: another writer kept winning.
        """
        import polars as pl

        frames = [
            self._rows.with_columns(
                pl.Series(self._column, each),
                subset_id=pl.lit(f"{subset}{APART}{recipe[:16]}" if self._apart else subset),
                seed=pl.lit(seed, pl.Int64),
                split=pl.lit(self._partition["split"]),
                recipe=pl.lit(recipe),
                seconds=pl.lit(0.0 if self._apart else seconds[subset, seed]),
            )
            for (subset, seed), each in values.items()
        ]
        took = {} if self._apart else {"seconds": sum(seconds.values())}
        note = UtilitiesNote(models=len(values), **took)
        told = note.to_json() if self._table is tables.SUBSET_UTILITIES else None
        frame = pl.concat(frames).select(list(self._table.schema))
        self._delta.upsert(self._table, frame, self._provenance, self._partition, told)
