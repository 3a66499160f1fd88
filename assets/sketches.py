"""Gradient sketches: how they are taken, of every chunk shard by shard, and of the tasks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.common import GPU_POOL, OWNERS, Step
from assets.partitions import ONE_RUN, SHARDS
from assets.sections import SketchRun
from grasp_pipeline import tables
from grasp_pipeline.progress import Progress
from resources.compute import Compute
from resources.models import LoadedTokenizer, Models
from resources.store import DeltaStore

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from grasp_pipeline.sketch.protocol import Sketcher

GROUP = "sketches"


@dg.asset(
    group_name=GROUP,
    kinds={"pytorch", "deltalake"},
    owners=OWNERS,
    code_version="1",
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

    step = Step(context, store, config, "1")
    tokenizer = models.tokenizer(step.pin(tables.TOKENIZER).version)
    version = step.pin(tables.PROXY_CHECKPOINTS).version
    provenance = step.provenance()
    if (commit := step.current(tables.SKETCHERS, provenance)) is not None:
        return step.unchanged(tables.SKETCHERS, commit)
    device = compute.prepare()
    encoder = tokenizer.encoder
    rows = []
    for kind in [*config.kinds, EARLY]:
        proxy = models.proxy(version, checkpoint_role(kind))
        sketcher = build_sketcher(kind, proxy.objective, config, device)
        rows.append(
            {
                "sketch_kind": kind,
                "role": checkpoint_role(kind),
                "checkpoint_id": proxy.checkpoint_id,
                "d": sketcher.d,
                "scale": storage_scale(sketcher, encoder.vocab_size, tokenizer.chunk_tokens, encoder.bos),
                "share": config.early_share if kind == EARLY else 1.0,
                "settings": config.model_dump_json(),
            }
        )
    commit = step.tables.write(
        tables.SKETCHERS, pl.DataFrame(rows, schema=tables.SKETCHERS.schema), provenance
    )
    return step.result(tables.SKETCHERS, commit, len(rows))


@dataclass
class _Kind:
    """One row of `sketchers` with its sketcher, built on first use: a current shard loads no model."""

    row: dict[str, Any]
    proxy_version: int
    tokenizer: LoadedTokenizer
    models: Models
    compute: Compute
    _sketcher: "Sketcher | None" = None

    @property
    def name(self) -> str:
        return self.row["sketch_kind"]

    @property
    def sketcher(self) -> "Sketcher":
        if self._sketcher is None:
            import torch

            from grasp_pipeline.config import SketchConfig
            from grasp_pipeline.sketch.build import build_sketcher

            config = SketchConfig.model_validate_json(self.row["settings"])
            device = self.compute.prepare()
            proxy = self.models.proxy(self.proxy_version, self.row["role"])
            dtype = getattr(torch, self.compute.dtype)
            self._sketcher = build_sketcher(self.name, proxy.objective, config, device, dtype)
        return self._sketcher

    def sketch(
        self, step: Step, what: str, frame: "pl.DataFrame"
    ) -> "tuple[NDArray[np.float32], NDArray[np.float32]]":
        """Sketch the chunks of a frame with columns chunk_id, input_ids and n_tokens, showing progress."""
        from grasp_pipeline.sketch.run import sketch_chunks

        progress = Progress(
            f"sketching {what} ({self.name})", int(frame["n_tokens"].sum()), "tokens", step.say
        )
        return sketch_chunks(
            self.sketcher,
            frame["input_ids"].to_list(),
            frame["chunk_id"].to_list(),
            self.tokenizer.encoder.bos,
            self.compute.sketch_batch_tokens,
            progress.advance,
        )


def _kinds(step: Step, models: Models, compute: Compute) -> list[_Kind]:
    rows = step.read(tables.SKETCHERS).collect().sort("sketch_kind")
    tokenizer = models.tokenizer(step.pin(tables.TOKENIZER).version)
    version = step.pin(tables.PROXY_CHECKPOINTS).version
    return [_Kind(row, version, tokenizer, models, compute) for row in rows.iter_rows(named=True)]


@dg.asset(
    group_name=GROUP,
    kinds={"pytorch", "deltalake"},
    owners=OWNERS,
    code_version="1",
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
    step = Step(context, store, None, "1")
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
                chunks = step.tables.read(tables.TOKENIZED_SHARDS, source.version, {"shard": shard}).collect()
                frame, seconds = _sketch_shard(step, kind, chunks)
                statistics = {
                    "rows": frame.height,
                    "tokens": int(frame["n_tokens"].sum()),
                    "seconds": seconds,
                    "bytes_per_chunk": 2 * kind.row["d"],
                }
                commit = step.tables.write(tables.GRADIENT_SKETCHES, frame, provenance, partition, statistics)
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


def _sketch_shard(step: Step, kind: _Kind, chunks: "pl.DataFrame") -> "tuple[pl.DataFrame, float]":
    """Return one shard's rows of `gradient_sketches` for a kind, and the seconds they took."""
    import time

    import numpy as np
    import polars as pl

    from grasp_pipeline.sketch.build import early_sample
    from grasp_pipeline.sketch.storage import encode

    begun = time.perf_counter()
    what = chunks["shard"][0] if chunks.height else "an empty shard"
    if kind.row["share"] < 1:
        sampled = early_sample(chunks["chunk_id"].to_list(), kind.row["share"])
        chunks = chunks.filter(pl.Series(sampled, dtype=pl.Boolean))
    ids = chunks["chunk_id"].to_list()
    sketches, losses = kind.sketch(step, what, chunks)
    frame = chunks.select(
        pl.lit(kind.name).alias("sketch_kind"),
        "chunk_id",
        pl.Series("sketch", encode(sketches, kind.row["scale"], ids), dtype=pl.Binary),
        pl.lit(kind.row["d"]).alias("d"),
        pl.lit(kind.row["scale"]).alias("scale"),
        pl.Series("loss", losses.astype(np.float64)),
        pl.Series("norm", np.linalg.norm(sketches, axis=1).astype(np.float64)),
        "n_tokens",
        "shard",
    )
    return frame, time.perf_counter() - begun


@dg.asset(
    group_name=GROUP,
    kinds={"pytorch", "deltalake"},
    owners=OWNERS,
    code_version="1",
    deps=["tasks", "tokenizer", "proxy_checkpoints", "sketchers"],
    pool=GPU_POOL,
    backfill_policy=ONE_RUN,
    description="Token-weighted mean sketch of every task's query documents, and of its judge documents apart.",
)
def task_sketches(
    context: dg.AssetExecutionContext, store: DeltaStore, models: Models, compute: Compute
) -> dg.MaterializeResult:
    """Sketch the tasks with the same sketchers as the corpus."""
    import polars as pl

    from grasp_pipeline.sketch.storage import encode_vector
    from grasp_pipeline.sketch.targets import task_means

    step = Step(context, store, None, "1")
    kinds = _kinds(step, models, compute)
    tasks = step.read(tables.TASKS).filter(pl.col("split").is_in(["query", "judge"]))
    provenance = step.provenance()
    if (commit := step.current(tables.TASK_SKETCHES, provenance)) is not None:
        return step.unchanged(tables.TASK_SKETCHES, commit)
    frame = tasks.collect().sort("task", "split", "chunk_id")
    rows = []
    for kind in kinds:
        sketches, _ = kind.sketch(step, "the tasks", frame)
        means = task_means(
            sketches, frame["n_tokens"].to_numpy(), frame["task"].to_list(), frame["split"].to_list()
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
