"""Launches: each starts from the configuration in use; what must be refused is refused before it is a run."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME as MATERIALIZE

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

    own = [Path(file) for name, file in OWN.items() if job in (name, MATERIALIZE)]
    config: dict[str, Any] = {}
    for path in (file_in_use(), *own):
        if path.is_file() or (path == file_in_use() and FILE in os.environ):
            said = read_config(path)
            ops = {name: section for name, section in said["ops"].items() if name in steps}
            config = {**said, **config, "ops": ops | config.get("ops", {})}
    if job in OWN and not config.get("ops"):
        return {}
    return {part: config[part] for part in WHOLE if config.get(part) is not None}


def launched_config(run_config: Mapping[str, Any], job: dg.JobDefinition) -> Mapping[str, Any]:
    """Return the configuration that a run is executed with: what its launch left out whole has the job's default."""
    if job.config_mapping is None:
        return run_config
    fields: Any = job.config_mapping.config_schema.config_type
    defaults = {part: fields.fields[part].default_value for part in WHOLE}
    return defaults | dict(run_config)


def prefilled(job: dg.JobDefinition) -> dg.JobDefinition:
    """Return a job whose launches start from the configuration in use, and are checked at once.

    Dagster asks the job for its configuration when a run is about to be created, so what is refused there was never
    launched. A launch that gives `ops` is taken as it stands: steps that it leaves out have their documented defaults,
    whatever the file in use says of them.

    The job has no partitions of its own: a launch covers every shard by its tags, so the launchpad asks for none.
    """
    from assets.stages import check_run_config

    config = config_of(job.name, {node.name for node in job.graph.nodes})
    check_run_config(config.get("ops") or {})
    schema = job.run_config_schema.run_config_schema_type
    assert isinstance(schema, dg.Shape)
    fields = dict(schema.fields)
    if job.name == MATERIALIZE:
        fields["ops"] = _each_optional(fields["ops"])
    fields |= {
        name: dg.Field(fields[name].config_type, default_value=said, description=fields[name].description)
        for name, said in config.items()
    }
    mapping = dg.ConfigMapping(
        config_fn=checked,
        config_schema=dg.Shape(fields, field_aliases=schema.field_aliases),
        receive_processed_config_values=False,
    )
    return Prefilled(job, mapping)


class Prefilled(dg.JobDefinition):
    """A job with a configuration of its own, of which every part has that too.

    Dagster gives a part the partitions of its assets, and refuses a configuration beside them. Which shards a run makes
    is in its tags, with or without.
    """

    def __init__(self, plain: dg.JobDefinition, config: dg.ConfigMapping) -> None:
        """Take all but configuration and partitions from a job, or from a part of one."""
        self._plain, self._config = plain, config
        super().__init__(
            name=plain.name,
            graph_def=plain.graph,
            asset_layer=plain.asset_layer,
            resource_defs=plain.resource_defs,
            executor_def=plain.executor_def,
            config=config,
            description=plain.description,
            tags=plain.tags,
            run_tags=plain.run_tags,
            metadata=plain.metadata,
            _subset_selection_data=plain.asset_selection_data or plain.op_selection_data,
        )

    def get_subset(self, **selected: Any) -> dg.JobDefinition:
        """Return the part of the job that is selected, or itself."""
        part = self._plain.get_subset(**selected)
        return self if part is self._plain else Prefilled(part, self._config)

    def as_ephemeral_job(self, *given: Any, **selected: Any) -> dg.JobDefinition:
        """Return what is executed in this process."""
        return Prefilled(self._plain.as_ephemeral_job(*given, **selected), self._config)


def prefill_materialize(defs: dg.Definitions) -> dg.Definitions:
    """Return the definitions, whose assets are materialized alone from the configuration in use, as by a job.

    What "Materialize" launches, with nothing configured, is a part of a job over all assets, which Dagster makes
    itself and takes no settings for.
    """
    made: Any = defs.get_repository_def()
    jobs = made._repository_data._jobs._definitions
    plain = jobs[MATERIALIZE]
    jobs[MATERIALIZE] = lambda: prefilled(plain())
    return defs


def _each_optional(ops: dg.Field) -> dg.Field:
    """Return the field of all steps of which a launch needs some: those that it leaves out have no configuration."""
    steps: Any = ops.config_type
    fields = {
        name: dg.Field(step.config_type, is_required=False, description=step.description)
        for name, step in steps.fields.items()
    }
    return dg.Field(dg.Permissive(fields), description=ops.description)


def checked(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a run configuration as it is.

    Raises:
        DagsterUserCodeProcessError: it must fail whatever the corpus is: a value out of range, a target that is no
            task, a device that is not there; the sentence says what to do.
    """
    try:
        _check(config)
    except GraspError as error:
        raise sentence(error) from error
    return config


def _check(config: Mapping[str, Any]) -> None:
    from assets.stages import check_run_config, sections

    ops = config.get("ops") or {}
    check_run_config({name: section for name, section in ops.items() if name in sections()})
    if {"task_documents", "candidates"} <= set(ops):
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
