"""Processes of one thread, some at a time."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.published import ROOT
from grasp_pipeline.errors import GraspError

THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


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
