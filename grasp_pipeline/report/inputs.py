"""What the report and the summary are made from: small frames of counts and results, and a few sampled texts."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import polars as pl

from grasp_pipeline import tables
from grasp_pipeline.evaluation.fidelity import ALL, MEAN_OVER_TASKS
from grasp_pipeline.names import MEAN, RANDOM

Schema = dict[str, pl.DataType | type[pl.DataType]]
Row = dict[str, Any]

BEST_SIMPLE = "best simple arm"
"""Baseline that is picked among the simple arms."""

SCHEMAS: dict[str, Schema] = {
    "sources": {
        "source": pl.String,
        "documents": pl.Int64,
        "bytes": pl.Int64,
        "tokens": pl.Int64,
        "kept_tokens": pl.Int64,
        "kept_chunks": pl.Int64,
    },
    "rejected": {"reason": pl.String, "source": pl.String, "documents": pl.Int64, "bytes": pl.Int64},
    "surrogates": tables.SURROGATES.schema,
    "selected_config": tables.SELECTED_CONFIG.schema,
    "finalists": tables.FINALISTS.schema,
    "certificates": tables.CERTIFICATES.schema,
    "drop_reasons": {"reason": pl.String, "source": pl.String, "chunks": pl.Int64, "tokens": pl.Int64},
    "fidelity": tables.FIDELITY.schema,
    "evaluation_losses": tables.EVALUATION_LOSSES.schema,
    "checkpoints": {
        "role": pl.String,
        "tokens_seen": pl.Int64,
        "train_loss": pl.Float64,
        "validation_loss": pl.Float64,
    },
    "outliers": {
        "chunk_id": pl.String,
        "leverage": pl.Float64,
        "label": pl.String,
        "source": pl.String,
    },
    "arm_losses": {"arm": pl.String, "task": pl.String, "loss": pl.Float64},
    "margins": {"arm": pl.String, "task": pl.String, "margin": pl.Float64, "standard_error": pl.Float64},
    "timings": {"stage": pl.String, "seconds": pl.Float64},
    "funnel": {"place": pl.Int64, "stage": pl.String, "source": pl.String, "documents": pl.Int64},
    "values": {
        "score": pl.String,
        "outcome": pl.String,
        "low": pl.Float64,
        "high": pl.Float64,
        "chunks": pl.Int64,
        "threshold": pl.Float64,
    },
    "predictions": {
        "split": pl.String,
        "task": pl.String,
        "stratum": pl.String,
        "predicted": pl.Float64,
        "measured": pl.Float64,
    },
}
"""Columns of each frame of `ReportInputs`; any others are left out."""


@dataclass(frozen=True)
class ProxySize:
    """At what size the corpora were compared.

    Attributes:
        architecture: of the proxy, as transformers names its type; empty: not known.
        parameters: weights of the proxy, None where its files are not there.
        tokens: that every candidate corpus was trained on for, None where none was.
        passes: of such a training over the tokens kept, or over those of them that its scale model held.
        cluster_share: of the clusters of near duplicates that a training saw; below 1 it was of a scale model.
    """

    architecture: str = ""
    parameters: int | None = None
    tokens: int | None = None
    passes: float | None = None
    cluster_share: float = 1.0


@dataclass(frozen=True)
class ReportInputs:
    """Everything that the report shows.

    Any frame may be empty, with or without columns: its section then says that there is nothing yet. Every
    frame is reduced to the columns of `SCHEMAS`, so that a document's text reaches the page by `samples` alone.

    Attributes:
        sources: the clean corpus per source: documents, bytes and tokens, and the tokens and chunks kept of it.
        rejected: documents left out before tokenization, counted by reason and source.
        surrogates: table `surrogates`.
        selected_config: table `selected_config`, one row.
        finalists: table `finalists`.
        certificates: table `certificates`.
        drop_reasons: chunks that were not kept, counted by reason and source.
        fidelity: table `fidelity`; empty before the sealed evaluation has run.
        evaluation_losses: table `evaluation_losses`; empty before the sealed evaluation has run.
        checkpoints: the proxy's checkpoints; losses in nats per token.
        arm_losses: mean calibration loss of every retrained arm, nats per token; task `mean` is the mean over
            tasks.
        versions: table name -> Delta version that was read.
        store: the store's path or URI.
        run_id: the run that made the report.
        target: task that the corpus was selected for, or `mean`.
        budget_tokens: tokens to keep.
        timings: seconds per stage.
        margins: by how much every other arm's calibration loss is above the picked one's, with its standard error over
            documents, in nats per token; tasks as in `arm_losses`.
        measured_elsewhere: table name -> what its evidence was measured for, where that is not the corpus that ships.
        more_queries: what more query documents would bring, a sentence; empty: not known.
        curation: number of what ships, None where it has none.
        proxy: at what size the corpora were compared.
        time: when the certificate was issued, UTC, ISO 8601; empty: not known.
        funnel: documents of every source left after each stage, as `explore.funnel` counts them.
        values: chunks by score and value, as `explore.value_bins` counts them.
        predictions: utilities of subsets as the chosen configuration predicted them and as they were measured; split
            is calibration or sealed.
        outliers: texts of most leverage in a quality head on the target's texts, from the folder `proof`; label is
            `target` or `corpus`, the side that the head was told they are on.
        safe_estimators: rows removed at once -> the cheapest estimate of a removal that is safe on that head's
            features, or `refit`.
        samples: texts to look at, as `samples.draw_samples` draws them; the only texts on the page.

    Raises:
        ValueError: a frame lacks a column, or a column cannot be cast; the message names the frame.
    """

    sources: pl.DataFrame
    rejected: pl.DataFrame
    surrogates: pl.DataFrame
    selected_config: pl.DataFrame
    finalists: pl.DataFrame
    certificates: pl.DataFrame
    drop_reasons: pl.DataFrame
    fidelity: pl.DataFrame
    evaluation_losses: pl.DataFrame
    checkpoints: pl.DataFrame
    arm_losses: pl.DataFrame
    versions: dict[str, int]
    store: str
    run_id: str
    target: str
    budget_tokens: int
    timings: pl.DataFrame
    margins: pl.DataFrame = field(default_factory=pl.DataFrame)
    measured_elsewhere: dict[str, str] = field(default_factory=dict)
    more_queries: str = ""
    curation: int | None = None
    proxy: ProxySize = field(default_factory=ProxySize)
    time: str = ""
    funnel: pl.DataFrame = field(default_factory=pl.DataFrame)
    values: pl.DataFrame = field(default_factory=pl.DataFrame)
    predictions: pl.DataFrame = field(default_factory=pl.DataFrame)
    outliers: pl.DataFrame = field(default_factory=pl.DataFrame)
    safe_estimators: dict[str, str] = field(default_factory=dict)
    samples: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        for one in fields(self):
            if one.name in SCHEMAS:
                frame = _conform(one.name, getattr(self, one.name), SCHEMAS[one.name])
                object.__setattr__(self, one.name, frame)

    @property
    def documents_kept(self) -> int:
        """Documents of the clean corpus."""
        return int(self.sources["documents"].sum())

    @property
    def documents_rejected(self) -> int:
        """Documents left out before tokenization."""
        return int(self.rejected["documents"].sum())

    @property
    def documents_read(self) -> int:
        """Documents that came in."""
        return self.documents_kept + self.documents_rejected

    @property
    def tokens(self) -> int:
        """Tokens of the clean corpus."""
        return int(self.sources["tokens"].sum())

    @property
    def kept_tokens(self) -> int:
        """Tokens of the pruned corpus; 0 where nothing was published."""
        return int(self.sources["kept_tokens"].sum())

    @property
    def choice(self) -> Row | None:
        """The row of `selected_config`."""
        return next(self.selected_config.iter_rows(named=True), None)

    @property
    def headline(self) -> Row | None:
        """The certificate that decides: against random on the target task."""
        rows = self.certificates.filter(pl.col("baseline") == RANDOM, pl.col("task") == self.target)
        return next(rows.iter_rows(named=True), None)

    @property
    def certified(self) -> bool:
        """Whether the headline certificate's lower bound is above 0."""
        return self.headline is not None and bool(self.headline["certified"])

    @property
    def picked(self) -> str:
        """The arm that was picked; empty where there is no certificate."""
        return self.headline["arm"] if self.headline else ""

    @property
    def failing_tasks(self) -> list[str]:
        """Tasks that nothing is certified on against random."""
        rows = self.certificates.filter(~pl.col("certified"), baseline=RANDOM)
        return rows["task"].sort().to_list()

    @property
    def evaluated_pick(self) -> str:
        """The picked arm among the evaluation losses; empty where those are of another corpus's arms."""
        return "" if "evaluation_losses" in self.measured_elsewhere else self.picked

    @property
    def random_arms(self) -> frozenset[str]:
        """Names of the random draws, and of their pool."""
        return frozenset({RANDOM, *self.finalists.filter(pl.col("role") == RANDOM)["arm"]})

    @property
    def overall_fidelity(self) -> pl.DataFrame:
        """Rows of `fidelity` over all subsets and the mean over tasks, best first."""
        rows = self.fidelity.filter(pl.col("stratum") == ALL, pl.col("task") == MEAN_OVER_TASKS)
        return rows.sort(
            "rank_correlation", "method", "form", descending=[True, False, False], nulls_last=True
        )

    @property
    def reference_method(self) -> tuple[str, str] | None:
        """The (method, form) that paired gains are taken against: it gains 0 on itself in every resample."""
        zero = [pl.col(name) == 0 for name in ("paired_gain", "paired_ci_low", "paired_ci_high")]
        rows = self.overall_fidelity.filter(zero).select("method", "form").iter_rows()
        return min(rows, key=lambda key: "surrogate" not in key[0], default=None)

    def on_target(self, frame: pl.DataFrame) -> tuple[str, pl.DataFrame]:
        """Return the target and a frame's rows for it; where it has none, for `mean` or else its first task."""
        tasks = frame["task"].unique(maintain_order=True).to_list()
        task = next(
            (task for task in (self.target, MEAN) if task in tasks), tasks[0] if tasks else self.target
        )
        return task, frame.filter(pl.col("task") == task)


def totals(frame: pl.DataFrame, by: str, order: str) -> pl.DataFrame:
    """Return the sums of a frame of counts by one column, largest `order` first."""
    counts = pl.col(name for name, dtype in frame.schema.items() if dtype.is_integer())
    return frame.group_by(by).agg(counts.sum()).sort(pl.col(order), pl.col(by), descending=[True, False])


def task_label(task: str) -> str:
    """Return a task's name for readers."""
    return "mean over tasks" if task == MEAN else task


def _conform(name: str, frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    missing = [column for column in schema if column not in frame.columns]
    if missing and not frame.is_empty():
        raise ValueError(f"the report's frame {name} lacks the columns {missing}; it has {frame.columns}")
    if missing:
        return pl.DataFrame(schema=schema)
    try:
        return frame.select(pl.col(column).cast(dtype) for column, dtype in schema.items())
    except pl.exceptions.PolarsError as error:
        raise ValueError(
            f"the report's frame {name} cannot be cast to its columns' types: {error}"
        ) from error
