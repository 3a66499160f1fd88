"""What became of everything in a curation, counted: documents rejected and why, chunks kept and dropped and why."""

from __future__ import annotations

import polars as pl

from grasp_pipeline import tables
from grasp_pipeline.lineage.curation import Curation


def fates(curation: Curation) -> pl.DataFrame:
    """Return stage, outcome, reason, count and tokens (null of documents), in the order of the pipeline.

    Every row that was read is counted once: as a clean document or as a rejected one; every chunk as kept or dropped.
    """

    def counted(
        table: tables.Table, stage: str, outcome: str, reason: pl.Expr, tokens: pl.Expr
    ) -> pl.LazyFrame:
        rows = curation.read(table).group_by(reason=reason).agg(count=pl.len().cast(pl.Int64), tokens=tokens)
        return rows.sort("reason").select(
            pl.lit(stage).alias("stage"), pl.lit(outcome).alias("outcome"), pl.all()
        )

    nothing, none = pl.lit(None, pl.Int64), pl.lit("")
    parts = [
        counted(tables.DOCUMENTS, "cleaning", "clean", none, nothing),
        counted(tables.REJECTED_DOCUMENTS, "cleaning", "rejected", pl.col("reason"), nothing),
        counted(tables.PRUNED_CORPUS, "selection", "kept", none, pl.col("kept_tokens").sum()),
        counted(tables.DROP_REASONS, "selection", "dropped", pl.col("reason"), pl.col("n_tokens").sum()),
    ]
    return pl.concat(part.collect(engine="streaming") for part in parts)
