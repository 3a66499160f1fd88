"""Sections of the stages from files to chunks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from grasp_pipeline.corpus.noise import NoiseConfig
from grasp_pipeline.section import Section


class InputConfig(Section):
    """Where the corpus lies and how to read it."""

    paths: list[str] = Field(
        default=["data/corpus/*.parquet"],
        min_length=1,
        description="Files, folders, globs, object-store URIs (s3://, gs://, az://) or Hugging Face datasets "
        "(hf://NAME or hf:///LOCAL/FOLDER). Formats by ending: .parquet, .jsonl, .jsonl.gz, .jsonl.zst, .txt; how a "
        "file is compressed and encoded, its first bytes say. A folder gives the files below it, in a glob too.",
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


class _Duplicates(Section):
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


class _Comparisons(Section):
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


class CleaningConfig(_Comparisons, NoiseConfig, _Duplicates):
    """Duplicates, noise and contamination."""


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
