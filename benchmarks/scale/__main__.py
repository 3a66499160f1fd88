"""A corpus of any size: speed, memory and cost of what is new. `python -m benchmarks.scale`, `make benchmark-scale`."""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.published import Figure, results_folder, update
from benchmarks.scale import chunk_memory, front_end, object_store, plan_error

MODULES = (front_end, chunk_memory, object_store, plan_error)
"""Each measures a group of figures: `figures(scratch, only, rounds, times)`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write results/scale.json and its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", action="append", default=[], help="a figure without `scale.`; may be repeated"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of ratios (%(default)s)")
    parser.add_argument("--times", type=int, default=10, help="rewrites in the larger corpus (%(default)s)")
    parser.add_argument("--scratch", type=Path, help="folder with room for 10 GB; default: a temporary one")
    options = parser.parse_args(arguments)
    results_folder()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        made: defaultdict[str, list[Figure]] = defaultdict(list)
        for module in MODULES:
            for figure in module.figures(Path(scratch), options.only, options.rounds, options.times):
                print(f"{figure.figure}: {figure.value:.4g} {figure.unit} {figure.note}", flush=True)
                name = figure.figure.partition("[")[0]
                made[name].append(figure)
                update("scale", "make benchmark-scale", made[name])


if __name__ == "__main__":
    main()
