"""What became of every chunk: counts and tokens by source and reason."""

from __future__ import annotations

import polars as pl

KEPT = "kept"
"""Stands where a dropped chunk has its reason."""


def account(kept: pl.DataFrame, dropped: pl.DataFrame) -> pl.DataFrame:
    """Count chunks and tokens by source and reason.

    Args:
        kept: rows of `tables.PRUNED_CORPUS`.
        dropped: rows of `tables.DROP_REASONS`.

    Returns:
        source, reason (`kept` for kept chunks), chunks, tokens and share (of the source's tokens, 0 to 1): by source,
        the kept row first, then most tokens first.
    """
    chosen = kept.select("source", pl.lit(KEPT).alias("reason"), pl.col("kept_tokens").alias("n_tokens"))
    both = pl.concat([chosen, dropped.select("source", "reason", "n_tokens")])
    counted = both.group_by("source", "reason").agg(
        chunks=pl.len().cast(pl.Int64), tokens=pl.col("n_tokens").sum()
    )
    share = pl.col("tokens") / pl.col("tokens").sum().over("source")
    order = [pl.col("source"), pl.col("reason") != KEPT, -pl.col("tokens"), pl.col("reason")]
    return counted.with_columns(share=share).sort(order)
