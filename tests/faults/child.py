"""What a child process does: run some assets on a store, where an environment variable says so with a fault."""

from __future__ import annotations

import gc
import json
import os
import shutil
import time
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import polars as pl
import torch
from dagster._core.errors import DagsterUserCodeProcessError
from seams import CHOSEN
from toys import toy_texts
from workplace import SMALLEST, Workplace

import assets
import grasp_pipeline
import resources
from assets import terminal
from grasp_pipeline import tables
from grasp_pipeline.definitions import defs
from grasp_pipeline.errors import GraspError
from resources.delta.tables import DeltaTables

torch.set_num_threads(1)


USED = (
    *("deltalake", "matplotlib.pyplot", "pandas", "pyarrow.compute", "pyarrow.parquet", "tokenizers"),
    *("transformers.models.llama", "upath", "zstandard"),
)
"""Libraries that are imported when they are needed."""


def load_everything() -> None:
    """Import every module of the product, as its functions would: what a child is forked from has them all."""
    for package in (grasp_pipeline, assets, resources):
        for found in walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith(("__main__", ".cluster", ".vision")):  # Ray and images are not used
                import_module(found.name)
    defs.resolve_implicit_global_asset_job_def()
    for name in USED:
        import_module(name)
    gc.freeze()  # children then copy no page of what is loaded because its garbage is sought


SMALLER: dict[str, dict[str, Any]] = {
    "proxy_checkpoints": {"reference_tokens": 2_000, "retrain_tokens": 1_000},
    "finalists": {"shortlist": 1},
}


def place_of(folder: Path) -> Workplace:
    """Return the workplace in a folder, with settings that take little time."""
    sections = {name: dict(fields) for name, fields in SMALLEST.items()}
    for name, fields in SMALLER.items():
        sections[name] |= fields
    return Workplace(folder, sections=sections)


def prepare(folder: Path, chain: list[list[str]], snapshots: Path) -> None:
    """Run assets one step after the other, and copy the store as it is before each, and at last."""
    place = place_of(folder)
    for number, wanted in enumerate(chain):
        shutil.copytree(folder, snapshots / str(number))
        place.run(only=wanted)
    shutil.copytree(folder, snapshots / str(len(chain)))


def work(folder: Path, assets: list[str], fault: str, told: Path, shard: str | None = None) -> None:
    """Run some assets, of one shard where it is named; leaves what became of it, unless it was killed."""
    from points import FAULTS

    os.environ["GRASP_STORE"] = str(folder / "store")
    os.environ[CHOSEN] = fault
    place = place_of(folder)
    if fault:
        FAULTS[fault].seam.arm()
    outcome: dict[str, Any] = {"error": None}
    try:
        place.run(only=assets, shard=shard)
    except (GraspError, DagsterUserCodeProcessError) as error:
        ours = (
            error.__cause__ if isinstance(error, DagsterUserCodeProcessError) else error
        )  # see assets.sentences
        outcome = {"error": type(ours).__name__, "message": str(ours), "bare": False}
    except BaseException as error:
        outcome = {"error": type(error).__name__, "message": str(error), "bare": True}
    told.write_text(json.dumps(outcome))


def run_job(folder: Path, job: str, told: Path) -> None:
    """Run a job; leaves what became of it and whether a step waited, and a file `.waits` as soon as one does."""
    os.environ["GRASP_STORE"] = str(folder / "store")
    waited: list[str] = []

    def hear(message: str, _: int) -> None:
        if " waits: " in message:
            waited.append(message)
            told.with_suffix(".waits").touch()

    terminal.LISTENER = hear
    outcome: dict[str, Any] = {"error": None}
    try:
        place_of(folder).run(job)
    except BaseException as error:
        outcome = {"error": type(error).__name__, "message": str(error)}
    told.write_text(json.dumps(outcome | {"waited": waited}))


def stand_still(folder: Path, assets: list[str], stands: Path) -> None:
    """Begin with some assets and stand still in the middle of the first of them, until killed."""
    os.environ["GRASP_STORE"] = str(folder / "store")

    def stop(*_: Any, **__: Any) -> None:
        stands.touch()
        time.sleep(600)

    DeltaTables.write = stop  # type: ignore[method-assign]
    place_of(folder).run(only=assets)


def read_on(folder: Path, names: list[str], stop: Path, told: Path) -> None:
    """Read tables over and over, each at a pinned version and twice, until a file appears; leaves what was wrong."""
    delta = place_of(folder).delta
    readings, faults = 0, []
    while not stop.exists() or not readings:
        for name in names:
            table = tables.ALL[name]
            pinned = delta.pin(table)
            first, second = (delta.rows(pinned).collect().sort(table.key) for _ in range(2))
            readings += 1
            if not first.equals(second):
                faults.append(f"{name} at {pinned.version} changed between two readings")
            if first.select(table.key).is_duplicated().any():
                faults.append(f"{name} at {pinned.version} has a row twice")
    told.write_text(json.dumps({"readings": readings, "faults": faults}))


def change_inputs(folder: Path) -> None:
    """Withdraw rows of one file and add another, as a day does."""
    place = place_of(folder)
    frame = pl.read_parquet(place.corpus / "b.parquet")
    frame[:-4].write_parquet(place.corpus / "b.parquet")
    rows = [(f"new-{n}", "news", text) for n, text in enumerate(toy_texts("news", 6, "new"))]
    new = pl.DataFrame(rows, schema=["key", "origin_name", "body"], orient="row")
    new.write_parquet(place.corpus / "c.parquet")
