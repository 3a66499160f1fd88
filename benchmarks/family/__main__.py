"""Measure the family, or one member of it: `python -m benchmarks.family [--only NAME]`, `make benchmark-family`.

Each member's figures replace what was there of it, as soon as it has ended; those of the others stay.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module

from benchmarks.family import MEMBERS
from benchmarks.family.page import figure_words, write_page
from benchmarks.published import published_here, results_folder, update
from grasp_pipeline.progress import duration


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the members, print their figures, and write results/family.json and its tables."""
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=MEMBERS, metavar="NAME", help=f"one of {', '.join(MEMBERS)}")
    options = parser.parse_args(arguments)
    results_folder()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    for member in MEMBERS if options.only is None else (options.only,):
        begun = time.monotonic()
        found = import_module(f"benchmarks.family.{member}").figures()
        for figure in found:
            print(figure_words(asdict(figure)), figure.note, flush=True)
        path = update("family", "make benchmark-family", found, f"family-{member}")
        print(f"{member}: {duration(time.monotonic() - begun)}; wrote {path}", flush=True)
        if published_here(path):
            write_page()


if __name__ == "__main__":
    main()
