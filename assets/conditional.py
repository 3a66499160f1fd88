"""Conditional losses: the reference proxy, fine-tuned for a moment on the target's texts, on every chunk."""

from typing import TYPE_CHECKING

import dagster as dg

from assets.common import GPU_POOL, OWNERS, Step
from assets.partitions import ONE_RUN
from grasp_pipeline import tables
from grasp_pipeline.progress import Progress
from resources.compute import Compute
from resources.models import Models
from resources.store import DeltaStore

if TYPE_CHECKING:
    from grasp_pipeline.proxy.packing import TokenPool
    from resources.delta import Commit

SPLITS = ("query", "judge")
BATCH_ROWS = 4096
"""Chunks scored between two reports of progress."""


@dg.asset(
    group_name="selection",
    kinds={"pytorch", "deltalake"},
    owners=OWNERS,
    code_version="1",
    deps=["candidates", "tokenized_shards", "tasks", "tokenizer", "proxy_checkpoints"],
    pool=GPU_POOL,
    backfill_policy=ONE_RUN,
    description="Every chunk's loss before and after a short fine-tuning of the reference proxy on the target's query "
    "chunks, for a candidate, and on its judge chunks, for the judge. New or changed shards only.",
)
def conditional_losses(
    context: dg.AssetExecutionContext, store: DeltaStore, models: Models, compute: Compute
) -> dg.MaterializeResult:
    """Fine-tune twice and score the shards that are new or changed."""
    import polars as pl

    from assets.data import token_pool
    from assets.finalists import load_target
    from grasp_pipeline.proxy.conditional import fine_tune
    from grasp_pipeline.proxy.evaluation import stacked_chunk_losses
    from grasp_pipeline.proxy.objective import pad_chunks

    step = Step(context, store, None, "1")
    tokenizer = models.tokenizer(step.pin(tables.TOKENIZER).version)
    proxies = step.pin(tables.PROXY_CHECKPOINTS).version
    target = load_target(step, step.read(tables.CANDIDATES).collect().row(0, named=True))
    texts: dict[str, TokenPool] = {}
    for split in SPLITS:
        asked = pl.col("split") == split, pl.col("task").is_in(target.counted)
        texts[split] = token_pool(step.read(tables.TASKS).filter(*asked).collect().sort("task", "chunk_id"))

    found: list[Commit] = []
    waiting = []
    shards = {c.partition["shard"] for c in step.tables.commits(tables.TOKENIZED_SHARDS) if c.partition}
    for partition in ({"shard": shard} for shard in sorted(shards)):
        source = step.tables.pin(tables.TOKENIZED_SHARDS, partition)
        provenance = step.provenance(source)
        commit = step.current(tables.CONDITIONAL_LOSSES, provenance, partition)
        if commit is None:
            waiting.append((partition, source, provenance))
        else:
            found.append(commit)
    tokens = 0
    if waiting:
        reference = models.proxy(proxies, "reference")
        recipe = models.proxy(proxies, "initial").recipe
        objective, bos = reference.objective, tokenizer.encoder.bos
        step.say(f"fine-tuning the reference proxy on {' and '.join(SPLITS)} chunks")
        weights = fine_tune(objective, objective.parameters(), texts, recipe, bos, compute.prepare())
        sizes = [
            step.tables.read(tables.TOKENIZED_SHARDS, source.version, partition).select(
                pl.col("n_tokens").sum()
            )
            for partition, source, _ in waiting
        ]
        tokens = sum(int(frame.collect().item()) for frame in sizes)
        progress = Progress("scoring chunks", tokens, "tokens", step.say)
        columns = ["chunk_id", "input_ids", "n_tokens"]
        for partition, source, provenance in waiting:
            shard: list[pl.DataFrame] = []
            for frame in step.tables.batches(
                tables.TOKENIZED_SHARDS, source.version, partition, columns, BATCH_ROWS
            ):
                rows, lengths = pad_chunks(frame["input_ids"].to_list(), bos, tokenizer.chunk_tokens)
                losses = stacked_chunk_losses(objective, weights, rows, lengths).numpy() / lengths.numpy()
                named = zip(("reference", *SPLITS), losses, strict=True)
                shard.append(frame.select("chunk_id", **{name: pl.Series(values) for name, values in named}))
                progress.advance(int(frame["n_tokens"].sum()))
            scored = pl.concat(shard) if shard else tables.CONDITIONAL_LOSSES.empty().drop("shard")
            scored = scored.with_columns(shard=pl.lit(partition["shard"]))
            found.append(step.tables.write(tables.CONDITIONAL_LOSSES, scored, provenance, partition))
    newest = max(found, key=lambda commit: commit.version)
    return step.result(
        tables.CONDITIONAL_LOSSES,
        newest,
        step.rows(tables.CONDITIONAL_LOSSES, newest),
        {"shards_scored": len(waiting)},
        tokens,
        up_to_date=not waiting,
    )
