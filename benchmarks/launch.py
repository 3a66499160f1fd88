"""Processes of one thread, some at a time."""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.published import ROOT
from grasp_pipeline.errors import GraspError

THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def parser_of(doc: str | None, config: str, one: str, form: str) -> argparse.ArgumentParser:
    """Return the options of a benchmark of many parts: settings, one part alone, and how many go at a time.

    config: default file in `config`; one: what a part is called; form: of its name.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "config" / config, help="settings (YAML)")
    parser.add_argument(f"--{one}", help=f"run this {one} alone, in this process: {form}")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help=f"{one}s at a time")
    return parser


def run_apart(commands: Mapping[str, Sequence[str]], jobs: int) -> None:
    """Run named commands from the repository's root, `jobs` at a time.

    Raises:
        GraspError: some failed; the others go on first.
    """
    environment = os.environ | dict.fromkeys(THREAD_COUNTS, "1")

    def run(command: Sequence[str]) -> int:
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode

    with ThreadPoolExecutor(jobs) as pool:
        codes = list(pool.map(run, commands.values()))
    failed = [name for name, code in zip(commands, codes, strict=True) if code]
    if failed:
        raise GraspError(f"{', '.join(failed)} failed; its error is above. Start again to go on")
