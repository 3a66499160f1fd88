"""The dataset card: what is in an export, where it comes from, how sure we are, and how to open it."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import yaml

from grasp_pipeline.corpus.export.files import Counts
from grasp_pipeline.corpus.export.licences import NAME as NOTICES
from grasp_pipeline.corpus.export.tokens import Vocabulary

UNKNOWN = "unknown, see the source"

SIZES = (
    *((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")),
    *((10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B")),
    *((10**12, "100B<n<1T"), (math.inf, "n>1T")),
)
"""Rows below which a data set is of a size category of the Hub."""


def front_matter(rows: int, notices: bool) -> str:
    """Return the YAML head of a card that the Hugging Face Hub reads, and `datasets.load_dataset` for its splits.

    Its fields are those of `huggingface_hub.DatasetCardData`. The languages and the licence of a mixture are not known
    to the pipeline: the licence is `other`, with the notices, or `unknown` without them.

    Args:
        rows: spans of the export.
        notices: whether LICENSES.md goes with it.
    """
    licence = {"license": "unknown"}
    if notices:
        licence = {"license": "other", "license_name": "mixed", "license_link": NOTICES}
    head = {
        "pretty_name": "Pruned corpus",
        **licence,
        "task_categories": ["text-generation"],
        "size_categories": [next(name for below, name in SIZES if rows < below)],
        "tags": ["pretraining", "data-selection", "grasp-pipeline"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/*.parquet"}]},
        ],
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n"


_LOADING: dict[str, str] = {
    "parquet": """`corpus.parquet`: one row per span.

```python
import polars as pl
spans = pl.scan_parquet("corpus.parquet")
```""",
    "jsonl": """`corpus.jsonl.zst`: one JSON object per span and line.

```python
import polars as pl
spans = pl.read_ndjson("corpus.jsonl.zst")
```""",
    "huggingface": """`huggingface/`: Parquet files that `datasets` opens, without a network and without code of ours.

```python
from datasets import load_dataset
spans = load_dataset("huggingface", split="train", streaming=True)
```""",
    "mds": """`mds/`: shards of MosaicML Streaming; one sample per sequence, `tokens` begins with BOS.

```python
from streaming import StreamingDataset
sequences = StreamingDataset(local="mds", remote=None, batch_size=1, shuffle=True)
```""",
    "tokens": """`tokens/`: all sequences as one flat array; sequence i is `tokens[offsets[i]:offsets[i + 1]]`.

```python
import numpy as np
tokens = np.memmap("tokens/tokens.bin", dtype="{dtype}", mode="r")
offsets = np.load("tokens/offsets.npy", mmap_mode="r")
```""",
}


@dataclass(frozen=True)
class Card:
    """What the card says.

    Attributes:
        formats: those written.
        sources: from `source_counts`.
        reasons: reason, chunks, tokens of what was dropped.
        licences: source -> licence; a source that is not in it has an unknown one.
        certificates: rows of `tables.CERTIFICATES`.
        target: the task that was selected for.
        choice_of: which corpus the configuration of the surrogate was chosen on, where it is not the one that ships.
        settings: setting -> value: the configuration.
        versions: table (or table/partition) -> Delta version.
        code: version of the code.
        vocabulary: of the token ids.
        min_span_tokens: fewest tokens of a span that is only a part of its document.
        left_out: fragments below that, which are in no file.
    """

    formats: Sequence[str]
    sources: pl.DataFrame
    reasons: pl.DataFrame
    licences: Mapping[str, str]
    certificates: Sequence[Mapping[str, Any]]
    target: str
    choice_of: str
    settings: Mapping[str, object]
    versions: Mapping[str, int]
    code: str
    vocabulary: Vocabulary
    min_span_tokens: int = 1
    left_out: Counts = field(default_factory=Counts)


def source_counts(
    pruned: pl.LazyFrame,
    dropped: pl.LazyFrame,
    documents: pl.LazyFrame,
    rejected: pl.LazyFrame,
    kept_documents: Mapping[str, int],
) -> pl.DataFrame:
    """Count what was kept and dropped per source, reading only the columns that are counted.

    Args:
        pruned: rows of `tables.PRUNED_CORPUS`.
        dropped: rows of `tables.DROP_REASONS`.
        documents: rows of `tables.DOCUMENTS`.
        rejected: rows of `tables.REJECTED_DOCUMENTS`.
        kept_documents: source -> documents of which anything was written.

    Returns:
        source, documents_kept, documents_dropped, rejected (left out before tokenization), chunks_kept,
        chunks_dropped, tokens_kept, tokens_dropped; sorted by source.
    """
    kept = pl.DataFrame(
        {"source": list(kept_documents), "documents_kept": list(kept_documents.values())},
        schema={"source": pl.String, "documents_kept": pl.Int64},
    )
    parts = [
        documents.group_by("source").agg(documents=pl.len()),
        rejected.group_by("source").agg(rejected=pl.len()),
        pruned.group_by("source").agg(chunks_kept=pl.len(), tokens_kept=pl.col("kept_tokens").sum()),
        dropped.group_by("source").agg(chunks_dropped=pl.len(), tokens_dropped=pl.col("n_tokens").sum()),
    ]
    table = kept
    for part in parts:
        table = table.join(part.collect(engine="streaming"), on="source", how="full", coalesce=True)
    table = table.with_columns(pl.col(pl.Int64, pl.UInt32).cast(pl.Int64).fill_null(0))
    return (
        table.with_columns(documents_dropped=pl.col("documents") - pl.col("documents_kept"))
        .select(
            "source",
            *("documents_kept", "documents_dropped", "rejected"),
            *("chunks_kept", "chunks_dropped", "tokens_kept", "tokens_dropped"),
        )
        .sort("source")
    )


def reason_counts(dropped: pl.LazyFrame) -> pl.DataFrame:
    """Count the dropped chunks and tokens per reason: reason, chunks, tokens, most tokens first."""
    counts = dropped.group_by("reason").agg(chunks=pl.len(), tokens=pl.col("n_tokens").sum())
    return counts.collect(engine="streaming").sort("tokens", "reason", descending=[True, False])


def render_card(card: Card) -> str:
    """Return the card as Markdown. Values from data are escaped; there is no document text in it."""
    sections = [
        "# Pruned corpus",
        "Selected by grasp_pipeline: the documents worth pretraining on under a token budget. "
        f"{_total(card)}",
        "## Certificate\n\n" + _certificate(card),
        "## Sources\n\n" + _sources(card),
        "## Dropped\n\n" + _table(("reason", "chunks", "tokens"), card.reasons.iter_rows()),
        "## Files\n\n" + _files(card),
        "## Configuration\n\n"
        + (f"The configuration of the surrogate. {escape(card.choice_of)}\n\n" if card.choice_of else "")
        + _table(("setting", "value"), card.settings.items()),
        "## Made from\n\n"
        f"Code: {escape(card.code)}. Delta tables and the versions read:\n\n"
        + _table(("table", "version"), sorted(card.versions.items())),
    ]
    return "\n\n".join(sections) + "\n"


def escape(value: object) -> str:
    """Return a value as Markdown text that cannot become markup, a link or another table cell."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
    return re.sub(r"([\\`*_{}\[\]#|~!])", r"\\\1", html.escape(text, quote=False))


def _total(card: Card) -> str:
    sums = card.sources.select(pl.exclude("source").sum()).row(0, named=True)
    text = (
        f"Kept: {sums['tokens_kept']:,} tokens in {sums['chunks_kept']:,} chunks of {sums['documents_kept']:,} "
        f"documents. Dropped: {sums['tokens_dropped']:,} tokens in {sums['chunks_dropped']:,} chunks."
    )
    if card.left_out.rows:
        text += (
            f" Of the kept tokens {card.left_out.tokens:,} are in no file: {card.left_out.rows:,} fragments, spans of "
            f"fewer than {card.min_span_tokens} tokens whose neighbours were dropped (`export.min_span_tokens`)."
        )
    return text


def _certificate(card: Card) -> str:
    rows = sorted(
        card.certificates, key=lambda row: (row["task"] != card.target, row["task"], row["baseline"])
    )
    statements = [f"- {escape(row['statement'])}" for row in rows if row["task"] == card.target]
    columns = ("task", "baseline", "tokens", "improvement", "lower_bound", "confidence", "certified")
    return (
        "\n".join(statements)
        + "\n\nImprovement in nats per token, with its one-sided lower bound:\n\n"
        + _table(columns, ([row[name] for name in columns] for row in rows))
    )


def _sources(card: Card) -> str:
    header = (
        *("source", "licence", "documents kept", "dropped", "rejected before"),
        *("chunks kept", "dropped", "tokens kept", "dropped"),
    )
    rows = ([row[0], card.licences.get(row[0], UNKNOWN), *row[1:]] for row in card.sources.iter_rows())
    note = "A document counts as kept where any span of it is in the files."
    if card.licences:
        note += " The notices of the licences are in LICENSES.md."
    return f"{_table(header, rows)}\n\n{note}"


def _files(card: Card) -> str:
    vocabulary = card.vocabulary
    intro = (
        "A span is a run of neighbouring kept chunks of one document: doc_id (sha-256 of the document's text), part "
        "(its number within the document), source, text and n_tokens. A sequence is the tokens of a span after the "
        f"BOS id {vocabulary.bos}; there is no EOS. Spans and sequences are in the order of doc_id and part. "
        f"Tokenizer {vocabulary.tokenizer_id[:16]}, {vocabulary.size:,} tokens, ids as {vocabulary.dtype.name}. "
        "manifest.json has the rows, tokens, bytes and sha-256 of every file."
    )
    parts = [_LOADING[name].replace("{dtype}", vocabulary.dtype.str) for name in card.formats]
    return "\n\n".join([intro, *parts])


def _table(header: Sequence[str], rows: Any) -> str:
    lines = [header, ["---"] * len(header), *([escape(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
