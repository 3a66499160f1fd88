"""One small run of the job `curate` for a plan, on part of a sample, and what it cost."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.planning.amounts import amounts_of_run
from assets.stages import STAGES
from assets.turns import LOCKS

if TYPE_CHECKING:
    import dagster as dg
    import polars as pl

    from assets.planning.survey import Survey
    from grasp_pipeline.planning.plan import Pilot

STEPS = 32
"""Training steps of a retraining of the larger run."""

TASK_DOCUMENTS = 24
"""Held-out documents of the larger run, of every task, split and fold."""

FOLDERS = {
    "files/tokenizers": "tokenizer",
    "files/proxies": "proxy_checkpoints",
    "files/projections": "sketchers",
    "files/conditional": "conditional_losses",
    "files/finalists": "finalists",
    "scratch/documents": "documents",
    "scratch/manifest": "manifest",
}
"""Folder of the store -> the stage that writes it, where it is not a table's."""


Launch = Callable[[Mapping[str, Any], "dg.DagsterInstance"], "dg.ExecuteInProcessResult"]
"""Runs `curate` under a run configuration, recorded in an instance."""


def asked(config: Mapping[str, Any], stage: str) -> dict[str, Any]:
    return dict((config["ops"].get(stage) or {}).get("config") or {})


def small_run(
    config: Mapping[str, Any],
    ops: Mapping[str, Any],
    survey: Survey,
    tasks: pl.DataFrame,
    share: int,
    folder: Path,
    launch: Launch,
) -> Pilot:
    """Run `curate` on one of so many documents of the sample."""
    import polars as pl

    from grasp_pipeline.planning.plan import Pilot

    sample = survey.sample.gather_every(share)
    few = max(4, TASK_DOCUMENTS // share)
    held = tasks.filter(pl.int_range(pl.len()).over("task", "split", "fold") < few)
    sample.write_parquet(folder / "corpus.parquet")
    held.write_parquet(folder / "tasks.parquet")
    changed = _small(ops, survey, share, folder)
    compute = copy.deepcopy(((config.get("resources") or {}).get("compute") or {}).get("config") or {})
    run_config = {
        "ops": {name: {"config": {**asked(config, name), **changed.get(name, {})}} for name in ops},
        "resources": {
            "store": {"config": {"root": str(folder / "store")}},
            # One thread: what a worker has, so that the seconds of a core are those of the whole run.
            "compute": {"config": {**compute, "threads": 1, "workers": 0}},
        },
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    used = measured_run(run_config, launch)
    disk = _disk(folder / "store")
    runs = _retrained(used.result)
    return Pilot(
        amounts_of_run(ops, changed, sample, held, folder / "store", runs),
        used.seconds,
        disk,
        used.peak,
        used.growth,
    )


@dataclass(frozen=True)
class MeasuredRun:
    """A run, and by stage: seconds of one core, bytes held at most, and of those the ones not held before it."""

    result: dg.ExecuteInProcessResult
    seconds: dict[str, float]
    peak: dict[str, float]
    growth: dict[str, float]


def measured_run(run_config: Mapping[str, Any], launch: Launch) -> MeasuredRun:
    """Run `curate` in this process and measure what its stages use; workers count too."""
    import dagster as dg

    from grasp_pipeline.planning.usage import Usage

    with dg.DagsterInstance.ephemeral() as instance, Usage() as usage:
        result = launch(run_config, instance)
        times = {
            each.step_key: (each.start_time, each.end_time)
            for each in instance.get_run_step_stats(result.run_id)
            if each.start_time is not None and each.end_time is not None
        }
    seconds: defaultdict[str, float] = defaultdict(float)
    peak: defaultdict[str, float] = defaultdict(float)
    growth: defaultdict[str, float] = defaultdict(float)
    for step, (begin, end) in sorted(times.items(), key=lambda item: item[1]):
        used, held = usage.between(begin, end)
        stage = stage_of(step)
        seconds[stage] += used
        peak[stage] = max(peak[stage], held)
        growth[stage] = max(growth[stage], held - usage.held_at(begin))
    return MeasuredRun(result, dict(seconds), dict(peak), dict(growth))


def _small(ops: Mapping[str, Any], survey: Survey, share: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Return what a small run's sections have other than asked."""
    proxy, protocol, finalists = ops["proxy_checkpoints"], ops["candidates"], ops["finalists"]
    least = STEPS // share * proxy.batch_sequences * ops["tokenizer"].chunk_tokens
    trained = max(1_000, least)
    fraction = protocol.budget_fraction
    if protocol.budget_tokens:
        fraction = min(0.9, max(0.05, 4 * protocol.budget_tokens / survey.text_bytes))
    if protocol.budget_documents:
        fraction = min(0.9, max(0.05, protocol.budget_documents / survey.documents))
    return {
        "manifest": {
            "paths": [str(folder / "corpus.parquet")],
            "text_column": "text",
            "id_column": "id",
            "source_column": "source",
        },
        "task_documents": {
            "paths": [str(folder / "tasks.parquet")],
            "text_column": "text",
            "task_column": "task",
            "document_column": "document",
            "min_documents": 4,
        },
        "proxy_checkpoints": {
            "reference_tokens": min(proxy.reference_tokens, 4 * trained),
            "retrain_tokens": min(proxy.retrain_tokens, trained),
        },
        "candidates": {"budget_fraction": fraction, "budget_tokens": 0, "budget_documents": 0},
        "subsets": {
            "calibration_subsets": 8,
            "evaluation_subsets": 8,
        },
        "finalists": {
            "allow_uncertified": True,
            "max_training_tokens": trained if finalists.training_passes else 0,
            "constraints": {},
        },
    }


def stage_of(step: str) -> str:
    """Return the stage of a step: its own, or the one that writes what a check looks at."""
    if step in STAGES:
        return step
    makers = {asset: name for name, stage in STAGES.items() for asset in stage.writes}
    return makers[max((asset for asset in makers if step.startswith(f"{asset}_")), key=len)]


def _disk(store: Path) -> dict[str, float]:
    """Return bytes below a store by the stage that wrote them; the locks of turns hold none.

    Raises:
        ValueError: nobody is known to write a folder.
    """
    makers = {asset: name for name, stage in STAGES.items() for asset in stage.writes} | FOLDERS
    found: defaultdict[str, float] = defaultdict(float)
    for path in store.rglob("*"):
        parts = path.relative_to(store).parts
        if path.is_file() and parts[0] != LOCKS:
            owner = makers.get(parts[0]) or makers.get("/".join(parts[:2]))
            if owner is None:
                raise ValueError(f"no stage is known to write {'/'.join(parts[:2])}; add it to FOLDERS")
            found[owner] += path.stat().st_size
    return dict(found)


def _retrained(result: dg.ExecuteInProcessResult) -> dict[str, int]:
    """Return how many models each asset retrained."""
    found: dict[str, int] = {}
    for event in result.all_events:
        if event.is_step_materialization and event.asset_key is not None:
            told = event.materialization.metadata.get("models_retrained")
            if told is not None:
                found[event.asset_key.to_user_string()] = int(told.value)  # type: ignore[arg-type]
    return found
