"""A corpus, its tasks and a store in one folder, and the jobs run on them with the smallest settings."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import yaml

from assets import run as terminal
from assets.partitions import WHOLE_RANGE
from grasp_pipeline.definitions import defs
from grasp_pipeline.tables import ALL, FILTERED_REJECTIONS, FILTERED_SHARDS, Table
from resources.delta.commits import Provenance
from resources.delta.tables import DeltaTables

Sections = Mapping[str, Mapping[str, Any]]
Versions = dict[tuple[str, str], int]

SMALLEST: dict[str, dict[str, Any]] = {
    "manifest": {
        "paths": ["corpus/*"],
        "text_column": "body",
        "source_column": "origin_name",
        "id_column": "key",
    },
    "task_documents": {"paths": ["tasks/*"], "min_documents": 4},
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
    "conditional_losses": {"enabled": True},
    "finalists": {"shortlist": 2, "random_draws": 3, "allow_uncertified": True},
    "sealed_evaluation": {"arm_seeds": 2, "bootstrap": 200},
    "export": {"min_span_tokens": 4},
}

CLEANED = ("manifest", "task_documents", "documents", "rejected_documents")
"""Assets from the files to the clean documents."""

ARRIVALS = frozenset({FILTERED_SHARDS.name, FILTERED_REJECTIONS.name})
"""Tables that the job apply_filter writes, and no other job."""


@dataclass
class Workplace:
    """Folders `corpus`, `tasks` and `store` below one folder. Inputs are named relative to it, so that a copy of
    the whole folder finds its inputs under the same names."""

    folder: Path
    instance: dg.DagsterInstance = field(default_factory=dg.DagsterInstance.ephemeral)
    sections: dict[str, dict[str, Any]] = field(default_factory=lambda: copy.deepcopy(SMALLEST))
    compute: dict[str, Any] = field(default_factory=lambda: {"device": "cpu", "threads": 1})

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus"

    @property
    def tasks(self) -> Path:
        return self.folder / "tasks"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def delta(self) -> DeltaTables:
        return DeltaTables(str(self.store))

    def copy_to(self, folder: Path) -> Workplace:
        """Copy inputs and store."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Workplace(folder, sections=copy.deepcopy(self.sections))

    def run_config(self, changes: Sections | None = None, job: str = "curate") -> dict[str, Any]:
        """Return the run configuration of a job, with sections changed field by field."""
        given = {step: dict(fields) for step, fields in self.sections.items()}
        for step, fields in (changes or {}).items():
            given.setdefault(step, {}).update(fields)
        steps = {node.name for node in defs.resolve_job_def(job).graph.nodes}
        steps |= set(changes or {}) - set(self.sections)
        return {
            "ops": {step: {"config": fields} for step, fields in given.items() if step in steps},
            "resources": {
                "store": {"config": {"root": str(self.store)}},
                "compute": {"config": self.compute},
            },
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        }

    def run(
        self,
        job: str = "curate",
        changes: Sections | None = None,
        only: Sequence[str] = (),
        shard: str | None = None,
        fails: bool = False,
    ) -> dg.ExecuteInProcessResult:
        """Run a job over every shard, or some assets over every shard or one; it must succeed unless it `fails`."""
        config = self.run_config(changes, job)
        keys = [dg.AssetKey(name) for name in only]
        definition = defs.resolve_implicit_global_asset_job_def() if keys else defs.resolve_job_def(job)
        tags = WHOLE_RANGE if job in ("curate", "recurate") else {}
        if keys:
            ran = {node.name for node in definition.get_subset(asset_selection=set(keys)).graph.nodes}
            config["ops"] = {step: value for step, value in config["ops"].items() if step in ran}
            graph = defs.resolve_asset_graph()
            if shard is not None or not any(graph.get(key).is_partitioned for key in keys):
                tags = {}
        with contextlib.chdir(self.folder):
            result = definition.execute_in_process(
                run_config=config,
                instance=self.instance,
                tags=tags,
                partition_key=shard,
                asset_selection=keys or None,
                raise_on_error=not fails,
            )
        assert result.success is not fails
        return result

    def ship(self, arm: str) -> dg.ExecuteInProcessResult:
        """Publish an arm, whatever the run picked."""
        commit = self.delta.latest(ALL["certificates"])
        assert commit is not None
        frame = self.read(ALL["certificates"]).with_columns(arm=pl.lit(arm))
        made = Provenance("test", "test", "1", "")
        self.delta.write(ALL["certificates"], frame, made, statistics=commit.statistics)
        return self.run(only=["pruned_corpus", "drop_reasons", "residual_filter"])

    def run_in_terminal(self, changes: Sections | None = None, job: str = "curate") -> int:
        """Run a job as `python -m assets.run` does; returns the exit status."""
        config = self.run_config(changes)
        del config["loggers"]
        path = self.folder / "run.yaml"
        path.write_text(yaml.safe_dump(config))
        return self.run_file(path, job)

    def run_file(self, path: Path, job: str = "curate") -> int:
        """Run a job with a configuration file; returns the exit status."""
        with contextlib.chdir(self.folder):
            return terminal.main([job, "--config", str(path)])

    def read(self, table: Table) -> pl.DataFrame:
        """Return a table as it is now."""
        return self.delta.read(table, self.delta.pin(table).version).collect()

    def delta_versions(self) -> dict[str, int]:
        """Return the Delta version of every table that exists."""
        from deltalake import DeltaTable

        delta = self.delta
        return {
            name: DeltaTable(delta.uri(table)).version() for name, table in ALL.items() if delta.exists(table)
        }

    def versions(self) -> Versions:
        """Return the newest data commit of every partition of every table: (table, partition) -> version."""
        newest: Versions = {}
        for table in ALL.values():
            for commit in self.delta.commits(table):
                label = "/".join(value for _, value in sorted((commit.partition or {}).items()))
                newest.setdefault((table.name, label), commit.version)
        return newest


@dataclass(frozen=True)
class Curated:
    """A finished run of `curate`."""

    place: Workplace
    result: dg.ExecuteInProcessResult


def changed(before: Versions, after: Versions) -> set[tuple[str, str]]:
    """Return the (table, partition) with a new commit."""
    return {key for key, version in after.items() if before.get(key) != version}


def changed_tables(before: Versions, after: Versions) -> set[str]:
    """Return the tables with a new commit."""
    return {table for table, _ in changed(before, after)}


def step_of(asset: str) -> str:
    """Return the step that materializes an asset."""
    return defs.resolve_asset_graph().get(dg.AssetKey(asset)).assets_def.node_def.name


def materialized(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """Return the metadata of an asset's materialization in a run, of a partitioned one the first partition's."""
    found = next(
        event.materialization.metadata
        for event in result.all_events
        if event.is_step_materialization and event.asset_key == dg.AssetKey(asset)
    )
    return {label: value.value for label, value in found.items()}


def steps_up_to_date(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    """Return for every asset materialized by a run whether it said that it was up to date."""
    return {
        event.asset_key.to_user_string(): event.materialization.metadata["up_to_date"].value
        for event in result.all_events
        if event.is_step_materialization
    }


def event_log(place: Workplace, run_id: str) -> str:
    """Return all that the event log holds of a run, as JSON."""
    return json.dumps([dg.serialize_value(record) for record in place.instance.all_logs(run_id)])
