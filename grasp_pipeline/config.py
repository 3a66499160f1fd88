"""Typed run configuration: one section per stage, each field bounded and described.

The sections are plain pydantic models, usable in a notebook. `assets/` turns each into a `dagster.Config` by
inheritance, so the Launchpad shows the same fields, bounds and descriptions. Dagster resolves a section only when
its step starts; `validate_run_config` checks all of them at the head of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from grasp_pipeline.errors import ConfigError
from grasp_pipeline.seeds import digest


class Section(BaseModel):
    """Base of every configuration section: immutable, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def digest(self) -> str:
        """Return a digest of all values; it decides, with the upstream versions, whether a table is current."""
        return digest(self.model_dump(mode="json"))


def _check_choices(field: str, values: list[str], known: tuple[str, ...]) -> None:
    unknown = sorted(set(values) - set(known))
    if unknown or len(set(values)) != len(values):
        raise ValueError(
            f"{field} is {values}; name each of {', '.join(known)} at most once, and nothing else"
        )


def check_grid(metrics: list[float], lambdas: list[float]) -> None:
    """Raise ValueError where a grid has no additive configuration or a negative value."""
    if 0.0 not in lambdas:
        raise ValueError("lambdas must contain 0, the additive configuration; add 0.0")
    if min(lambdas) < 0 or min(metrics) < 0:
        raise ValueError("lambdas and metrics must not be negative; remove the negative values")


class InputConfig(Section):
    """Where the corpus lies and how to read it."""

    paths: list[str] = Field(
        default=["data/corpus/*.parquet"],
        min_length=1,
        description="Files, folders, globs, object-store URIs (s3://, gs://, az://) or Hugging Face datasets "
        "(hf://NAME or hf:///LOCAL/FOLDER). Formats by ending: .parquet, .jsonl, .jsonl.gz, .jsonl.zst, .txt.",
    )
    text_column: str = Field(
        default="text", min_length=1, description="Column that holds the document's text."
    )
    id_column: str = Field(
        default="",
        description="Column with the user's own document id, kept in `origin`; empty: file and row only.",
    )
    source_column: str = Field(
        default="",
        description="Column that names a document's source; empty: the file's name without its endings.",
    )
    hf_split: str = Field(default="train", description="Split read from a Hugging Face dataset.")
    hf_config: str = Field(
        default="", description="Configuration name of a Hugging Face dataset; empty: its default."
    )
    hf_streaming: bool = Field(
        default=True, description="Stream Hugging Face datasets instead of downloading them first."
    )
    block_bytes: int = Field(
        default=4_000_000,
        ge=10_000,
        description="Text bytes per arrival block: the unit that is assigned to a shard and never moves again.",
    )
    max_document_bytes: int = Field(
        default=20_000_000,
        ge=1_000,
        description="Longer documents are rejected (`oversized`) instead of being tokenized.",
    )


class TasksConfig(Section):
    """Held-out documents of the target tasks."""

    paths: list[str] = Field(
        default=["data/tasks/*.parquet"],
        min_length=1,
        description="Parquet or JSON lines with columns task and text, optionally document, split and fold.",
    )
    text_column: str = Field(default="text", min_length=1, description="Column that holds the text.")
    task_column: str = Field(default="task", min_length=1, description="Column that names the task.")
    document_column: str = Field(
        default="document",
        description="Column that identifies a document; absent from the file: the text's digest.",
    )
    min_documents: int = Field(
        default=20,
        ge=4,
        description="Refuse a task with fewer documents in any split (calibration: in any fold).",
    )


class CleaningConfig(Section):
    """Duplicates, noise and contamination."""

    exact_duplicates: Literal["drop", "keep"] = Field(
        default="drop", description="`drop` keeps the first of each group of equal normalised texts."
    )
    near_duplicates: Literal["one", "all", "finalists"] = Field(
        default="finalists",
        description="`one` rejects all but one document of a near-duplicate cluster, `all` keeps them, "
        "`finalists` keeps them and lets the finalists compare both.",
    )
    near_duplicate_threshold: float = Field(
        default=0.8,
        gt=0.3,
        le=1.0,
        description="Estimated Jaccard similarity of word shingles that joins a cluster.",
    )
    noise_rules: bool = Field(
        default=True, description="Apply the fixed noise rules (length, symbols, repetition...)."
    )
    min_characters: int = Field(default=50, ge=0, description="Shorter documents are rejected (`too_short`).")
    max_symbol_ratio: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Largest share of characters that are neither letters, digits nor space.",
    )
    max_repetition: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="Largest share of characters in repeated lines or repeated word 5-grams.",
    )
    min_compression_ratio: float = Field(
        default=0.08,
        ge=0,
        lt=1,
        description="Smallest zlib size over text size: lower means the text repeats itself.",
    )
    max_compression_ratio: float = Field(
        default=0.95,
        gt=0,
        description="Largest zlib size over text size for texts above 1,000 bytes: higher means "
        "random bytes or encoded data.",
    )
    languages: list[str] = Field(
        default=[],
        description="ISO 639-1 codes to keep, identified with py3langid; empty keeps all languages.",
    )
    perplexity_quantile: float = Field(
        default=0.99,
        gt=0.5,
        le=1.0,
        description="Documents above this quantile of n-gram perplexity under the tasks' query texts are "
        "rejected (`query_perplexity`); 1 switches the rule off.",
    )
    contamination_share: float = Field(
        default=0.2,
        gt=0,
        le=1.0,
        description="Corpus documents holding more than this share of a held-out document's 13-grams are "
        "rejected (`contamination`); 1 switches the rule off.",
    )


class TokenizerConfig(Section):
    """Byte-pair encoding trained on the corpus, or a Hugging Face tokenizer."""

    name: str = Field(
        default="",
        description="Hugging Face tokenizer by name or local folder; empty trains a byte-level BPE.",
    )
    vocab_size: int = Field(default=2048, ge=300, le=65_536, description="Size of the trained vocabulary.")
    train_bytes: int = Field(
        default=8_000_000,
        ge=10_000,
        description="Text bytes, sampled over all documents, that the BPE is trained on.",
    )
    chunk_tokens: int = Field(
        default=128, ge=8, le=8192, description="Tokens per chunk, L, for the corpus and the tasks."
    )
    trust_remote_code: bool = Field(
        default=False, description="Run code shipped with a hub tokenizer. Off unless you trust its author."
    )


class TaskChunkingConfig(Section):
    """Held-out documents to chunks."""

    max_chunks_per_document: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Chunks kept of a held-out document. Chunks of one document agree almost fully, so more "
        "documents tell more than more chunks.",
    )


class ProxyConfig(Section):
    """The proxy language model, its reference training and the recipe of every retraining."""

    preset: Literal["tiny", "tiny-4x", "small", "gpt2-tiny", "pythia-14m", "pythia-70m", "pythia-160m"] = (
        Field(
            default="tiny",
            description="Shape of the proxy: tiny is a 0.2M-parameter Llama block stack for CPU.",
        )
    )
    checkpoint: str = Field(
        default="",
        description="Local folder or hub name of a causal LM to start from instead of a seeded preset.",
    )
    trust_remote_code: bool = Field(
        default=False, description="Run code shipped with a hub model. Off unless you trust its author."
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of the initialisation and of the reference training's order."
    )
    reference_tokens: int = Field(
        default=1_000_000,
        ge=1_000,
        description="Tokens the reference proxy (where gradients are taken) is trained on.",
    )
    early_fraction: float = Field(
        default=0.33,
        gt=0,
        lt=1,
        description="Share of the reference training after which the early checkpoint is kept.",
    )
    retrain_tokens: int = Field(
        default=200_000,
        ge=1_000,
        description="Tokens of every retraining on a subset, from the shared initialisation.",
    )
    batch_sequences: int = Field(default=2, ge=1, description="Sequences of L tokens per optimiser step.")
    learning_rate: float = Field(default=5e-3, gt=0, le=1.0, description="Peak learning rate of AdamW.")
    warmup_fraction: float = Field(
        default=0.1, ge=0, lt=1, description="Share of the steps with rising learning rate."
    )
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's decoupled weight decay.")
    clip_norm: float = Field(
        default=1.0, gt=0, description="Largest gradient norm; larger gradients are scaled down."
    )


class SketchConfig(Section):
    """Which gradient sketches every chunk gets."""

    kinds: list[str] = Field(
        default=["output", "full"],
        min_length=1,
        description="`output`: output layer, forward pass only. `full`: whole gradient, sparse JL projection. "
        "`layers`: every linear layer and embedding, projected on both sides, one block per layer.",
    )
    output_hidden_dim: int = Field(default=64, ge=1, le=512, description="Projected hidden side of `output`.")
    output_vocab_dim: int = Field(
        default=64, ge=1, le=4096, description="Projected vocabulary side of `output`."
    )
    full_dim: int = Field(default=1024, ge=8, le=65_536, description="Dimension of `full`.")
    full_sparsity: int = Field(
        default=4, ge=1, le=64, description="Non-zeros per parameter in the sparse JL."
    )
    layers_input_dim: int = Field(
        default=8,
        ge=1,
        le=64,
        description="Projected input side of each layer of `layers`. Its dimension is the number of layers times "
        "both sides: 1,024 for the preset tiny.",
    )
    layers_output_dim: int = Field(
        default=8, ge=1, le=64, description="Projected output side of each layer of `layers`."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the projections.")
    early_share: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="Share of the chunks (by hash) sketched at the early checkpoint, for the judge.",
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        _check_choices("kinds", self.kinds, ("output", "full", "layers"))
        return self


class ProtocolConfig(Section):
    """What is written down before anything is measured: target, budget, candidates and error rate."""

    target: str = Field(
        default="mean", min_length=1, description="Task to select for, or `mean` for the mean of all."
    )
    budget_fraction: float = Field(
        default=0.25,
        description="Share of the clean corpus's tokens to keep; ignored when budget_tokens is above 0.",
    )
    budget_tokens: int = Field(default=0, description="Tokens to keep; 0 uses budget_fraction.")
    metrics: list[float] = Field(
        default=[0.0, 1.0, 3.0],
        min_length=1,
        description="Metrics M to try: 0 is the identity, rho > 0 whitens with damping rho * tr(C)/d.",
    )
    lambdas: list[float] = Field(
        default=[0.0, 0.5, 0.7, 1.0, 1.4],
        min_length=1,
        description="Weights of the quadratic penalty; 0 must be in.",
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="Family-wise one-sided confidence.")
    bootstrap: int = Field(
        default=4_000, ge=200, le=200_000, description="Bootstrap resamples of the subsets."
    )

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        check_grid(self.metrics, self.lambdas)
        if self.budget_tokens < 0:
            raise ValueError(f"budget_tokens is {self.budget_tokens}; give a number of tokens above 0")
        if self.budget_tokens == 0 and not 0 < self.budget_fraction <= 1:
            raise ValueError(
                f"budget_fraction is {self.budget_fraction}; give a share of the corpus above 0 and at most 1"
            )
        return self


class SubsetsConfig(Section):
    """Designs of the subsets that are really retrained."""

    calibration_subsets: int = Field(
        default=24, ge=8, le=10_000, description="Subsets that the configuration is chosen on."
    )
    evaluation_subsets: int = Field(
        default=32, ge=8, le=10_000, description="Sealed subsets, read by `fidelity` alone."
    )
    seeds: int = Field(
        default=2, ge=2, le=32, description="Training seeds per subset; two at least, for the ceiling."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the draws.")


class FinalistsConfig(Section):
    """The finalists: who enters, how many are retrained, and what may be published."""

    shortlist: int = Field(
        default=4, ge=1, le=64, description="Optimised candidates retrained besides the simple arms."
    )
    random_draws: int = Field(default=4, ge=3, le=64, description="Independent draws of the random arm, R.")
    optimiser_gap: float = Field(
        default=1e-3, gt=0, lt=1, description="Relative duality gap at which Frank-Wolfe stops."
    )
    max_passes: int = Field(default=200, ge=1, description="Most Frank-Wolfe passes per candidate.")
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="One-sided confidence of the certificate."
    )
    allow_uncertified: bool = Field(
        default=False,
        description="Publish the pruned corpus although its lower bound over random is not above 0.",
    )


class FidelityConfig(Section):
    """The sealed evaluation."""

    arm_seeds: int = Field(
        default=3, ge=2, le=64, description="Fresh training seeds per arm on the evaluation documents."
    )
    bootstrap: int = Field(
        default=2_000, ge=200, le=200_000, description="Bootstrap resamples for the intervals."
    )


class ExportConfig(Section):
    """Files that people train on, written below the store's folder `export`."""

    formats: list[str] = Field(
        default=["parquet", "jsonl"],
        min_length=1,
        description="Of `parquet` (zstd), `jsonl` (JSON lines, zstd), `huggingface` (a folder that "
        "datasets.load_dataset opens), `mds` (MosaicML Streaming; needs the extra mds) and `tokens` (a flat array of "
        "token ids with offsets).",
    )
    shard_tokens: int = Field(
        default=2**25,
        ge=2**10,
        le=2**28,
        description="Tokens per file of `huggingface` and `mds`; a file may hold one span more. The other formats are "
        "one file each.",
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        _check_choices("formats", self.formats, ("parquet", "jsonl", "huggingface", "mds", "tokens"))
        return self


class VisionConfigSection(Section):
    """The laboratory's protocol on images: a pool of a data set, an image classifier, and every method beside it."""

    data_set: Literal["digits", "fashion_mnist"] = Field(
        default="digits",
        description="`digits`: scikit-learn's 1,797 images of 8 x 8 pixels, always there. `fashion_mnist`: 60,000 of "
        "28 x 28 pixels, from the Debian package dataset-fashion-mnist.",
    )
    folder: str = Field(
        default="/usr/share/datasets/fashion-mnist",
        min_length=1,
        description="Folder of Fashion-MNIST's files; `digits` does not read it.",
    )
    pool: int = Field(default=800, ge=100, le=50_000, description="Images of the pool, copies among them.")
    duplicate_share: float = Field(
        default=0.2,
        ge=0,
        lt=0.9,
        description="Share of the pool that are copies, half exact and half jittered.",
    )
    copies_each: int = Field(default=4, ge=1, le=100, description="Most copies of one image.")
    label_noise: float = Field(
        default=0.1, ge=0, lt=0.9, description="Share of the pool's images with a wrong label."
    )
    query_images: int = Field(
        default=40, ge=4, le=10_000, description="Images per task that directions are taken from."
    )
    evaluation_images: int = Field(
        default=100, ge=4, le=10_000, description="Images per task that utilities are taken on."
    )
    calibration_subsets: int = Field(
        default=96,
        ge=12,
        le=10_000,
        description="Subsets that the configuration is chosen on: a third of them tilted and a third drawn towards "
        "a task, the rest uniform, half of it at a tenth of the pool.",
    )
    evaluation_subsets: int = Field(
        default=84,
        ge=12,
        le=10_000,
        description="Random subsets that methods are compared on: three in seven tilted, the rest uniform, half of it "
        "at a tenth of the pool.",
    )
    optimised_tasks: int = Field(
        default=4,
        ge=0,
        le=5,
        description="Tasks that add finalists to the evaluation, one of every selector.",
    )
    seeds: int = Field(
        default=2,
        ge=2,
        le=32,
        description="Training seeds per evaluation subset; two at least, for the ceiling.",
    )
    steps: int = Field(default=200, ge=10, le=1_000_000, description="Optimiser steps of every retraining.")
    batch_images: int = Field(default=32, ge=1, le=65_536, description="Images per optimiser step.")
    learning_rate: float = Field(default=3e-3, gt=0, le=1.0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(default=1.0, ge=0, description="AdamW's decoupled weight decay.")
    metrics: list[float] = Field(
        default=[1.0, 3.0, 10.0],
        min_length=1,
        description="Metrics M to try: 0 is the identity, rho > 0 whitens with damping rho * tr(C)/d.",
    )
    lambdas: list[float] = Field(
        default=[0.0, 1.0, 2.0],
        min_length=1,
        description="Weights of the quadratic penalty; 0 must be in.",
    )
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="Family-wise one-sided confidence of the choice."
    )
    bootstrap: int = Field(
        default=2_000, ge=200, le=200_000, description="Bootstrap resamples of the subsets."
    )
    full_dim: int = Field(
        default=1024, ge=8, le=65_536, description="Dimension of the sketch of the whole gradient."
    )
    output_hidden_dim: int = Field(
        default=32, ge=1, le=512, description="Projected hidden side of the output layer's sketch."
    )
    seed: int = Field(
        default=0, ge=0, description="Seed of the whole protocol: pool, initial weights, subsets, sketches."
    )

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        check_grid(self.metrics, self.lambdas)
        return self


SECTIONS: dict[str, type[Section]] = {
    "manifest": InputConfig,
    "task_documents": TasksConfig,
    "documents": CleaningConfig,
    "tokenizer": TokenizerConfig,
    "tasks": TaskChunkingConfig,
    "proxy_checkpoints": ProxyConfig,
    "sketchers": SketchConfig,
    "candidates": ProtocolConfig,
    "subsets": SubsetsConfig,
    "finalists": FinalistsConfig,
    "sealed_evaluation": FidelityConfig,
    "export": ExportConfig,
    "vision_fidelity": VisionConfigSection,
}
"""Step name in a run configuration (`ops: NAME: config:`) -> section."""


def validate_run_config(ops: Mapping[str, Any]) -> None:
    """Check every section of a run's `ops` at once.

    Raises:
        ConfigError: names the step, the field, the value's fault and what is allowed.
    """
    faults: list[str] = []
    for step, section in SECTIONS.items():
        values = (ops.get(step) or {}).get("config") or {}
        try:
            section.model_validate(values)
        except ValidationError as error:
            for fault in error.errors():
                field = ".".join(str(part) for part in fault["loc"]) or "config"
                faults.append(f"{step}.{field}: {fault['msg'].removeprefix('Value error, ')}")
    if faults:
        raise ConfigError(
            "The run configuration cannot be used: " + "; ".join(faults) + ". Correct it and launch again."
        )
