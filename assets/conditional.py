"""Conditional losses: the reference proxy, fine-tuned for a moment on the target's texts, on every chunk."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import dagster as dg

from assets.sections import ConditionalRun
from assets.stages import GPU_POOL, Reading, stage
from assets.step import Step
from grasp_pipeline import tables
from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.progress import Progress
from resources.compute import Compute
from resources.models import Models
from resources.notes import ConditionalNote
from resources.store import DeltaStore

if TYPE_CHECKING:
    import polars as pl

    from grasp_pipeline.arrays import Floats
    from grasp_pipeline.proxy.objective import CausalLM, Parameters
    from resources.delta.commits import Commit, Read

SPLITS = ("query", "judge")
BATCH_ROWS = 4096
"""Chunks of a block."""

WEIGHTS = "model.safetensors"

PASS_ROWS = 16
"""Chunks of one forward pass; on two cores 64 are a quarter slower."""


@stage(
    group="selection",
    kinds={"pytorch", "deltalake"},
    code_version="4",
    reads=[
        tables.TOKENIZER,
        tables.PROXY_CHECKPOINTS,
        tables.CANDIDATES,
        *(Reading(tables.TASKS, split) for split in SPLITS),
        Reading(tables.TOKENIZED_SHARDS, by="shard"),
    ],
    writes={
        tables.CONDITIONAL_LOSSES: "Every chunk's loss after a short fine-tuning of the reference proxy on the "
        "target's query chunks, for a candidate, and on its judge chunks, for the judge. New or changed shards only."
    },
    pool=GPU_POOL,
)
def conditional_losses(
    context: dg.AssetExecutionContext,
    config: ConditionalRun,
    store: DeltaStore,
    models: Models,
    compute: Compute,
) -> dg.MaterializeResult:
    """Fine-tune twice and score the shards that are new or changed; where it is not asked for, hold nothing."""
    import polars as pl

    from assets.data import shard_tokens, token_digest
    from assets.finalists import load_target
    from grasp_pipeline.engine import BuiltOnce, map_jobs
    from grasp_pipeline.proxy.conditional import LossScorer, fine_tune
    from grasp_pipeline.proxy.training import stack_models
    from grasp_pipeline.proxy.work import core_seconds
    from grasp_pipeline.seeds import digest

    step = Step(context, store, config)
    if not config.enabled:
        return _nothing(step)
    tokenizer = models.tokenizer(step.pin(tables.TOKENIZER).version)
    proxies = step.pin(tables.PROXY_CHECKPOINTS)
    target = load_target(step, step.read(tables.CANDIDATES).collect().row(0, named=True))
    asked = pl.col("task").is_in(target.counted)
    texts = {
        split: step.read(tables.TASKS, {"split": split}).filter(asked).collect().sort("task", "chunk_id")
        for split in SPLITS
    }
    used = step.tables.read(tables.PROXY_CHECKPOINTS, proxies.version).filter(
        pl.col("role").is_in(["initial", "reference"])
    )
    tuned_from = digest(
        used.select("role", "checkpoint_id", "recipe").sort("role").collect().rows(),
        tokenizer.tokenizer_id,
        [token_digest([frame]) for frame in texts.values()],
    )

    folder = f"files/conditional/{tuned_from[:16]}"
    stored = all(store.has_file(f"{folder}/{split}/{WEIGHTS}") for split in SPLITS)
    found: list[Commit] = []
    waiting: list[_Shard] = []
    names = {c.partition["shard"] for c in step.tables.commits(tables.TOKENIZED_SHARDS) if c.partition}
    for name in sorted(names):
        shard = _Shard(step, name, step.part(tables.TOKENIZED_SHARDS, {"shard": name}), tuned_from)
        commit = shard.current() if stored else None
        if commit is None:
            waiting.append(shard)
        else:
            found.append(commit)
    tokens = 0
    if waiting:
        reference = models.proxy(proxies.version, "reference").objective
        if not stored:
            recipe = models.proxy(proxies.version, "initial").recipe
            step.say(f"fine-tuning the reference proxy on {' and '.join(SPLITS)} chunks")
            weights = fine_tune(
                reference,
                reference.parameters(),
                {split: TokenLists.of_column(frame["input_ids"]) for split, frame in texts.items()},
                recipe,
                tokenizer.encoder.bos,
                compute.prepare(),
            )
            _save(store, folder, reference, weights)
        tuned = {split: stored_weights(store, f"{folder}/{split}") for split in SPLITS}
        weights = stack_models([parameters for _, parameters in tuned.values()])
        tokens = sum(shard_tokens(step, shard.source, shard.name) for shard in waiting)
        progress = Progress("scoring chunks", tokens, "tokens", step.say)
        device = compute.worker_devices()[0]
        scorer = LossScorer(
            reference, weights, tokenizer.encoder.bos, tokenizer.chunk_tokens, PASS_ROWS, device
        )
        with compute.map_engine(core_seconds(weights, tokens, passes=1)) as engine:
            for shard, scored in map_jobs(engine, BuiltOnce(scorer), waiting, _Shard.blocks):
                note = ConditionalNote(
                    made_from=shard.made_from, tuned_path=f"{folder}/query", tuned_sha256=tuned["query"][0]
                )
                found.append(
                    step.tables.write(
                        tables.CONDITIONAL_LOSSES,
                        pl.concat([tables.CONDITIONAL_LOSSES.empty(), *_rows(scored, progress)]),
                        step.provenance(shard.source),
                        shard.partition,
                        note.to_json(),
                    )
                )
    newest = max(found, key=lambda commit: commit.version)
    return step.result(
        tables.CONDITIONAL_LOSSES,
        newest,
        step.rows(tables.CONDITIONAL_LOSSES, newest),
        {"shards_scored": len(waiting)},
        tokens,
        up_to_date=not waiting,
    )


def _nothing(step: Step) -> dg.MaterializeResult:
    """Empty the table where it holds anything."""
    names = {c.partition["shard"] for c in step.tables.commits(tables.TOKENIZED_SHARDS) if c.partition}
    commit = None
    for name in sorted(names):
        partition = {"shard": name}
        provenance = step.provenance(step.part(tables.TOKENIZED_SHARDS, partition))
        commit = step.current(tables.CONDITIONAL_LOSSES, provenance, partition) or step.tables.write(
            tables.CONDITIONAL_LOSSES, tables.CONDITIONAL_LOSSES.empty(), provenance, partition
        )
    assert commit is not None, "a corpus has at least one shard"
    return step.result(tables.CONDITIONAL_LOSSES, commit, 0, {"enabled": False})


def stored_weights(store: DeltaStore, path: str) -> tuple[str, "Parameters"]:
    """Load a fine-tuned proxy from the store: the sha-256 of its weights, and the weights.

    Raises:
        StoreError: the folder is missing.
    """
    from grasp_pipeline.proxy.objective import CausalLM
    from grasp_pipeline.proxy.presets import load_model
    from grasp_pipeline.proxy.reference import file_digest

    with store.files(path) as folder:
        return file_digest(folder / WEIGHTS), CausalLM(load_model(folder)).parameters()


def _save(store: DeltaStore, path: str, reference: "CausalLM", weights: "Parameters") -> None:
    """Write the fine-tuned proxies into a folder of the store, one folder per split; new files score by them too."""
    from copy import deepcopy

    from grasp_pipeline.proxy.reference import save
    from grasp_pipeline.proxy.training import unstack

    model = deepcopy(reference.model)
    with store.new_files(path) as folder:
        for index, split in enumerate(SPLITS):
            save(model, unstack(weights, index), folder / split)


@dataclass
class _Shard:
    """One shard of `tokenized_shards` at the version read; tuned_from: digest of models and texts."""

    step: Step
    name: str
    source: "Read"
    tuned_from: str

    @property
    def partition(self) -> dict[str, str]:
        """The shard's partition, of the chunks as of their losses."""
        return {"shard": self.name}

    @cached_property
    def made_from(self) -> str:
        """Digest of all that the shard's losses depend on."""
        from assets.data import shard_digest
        from grasp_pipeline.seeds import digest

        return digest(self.tuned_from, shard_digest(self.step, self.source, self.name))

    def current(self) -> "Commit | None":
        """Return the last commit of the shard's losses where it was made from the same things, else None."""
        provenance = self.step.provenance(self.source)
        return self.step.unmoved(
            tables.CONDITIONAL_LOSSES, provenance, self.partition, ConditionalNote, lambda: self.made_from
        )

    def blocks(self) -> Iterator[tuple["pl.DataFrame", TokenLists]]:
        """Read the shard's chunks block by block: the rows, and their tokens."""
        columns = ["chunk_id", "input_ids", "n_tokens", "shard"]
        for frame in self.step.tables.batches(
            tables.TOKENIZED_SHARDS, self.source.version, self.partition, columns, BATCH_ROWS
        ):
            yield frame, TokenLists.of_column(frame["input_ids"])


def _rows(scored: "Iterator[tuple[pl.DataFrame, Floats]]", progress: Progress) -> "Iterator[pl.DataFrame]":
    """Yield rows of `conditional_losses`, a frame at a time."""
    import polars as pl

    for frame, losses in scored:
        named = {split: pl.Series(values) for split, values in zip(SPLITS, losses, strict=True)}
        yield frame.select("chunk_id", **named, shard="shard")
        progress.advance(int(frame["n_tokens"].sum()))
