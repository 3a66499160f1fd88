"""Many recurations of a toy corpus in a row, in one process; a line of JSON each: `python recurations.py FOLDER COUNT`.

The corpus does not grow: one of its files holds other rows every time. Started again in the same folder it goes on.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from toys import toy_texts, write_toy_corpus
from workplace import SMALLEST, Workplace

from grasp_pipeline import tables

RESULTS = "recurations.jsonl"
SMALLER = {
    "documents": {"perplexity_quantile": 1.0},
    "proxy_checkpoints": {"reference_tokens": 2_000, "retrain_tokens": 1_000},
    "sketchers": {"kinds": ["output"]},
    "finalists": {"shortlist": 1},
    "conditional_losses": {"enabled": False},
}


def settings() -> dict[str, dict[str, Any]]:
    """Return the smallest settings, made smaller."""
    sections = {name: dict(fields) for name, fields in SMALLEST.items()}
    for name, fields in SMALLER.items():
        sections.setdefault(name, {}).update(fields)
    return sections


def resident_mb() -> float:
    """Return the memory that this process holds, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class HeapInfo(ctypes.Structure):
    """What glibc says of its heap (mallinfo2): bytes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


def held() -> dict[str, float]:
    """Return Python objects that are alive, and the MiB of glibc's heap that are in use and that lie free in it."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = HeapInfo
    gc.collect()
    told = ask()
    return {
        "objects": len(gc.get_objects()),
        "heap_used_mb": (told.uordblks + told.hblkhd) / 2**20,
        "heap_free_mb": told.fordblks / 2**20,
    }


def log_sizes(place: Workplace) -> dict[str, float]:
    """Return the most entries, and the most checkpoints, of the log of a table, and the MiB of all logs."""
    logs = [place.store / name / "_delta_log" for name in tables.ALL]
    return {
        "log_entries": max(len(list(log.glob("*.json"))) for log in logs),
        "checkpoints": max(len(list(log.glob("*.checkpoint.parquet"))) for log in logs),
        "logs_mb": sum(file.stat().st_size for log in logs for file in log.glob("*")) / 2**20,
    }


def main(folder: Path, count: int) -> None:
    """Curate once, then recurate until there are `count` lines."""
    lines = folder / RESULTS
    home = folder / "home"
    fresh = not folder.exists()
    if fresh:
        folder.mkdir(parents=True)
        write_toy_corpus(folder, 12)
        home.mkdir()
    with dg.DagsterInstance.local_temp(str(home), overrides={"telemetry": {"enabled": False}}) as instance:
        place = Workplace(folder, instance=instance, sections=settings())
        done = len(lines.read_text().splitlines()) if lines.exists() else 0
        if not lines.exists():
            place.run()
            lines.touch()
        for number in range(done, count):
            name = f"day-{number}"
            rows = [
                (f"{name}-{place_}", source, text)
                for source in ("news", "code")
                for place_, text in enumerate(toy_texts(source, 6, name))
            ]
            frame = pl.DataFrame(rows, schema=["key", "origin_name", "body"], orient="row")
            frame.write_parquet(place.corpus / "day.parquet")
            begun = time.perf_counter()
            place.run("recurate")
            seconds = time.perf_counter() - begun
            told = {
                "number": number,
                "seconds": seconds,
                "cpu_seconds": time.process_time(),
                "rss_mb": resident_mb(),
                **held(),
                **log_sizes(place),
                "pid": os.getpid(),
            }
            with lines.open("a") as file:
                file.write(json.dumps(told) + "\n")
            print(told, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
