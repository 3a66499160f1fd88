"""The configuration beside the store: what a table was made under, and what a job would ignore of a file.

A job runs some steps and keeps what the others left. What a configuration file says of those others travels with the
run as a tag, so that the first step, however it was launched, refuses what the job cannot do.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.stages import asked_sections
from grasp_pipeline import tables
from grasp_pipeline.config import Section
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.report.formats import public_location
from grasp_pipeline.seeds import digest

if TYPE_CHECKING:
    from resources.delta.commits import Settings
    from resources.delta.tables import DeltaTables

KEPT = "grasp/kept_settings"
"""Run tag: JSON of step -> what the configuration file says of it, for the steps that the job does not run."""

LAST = ("sealed_evaluation", "export", "report", "vision_fidelity")
"""Steps that no other is built on: a job without them leaves nothing of their settings out."""

RECURATED = ("manifest", "documents", "conditional_losses", "finalists")
"""Steps that recurate runs and others are built on."""

LONGEST = 20
"""Entries of a list that are kept; of a longer one its digest is."""


def told_values(section: Section) -> dict[str, Any]:
    """Return a section's values as a commit and a run keep them: no credentials of a URI, no long list."""

    def tell(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tell(inside) for key, inside in value.items()}
        if isinstance(value, list):
            if len(value) > LONGEST:
                return f"{len(value):,} entries, digest {digest(value)[:12]}"
            return [tell(inside) for inside in value]
        return public_location(value) if isinstance(value, str) else value

    return tell(section.model_dump(mode="json"))


def kept_settings(ops: Mapping[str, Any], steps: Collection[str]) -> dict[str, str]:
    """Return the run tag that says what a configuration file asks of the steps that a job does not run.

    A file that names the corpus (`manifest`) describes a whole curation: what it leaves out has its default. Of another
    file only what it names counts.

    Args:
        ops: `ops` of the file, valid.
        steps: those that the job runs.
    """
    asked: dict[str, Any] = {}
    for step, section in asked_sections(ops).items():
        if step in steps or step in LAST or not (step in ops or "manifest" in ops):
            continue
        said = section.model_validate((ops.get(step) or {}).get("config") or {})
        asked[step] = {"digest": said.digest(), "values": told_values(said)}
    return {KEPT: json.dumps(asked, sort_keys=True)} if asked else {}


def refuse_ignored(tags: Mapping[str, str], job: str, delta: DeltaTables) -> None:
    """Refuse a run whose configuration file asks for something else than the steps that it keeps were made under.

    Raises:
        ConfigError: names every such field, both values, and the job that can do it.
    """
    differences: list[str] = []
    needed = "recurate"
    for step, asked in json.loads(tags.get(KEPT, "{}")).items():
        stored = delta.settings(tables.ALL[step], step)
        told = [] if stored is None else _differences(step, asked, stored)
        if told and step not in RECURATED:
            needed = "curate"
        differences += told
    if differences:
        raise ConfigError(
            f"The job {job} keeps what the store was made with and cannot do what the configuration asks: "
            f"{'; '.join(differences)}. Run the job {needed}, or set the configuration back."
        )


def _differences(step: str, asked: Mapping[str, Any], stored: Settings) -> list[str]:
    if asked["digest"] == stored.digest:
        return []
    if stored.values is None:
        return [
            f"the settings of {step} are not those that it was stored with (digest {asked['digest'][:12]}, stored "
            f"{stored.digest[:12]}; the store is too old to tell which)"
        ]
    mine, theirs = _flat(asked["values"]), _flat(stored.values)
    return [
        f"{step}.{field} is {json.dumps(mine[field], ensure_ascii=False)}, stored "
        f"{json.dumps(theirs[field], ensure_ascii=False)}"
        for field in mine
        if field in theirs and mine[field] != theirs[field]
    ]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a section, those of its constraints by dotted names."""
    flat = dict(values)
    inside = flat.pop("constraints", {})
    return flat | {f"constraints.{name}": value for name, value in inside.items()}


def read_config(path: Path) -> dict[str, Any]:
    """Read a run configuration.

    Raises:
        ConfigError: the file is missing or is not a YAML mapping.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the configuration {path} cannot be read ({error}); give a YAML file") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
        raise ConfigError(
            f"the configuration {path} is not YAML{place}: {error.problem}; correct it, indenting by spaces"
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(
            f"the configuration {path} is not YAML ({' '.join(str(error).split())}); correct it"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"the configuration {path} is not a mapping; start it with `ops:` as config/demo.yaml does"
        )
    ops = content.get("ops") or {}
    if not isinstance(ops, dict) or not all(isinstance(step, dict | None) for step in ops.values()):
        raise ConfigError(
            f"`ops` in the configuration {path} is not a mapping of steps; write `ops: STEP: config: FIELD: value` "
            "as config/demo.yaml does"
        )
    return {**content, "ops": ops}
