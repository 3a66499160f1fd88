"""A corpus, its tasks and a store in one folder, and the jobs run on them with the smallest settings."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import yaml

from assets.partitions import WHOLE_RANGE
from grasp_pipeline.definitions import defs
from grasp_pipeline.tables import ALL, Table
from resources.delta import Commit, DeltaTables

Sections = Mapping[str, Mapping[str, Any]]
Versions = dict[tuple[str, str], int]

SMALLEST: dict[str, dict[str, Any]] = {
    "manifest": {"text_column": "body", "source_column": "origin_name", "id_column": "key"},
    "task_documents": {"min_documents": 4},
    "tokenizer": {"vocab_size": 300, "chunk_tokens": 16},
    "proxy_checkpoints": {"reference_tokens": 20_000, "retrain_tokens": 3_000, "batch_sequences": 2},
    "sketchers": {
        "kinds": ["output", "full"],
        "output_hidden_dim": 8,
        "output_vocab_dim": 8,
        "full_dim": 64,
        "full_sparsity": 1,
    },
    "candidates": {"metrics": [0.0, 1.0], "lambdas": [0.0, 0.7], "bootstrap": 200},
    "subsets": {"calibration_subsets": 8, "evaluation_subsets": 8},
    "finalists": {"shortlist": 2, "random_draws": 3, "allow_uncertified": True},
    "sealed_evaluation": {"arm_seeds": 2, "bootstrap": 200},
}
SLOTS = [f"shard-{number:04d}" for number in range(3)]


@dataclass
class Workplace:
    """Folders `corpus`, `tasks` and `store` below one folder, and what the steps are configured with."""

    folder: Path
    instance: dg.DagsterInstance = field(default_factory=dg.DagsterInstance.ephemeral)
    sections: dict[str, dict[str, Any]] = field(default_factory=lambda: copy.deepcopy(SMALLEST))

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def lake(self) -> DeltaTables:
        return DeltaTables(str(self.store))

    def copy_to(self, folder: Path) -> Workplace:
        """Copy the store; the inputs stay where they are, so that their URIs do too, unless they are moved."""
        shutil.copytree(self.store, folder / "store")
        there = Workplace(folder, sections=copy.deepcopy(self.sections))
        for step in ("manifest", "task_documents"):
            there.sections[step]["paths"] = self.paths(step)
        return there

    def paths(self, step: str) -> list[str]:
        below = "corpus" if step == "manifest" else "tasks"
        return self.sections[step].get("paths", [str(self.folder / below / "*.parquet")])

    def run_config(self, changes: Sections | None = None, job: str = "curate") -> dict[str, Any]:
        """Return the run configuration of a job, with sections changed field by field."""
        given = {step: dict(fields) for step, fields in self.sections.items()}
        for step in ("manifest", "task_documents"):
            given[step]["paths"] = self.paths(step)
        for step, fields in (changes or {}).items():
            given.setdefault(step, {}).update(fields)
        known = {node.name for node in defs.get_job_def(job).graph.nodes}
        return {
            "ops": {step: {"config": fields} for step, fields in given.items() if step in known},
            "resources": {
                "store": {"config": {"root": str(self.store)}},
                "compute": {"config": {"device": "cpu", "threads": 1}},
            },
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        }

    def run(
        self, job: str = "curate", changes: Sections | None = None, only: list[str] | None = None, **more: Any
    ) -> dg.ExecuteInProcessResult:
        """Run a job, or only some of its assets, over every shard."""
        definition = defs.get_job_def(job)
        config = self.run_config(changes, job)
        if only is not None:
            keys = [dg.AssetKey(name) for name in only]
            ran = {node.name for node in definition.get_subset(asset_selection=set(keys)).graph.nodes}
            config["ops"] = {step: value for step, value in config["ops"].items() if step in ran}
            more["asset_selection"] = keys
        if "partition_key" not in more:
            more["tags"] = WHOLE_RANGE if job != "fidelity" else {}
        return definition.execute_in_process(run_config=config, instance=self.instance, **more)

    def write_config(self, changes: Sections | None = None) -> Path:
        """Write the run configuration as a file for `assets.run`."""
        config = self.run_config(changes)
        del config["loggers"]
        path = self.folder / "run.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    def read(self, table: Table) -> pl.DataFrame:
        """Return a table as it is now."""
        return self.lake.read(table, self.lake.pin(table).version).collect()

    def versions(self) -> Versions:
        """Return the newest data commit of every partition of every table: (table, partition) -> version."""
        newest: Versions = {}
        for table in ALL.values():
            for commit in self.lake.commits(table):
                newest.setdefault((table.name, json.dumps(commit.partition, sort_keys=True)), commit.version)
        return newest

    def log(self, table: Table) -> list[Commit]:
        """Return a table's data commits, newest first."""
        return self.lake.commits(table)


def changed(before: Versions, after: Versions) -> set[tuple[str, str]]:
    """Return the (table, shard or whatever partition) whose newest commit differs."""
    return {
        (table, "/".join(json.loads(partition).values()))
        for (table, partition), version in after.items()
        if before.get((table, partition)) != version
    }


def changed_tables(before: Versions, after: Versions) -> set[str]:
    """Return the tables that have a new commit."""
    return {table for table, _ in changed(before, after)}


def materialized(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """Return the metadata of an asset's own materialization in a run: label -> plain value."""
    (event,) = [
        event
        for event in result.asset_materializations_for_node(node_of(asset))
        if event.asset_key == dg.AssetKey(asset) and "seconds" in event.metadata and event.partition is None
    ]
    return {label: value.value for label, value in event.metadata.items()}


def node_of(asset: str) -> str:
    """Return the step that materializes an asset."""
    node = defs.resolve_asset_graph().get(dg.AssetKey(asset)).assets_def.node_def
    return node.name
