"""The faults that are injected: at which step, where in it, and what is to become of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from seams import (
    HalfCheckpoint,
    NewDataFile,
    NotANumber,
    Seam,
    Setting,
    Together,
    disk_full,
    lost_race,
    out_of_memory,
)

COMMIT = "resources.delta.tables:DeltaTables._commit"
APPEND = "resources.delta.partition_file:PartitionFile.append"
FINISH = "resources.delta.partition_file:PartitionFile.finish"
FOLDER = "resources.store:_replace_folder"
STEP = "grasp_pipeline.proxy.training:_clip"
BATCH = "grasp_pipeline.sketch.run:SketchEngine._compute"

Outcome = Literal["killed", "refused", "finished"]


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        step: an asset of the step that fails.
        seam: where.
        outcome: what becomes of the process: killed, ended by an error meant for the user, or ended well all the same.
        first: on a store that never held the step's tables; else on one that holds those of an earlier curation.
    """

    step: str
    seam: Any
    outcome: Outcome = "killed"
    first: bool = False


FAULTS: dict[str, Fault] = {
    # Killed, stage by stage.
    "tasks read, nothing committed": Fault("task_documents", Seam(COMMIT), first=True),
    "between the data file of tasks and its commit": Fault(
        "task_documents", NewDataFile("task_documents"), first=True
    ),
    "while input files are described": Fault("manifest", Seam("polars:DataFrame.write_parquet", after=True)),
    "manifest committed": Fault("manifest", Seam(COMMIT, after=True)),
    "in the middle of cleaning a block": Fault(
        "documents", Seam("grasp_pipeline.corpus.block_cleaning:band_keys"), first=True
    ),
    "between two cleaned blocks": Fault(
        "documents", Seam("grasp_pipeline.corpus.block_cleaning:clean_block", after=True), first=True
    ),
    "while a shard of documents is written": Fault("documents", Seam(APPEND, after=True)),
    "between the data file of documents and its commit": Fault("documents", Seam(COMMIT)),
    "between two shards of documents": Fault("documents", Seam(COMMIT, after=True)),
    "tokenizer saved, not in its place": Fault("tokenizer", Seam(FOLDER), first=True),
    "tokenizer in its place, not committed": Fault("tokenizer", Seam(COMMIT), first=True),
    "in the middle of tokenizing": Fault(
        "tokenized_shards", Seam("grasp_pipeline.corpus.chunk_stream:Tokenize.__call__", after=True)
    ),
    "between two shards of chunks": Fault("tokenized_shards", Seam(COMMIT, after=True), first=True),
    "chunks of the tasks, nothing committed": Fault("tasks", Seam(COMMIT), first=True),
    "in the middle of training the proxy": Fault("proxy_checkpoints", Seam(STEP, nth=5), first=True),
    "during the checkpoint save": Fault("proxy_checkpoints", HalfCheckpoint(), first=True),
    "checkpoint in its place, not committed": Fault("proxy_checkpoints", Seam(COMMIT), first=True),
    "between the data file of sketchers and its commit": Fault(
        "sketchers", NewDataFile("sketchers"), first=True
    ),
    "in the middle of sketching": Fault("gradient_sketches", Seam(BATCH, nth=2, after=True)),
    "between the data file of sketches and its commit": Fault("gradient_sketches", Seam(FINISH, after=True)),
    "between two kinds of sketches": Fault("gradient_sketches", Seam(COMMIT, after=True)),
    "subsets drawn, nothing committed": Fault("subsets", Seam(COMMIT), first=True),
    "in the middle of calibration retraining": Fault("subset_utilities", Seam(STEP, nth=20), first=True),
    "utilities measured, one of two commits": Fault("subset_utilities", Seam(COMMIT, after=True), first=True),
    "between the data file of the finalists and its commit": Fault("finalists", NewDataFile("finalists")),
    "in the middle of certifying": Fault("certificates", Seam(STEP, nth=20)),
    "losses of finalists kept, no certificate": Fault("certificates", Seam(COMMIT, after=True)),
    "pruned corpus written, its reasons not": Fault("pruned_corpus", Seam(COMMIT, after=True)),
    "between the numbers of a curation": Fault(
        "curations", Seam("resources.delta.log:TableLogs.number", after=True)
    ),
    "during export": Fault("export", Seam("grasp_pipeline.corpus.export.write:finish_export")),
    "old export aside, new one not in its place": Fault("export", Seam("pathlib:Path.rename", nth=2)),
    "while the report is written": Fault("report", Seam(FOLDER)),
    # Disks that are full.
    "disk full while a shard of documents is written": Fault(
        "documents", Seam("resources.delta.partition_file:_Sink.write", disk_full, nth=2), "refused"
    ),
    "disk full while a block is cleaned": Fault(
        "documents", Seam("numpy:save", disk_full, nth=2), "refused", first=True
    ),
    "disk full during the checkpoint save": Fault(
        "proxy_checkpoints",
        Seam("transformers:PreTrainedModel.save_pretrained", disk_full),
        "refused",
        first=True,
    ),
    "disk full during export": Fault(
        "export", Seam("pyarrow.parquet:ParquetWriter.write_table", disk_full), "refused"
    ),
    "disk full while the report is written": Fault(
        "report", Seam("pathlib:Path.write_text", disk_full), "refused"
    ),
    # Other writers.
    "a commit loses a race and is tried again": Fault(
        "documents", Seam("deltalake:DeltaTable.create_write_transaction", lost_race), "finished"
    ),
    "a commit loses every race": Fault(
        "documents",
        Together(
            (
                Setting("resources.delta.opening", "PATIENCE", 2.0),
                Seam("deltalake:DeltaTable.create_write_transaction", lost_race, every=True),
            )
        ),
        "refused",
    ),
    # Devices.
    "out of memory in a batch of sketches": Fault(
        "gradient_sketches",
        Seam("grasp_pipeline.sketch.full:FullSketcher.sketch", out_of_memory),
        "finished",
    ),
    "no memory for any batch of sketches": Fault(
        "gradient_sketches",
        Seam("grasp_pipeline.sketch.full:FullSketcher.sketch", out_of_memory, every=True),
        "refused",
    ),
    "a batch of sketches is not finite": Fault("gradient_sketches", NotANumber(), "refused"),
}
