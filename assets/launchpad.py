"""The launchpad: every job starts from the configuration in use; what must be refused is refused before it is a run."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from assets.sentences import sentence
from grasp_pipeline.config import ProtocolConfig, TasksConfig
from grasp_pipeline.errors import ConfigError, GraspError

FILE = "GRASP_CONFIG"
"""Environment variable with the run configuration in use; `make ui CONFIG=FILE` sets it."""

DEFAULT = "config/demo.yaml"

OWN = {"apply_filter": "config/apply_filter.yaml", "curate_vision": "config/vision.yaml"}
"""Files of jobs whose steps the configuration in use says nothing of."""

WHOLE = ("ops", "resources")
"""Parts of a configuration that a launch without them takes from the file."""

HERE = ("", "auto", "cpu")
"""Devices that every machine has."""


def file_in_use() -> Path:
    """Return the path of the run configuration in use."""
    return Path(os.environ.get(FILE) or DEFAULT)


def config_of(job: str, steps: Collection[str]) -> dict[str, Any]:
    """Return what the configuration in use says of a job's steps and resources; empty where there is no file.

    Args:
        job: its name.
        steps: the job's.

    Raises:
        ConfigError: the file that GRASP_CONFIG names is missing or cannot be used.
    """
    from assets.settings import read_config

    asked = [file_in_use(), *([Path(OWN[job])] if job in OWN else [])]
    for path in asked:
        if not path.is_file() and not (path == asked[0] and FILE in os.environ):
            continue
        config = read_config(path)
        ops = {name: section for name, section in config["ops"].items() if name in steps}
        if ops or job not in OWN:
            return {"ops": ops, **({"resources": config["resources"]} if config.get("resources") else {})}
    return {}


def launched_config(run_config: Mapping[str, Any], job: dg.JobDefinition) -> Mapping[str, Any]:
    """Return the configuration that a run is executed with: what its launch left out whole has the job's default."""
    if job.config_mapping is None:
        return run_config
    fields: Any = job.config_mapping.config_schema.config_type
    defaults = {part: fields.fields[part].default_value for part in WHOLE}
    return defaults | dict(run_config)


def prefilled(job: dg.JobDefinition) -> dg.JobDefinition:
    """Return a job whose launchpad holds the configuration in use, and whose launches are checked at once.

    Dagster asks the job for its configuration when a run is about to be created, so what is refused there was never
    launched. A launch that gives `ops` is taken as it stands: steps that it leaves out have their documented defaults,
    whatever the file in use says of them.

    The job has no partitions of its own: a launch covers every shard by its tags, so the launchpad asks for none.
    """
    from assets.stages import check_run_config

    steps = {node.name for node in job.graph.nodes}
    config = config_of(job.name, steps)
    check_run_config(config.get("ops") or {})
    schema = job.run_config_schema.run_config_schema_type
    assert isinstance(schema, dg.Shape)
    fields = {
        name: dg.Field(field.config_type, default_value=config[name], description=field.description)
        if name in config
        else field
        for name, field in schema.fields.items()
    }
    mapping = dg.ConfigMapping(
        config_fn=partial(checked, steps),
        config_schema=dg.Shape(fields, field_aliases=schema.field_aliases),
        receive_processed_config_values=False,
    )
    return dg.JobDefinition(
        name=job.name,
        graph_def=job.graph,
        asset_layer=job.asset_layer,
        resource_defs=job.resource_defs,
        executor_def=job.executor_def,
        config=mapping,
        description=job.description,
        tags=job.tags,
        run_tags=job.run_tags,
        metadata=job.metadata,
    )


def checked(steps: Collection[str], config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a run configuration as it is.

    Raises:
        DagsterUserCodeProcessError: it must fail whatever the corpus is: a value out of range, a target that is no
            task, a device that is not there; the sentence says what to do.
    """
    try:
        _check(steps, config)
    except GraspError as error:
        raise sentence(error) from error
    return config


def _check(steps: Collection[str], config: Mapping[str, Any]) -> None:
    from assets.stages import check_run_config, sections

    ops = config.get("ops") or {}
    check_run_config({name: section for name, section in ops.items() if name in sections()})
    if {"task_documents", "candidates"} <= set(steps):
        _check_target(ops)
    settings = ((config.get("resources") or {}).get("compute") or {}).get("config") or {}
    device = settings.get("device", "auto")
    if isinstance(device, str) and device not in HERE and _runs_here():
        from resources.compute import Compute

        Compute(device=device).describe()


def _check_target(ops: Mapping[str, Any]) -> None:
    """Refuse a target or a weight of no task, where the tasks lie in local files."""
    from assets.stages import sections
    from grasp_pipeline.corpus.tasks import read_tasks
    from grasp_pipeline.names import MEAN, WORST
    from grasp_pipeline.selection.preflight import wrong_target

    protocol, wanted = (
        sections()[name].model_validate((ops.get(name) or {}).get("config") or {})
        for name in ("candidates", "task_documents")
    )
    assert isinstance(protocol, ProtocolConfig)
    assert isinstance(wanted, TasksConfig)
    always = protocol.target in (MEAN, WORST) and not protocol.task_weights
    if always or any("://" in path for path in wanted.paths):
        return
    if fault := wrong_target(protocol, read_tasks(wanted).documents["task"].unique().to_list()):
        raise ConfigError(fault)


def _runs_here() -> bool:
    """Return whether a run that is launched from here is executed on this machine."""
    from dagster import DagsterInstance, DefaultRunLauncher

    try:
        with DagsterInstance.get() as instance:
            return isinstance(instance.run_launcher, DefaultRunLauncher)
    except dg.DagsterError:  # no instance, no launch
        return False
