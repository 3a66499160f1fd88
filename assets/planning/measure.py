"""The plan of a run before it is made: small runs of the job itself on a sample of the user's corpus.

    python -m assets.run plan --config config/demo.yaml --workers 8

Every stage of `curate` runs on few documents and for few training tokens, with the configuration's own models, kinds
and targets: once to load what it needs, once measured, once more on four times as much. `grasp_pipeline.planning` draws
a line through the two and follows it to the whole corpus. Seconds are of one core's work: other work on the machine
does not count, nor does waiting for a disk or a network.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.graph import curated
from assets.planning.amounts import amounts_of_whole
from assets.planning.small_run import Launch, asked, small_run
from assets.planning.survey import survey_corpus
from assets.stages import STAGES, check_run_config, sections

if TYPE_CHECKING:
    from rich.console import Console

    from grasp_pipeline.planning.costs import Amounts
    from grasp_pipeline.planning.plan import Model, Row

SAMPLE_BYTES = 1_200_000
"""Text of the larger run at least; the smaller has a quarter of it."""

SAMPLE_CHUNKS = 1_200
"""Chunks of the larger run at least."""

FEWER = 4
"""How many times smaller the smaller run is."""


def plan_run(
    config: Mapping[str, Any],
    workers: list[int],
    options: Mapping[str, str],
    launch: Launch,
    console: Console | None,
) -> list[tuple[int, list[Row]]]:
    """Return the plan of `curate` under a run configuration, for every number of workers.

    Args:
        config: run configuration, as a file has it.
        workers: their numbers.
        options: of the object stores that inputs lie in.
        launch: runs the job `curate`; its errors are for the user.
        console: told how far it is.

    Raises:
        ConfigError: the configuration cannot be used, or a small run failed.
        InputError: the inputs cannot be read.
    """
    model, whole = measure(config, options, launch, console)
    return [(number, model.plan(whole, number)) for number in workers]


def measure(
    config: Mapping[str, Any],
    options: Mapping[str, str],
    launch: Launch,
    console: Console | None = None,
) -> tuple[Model, Amounts]:
    """Make the small runs; returns the costs fitted to them, and what the whole corpus has to do; see `plan_run`."""
    from grasp_pipeline.corpus.tasks import read_tasks
    from grasp_pipeline.planning.plan import Model

    def say(message: str) -> None:
        if console is not None:
            console.print(message, markup=False)

    check_run_config(config["ops"], STAGES)
    ops: dict[str, Any] = {
        name: section.model_validate(asked(config, name))
        for name, section in sections().items()
        if _needed(name)
    }
    wanted = max(SAMPLE_BYTES, 4 * SAMPLE_CHUNKS * ops["tokenizer"].chunk_tokens)
    survey = survey_corpus(ops["manifest"], options, wanted)
    taken = int(survey.sample["text"].str.len_bytes().sum())
    say(
        f"{survey.documents:,.0f} documents, {survey.text_bytes / 1e6:,.1f} MB of text; three small runs follow, on up "
        f"to {taken / 1e6:.1f} MB of it"
    )
    tasks = read_tasks(ops["task_documents"], options).documents
    whole = survey.text_bytes, survey.documents
    pilots = []
    for share in (
        FEWER,
        FEWER,
        1,
    ):  # the first tells what loading libraries and compiling costs; it is no part of any line
        with tempfile.TemporaryDirectory() as folder:
            begun = time.monotonic()
            pilots.append(small_run(config, ops, survey, tasks, share, Path(folder), launch))
            say(f"small run {len(pilots)} of 3: {time.monotonic() - begun:.0f} s")
    cold, small, large = pilots
    return Model.of(cold, small, large, worker_bytes()), amounts_of_whole(ops, large.amounts, *whole, tasks)


def _needed(stage: str) -> bool:
    return not curated().isdisjoint(STAGES[stage].writes)


def worker_bytes() -> float:
    """Return the bytes that a worker holds when it has loaded the libraries that stages need."""
    from grasp_pipeline.engine import LocalEngine

    with LocalEngine(1, 1, 0) as engine:
        return float(next(iter(engine.map_blocks(_loaded, [0]))))


def _loaded(_: int) -> int:
    import polars  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    from grasp_pipeline.planning.usage import resident

    return resident(os.getpid())
