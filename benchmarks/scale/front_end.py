"""The front end, from files to tokens: its speed, on one core and on two, its memory, and what a new file costs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.published import ROOT, Figure

LARGE = ROOT / "data" / "large"
CLEANED = ("manifest", "task_documents", "documents", "rejected_documents")
FRONT_END = (*CLEANED, "tokenizer", "tokenized_shards")
BEFORE = "668a2bd"
"""The last commit that cleaned the whole corpus in memory."""

EVERY = 4
"""One document of so many is cleaned by both: 39 MB."""


def figures(scratch: Path, only: Sequence[str] = (), rounds: int = 3, times: int = 10) -> Iterator[Figure]:
    """Measure; needs the large corpus (`make corpus-large`).

    Args:
        scratch: folder for stores and corpora; what is in it is overwritten.
        only: names of the figures, without "scale."; empty for all.
        rounds: of ratios.
        times: rewrites that the larger corpus consists of; the smaller is one.
    """
    parts = {
        "clean_over_before": lambda: clean_over_before(scratch, rounds),
        "clean_speedup": lambda: clean_speedup(scratch, rounds),
        "added_share": lambda: added_share(scratch),
        "rss_growth": lambda: rss_growth(scratch, times),
    }
    for name, part in parts.items():
        if not only or name in only:
            yield from part()


def clean_over_before(scratch: Path, rounds: int) -> Iterator[Figure]:
    """Compare cleaning with that of the commit before it went block by block: one thread, alternating rounds."""
    before = scratch / "before"
    before.mkdir(exist_ok=True)
    archive = subprocess.run(
        ["git", "archive", BEFORE, "grasp_pipeline"], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    subprocess.run(["tar", "-x", "-C", str(before)], input=archive.stdout, check=True)
    ratios, rates, done = [], [], {}
    for number in range(rounds):
        for package in (ROOT, before) if number % 2 else (before, ROOT):
            done[package] = clean(package)
        old, new = done[before], done[ROOT]
        if old["kept"] != new["kept"]:
            raise ValueError(f"the commit {BEFORE} keeps and rejects {old['kept']}, now {new['kept']}")
        ratios.append(old["seconds"] / new["seconds"])
        rates.append(new["megabytes"] / new["seconds"])
    megabytes = done[ROOT]["megabytes"]
    yield Figure(
        "scale.clean_over_before",
        median(ratios),
        "x",
        "at least 2",
        min(ratios),
        max(ratios),
        f"text per second of processor time against commit {BEFORE}, {megabytes:.0f} MB, {rounds} alternating rounds",
    )
    yield Figure("scale.clean_mb_per_core_second", median(rates), "MB/s", "", min(rates), max(rates))


def clean(package: Path) -> dict[str, Any]:
    """Clean a part of the large corpus by the package in a folder, in a process of one thread; see `clean_run`."""
    command = [sys.executable, "-W", "ignore", "benchmarks/scale/clean_run.py"]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS"), "1")
    done = subprocess.run(
        [*command, str(LARGE / "corpus"), str(LARGE / "tasks"), str(EVERY)],
        cwd=ROOT,
        env=os.environ | threads | {"PYTHONPATH": str(package)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout)


def clean_speedup(scratch: Path, rounds: int) -> Iterator[Figure]:
    """Compare the step `documents` with two workers and with one, in alternating rounds."""
    store = scratch / "speedup"
    shutil.rmtree(store, ignore_errors=True)
    corpus = [str(LARGE / "corpus")]
    run(store, corpus, 1, ("manifest", "task_documents"))
    ratios = []
    for number in range(rounds):
        seconds = {}
        for workers in (1, 2) if number % 2 else (2, 1):
            for made in ("documents", "rejected_documents", "scratch/documents"):
                shutil.rmtree(store / made, ignore_errors=True)
            done = run(store, corpus, workers, ("documents", "rejected_documents"))
            seconds[workers] = done["steps"]["documents"]
        ratios.append(seconds[1] / seconds[2])
    shutil.rmtree(store)
    note = f"seconds of the step with one worker over two, whole large corpus, {rounds} alternating rounds"
    yield Figure("scale.clean_speedup", median(ratios), "x", "at least 1.8", min(ratios), max(ratios), note)


def added_share(scratch: Path) -> Iterator[Figure]:
    """Add a file of a hundredth of the corpus and run the front end again."""
    store, corpus, new = scratch / "added", scratch / "added-corpus", scratch / "added-file"
    for folder in (store, corpus, new):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(LARGE / "corpus", corpus)
    whole = run(store, [str(corpus)], 2, FRONT_END)
    rewritten(new, times=1, share=0.01)
    join_files(new, corpus / "99-new.parquet")
    kept = ("task_documents", "tokenizer")  # as the job recurate has it
    again = run(store, [str(corpus)], 2, [name for name in FRONT_END if name not in kept])
    seconds = {name: round(value, 1) for name, value in again["steps"].items()}
    note = f"front end: {again['seconds']:.1f} s over {whole['seconds']:.1f} s; by step {seconds}"
    for folder in (store, corpus, new):
        shutil.rmtree(folder)
    yield Figure(
        "scale.added_share[front end]",
        again["seconds"] / whole["seconds"],
        "share",
        "at most 0.05",
        note=note,
    )


def rss_growth(scratch: Path, times: int) -> Iterator[Figure]:
    """Compare the peak memory of the front end on many rewrites of the large corpus and on one."""
    peaks = {}
    for number in (1, times):
        corpus, store = scratch / f"rewritten-{number}", scratch / f"memory-{number}"
        shutil.rmtree(store, ignore_errors=True)
        size = rewritten(corpus, times=number)
        done = run(store, [str(corpus)], 2, FRONT_END)
        peaks[number] = done["peak"]
        seconds = {name: round(value) for name, value in done["steps"].items()}
        note = f"{size / 1e6:,.0f} MB of text in {done['seconds']:,.0f} s; by step {seconds}"
        yield Figure(
            f"scale.front_end_peak[{size / 1e6:.0f} MB]", done["peak"] / 2**30, "GiB", "at most 4", note=note
        )
        for folder in (store, corpus):
            shutil.rmtree(folder)
    note = "largest resident memory of the process and its two workers together, from files to tokens"
    yield Figure("scale.rss_growth[front end]", peaks[times] / peaks[1], "x", "at most 1.3", note=note)


def run(store: Path, paths: list[str], workers: int, assets: Sequence[str]) -> dict[str, Any]:
    """Materialize assets in a process of its own; see `front_end_run.materialize`."""
    asked = {
        "paths": paths,
        "tasks": [str(LARGE / "tasks" / "*.parquet")],
        "store": str(store),
        "workers": workers,
        "assets": list(assets),
    }
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scale.front_end_run", json.dumps(asked)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"DAGSTER_HOME": ""},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def rewritten(folder: Path, times: int, share: float = 1.0) -> int:
    """Write rewrites of the large corpus; returns the bytes of their text."""
    import polars as pl

    command = [
        sys.executable,
        "scripts/rewrite_corpus.py",
        "--corpus",
        str(LARGE / "corpus"),
        "--out",
        str(folder),
    ]
    subprocess.run([*command, "--times", str(times), "--share", str(share)], cwd=ROOT, check=True)
    sizes = pl.scan_parquet(folder / "*.parquet").select(pl.col("text").str.len_bytes().sum())
    return sizes.collect(engine="streaming").item()


def join_files(folder: Path, path: Path) -> None:
    """Write the rows of a folder's files to one file."""
    import polars as pl

    pl.concat([pl.read_parquet(each) for each in sorted(folder.glob("*.parquet"))]).write_parquet(path)
