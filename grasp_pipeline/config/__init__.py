"""Typed run configuration: one section per stage, each field bounded and described.

The sections are plain pydantic models, usable in a notebook. `assets/` turns each into a `dagster.Config` by
inheritance, so the Launchpad shows the same fields, bounds and descriptions. Dagster resolves a section only when
its step starts; `validate_run_config` checks all of them at the head of a run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from grasp_pipeline.config.corpus import (
    CleaningConfig,
    InputConfig,
    TaskChunkingConfig,
    TasksConfig,
    TokenizerConfig,
)
from grasp_pipeline.config.proxy import ProxyConfig, SketchConfig
from grasp_pipeline.config.selection import (
    ConditionalConfig,
    ExportConfig,
    FidelityConfig,
    FinalistsConfig,
    ProtocolConfig,
    ReportConfig,
    SubsetsConfig,
)
from grasp_pipeline.config.vision import VisionConfigSection
from grasp_pipeline.errors import ConfigError, nearest
from grasp_pipeline.section import Section, check_grid
from grasp_pipeline.selection.constraints.kinds import ConstraintsConfig

__all__ = [
    "CleaningConfig",
    "ConditionalConfig",
    "ConstraintsConfig",
    "ExportConfig",
    "FidelityConfig",
    "FinalistsConfig",
    "InputConfig",
    "ProtocolConfig",
    "ProxyConfig",
    "ReportConfig",
    "Section",
    "SketchConfig",
    "SubsetsConfig",
    "TaskChunkingConfig",
    "TasksConfig",
    "TokenizerConfig",
    "VisionConfigSection",
    "check_grid",
    "validate_run_config",
]


def validate_run_config(
    ops: Mapping[str, Any], sections: Mapping[str, type[Section]], steps: Collection[str] | None = None
) -> None:
    """Check sections of a run's `ops` at once.

    Args:
        ops: step -> `{"config": {field: value}}`.
        sections: by the name of their step.
        steps: all that there are; None: `ops` may name others.

    Raises:
        ConfigError: names the step, the field, the value's fault and what is allowed.
    """
    unknown = [] if steps is None else [name for name in ops if name not in steps]
    faults = [f"no step is named {name!r}; {nearest(name, steps or ())}" for name in unknown]
    for step, section in sections.items():
        given = ops.get(step) or {}
        if not isinstance(given, Mapping):
            faults.append(f"{step}: write `config:` below it, and the fields below that")
            continue
        faults += [f"{step}.{key}: write fields below `config:`" for key in given if key != "config"]
        values = given.get("config") or {}
        try:
            section.model_validate(values)
        except ValidationError as error:
            for fault in error.errors():
                place, said = list(fault["loc"]), fault["msg"].removeprefix("Value error, ")
                if fault["type"] == "extra_forbidden":
                    said = (
                        f"there is no such field; {nearest(str(place[-1]), _fields_at(section, place[:-1]))}"
                    )
                faults.append(f"{'.'.join([step, *map(str, place)]) if place else f'{step}.config'}: {said}")
    if faults:
        raise ConfigError(
            "The run configuration cannot be used: "
            + "; ".join(fault.rstrip(".") for fault in faults)
            + ". Correct it and launch again."
        )


def _fields_at(section: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    """Return the names of the fields of a section, or of the section inside it at a place."""
    for name in place:
        field = section.model_fields.get(str(name))
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            return []
        section = field.annotation
    return list(section.model_fields)
