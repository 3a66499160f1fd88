"""What the report and the terminal summary show, counted from the tables; no document text leaves the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from grasp_pipeline import tables
from grasp_pipeline.errors import StoreError
from grasp_pipeline.sketch.targets import MEAN

if TYPE_CHECKING:
    import polars as pl

    from grasp_pipeline.report.inputs import ReportInputs
    from grasp_pipeline.tables import Table
    from resources.delta import DeltaTables


def report_inputs(lake: DeltaTables, timings: pl.DataFrame | None = None) -> ReportInputs:
    """Read and count everything that the report shows, at the newest version of every table.

    Raises:
        StoreError: no certificate was written yet.
    """
    import polars as pl

    from grasp_pipeline.calibration.budget import Budget
    from grasp_pipeline.evaluation.fidelity import TEXT
    from grasp_pipeline.report.accounts import KEPT, account
    from grasp_pipeline.report.inputs import ReportInputs

    versions: dict[str, int] = {}

    def read(table: Table, partition: Mapping[str, str] | None = None) -> pl.LazyFrame:
        commit = lake.latest(table, partition)
        if commit is None:
            return table.empty().lazy()
        versions[table.name] = commit.version
        return lake.read(table, commit.version, partition)

    certified = lake.latest(tables.CERTIFICATES)
    if certified is None:
        raise StoreError(f"there is no certificate in the store {lake.root}; run the job curate first")
    chunks = read(tables.TOKENIZED_SHARDS).select("doc_id", "source", "n_tokens").collect()
    counts = account(
        read(tables.PRUNED_CORPUS).select("source", "kept_tokens").collect(),
        read(tables.DROP_REASONS).select("source", "reason", "n_tokens").collect(),
    )
    kept = counts.filter(reason=KEPT).select("source", kept_tokens="tokens", kept_chunks="chunks")
    sources = (
        read(tables.DOCUMENTS)
        .group_by("source")
        .agg(documents=pl.len().cast(pl.Int64), bytes=pl.col("n_bytes").sum())
        .collect()
        .join(chunks.group_by("source").agg(tokens=pl.col("n_tokens").sum()), on="source", how="left")
        .join(kept, on="source", how="left")
        .fill_null(0)
        .sort("source")
    )
    rejected = (
        read(tables.REJECTED_DOCUMENTS)
        .group_by("reason", "source")
        .agg(documents=pl.len().cast(pl.Int64), bytes=pl.col("n_bytes").sum())
        .sort("reason", "source")
        .collect()
    )
    protocol = read(tables.CANDIDATES).collect().row(0, named=True)
    finalists = pl.concat([read(tables.FINALISTS).collect(), read(tables.REFITTED_FINALISTS).collect()])
    checkpoints = read(tables.PROXY_CHECKPOINTS).select(
        "role", "tokens_seen", "train_loss", "validation_loss"
    )
    return ReportInputs(
        sources=sources,
        rejected=rejected,
        surrogates=read(tables.SURROGATES).collect(),
        selected_config=read(tables.SELECTED_CONFIG).collect(),
        finalists=finalists,
        certificates=read(tables.CERTIFICATES).collect(),
        drop_reasons=counts.filter(pl.col("reason") != KEPT),
        fidelity=read(tables.FIDELITY, {"corpus": TEXT}).collect(),
        evaluation_losses=read(tables.EVALUATION_LOSSES).collect(),
        checkpoints=checkpoints.collect(),
        arm_losses=_arm_losses(read(tables.DOCUMENT_LOSSES), finalists),
        versions=versions,
        store=lake.root,
        run_id=certified.metadata["run_id"],
        target=protocol["target"],
        budget_tokens=Budget.of(protocol).resolve(int(chunks["n_tokens"].sum()), chunks["doc_id"].n_unique()),
        timings=timings
        if timings is not None
        else pl.DataFrame(schema={"stage": pl.String, "seconds": pl.Float64}),
    )


def vision_inputs(lake: DeltaTables, data_set: str) -> tuple[pl.DataFrame, str]:
    """Return a data set's rows of `fidelity` over all subsets and the mean over tasks, and the choice in words.

    Raises:
        StoreError: the data set was not measured yet.
    """
    import polars as pl

    from grasp_pipeline.evaluation.fidelity import ALL, MEAN_OVER_TASKS, stratum_name

    own = {"corpus": data_set}
    commit = lake.latest(tables.FIDELITY, own)
    if commit is None:
        raise StoreError(f"{data_set} is not in the store {lake.root}; run the job curate_vision first")
    rows = lake.read(tables.FIDELITY, commit.version, own).filter(
        pl.col("stratum") == stratum_name(ALL, data_set), pl.col("task") == MEAN_OVER_TASKS
    )
    return rows.collect(), commit.statistics["reason"]


def _arm_losses(losses: pl.LazyFrame, finalists: pl.DataFrame) -> pl.DataFrame:
    """Return the mean calibration loss of every retrained arm per task, and over tasks, in nats per token."""
    import polars as pl

    per_task = (
        losses.filter(pl.col("split") == "calibration")
        .group_by("subset_id", "task")
        .agg(loss=pl.col("loss_sum").sum() / pl.col("n_tokens").sum())
        .collect()
    )
    mean = per_task.group_by("subset_id").agg(task=pl.lit(MEAN), loss=pl.col("loss").mean())
    both = pl.concat([per_task, mean.select(per_task.columns)])
    return (
        both.join(finalists.select("arm", "subset_id"), on="subset_id")
        .select("arm", "task", "loss")
        .sort("arm", "task")
    )
