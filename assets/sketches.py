"""Gradient sketches: how they are taken, of every chunk shard by shard, and of the tasks."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.data import shard_digest, shard_tokens, token_digest
from assets.engines import KindEngines, kind_engines, load_projection, new_engine
from assets.partitions import SHARDS
from assets.sections import SketchRun
from assets.stages import GPU_POOL, Reading, stage
from assets.step import Step
from grasp_pipeline import tables
from grasp_pipeline.progress import Progress
from resources.compute import Compute
from resources.models import Models
from resources.notes import SketchNote
from resources.store import DeltaStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import polars as pl

    from grasp_pipeline.sketch.build import StoredSettings
    from grasp_pipeline.sketch.making import GroupSketches
    from grasp_pipeline.sketch.protocol import Sketcher
    from grasp_pipeline.sketch.run import SketchEngine
    from resources.delta.commits import Commit, Provenance, Read


@stage(
    group="sketches",
    kinds={"pytorch", "deltalake"},
    code_version="4",
    reads=[tables.TOKENIZER, tables.PROXY_CHECKPOINTS, Reading(tables.TOKENIZED_SHARDS, optional=True)],
    writes={
        tables.SKETCHERS: "How each kind of sketch is computed and stored: checkpoint, dimensions, seed, fitted "
        "projection and scale."
    },
    kept=True,
    pool=GPU_POOL,
)
def sketchers(
    context: dg.AssetExecutionContext, config: SketchRun, store: DeltaStore, models: Models, compute: Compute
) -> dg.MaterializeResult:
    """Fix the settings, the projection and the storage scale of every kind."""
    import polars as pl

    from grasp_pipeline.sketch.build import StoredSettings, build_sketcher, storage_scale
    from grasp_pipeline.sketch.pca import PcaSketcher

    step = Step(context, store, config)
    tokenizer = models.tokenizer(step.pin(tables.TOKENIZER).version)
    version = step.pin(tables.PROXY_CHECKPOINTS).version
    corpus = step.pin(tables.TOKENIZED_SHARDS) if config.pca_dim else None
    provenance = step.provenance()
    if (commit := step.current(tables.SKETCHERS, provenance)) is not None:
        return step.unchanged(tables.SKETCHERS, commit)
    device = compute.prepare()
    encoder = tokenizer.encoder
    sample = None if corpus is None else _sample(step, corpus, config)
    rows, described = [], {}
    proxy = models.proxy(version, "reference")
    for kind in config.kinds:
        sketcher: Sketcher = build_sketcher(kind, proxy.objective, config, device)
        settings = StoredSettings(**config.model_dump())
        if sample is not None and config.pca_dim < sketcher.d:
            engine = new_engine(sketcher, tokenizer.chunk_tokens, compute, step.say, device)
            settings = _fit(step, kind, settings, proxy.checkpoint_id, engine, sample, encoder.bos)
            sketcher = PcaSketcher(sketcher, load_projection(settings, store), device)
        rows.append(
            {
                "sketch_kind": kind,
                "role": "reference",
                "checkpoint_id": proxy.checkpoint_id,
                "d": sketcher.d,
                "scale": storage_scale(
                    sketcher, encoder.vocab_size, tokenizer.chunk_tokens, encoder.bos, device
                ),
                "settings": settings.model_dump_json(),
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


def _sample(step: Step, corpus: "Read", config: SketchRun) -> "pl.DataFrame":
    """Return the chunks that projections are fitted on."""
    from grasp_pipeline.sketch.pca import sample_chunks, sample_size

    columns = ["chunk_id", "input_ids", "n_tokens"]
    frames = step.tables.batches(tables.TOKENIZED_SHARDS, corpus.version, columns=columns)
    return sample_chunks(frames, sample_size(config.pca_dim), config.seed)


def _fit(
    step: Step,
    kind: str,
    settings: "StoredSettings",
    checkpoint_id: str,
    engine: "SketchEngine",
    sample: "pl.DataFrame",
    bos: int,
) -> "StoredSettings":
    """Return the settings with the projection of a kind, fitted unless the store holds that of the same sample."""
    from grasp_pipeline.proxy.reference import file_digest
    from grasp_pipeline.seeds import digest
    from grasp_pipeline.sketch.pca import FILE, fit_projection
    from grasp_pipeline.sketch.run import sketch_in_memory

    ids = sample["chunk_id"].to_list()
    made_from = digest("pca", kind, settings.of_kind(kind), checkpoint_id, token_digest([sample]))
    path = f"files/projections/{made_from[:16]}"
    if not step.store.has_file(f"{path}/{FILE}"):
        step.say(f"fitting {settings.pca_dim:,} dimensions to {len(ids):,} chunks ({kind})")
        progress = Progress(f"sketching a sample ({kind})", int(sample["n_tokens"].sum()), "tokens", step.say)
        sketches, _ = sketch_in_memory(engine, sample["input_ids"].to_list(), ids, bos, progress.advance)
        projection = fit_projection(sketches, sample["n_tokens"].to_numpy(), settings.pca_dim)
        with step.store.new_files(path) as folder:
            projection.save(folder)
    with step.store.files(path) as folder:
        found = {"projection": path, "projection_sha256": file_digest(folder / FILE)}
    return settings.model_copy(update=found)


def _description(sketcher: "Sketcher") -> dict[str, Any]:
    """Return what a sketcher tells of itself: dimensions, shares of parameters covered and skipped; {} if nothing."""
    describe = getattr(sketcher, "describe", None)
    return describe() if describe is not None else {}


@stage(
    group="sketches",
    kinds={"pytorch", "deltalake"},
    code_version="2",
    reads=[
        tables.SKETCHERS,
        tables.TOKENIZER,
        tables.PROXY_CHECKPOINTS,
        Reading(tables.TOKENIZED_SHARDS, by="shard"),
    ],
    writes={
        tables.GRADIENT_SKETCHES: "Low-dimensional sketches of every chunk's descent direction, float16, one commit "
        "per kind and shard."
    },
    partitions_def=SHARDS,
    pool=GPU_POOL,
)
def gradient_sketches(
    context: dg.AssetExecutionContext, store: DeltaStore, models: Models, compute: Compute
) -> dg.MaterializeResult:
    """Sketch the shards that are new or changed, on every device; a finished shard is never touched again."""
    step = Step(context, store)
    kinds = kind_engines(step, models, compute)
    found: dict[str, dict[str, Commit]] = {}
    waiting: list[_Job] = []
    for name in context.partition_keys:
        if step.tables.latest(tables.TOKENIZED_SHARDS, {"shard": name}) is None:
            context.add_asset_metadata({"dagster/partition_row_count": 0}, partition_key=name)
            continue
        source = step.part(tables.TOKENIZED_SHARDS, {"shard": name})
        shard = _Shard(step, name, source, step.provenance(source))
        found[name] = {}
        for kind in kinds:
            commit = shard.current(kind)
            if commit is None:
                waiting.append((shard, kind))
            else:
                found[name][kind.name] = commit
    if waiting:
        shard, _ = waiting[0]
        step.tables.create(tables.GRADIENT_SKETCHES, shard.provenance)
    for (shard, kind), commit in zip(waiting, _sketch(waiting, kinds, compute), strict=True):
        found[shard.name][kind.name] = commit
    totals: dict[str, Any] = {"rows": 0, "tokens": 0, "seconds": 0.0}
    for name, written in found.items():
        notes = [SketchNote.of(commit) for commit in written.values()]
        sums = {figure: sum(getattr(note, figure) for note in notes) for figure in totals}
        totals = {figure: totals[figure] + sums[figure] for figure in totals}
        context.add_asset_metadata(
            {
                "dagster/partition_row_count": sums["rows"],
                "partition_tokens": sums["tokens"],
                "partition_sketch_seconds": round(sums["seconds"], 2),
            },
            partition_key=name,
        )
    newest = step.tables.latest(tables.GRADIENT_SKETCHES)
    if newest is None:
        raise dg.Failure(
            f"none of the shards {', '.join(context.partition_keys)} holds chunks; pick another shard"
        )
    extra: dict[str, Any] = {"commits": len(waiting), "sketch_seconds": round(totals["seconds"], 1)}
    if waiting:
        extra["compute"] = dg.MetadataValue.json(compute.describe())
    return step.result(
        tables.GRADIENT_SKETCHES, newest, totals["rows"], extra, totals["tokens"], up_to_date=not waiting
    )


def _sketch(jobs: "list[_Job]", kinds: list[KindEngines], compute: Compute) -> "list[Commit]":
    """Sketch shards by kinds and commit each: through the engine, on several devices of this machine side by side."""
    from grasp_pipeline.engine import BuiltOnce, Engine, SerialEngine, map_jobs
    from grasp_pipeline.proxy.work import core_seconds
    from grasp_pipeline.sketch.making import GroupSketcher
    from grasp_pipeline.sketch.spread import spread

    if not jobs:
        return []
    tokens = {shard.name: shard.n_tokens for shard, _ in jobs}
    asked = sorted({kind.name for _, kind in jobs})
    bos = kinds[0].tokenizer.encoder.bos

    def through(engine: Engine, some: "list[_Job]", device: int) -> "list[Commit]":
        parts = tuple(kind.parts(device) for kind in kinds if kind.name in asked)
        sketched = map_jobs(
            engine, BuiltOnce(GroupSketcher(parts, bos)), some, lambda job: job[1].blocks(job[0].chunks())
        )
        return [shard.write(kind, groups) for (shard, kind), groups in sketched]

    devices = len(kinds[0].devices)
    if devices > 1:
        shares = spread(
            [jobs[i::devices] for i in range(devices)],
            devices,
            lambda some, device: through(SerialEngine(), some, device),
        )
        return [shares[i % devices][i // devices] for i in range(len(jobs))]
    weights = kinds[0].parts().objective.parameters()
    work = sum(core_seconds(weights, tokens[shard.name]) for shard, _ in jobs)
    with compute.map_engine(work) as engine:
        return through(engine, jobs, 0)


@dataclass
class _Shard:
    """One shard of `tokenized_shards` to sketch: the version read, and what its sketches say they are made from."""

    step: Step
    name: str
    source: "Read"
    provenance: "Provenance"

    @cached_property
    def tokens(self) -> str:
        """Digest of the shard's chunks."""
        return shard_digest(self.step, self.source, self.name)

    def current(self, kind: KindEngines) -> "Commit | None":
        """Return the last commit of the shard's sketches where it was made from the same things, else None."""
        return self.step.unmoved(
            tables.GRADIENT_SKETCHES,
            self.provenance,
            self.partition(kind),
            SketchNote,
            lambda: kind.made_from(self.tokens),
        )

    def partition(self, kind: KindEngines) -> Mapping[str, str]:
        """Return the partition of `gradient_sketches` that a kind's sketches of the shard are."""
        return {"sketch_kind": kind.name, "shard": self.name}

    @cached_property
    def n_tokens(self) -> int:
        """Tokens of the shard."""
        return shard_tokens(self.step, self.source, self.name)

    def chunks(self) -> "Iterator[pl.DataFrame]":
        """Read the shard's chunks piece by piece."""
        columns = ["chunk_id", "input_ids", "n_tokens", "shard"]
        return self.step.tables.batches(
            tables.TOKENIZED_SHARDS, self.source.version, {"shard": self.name}, columns
        )

    def write(self, kind: KindEngines, groups: "Iterable[tuple[pl.DataFrame, GroupSketches]]") -> "Commit":
        """Commit the shard's sketches, given group by group; a group is written while the next is sketched."""
        from grasp_pipeline.sketch.storage import group_rows

        begun = time.perf_counter()
        counted = {"rows": 0, "tokens": 0}
        row = kind.row
        progress = Progress(f"sketching {self.name} ({kind.name})", self.n_tokens, "tokens", kind.say)

        def frames() -> "Iterator[pl.DataFrame]":
            for chunks, sketched in groups:
                for message in sketched.said:
                    kind.say(message)
                tokens = int(chunks["n_tokens"].sum())
                counted["rows"] += chunks.height
                counted["tokens"] += tokens
                progress.advance(tokens)
                yield _rows(row, chunks, sketched)

        def statistics() -> dict[str, Any]:
            return SketchNote(
                **counted,
                seconds=time.perf_counter() - begun,
                bytes_per_chunk=2 * row["d"],
                made_from=kind.made_from(self.tokens),
            ).to_json()

        return self.step.tables.write_stream(
            tables.GRADIENT_SKETCHES,
            frames(),
            self.provenance,
            self.partition(kind),
            statistics,
            group_rows(row["d"]),
        )


_Job = tuple[_Shard, KindEngines]


def _rows(row: dict[str, Any], chunks: "pl.DataFrame", sketched: "GroupSketches") -> "pl.DataFrame":
    """Return a group's rows of `gradient_sketches`."""
    import numpy as np
    import polars as pl

    from grasp_pipeline.sketch.storage import encode

    sketches, losses = sketched.sketches, sketched.losses
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


@stage(
    group="sketches",
    kinds={"pytorch", "deltalake"},
    code_version="2",
    reads=[
        tables.SKETCHERS,
        tables.TOKENIZER,
        tables.PROXY_CHECKPOINTS,
        Reading(tables.TASKS, "query"),
        Reading(tables.TASKS, "judge"),
    ],
    writes={
        tables.TASK_SKETCHES: "Token-weighted mean sketch of every task's query documents, and of its judge documents "
        "apart."
    },
    kept=True,
    pool=GPU_POOL,
)
def task_sketches(
    context: dg.AssetExecutionContext, store: DeltaStore, models: Models, compute: Compute
) -> dg.MaterializeResult:
    """Sketch the tasks with the same sketchers as the corpus."""
    import numpy as np
    import polars as pl

    from grasp_pipeline.sketch.storage import encode_vector
    from grasp_pipeline.sketch.targets import task_means

    step = Step(context, store)
    kinds = kind_engines(step, models, compute)
    tasks = step.read_splits(tables.TASKS, ["query", "judge"])
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
