"""The proxy language model: initial and reference checkpoints."""

import dagster as dg

from assets.sections import ProxyRun
from assets.stages import GPU_POOL, Reading, stage
from assets.step import Step
from grasp_pipeline import tables
from grasp_pipeline.progress import Progress
from resources.compute import Compute
from resources.models import Models
from resources.store import DeltaStore


@stage(
    group="proxy",
    kinds={"pytorch", "huggingface", "deltalake"},
    code_version="2",
    reads=[tables.TOKENIZER, tables.TOKENIZED_SHARDS, tables.DOCUMENTS, Reading(tables.TASKS, "query")],
    writes={
        tables.PROXY_CHECKPOINTS: "A small causal LM trained on a sample of the corpus; gradients are taken at its "
        "checkpoints and every subset is retrained from its initial weights."
    },
    kept=True,
    pool=GPU_POOL,
)
def proxy_checkpoints(
    context: dg.AssetExecutionContext, config: ProxyRun, store: DeltaStore, models: Models, compute: Compute
) -> dg.MaterializeResult:
    """Build and train the proxy; store both checkpoints as safetensors."""
    import json

    import numpy as np
    import polars as pl

    from assets.data import load_corpus, load_held_out
    from assets.plots import loss_curve
    from grasp_pipeline.proxy.batch_filter import BatchFilter
    from grasp_pipeline.proxy.presets import build_model, model_summary
    from grasp_pipeline.proxy.reference import shape_json, train_reference
    from grasp_pipeline.proxy.training import Recipe
    from grasp_pipeline.seeds import digest

    step = Step(context, store, config)
    tokenizer = models.tokenizer(step.pin(tables.TOKENIZER).version)
    corpus = load_corpus(step)
    held_out = load_held_out(step, "query", tokenizer.encoder.bos, tokenizer.chunk_tokens)
    provenance = step.provenance()
    commit = step.current(tables.PROXY_CHECKPOINTS, provenance)
    if commit is not None and models.checkpoints_whole(commit.version):
        return step.unchanged(tables.PROXY_CHECKPOINTS, commit)
    device = compute.prepare()
    model = build_model(config, tokenizer.encoder.vocab_size, tokenizer.chunk_tokens)
    recipe = Recipe.from_config(config, tokenizer.chunk_tokens, config.reference_tokens)
    retraining = Recipe.from_config(config, tokenizer.chunk_tokens, config.retrain_tokens)
    survivors = np.flatnonzero(corpus.survivor)
    progress = Progress("training the reference proxy", recipe.tokens, "tokens", step.say)
    curve: list[tuple[int, float]] = []

    def watch(tokens: int, loss: float) -> None:
        progress.advance(tokens - progress.done)
        curve.append((tokens, loss))

    batch_filter = None
    if config.filter_share > 0:
        batch_filter = BatchFilter(
            held_out.rows,
            held_out.sizes,
            config.filter_share,
            config.filter_target_rows,
            ("reference", config.seed),
        )
    path = f"files/proxies/{provenance.input_digest()[:16]}"
    with store.new_files(path) as folder:
        checkpoints = train_reference(
            model,
            corpus.text,
            survivors,
            recipe,
            config.seed,
            tokenizer.encoder.bos,
            (held_out.rows, held_out.sizes),
            folder,
            device,
            watch,
            batch_filter,
        )
        rows = [
            {
                "checkpoint_id": digest(tokenizer.tokenizer_id, c.sha256),
                "role": c.role,
                "path": f"{path}/{c.role}",
                "sha256": c.sha256,
                "tokens_seen": c.tokens_seen,
                "train_loss": c.train_loss,
                "validation_loss": c.validation_loss,
                "model_config": shape_json(c.folder),
                "recipe": json.dumps(retraining.__dict__, sort_keys=True),
                "seconds": c.seconds,
            }
            for c in checkpoints
        ]
    frame = pl.DataFrame(rows, schema=tables.PROXY_CHECKPOINTS.schema)
    commit = step.tables.write(tables.PROXY_CHECKPOINTS, frame, provenance)
    losses = {row["role"]: round(row["validation_loss"], 4) for row in rows}
    extra = {
        "validation_loss": dg.MetadataValue.json(losses),
        "model": dg.MetadataValue.json(model_summary(model)),
        "compute": dg.MetadataValue.json(compute.describe()),
        "training_curve": dg.MetadataValue.md(loss_curve(curve)),
    }
    if batch_filter is not None:
        share = sum(int(each.sum()) for each in batch_filter.log) / recipe.rows
        extra["sequences_left_out"] = dg.MetadataValue.float(share)
    return step.result(tables.PROXY_CHECKPOINTS, commit, len(rows), extra, recipe.tokens)
