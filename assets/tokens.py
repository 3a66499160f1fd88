"""Text to tokens: the tokenizer, the corpus's chunks by shard, and the tasks' chunks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.partitions import SHARDS
from assets.sections import TaskChunkingRun, TokenizerRun
from assets.stages import Reading, stage
from assets.step import Step
from grasp_pipeline import tables
from grasp_pipeline.progress import Progress
from resources.compute import Compute
from resources.models import Models
from resources.notes import TasksNote, TokensNote
from resources.store import DeltaStore

if TYPE_CHECKING:
    import polars as pl

    from grasp_pipeline.corpus.chunk_stream import Tokenize
    from grasp_pipeline.engine import Engine
    from resources.delta.commits import Commit, Read
    from resources.models import LoadedTokenizer

_BATCH_ROWS = 256
"""Rows of tables with texts or tokens that are read at once."""

_BYTES_PER_SECOND = 1_500_000
"""Text that one core tokenizes in a second, about."""

_GROUP_TOKENS = 1_000_000
"""Tokens of a row group of a shard's file."""


@stage(
    group="tokens",
    kinds={"huggingface", "deltalake"},
    code_version="1",
    reads=[tables.DOCUMENTS],
    writes={
        tables.TOKENIZER: "Byte-level BPE trained on a sample of the documents, or a Hugging Face tokenizer by name."
    },
    kept=True,
)
def tokenizer(
    context: dg.AssetExecutionContext, config: TokenizerRun, store: DeltaStore, models: Models
) -> dg.MaterializeResult:
    """Train or load the tokenizer and store its files."""
    import polars as pl

    from grasp_pipeline.corpus.tokenizer import first_documents, load_pretrained, sample_texts, train_bpe

    step = Step(context, store, config)
    documents = step.read(tables.DOCUMENTS)
    provenance = step.provenance()
    commit = step.current(tables.TOKENIZER, provenance)
    if commit is not None and models.tokenizer_whole(commit.version):
        return step.unchanged(tables.TOKENIZER, commit)
    texts = sample_texts(first_documents(documents, config.train_bytes), config.train_bytes)
    encoder = load_pretrained(config) if config.name else train_bpe(texts, config.vocab_size)
    identity = encoder.tokenizer_id
    path = f"files/tokenizers/{identity[:16]}"
    with store.new_files(path) as folder:
        encoder.save(folder)
    probe = texts[:500]
    n_bytes = sum(len(text.encode()) for text in probe)
    n_tokens = sum(len(ids) for ids, _ in encoder.encode(probe))
    row = {
        "tokenizer_id": identity,
        "path": path,
        "vocab_size": encoder.vocab_size,
        "bos": encoder.bos,
        "chunk_tokens": config.chunk_tokens,
        "bytes_per_token": n_bytes / n_tokens,
    }
    commit = step.tables.write(tables.TOKENIZER, pl.DataFrame([row]), provenance)
    extra = {"vocab_size": encoder.vocab_size, "bytes_per_token": round(n_bytes / n_tokens, 3)}
    return step.result(tables.TOKENIZER, commit, 1, extra)


@stage(
    group="tokens",
    kinds={"polars", "deltalake"},
    code_version="4",
    reads=[tables.TOKENIZER, Reading(tables.DOCUMENTS, by="shard")],
    writes={tables.TOKENIZED_SHARDS: "Chunks of L tokens that tile every document, shard by shard."},
    partitions_def=SHARDS,
)
def tokenized_shards(
    context: dg.AssetExecutionContext, store: DeltaStore, models: Models, compute: Compute
) -> dg.MaterializeResult:
    """Tokenize the documents that are new in shards that are new or changed."""
    step = Step(context, store)
    tokenizer_read = step.pin(tables.TOKENIZER)
    sources = {
        shard: step.part(tables.DOCUMENTS, {"shard": shard})
        for shard in context.partition_keys
        if step.tables.latest(tables.DOCUMENTS, {"shard": shard}) is not None
    }
    commits = {
        shard: step.current(tables.TOKENIZED_SHARDS, step.provenance(source), {"shard": shard})
        for shard, source in sources.items()
    }
    waiting = [shard for shard, commit in commits.items() if commit is None]
    if waiting:
        tokenize = _tokenizing(models.tokenizer(tokenizer_read.version))
        n_bytes = sum(_Shard.of(step, sources[shard]).n_bytes_left for shard in waiting)
        with compute.map_engine(n_bytes / _BYTES_PER_SECOND) as engine:
            for shard in waiting:
                commits[shard] = _tokenize_shard(step, sources[shard], tokenize, engine)
    rows, tokens = 0, 0
    for shard in context.partition_keys:
        commit = commits.get(shard)
        if commit is None:
            context.add_asset_metadata({"dagster/partition_row_count": 0}, partition_key=shard)
            continue
        note = TokensNote.of(commit)
        rows += note.rows
        tokens += note.tokens
        context.add_asset_metadata(
            {
                "dagster/partition_row_count": note.rows,
                "partition_tokens": note.tokens,
                "partition_delta_version": commit.version,
            },
            partition_key=shard,
        )
    newest = step.tables.latest(tables.TOKENIZED_SHARDS)
    if newest is None:
        raise dg.Failure(
            f"none of the shards {', '.join(context.partition_keys)} holds documents; pick another shard"
        )
    return step.result(
        tables.TOKENIZED_SHARDS,
        newest,
        rows,
        {"shards_written": len(waiting)},
        tokens,
        up_to_date=not waiting,
    )


def _tokenizing(loaded: "LoadedTokenizer") -> "Tokenize":
    from grasp_pipeline.corpus.chunk_stream import Tokenize

    return Tokenize.of(loaded.encoder, loaded.chunk_tokens)


@dataclass(frozen=True)
class _Shard:
    """A shard's documents, and which of them its last commit holds the chunks of.

    Attributes:
        ids: (doc_id, source, n_bytes) of all documents.
        before: the last commit, if this code made it with the tokenizer that is read now.
        made: doc_id of the documents that it cut into chunks.
    """

    ids: "pl.DataFrame"
    before: "Commit | None"
    made: "pl.DataFrame"

    @classmethod
    def of(cls, step: Step, source: "Read") -> "_Shard":
        ids = step.tables.rows(source).select("doc_id", "source", "n_bytes").collect()
        provenance, partition = step.provenance(source), dict(source.partition)
        last = step.tables.latest(tables.TOKENIZED_SHARDS, partition)
        now = next(read.version for read in provenance.reads if read.table == tables.TOKENIZER.name)
        same = (
            last is not None
            and last.metadata["code_version"] == provenance.code_version
            and last.reads.get(tables.TOKENIZER.name) == now
        )
        if last is None or not same:
            return cls(ids, None, ids.head(0).select("doc_id"))
        stored = step.tables.read(tables.TOKENIZED_SHARDS, last.version, partition).select("doc_id").unique()
        return cls(ids, last, ids.select("doc_id").join(stored.collect(), on="doc_id", how="semi"))

    @property
    def n_bytes(self) -> int:
        """Text of all documents."""
        return int(self.ids["n_bytes"].sum())

    @property
    def n_bytes_left(self) -> int:
        """Text of the documents to tokenize."""
        return int(self.ids.join(self.made, on="doc_id", how="anti")["n_bytes"].sum())


def _tokenize_shard(step: Step, source: "Read", tokenize: "Tokenize", engine: "Engine") -> "Commit":
    """Write a shard's chunks; those that its last commit made of the same documents are read, not made again."""
    import polars as pl

    from assets.scratch import scratch_file
    from grasp_pipeline.corpus.chunk_stream import chunk_stream

    table, partition = tables.TOKENIZED_SHARDS, dict(source.partition)
    shard = _Shard.of(step, source)
    progress = Progress(f"tokenizing {partition['shard']}", shard.n_bytes_left / 3, "tokens", step.say)
    rows = tokens = 0

    def known() -> "Iterator[pl.DataFrame]":
        if shard.before is not None and shard.made.height:
            sources = shard.ids.select("doc_id", now="source")  # a renamed file's documents have another
            for frame in step.tables.batches(table, shard.before.version, partition, rows=_BATCH_ROWS):
                joined = frame.join(sources, on="doc_id", how="inner")
                yield joined.with_columns(source=pl.col("now")).select(list(table.schema))

    def new() -> "Iterator[pl.DataFrame]":
        if shard.made.height < shard.ids.height:
            for frame in step.tables.batches(tables.DOCUMENTS, source.version, partition, rows=_BATCH_ROWS):
                yield frame.join(shard.made, on="doc_id", how="anti")

    def counted(frames: "Iterator[pl.DataFrame]") -> "Iterator[pl.DataFrame]":
        nonlocal rows, tokens
        for frame in frames:
            rows += frame.height
            tokens += int(frame["n_tokens"].sum())
            yield frame

    def note() -> dict[str, Any]:
        return TokensNote(tokens=tokens, rows=rows, bytes=shard.n_bytes).to_json()

    with scratch_file(step.store) as scratch:
        chunks = chunk_stream(new(), tokenize, known(), scratch, shard.n_bytes, engine, progress.advance)
        group = max(64, _GROUP_TOKENS // tokenize.chunk_tokens)
        return step.tables.write_stream(
            table, counted(chunks), step.provenance(source), partition, note, group
        )


@stage(
    group="tokens",
    kinds={"polars", "deltalake"},
    code_version="2",
    reads=[tables.TASK_DOCUMENTS, tables.TOKENIZER],
    writes={tables.TASKS: "Chunks of the held-out documents of every task."},
    kept=True,
)
def tasks(
    context: dg.AssetExecutionContext, config: TaskChunkingRun, store: DeltaStore, models: Models
) -> dg.MaterializeResult:
    """Tokenize the held-out documents with the corpus's tokenizer and chunk length."""
    from grasp_pipeline.corpus.chunking import chunk_tasks
    from resources.audit import documents_digest

    step = Step(context, store, config)
    documents = step.read(tables.TASK_DOCUMENTS)
    tokenizer_read = step.pin(tables.TOKENIZER)
    provenance = step.provenance()
    if (commit := step.current(tables.TASKS, provenance)) is not None:
        return step.unchanged(tables.TASKS, commit)
    loaded = models.tokenizer(tokenizer_read.version)
    frame = chunk_tasks(
        documents.collect(), loaded.encoder, loaded.chunk_tokens, config.max_chunks_per_document
    )
    sealed = TasksNote(evaluation_documents=documents_digest(frame.filter(split="evaluation")))
    commit = step.tables.write(tables.TASKS, frame, provenance, statistics=sealed.to_json())
    per_split = frame.group_by("task", "split").len().sort("task", "split")
    chunks = {f"{task}/{split}": count for task, split, count in per_split.iter_rows()}
    extra = {"chunks": dg.MetadataValue.json(chunks)}
    return step.result(tables.TASKS, commit, frame.height, extra, int(frame["n_tokens"].sum()))
