"""From files to clean documents: the manifest of arrivals, the tasks' held-out documents, the cleaned corpus."""

import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from assets.partitions import SHARDS
from assets.preflight import check_sources
from assets.sections import CleaningRun, InputRun, TasksRun
from assets.stages import stage
from assets.step import Step
from grasp_pipeline import tables
from grasp_pipeline.progress import Progress
from resources.compute import Compute
from resources.notes import ManifestNote, ShardNote
from resources.store import DeltaStore

if TYPE_CHECKING:
    import polars as pl

    from grasp_pipeline.config import InputConfig
    from grasp_pipeline.corpus.clean_corpus import CleanCorpus
    from grasp_pipeline.corpus.files import InputFile
    from resources.delta.commits import Provenance

_READ_PER_SECOND, _CLEANED_PER_SECOND = 20e6, 5e6
"""Bytes that one core reads from files as they lie, and bytes of text that it cleans, about."""
_GROUP_ROWS = 2_048


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
def manifest(
    context: dg.AssetExecutionContext, config: InputRun, store: DeltaStore, compute: Compute
) -> dg.MaterializeResult:
    """List the inputs, read the new and changed ones, and assign new blocks to shards."""
    import polars as pl

    from grasp_pipeline.config import InputConfig
    from grasp_pipeline.corpus.export.licences import find_licences
    from grasp_pipeline.corpus.files import resolve_inputs
    from grasp_pipeline.corpus.manifest import extend_manifest, first_few, mostly_unreadable
    from grasp_pipeline.corpus.readers import no_rows
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
    blocks = _described(step, files, InputConfig(**config.model_dump()), compute)
    if blocks.is_empty():
        raise no_rows(config)
    check_sources(context, set(blocks["sources"].explode().unique()))
    blocks = blocks.drop("sources")
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


def _described(
    step: Step, files: "list[InputFile]", source: "InputConfig", compute: Compute
) -> "pl.DataFrame":
    """Describe the blocks of all files; those of files that were read before, in the same way, are known."""
    import polars as pl

    from assets.scratch import keep_only, scratch_folder
    from grasp_pipeline.corpus.block_cleaning import code_digest
    from grasp_pipeline.corpus.manifest import DescribeFile
    from grasp_pipeline.seeds import digest

    folder = scratch_folder(step.store, "manifest")
    made_by = digest(code_digest(), source.model_dump(mode="json", exclude={"paths"}))
    names = {file.uri: digest(made_by, file.uri, file.fingerprint)[:40] for file in files}
    known = {uri: folder / name[:2] / name / "blocks.parquet" for uri, name in names.items()}
    new = [file for file in files if not known[file.uri].exists()]
    step.say(f"reading {len(new)} input files, {len(files) - len(new)} are known")
    with compute.map_engine(sum(file.size or 0 for file in new) / _READ_PER_SECOND) as engine:
        options = step.store.storage_options
        for file, blocks in zip(new, engine.map_blocks(DescribeFile(source, options), new), strict=True):
            path = known[file.uri]
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".new", delete=False) as new:
                blocks.write_parquet(new.name)
            os.replace(new.name, path)  # whole, whichever of two runs comes last
    keep_only(folder, {str(path.parent) for path in known.values()})
    return pl.concat([pl.read_parquet(known[file.uri]) for file in files])


@stage(
    group="corpus",
    kinds={"polars", "deltalake"},
    code_version="3",
    reads=[tables.MANIFEST, tables.TASK_DOCUMENTS],
    writes={
        tables.DOCUMENTS: "Normalised documents without exact duplicates, noise and contamination; near duplicates "
        "clustered.",
        tables.REJECTED_DOCUMENTS: "Every document or row left out, with its reason, the measured value and the "
        "surviving duplicate.",
    },
)
def documents(
    context: dg.AssetExecutionContext, config: CleaningRun, store: DeltaStore, compute: Compute
) -> Iterator[dg.MaterializeResult]:
    """Clean the blocks that are new or changed, compare all documents and write the shards whose rows changed."""
    import polars as pl

    from assets.plots import reasons_chart
    from grasp_pipeline.config import InputConfig

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
    corpus = _cleaned(step, blocks.collect(), source, config, tasks.collect(), compute)
    corpus.check_not_empty()
    rows = _write_shards(step, corpus, provenance)
    summary = corpus.summary()
    counts = (
        summary.filter(pl.col("stage") != "kept")
        .group_by("reason")
        .agg(pl.col("documents", "n_bytes").sum())
        .sort("reason")
    )
    extras = {
        "documents": {"bytes": summary["n_bytes"][0], "rows_read": int(corpus.starts[-1])},
        "rejected_documents": {
            "by_reason": dg.MetadataValue.json({name: n for name, n, _ in counts.iter_rows()}),
            "reasons": dg.MetadataValue.md(reasons_chart(counts)),
        },
    }
    for table in both:
        newest = step.tables.latest(table)
        assert newest is not None, "written above"
        yield step.result(table, newest, rows[table.name], extras[table.name])


def _cleaned(
    step: Step,
    manifest: "pl.DataFrame",
    source: "InputConfig",
    config: CleaningRun,
    tasks: "pl.DataFrame",
    compute: Compute,
) -> "CleanCorpus":
    """Clean the blocks whose results are not there yet, and compare all documents."""
    from assets.scratch import keep_only, scratch_folder
    from grasp_pipeline.corpus.block_cleaning import CleanWork, find_places, work_of
    from grasp_pipeline.corpus.cleaning import compare_documents, rules_of
    from grasp_pipeline.corpus.files import resolve_inputs

    folder = scratch_folder(step.store, "documents")
    rules = rules_of(config, tasks, folder)
    options = step.store.storage_options
    files = resolve_inputs(source, options)
    places = find_places(manifest, files, source, rules, folder / "blocks")
    by_file: dict[str, list] = {}
    for place in places:
        by_file.setdefault(place.uri, []).append(place)
    left = sum(place.n_bytes for place in places if not place.done)
    progress = Progress("cleaning", left, "bytes", step.say)
    with compute.map_engine(left / _CLEANED_PER_SECOND) as engine:
        work = work_of(files, by_file, source, options)
        for done in engine.map_blocks(CleanWork(rules, source, options), work):
            progress.advance(done)
        corpus = compare_documents(places, rules.config, tasks, folder, engine.map_blocks, step.say)
    keep_only(folder / "blocks", {place.folder for place in places})
    keep_only(folder, {rules.held_out, *map(str, (folder / "blocks").glob("*"))})
    return corpus


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


def _made_from(
    step: Step, table: tables.Table, partition: dict[str, str], made_from: str, provenance: "Provenance"
) -> bool:
    """Return whether a shard's last commit has the rows that follow from the same verdicts on the same blocks."""
    last = step.tables.latest(table, partition)
    if last is None or last.partition != partition:
        return False
    same_code = last.metadata["code_version"] == provenance.code_version
    return same_code and ShardNote.of(last).made_from == made_from


def _write_shards(step: Step, corpus: "CleanCorpus", provenance: "Provenance") -> dict[str, int]:
    """Write every shard that changed, emptied ones too, and mark the last commit as the last; returns rows by table."""
    both = (tables.DOCUMENTS, tables.REJECTED_DOCUMENTS)
    in_shard: dict[str, list[int]] = {}
    for number, place in enumerate(corpus.places):
        in_shard.setdefault(place.shard, []).append(number)

    def frames(table: tables.Table, shard: str) -> "Iterator[pl.DataFrame]":
        return (corpus.rows(number)[both.index(table)] for number in in_shard.get(shard, []))

    changes: list[tuple[tables.Table, str | None, int]] = []
    total = dict.fromkeys((table.name for table in both), 0)
    for table in both:
        stored = {(commit.partition or {}).get("shard") for commit in step.tables.commits(table)} - {None}
        for shard in sorted({*in_shard, *(shard for shard in stored if shard)}):
            partition, numbers = {"shard": shard}, in_shard.get(shard, [])
            rows = sum(corpus.counts(number)[both.index(table)] for number in numbers)
            total[table.name] += rows
            if shard not in stored:
                changes += [(table, shard, rows)] if rows else []
            elif not _made_from(step, table, partition, corpus.made_from(numbers), provenance):
                content, _ = step.tables.stream_content(table, frames(table, shard), partition, _GROUP_ROWS)
                if not step.tables.holds_content(table, content, partition):
                    changes.append((table, shard, rows))
        if not stored and not total[table.name] and not step.tables.holds(table, table.empty()):
            changes.append((table, None, 0))
    for number, (table, shard, rows) in enumerate(changes, 1):
        made_from = corpus.made_from(in_shard.get(shard or "", []))
        note = ShardNote(rows=rows, last=number == len(changes), made_from=made_from).to_json()
        if shard is None:
            step.tables.write(table, table.empty(), provenance, {}, note)
        else:
            step.tables.write_stream(
                table, frames(table, shard), provenance, {"shard": shard}, lambda note=note: note, _GROUP_ROWS
            )
    return total
