"""Text to tokens: the tokenizer, the corpus's chunks by shard, and the tasks' chunks."""

import dagster as dg

from assets.partitions import SHARDS
from assets.sections import TaskChunkingRun, TokenizerRun
from assets.stages import Reading, stage
from assets.step import Step
from grasp_pipeline import tables
from grasp_pipeline.progress import Progress
from resources.models import Models
from resources.notes import TasksNote, TokensNote
from resources.store import DeltaStore


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
    context: dg.AssetExecutionContext, config: TokenizerRun, store: DeltaStore
) -> dg.MaterializeResult:
    """Train or load the tokenizer and store its files."""
    import polars as pl

    from grasp_pipeline.corpus.tokenizer import load_pretrained, sample_texts, train_bpe

    step = Step(context, store, config)
    documents = step.read(tables.DOCUMENTS)
    provenance = step.provenance()
    if (commit := step.current(tables.TOKENIZER, provenance)) is not None:
        return step.unchanged(tables.TOKENIZER, commit)
    texts = sample_texts(documents.select("doc_id", "text", "n_bytes").collect(), config.train_bytes)
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
    code_version="3",
    reads=[tables.TOKENIZER, Reading(tables.DOCUMENTS, by="shard")],
    writes={tables.TOKENIZED_SHARDS: "Chunks of L tokens that tile every document, shard by shard."},
    partitions_def=SHARDS,
)
def tokenized_shards(
    context: dg.AssetExecutionContext, store: DeltaStore, models: Models
) -> dg.MaterializeResult:
    """Tokenize the shards that are new or changed."""
    from grasp_pipeline.corpus.chunking import chunk_documents

    step = Step(context, store)
    loaded = None
    tokenizer_read = step.pin(tables.TOKENIZER)
    written, rows, tokens = 0, 0, 0
    for shard in context.partition_keys:
        partition = {"shard": shard}
        if step.tables.latest(tables.DOCUMENTS, partition) is None:
            context.add_asset_metadata({"dagster/partition_row_count": 0}, partition_key=shard)
            continue
        source = step.part(tables.DOCUMENTS, partition)
        provenance = step.provenance(source)
        commit = step.current(tables.TOKENIZED_SHARDS, provenance, partition)
        if commit is None:
            loaded = loaded or models.tokenizer(tokenizer_read.version)
            documents = step.tables.read(tables.DOCUMENTS, source.version, partition).collect()
            bytes_in = int(documents["n_bytes"].sum())
            progress = Progress(f"tokenizing {shard}", bytes_in / 3, "tokens", step.say)
            chunks = chunk_documents(documents, loaded.encoder, loaded.chunk_tokens, progress.advance)
            note = TokensNote(tokens=int(chunks["n_tokens"].sum()), rows=chunks.height, bytes=bytes_in)
            commit = step.tables.write(tables.TOKENIZED_SHARDS, chunks, provenance, partition, note.to_json())
            written += 1
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
        tables.TOKENIZED_SHARDS, newest, rows, {"shards_written": written}, tokens, up_to_date=written == 0
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
