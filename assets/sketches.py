"""Gradient sketches: how they are taken, of every chunk shard by shard, and of the tasks."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.common import GPU_POOL, OWNERS, Step
from assets.partitions import ONE_RUN, SHARDS
from assets.sections import SketchRun
from grasp_pipeline import tables
from grasp_pipeline.progress import Listener, Progress
from resources.compute import Compute
from resources.models import LoadedTokenizer, Models
from resources.store import DeltaStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import polars as pl

    from grasp_pipeline.sketch.protocol import Sketcher
    from grasp_pipeline.sketch.run import Sketched, SketchEngine
    from resources.delta import Commit, Provenance, Read

GROUP = "sketches"


@dg.asset(
    group_name=GROUP,
    kinds={"pytorch", "deltalake"},
    owners=OWNERS,
    code_version="2",
    deps=["tokenizer", "proxy_checkpoints"],
    pool=GPU_POOL,
    backfill_policy=ONE_RUN,
    description="How each kind of sketch is computed and stored: checkpoint, dimensions, seed and scale.",
)
def sketchers(
    context: dg.AssetExecutionContext, config: SketchRun, store: DeltaStore, models: Models, compute: Compute
) -> dg.MaterializeResult:
    """Fix the settings and the storage scale of every kind."""
    import polars as pl

    from grasp_pipeline.sketch.build import EARLY, build_sketcher, checkpoint_role, storage_scale

    step = Step(context, store, config, "2")
    tokenizer = models.tokenizer(step.pin(tables.TOKENIZER).version)
    version = step.pin(tables.PROXY_CHECKPOINTS).version
    provenance = step.provenance()
    if (commit := step.current(tables.SKETCHERS, provenance)) is not None:
        return step.unchanged(tables.SKETCHERS, commit)
    device = compute.prepare()
    encoder = tokenizer.encoder
    rows, described = [], {}
    for kind in [*config.kinds, EARLY]:
        proxy = models.proxy(version, checkpoint_role(kind))
        sketcher = build_sketcher(kind, proxy.objective, config, device)
        rows.append(
            {
                "sketch_kind": kind,
                "role": checkpoint_role(kind),
                "checkpoint_id": proxy.checkpoint_id,
                "d": sketcher.d,
                "scale": storage_scale(
                    sketcher, encoder.vocab_size, tokenizer.chunk_tokens, encoder.bos, device
                ),
                "share": config.early_share if kind == EARLY else 1.0,
                "settings": config.model_dump_json(),
            }
        )
        described[kind] = {
            "d": sketcher.d,
            "bytes_per_chunk": 2 * sketcher.d,
            "scale": rows[-1]["scale"],
            **_description(sketcher),
        }
    commit = step.tables.write(
        tables.SKETCHERS, pl.DataFrame(rows, schema=tables.SKETCHERS.schema), provenance
    )
    return step.result(tables.SKETCHERS, commit, len(rows), {"sketchers": dg.MetadataValue.json(described)})


def _description(sketcher: "Sketcher") -> dict[str, Any]:
    """Return what a sketcher tells of itself: dimensions, shares of parameters covered and skipped; {} if nothing."""
    describe = getattr(sketcher, "describe", None)
    return describe() if describe is not None else {}


@dataclass
class _Kind:
    """One row of `sketchers` with its engine, built on first use: a current shard loads no model."""

    row: dict[str, Any]
    proxy_version: int
    tokenizer: LoadedTokenizer
    models: Models
    compute: Compute
    say: Listener
    _engine: "SketchEngine | None" = None

    @property
    def name(self) -> str:
        return self.row["sketch_kind"]

    @property
    def engine(self) -> "SketchEngine":
        if self._engine is None:
            import torch

            from grasp_pipeline.config import SketchConfig
            from grasp_pipeline.sketch.build import build_sketcher
            from grasp_pipeline.sketch.run import SketchEngine

            config = SketchConfig.model_validate_json(self.row["settings"])
            device = self.compute.prepare()
            proxy = self.models.proxy(self.proxy_version, self.row["role"])
            dtype = getattr(torch, self.compute.dtype)
            sketcher = build_sketcher(self.name, proxy.objective, config, device, dtype)
            self._engine = SketchEngine(sketcher, self.compute.sketch_batch_tokens, self.say, device)
        return self._engine

    def sketch(self, what: str, tokens: float, frames: "Iterable[pl.DataFrame]") -> "Iterator[Sketched]":
        """Sketch frames with columns chunk_id and input_ids group by group, showing progress towards `tokens`."""
        from grasp_pipeline.sketch.run import sketch_stream

        progress = Progress(f"sketching {what} ({self.name})", tokens, "tokens", self.say)
        return sketch_stream(self.engine, frames, self.tokenizer.encoder.bos, progress.advance)


def _kinds(step: Step, models: Models, compute: Compute) -> list[_Kind]:
    rows = step.read(tables.SKETCHERS).collect().sort("sketch_kind")
    tokenizer = models.tokenizer(step.pin(tables.TOKENIZER).version)
    version = step.pin(tables.PROXY_CHECKPOINTS).version
    return [_Kind(row, version, tokenizer, models, compute, step.say) for row in rows.iter_rows(named=True)]


@dg.asset(
    group_name=GROUP,
    kinds={"pytorch", "deltalake"},
    owners=OWNERS,
    code_version="2",
    deps=["tokenized_shards", "tokenizer", "proxy_checkpoints", "sketchers"],
    partitions_def=SHARDS,
    pool=GPU_POOL,
    backfill_policy=ONE_RUN,
    description="Low-dimensional sketches of every chunk's descent direction, float16, one commit per kind and shard.",
)
def gradient_sketches(
    context: dg.AssetExecutionContext, store: DeltaStore, models: Models, compute: Compute
) -> dg.MaterializeResult:
    """Sketch the shards that are new or changed; a finished shard is never touched again."""
    step = Step(context, store, None, "2")
    kinds = _kinds(step, models, compute)
    totals: dict[str, Any] = {"rows": 0, "tokens": 0, "seconds": 0.0}
    written = 0
    for shard in context.partition_keys:
        if step.tables.latest(tables.TOKENIZED_SHARDS, {"shard": shard}) is None:
            context.add_asset_metadata({"dagster/partition_row_count": 0}, partition_key=shard)
            continue
        source = step.tables.pin(tables.TOKENIZED_SHARDS, {"shard": shard})
        provenance = step.provenance(source)
        in_shard = dict.fromkeys(totals, 0)
        for kind in kinds:
            partition = {"sketch_kind": kind.name, "shard": shard}
            commit = step.current(tables.GRADIENT_SKETCHES, provenance, partition)
            if commit is None:
                commit = _sketch_shard(step, kind, source, provenance, shard)
                written += 1
            for name in totals:
                totals[name] += commit.statistics[name]
                in_shard[name] += commit.statistics[name]
        context.add_asset_metadata(
            {
                "dagster/partition_row_count": in_shard["rows"],
                "partition_tokens": in_shard["tokens"],
                "partition_sketch_seconds": round(in_shard["seconds"], 2),
            },
            partition_key=shard,
        )
    newest = step.tables.latest(tables.GRADIENT_SKETCHES)
    if newest is None:
        raise dg.Failure(
            f"none of the shards {', '.join(context.partition_keys)} holds chunks; pick another shard"
        )
    extra: dict[str, Any] = {"commits": written, "sketch_seconds": round(totals["seconds"], 1)}
    if written:
        extra["compute"] = dg.MetadataValue.json(compute.describe())
    return step.result(
        tables.GRADIENT_SKETCHES, newest, totals["rows"], extra, totals["tokens"], up_to_date=written == 0
    )


def _sketch_shard(step: Step, kind: _Kind, source: "Read", provenance: "Provenance", shard: str) -> "Commit":
    """Sketch one shard with one kind and commit it; groups are read, sketched and written one after the other."""
    from grasp_pipeline.sketch.storage import group_rows

    begun = time.perf_counter()
    counted = {"rows": 0, "tokens": 0}

    def frames() -> "Iterator[pl.DataFrame]":
        tokens = _tokens(step, source, shard) * kind.row["share"]
        for sketched in kind.sketch(shard, tokens, _chunks(step, source, shard, kind.row["share"])):
            counted["rows"] += sketched.chunks.height
            counted["tokens"] += int(sketched.chunks["n_tokens"].sum())
            yield _rows(kind.row, sketched)

    def statistics() -> dict[str, Any]:
        seconds = time.perf_counter() - begun
        return {**counted, "seconds": seconds, "bytes_per_chunk": 2 * kind.row["d"]}

    return step.tables.write_stream(
        tables.GRADIENT_SKETCHES,
        frames(),
        provenance,
        {"sketch_kind": kind.name, "shard": shard},
        statistics,
        group_rows(kind.row["d"]),
    )


def _tokens(step: Step, source: "Read", shard: str) -> int:
    """Count a shard's tokens."""
    import polars as pl

    lazy = step.tables.read(tables.TOKENIZED_SHARDS, source.version, {"shard": shard})
    return lazy.select(pl.col("n_tokens").sum()).collect().item()


def _chunks(step: Step, source: "Read", shard: str, share: float) -> "Iterator[pl.DataFrame]":
    """Yield a shard's chunks, or the sample of them that a kind takes, a frame at a time."""
    import polars as pl

    from grasp_pipeline.sketch.build import early_sample

    columns = ["chunk_id", "input_ids", "n_tokens", "shard"]
    for frame in step.tables.batches(tables.TOKENIZED_SHARDS, source.version, {"shard": shard}, columns):
        if share < 1:
            sampled = early_sample(frame["chunk_id"].to_list(), share)
            frame = frame.filter(pl.Series(sampled, dtype=pl.Boolean))
        yield frame


def _rows(row: dict[str, Any], sketched: "Sketched") -> "pl.DataFrame":
    """Return a group's rows of `gradient_sketches`."""
    import numpy as np
    import polars as pl

    from grasp_pipeline.sketch.storage import encode

    chunks, sketches, losses = sketched
    return chunks.select(
        pl.lit(row["sketch_kind"]).alias("sketch_kind"),
        "chunk_id",
        encode(sketches, row["scale"], chunks["chunk_id"].to_list()),
        pl.lit(row["d"]).alias("d"),
        pl.lit(row["scale"]).alias("scale"),
        pl.Series("loss", losses.astype(np.float64)),
        pl.Series("norm", np.linalg.norm(sketches, axis=1).astype(np.float64)),
        "n_tokens",
        "shard",
    )


@dg.asset(
    group_name=GROUP,
    kinds={"pytorch", "deltalake"},
    owners=OWNERS,
    code_version="2",
    deps=["tasks", "tokenizer", "proxy_checkpoints", "sketchers"],
    pool=GPU_POOL,
    backfill_policy=ONE_RUN,
    description="Token-weighted mean sketch of every task's query documents, and of its judge documents apart.",
)
def task_sketches(
    context: dg.AssetExecutionContext, store: DeltaStore, models: Models, compute: Compute
) -> dg.MaterializeResult:
    """Sketch the tasks with the same sketchers as the corpus."""
    import numpy as np
    import polars as pl

    from grasp_pipeline.sketch.storage import encode_vector
    from grasp_pipeline.sketch.targets import task_means

    step = Step(context, store, None, "2")
    kinds = _kinds(step, models, compute)
    tasks = step.read(tables.TASKS).filter(pl.col("split").is_in(["query", "judge"]))
    provenance = step.provenance()
    if (commit := step.current(tables.TASK_SKETCHES, provenance)) is not None:
        return step.unchanged(tables.TASK_SKETCHES, commit)
    frame = tasks.collect().sort("task", "split", "chunk_id")
    rows = []
    for kind in kinds:
        groups = kind.sketch("the tasks", int(frame["n_tokens"].sum()), [frame])
        means = task_means(
            np.concatenate([group.sketches for group in groups]),
            frame["n_tokens"].to_numpy(),
            frame["task"].to_list(),
            frame["split"].to_list(),
        )
        rows += [
            {
                "sketch_kind": kind.name,
                "task": mean.task,
                "split": mean.split,
                "sketch": encode_vector(mean.vector),
                "d": len(mean.vector),
                "n_tokens": mean.n_tokens,
                "n_chunks": mean.n_chunks,
                "signal_to_noise": mean.signal_to_noise,
            }
            for mean in means
        ]
    commit = step.tables.write(
        tables.TASK_SKETCHES, pl.DataFrame(rows, schema=tables.TASK_SKETCHES.schema), provenance
    )
    noise = {f"{r['sketch_kind']}/{r['task']}/{r['split']}": round(r["signal_to_noise"], 2) for r in rows}
    extra = {"signal_to_noise": dg.MetadataValue.json(noise)}
    return step.result(tables.TASK_SKETCHES, commit, len(rows), extra, int(frame["n_tokens"].sum()))
