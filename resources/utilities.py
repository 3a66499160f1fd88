"""Measured utilities of the laboratory, kept in the table `subset_utilities`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from grasp_pipeline import tables
from resources.notes import UtilitiesNote

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from grasp_pipeline.proxy.runs import Run
    from resources.delta.commits import Provenance
    from resources.delta.tables import DeltaTables


APART = "@"
"""Between a subset's id and the head of the recipe's: the table's key does not hold the recipe."""


class DeltaUtilities:
    """A `RunStore` over one split of `subset_utilities`; every batch of retrainings is one commit."""

    def __init__(self, store: DeltaTables, provenance: Provenance, split: str) -> None:
        self._tables, self._provenance = store, provenance
        self._partition = {"split": split}

    def known(self, recipe: str) -> Mapping[Run, NDArray[np.float64]]:
        """Return the (T,) utilities of every run measured under a recipe, tasks in the order kept."""
        import polars as pl

        table = tables.SUBSET_UTILITIES
        commit = self._tables.latest(table, self._partition)
        if commit is None:
            return {}
        rows = self._tables.read(table, commit.version, self._partition).filter(pl.col("recipe") == recipe)
        grouped = rows.sort("task").group_by("subset_id", "seed").agg("utility").collect()
        return {
            (subset.partition(APART)[0], seed): np.asarray(utilities, dtype=np.float64)
            for subset, seed, utilities in grouped.iter_rows()
        }

    def keep(
        self,
        recipe: str,
        tasks: Sequence[str],
        utilities: Mapping[Run, NDArray[np.float64]],
        tokens: int,
    ) -> None:
        """Keep the (T,) utilities of some runs in one commit; tasks must be in sorted order.

        Raises:
            ValueError: the tasks are not in sorted order.
            StoreError: another writer kept winning.
        """
        import polars as pl

        if list(tasks) != sorted(tasks):
            raise ValueError(f"tasks {list(tasks)} are not in sorted order, in which they are read back")
        rows = [
            {
                "subset_id": f"{subset}{APART}{recipe[:16]}",
                "task": task,
                "seed": seed,
                "split": self._partition["split"],
                "utility": float(value),
                "tokens": tokens,
                "checkpoint_id": "",
                "recipe": recipe,
                "seconds": 0.0,
            }
            for (subset, seed), values in utilities.items()
            for task, value in zip(tasks, values, strict=True)
        ]
        frame = pl.DataFrame(rows, schema=tables.SUBSET_UTILITIES.schema)
        note = UtilitiesNote(models=len(utilities))
        self._tables.upsert(tables.SUBSET_UTILITIES, frame, self._provenance, self._partition, note.to_json())
