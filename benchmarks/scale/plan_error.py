"""The plan of a run against the run that followed, on configurations that the plan's constants were not fitted to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.published import ROOT, Figure

GOAL = "at most 0.25"


@dataclass(frozen=True)
class Case:
    """A held-out configuration: bundled files by their numbers, of which one document of so many is taken."""

    files: Sequence[str]
    every: int
    sections: Mapping[str, Mapping[str, Any]]


CASES = {
    "output sketches, half of all files": Case(
        ("01", "02", "03", "04", "05", "06", "07", "08"),
        2,
        {
            "tokenizer": {"vocab_size": 1024, "chunk_tokens": 64},
            "proxy_checkpoints": {
                "preset": "tiny",
                "batch_sequences": 4,
                "learning_rate": 0.005,
                "reference_tokens": 150_000,
                "retrain_tokens": 24_000,
            },
            "sketchers": {"kinds": ["output"], "output_hidden_dim": 16, "output_vocab_dim": 16},
            "candidates": {"budget_fraction": 0.25},
            "subsets": {"calibration_subsets": 16, "evaluation_subsets": 8},
            "finalists": {"allow_uncertified": True, "max_training_tokens": 32_000},
        },
    ),
    "layers sketches, manuals and mail": Case(
        ("02", "04", "06"),
        1,
        {
            "tokenizer": {"vocab_size": 2048, "chunk_tokens": 128},
            "proxy_checkpoints": {
                "preset": "tiny",
                "batch_sequences": 2,
                "learning_rate": 0.005,
                "reference_tokens": 100_000,
                "retrain_tokens": 16_000,
            },
            "sketchers": {"kinds": ["layers"]},
            "candidates": {"budget_fraction": 0.15},
            "subsets": {"calibration_subsets": 12, "evaluation_subsets": 8},
            "finalists": {"allow_uncertified": True, "max_training_tokens": 16_000},
        },
    ),
    "gpt2 and conditional losses, short documents": Case(
        ("01", "03", "08"),
        1,
        {
            "tokenizer": {"vocab_size": 512, "chunk_tokens": 96},
            "proxy_checkpoints": {
                "preset": "gpt2-tiny",
                "batch_sequences": 2,
                "learning_rate": 0.005,
                "reference_tokens": 80_000,
                "retrain_tokens": 12_000,
            },
            "sketchers": {"kinds": ["output"], "output_hidden_dim": 32, "output_vocab_dim": 16},
            "candidates": {"budget_fraction": 0.4},
            "subsets": {"calibration_subsets": 8, "evaluation_subsets": 8},
            "conditional_losses": {"enabled": True},
            "finalists": {"allow_uncertified": True, "max_training_tokens": 20_000},
        },
    ),
}


def figures(scratch: Path, only: Sequence[str] = (), rounds: int = 3, times: int = 10) -> Iterator[Figure]:
    """Measure; as in `front_end.figures`, of which it takes `scratch` and `only`."""
    if not only or "plan_error" in only:
        yield from plan_error(scratch)


def plan_error(scratch: Path) -> Iterator[Figure]:
    """Plan every configuration, then run it, each in a new process on one core; compare time and peak memory."""
    for number, (name, case) in enumerate(CASES.items()):
        folder = scratch / f"planned-{number}"
        folder.mkdir()
        config = run_config(case, folder)
        planned, happened = (process(what, config, folder) for what in ("plan", "run"))
        yield from compare(name, planned, happened)


def run_config(case: Case, folder: Path) -> dict[str, Any]:
    """Write a configuration's corpus below a folder; returns its run configuration."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for path in sorted((ROOT / "data" / "corpus").glob("*.parquet")):
        if path.name[:2] in case.files:
            pl.read_parquet(path).gather_every(case.every).write_parquet(corpus / path.name)
    inputs = {
        "manifest": {"paths": [f"{corpus}/*.parquet"], "id_column": "id", "source_column": "source"},
        "task_documents": {"paths": [f"{ROOT}/data/tasks/*.parquet"]},
    }
    return {
        "ops": {name: {"config": dict(fields)} for name, fields in {**inputs, **case.sections}.items()},
        "resources": {
            "store": {"config": {"root": str(folder / "store")}},
            "compute": {"config": {"device": "cpu", "threads": 1}},
        },
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }


def process(what: str, config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Plan or run a configuration in a process of its own, see `planned_run`; returns what it printed."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scale.planned_run", what]
    done = subprocess.run(
        [*command, json.dumps(config)], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    (folder / f"{what}.json").write_text(done.stdout)
    return json.loads(done.stdout.splitlines()[-1])


def compare(name: str, planned: Mapping[str, Any], happened: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield the relative errors of a plan's time and memory; notes say which stages the error of time comes from."""
    times = {stage: (planned["seconds"][stage], used) for stage, used in happened["seconds"].items()}
    told, took = (sum(column) for column in zip(*times.values(), strict=True))
    worst = sorted(times, key=lambda stage: -abs(times[stage][0] - times[stage][1]))[:4]
    off = ", ".join(f"{stage} {times[stage][0]:.1f} for {times[stage][1]:.1f}" for stage in worst)
    note = f"{told:.0f} s of one core for {took:.0f}; furthest off: {off}"
    yield Figure(f"scale.plan_error[time, {name}]", abs(told - took) / took, "share", GOAL, note=note)
    told, took = (max(each["peak"].values()) / 2**30 for each in (planned, happened))
    note = f"{told:.2f} GiB for {took:.2f}"
    yield Figure(f"scale.plan_error[memory, {name}]", abs(told - took) / took, "share", GOAL, note=note)
