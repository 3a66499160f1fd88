"""From files to clean documents: the manifest of arrivals, the tasks' held-out documents, the cleaned corpus."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from assets.partitions import SHARDS
from assets.preflight import check_sources
from assets.sections import CleaningRun, InputRun, TasksRun
from assets.stages import stage
from assets.step import Step
from grasp_pipeline import tables
from resources.notes import ManifestNote, ShardNote
from resources.store import DeltaStore

if TYPE_CHECKING:
    import polars as pl

    from grasp_pipeline.corpus.files import InputFile
    from grasp_pipeline.corpus.readers import Block
    from resources.delta.commits import Provenance


@stage(
    group="corpus",
    kinds={"polars", "deltalake"},
    code_version="1",
    writes={
        tables.TASK_DOCUMENTS: "Held-out documents of the target tasks, split by document into query, judge, two "
        "calibration folds and evaluation."
    },
    kept=True,
)
def task_documents(
    context: dg.AssetExecutionContext, config: TasksRun, store: DeltaStore
) -> dg.MaterializeResult:
    """Read and split the tasks' documents; they are small, and their faults are told before the corpus is read."""
    from grasp_pipeline.corpus.tasks import read_tasks

    step = Step(context, store, config)
    read = read_tasks(config, store.storage_options)
    before = step.tables.latest(tables.TASK_DOCUMENTS)
    commit = step.tables.write(tables.TASK_DOCUMENTS, read.documents, step.provenance())
    if before is not None and before.version == commit.version:
        return step.unchanged(tables.TASK_DOCUMENTS, commit)
    counts = read.documents.group_by("task", "split").len().sort("task", "split")
    extra = {
        "documents": dg.MetadataValue.json({f"{task}/{split}": n for task, split, n in counts.iter_rows()}),
        "leaks_removed": read.leaks.height,
    }
    return step.result(tables.TASK_DOCUMENTS, commit, read.documents.height, extra)


@stage(
    group="corpus",
    kinds={"polars", "deltalake"},
    code_version="3",
    writes={tables.MANIFEST: "Blocks of the input files in order of arrival, each assigned once to a shard."},
)
def manifest(context: dg.AssetExecutionContext, config: InputRun, store: DeltaStore) -> dg.MaterializeResult:
    """List the inputs and assign new blocks to shards."""
    import polars as pl

    from grasp_pipeline.corpus.export.licences import find_licences
    from grasp_pipeline.corpus.files import resolve_inputs
    from grasp_pipeline.corpus.manifest import (
        describe_blocks,
        extend_manifest,
        first_few,
        mostly_unreadable,
    )
    from grasp_pipeline.corpus.readers import read_corpus
    from grasp_pipeline.seeds import digest

    step = Step(context, store, config)
    files = resolve_inputs(config, store.storage_options)
    find_licences(file.uri for file in files)  # the export needs them: told now, not after the training
    before = step.tables.latest(tables.MANIFEST)
    provenance = step.provenance()
    fingerprint = digest([(file.uri, file.fingerprint) for file in files])
    if (
        before is not None
        and ManifestNote.of(before).files == fingerprint
        and step.current(tables.MANIFEST, provenance)
    ):
        return step.unchanged(tables.MANIFEST, before)
    previous = (
        tables.MANIFEST.empty()
        if before is None
        else step.tables.read(tables.MANIFEST, before.version).collect()
    )
    step.say(f"reading {len(files)} input files")
    sources: set[str] = set()

    def arriving() -> "Iterator[tuple[InputFile, Block]]":
        for file, block in read_corpus(config, store.storage_options):
            sources.update(block.frame["source"].unique())
            yield file, block

    blocks = describe_blocks(arriving())
    check_sources(context, sources)
    frame = extend_manifest(previous, blocks, SHARDS.get_partition_keys())
    rowless = sorted({file.uri for file in files} - set(frame["uri"]))
    warnings = [f"{uri!r} has no rows" for uri in rowless] + mostly_unreadable(frame)
    for warning in first_few(warnings):
        step.warn(warning)
    commit = step.tables.write(
        tables.MANIFEST,
        frame,
        provenance,
        statistics=ManifestNote(files=fingerprint, input=config.model_dump(mode="json")).to_json(),
    )
    per_shard = dict(frame.group_by("shard").agg(pl.col("n_bytes").sum()).sort("shard").iter_rows())
    extra = {
        "files": len(files),
        "bytes_by_shard": dg.MetadataValue.json(per_shard),
        "warnings": dg.MetadataValue.json(warnings),
    }
    return step.result(tables.MANIFEST, commit, frame.height, extra)


@stage(
    group="corpus",
    kinds={"polars", "deltalake"},
    code_version="2",
    reads=[tables.MANIFEST, tables.TASK_DOCUMENTS],
    writes={
        tables.DOCUMENTS: "Normalised documents without exact duplicates, noise and contamination; near duplicates "
        "clustered.",
        tables.REJECTED_DOCUMENTS: "Every document or row left out, with its reason, the measured value and the "
        "surviving duplicate.",
    },
)
def documents(
    context: dg.AssetExecutionContext, config: CleaningRun, store: DeltaStore
) -> Iterator[dg.MaterializeResult]:
    """Clean the corpus as a whole and write the shards whose documents changed."""
    import polars as pl

    from assets.plots import reasons_chart
    from grasp_pipeline.config import InputConfig
    from grasp_pipeline.corpus.cleaning import clean_documents
    from grasp_pipeline.corpus.manifest import place_blocks
    from grasp_pipeline.corpus.readers import read_corpus

    step = Step(context, store, config)
    blocks = step.read(tables.MANIFEST)
    tasks = step.read(tables.TASK_DOCUMENTS)
    provenance = step.provenance()
    both = (tables.DOCUMENTS, tables.REJECTED_DOCUMENTS)
    if _finished(step, both, provenance):
        for table in both:
            newest = step.tables.latest(table)
            assert newest is not None, "finished"
            yield step.unchanged(table, newest)
        return
    commit = step.tables.latest(tables.MANIFEST)
    assert commit is not None, "read above"
    source = InputConfig(**ManifestNote.of(commit).input)
    raw = place_blocks((block for _, block in read_corpus(source, store.storage_options)), blocks.collect())
    cleaned = clean_documents(raw, config, tasks.collect(), step.say)
    rejected = cleaned.rejected
    counts = (
        rejected.group_by("reason").agg(documents=pl.len(), n_bytes=pl.col("n_bytes").sum()).sort("reason")
    )
    extras = {
        "documents": {"bytes": int(cleaned.documents["n_bytes"].sum()), "rows_read": raw.height},
        "rejected_documents": {
            "by_reason": dg.MetadataValue.json({name: n for name, n, _ in counts.iter_rows()}),
            "chart": dg.MetadataValue.md(reasons_chart(counts)),
        },
    }
    frames = tuple(zip(both, (cleaned.documents, rejected), strict=True))
    _write_shards(step, frames, provenance)
    for table, frame in frames:
        newest = step.tables.latest(table)
        assert newest is not None, "written above"
        yield step.result(table, newest, frame.height, extras[table.name])


def _finished(step: Step, both: tuple[tables.Table, ...], provenance: "Provenance") -> bool:
    """Return whether the last commit to the tables closed a write from exactly these inputs.

    A run that was killed between two shards left commits from the new inputs, but none that is marked as the last.
    """
    newest = [commit for table in both if (commit := step.tables.latest(table)) is not None]
    if len(newest) < len(both):
        return False
    last = max(newest, key=lambda commit: commit.timestamp)
    same = last.metadata.get("input_digest") == provenance.input_digest()
    return same and ShardNote.of(last).last


def _write_shards(
    step: Step, frames: "tuple[tuple[tables.Table, pl.DataFrame], ...]", provenance: "Provenance"
) -> None:
    """Write every shard that changed, emptied ones too, and mark the last commit as the last."""
    import polars as pl

    changes: list[tuple[tables.Table, pl.DataFrame, dict[str, str]]] = []
    for table, frame in frames:
        stored = {(commit.partition or {}).get("shard") for commit in step.tables.commits(table)}
        shards = sorted({*frame["shard"].unique().to_list(), *(shard for shard in stored if shard)})
        parts = [(frame.filter(pl.col("shard") == shard), {"shard": shard}) for shard in shards]
        parts = parts or [(frame, {})]
        changes += [
            (table, part, partition)
            for part, partition in parts
            if not step.tables.holds(table, part, partition)
        ]
    for number, (table, part, partition) in enumerate(changes, 1):
        note = ShardNote(rows=part.height, last=number == len(changes))
        step.tables.write(table, part, provenance, partition, note.to_json())
