"""Does the present code give the figures that are published? For code that was rearranged and should compute the same.

    python -m benchmarks.reproduce fidelity-quick
    python -m benchmarks.reproduce downstream --ground main/bundled/0 --against STORE

The first measures one cell of the fidelity laboratory afresh and compares every figure with the published ones. The
second measures one ground of the downstream benchmark afresh and compares every array of its cases with those that
STORE, the `GRASP_STORE` of the published run, holds. Where all are equal, `results/reproduced/NAME.json` says so, and
the tables of NAME tell it beside the commit that they were measured at.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.published import RESULTS, ROOT, commit, results_folder
from benchmarks.sources import sources_digest
from grasp_pipeline.errors import GraspError

SHARED = {
    "fidelity-quick": ("fidelity-quick", "fidelity"),
    "downstream": ("downstream",),
}
"""What is measured again -> the results that the same code makes."""

TOLERANCE = 1e-9


def reproduced_file(name: str) -> Path:
    """Return where it stands that a result was reproduced."""
    return RESULTS / "reproduced" / f"{name}.json"


def _measure(arguments: Sequence[str], store: Path, results: Path) -> None:
    environment = os.environ | {"GRASP_STORE": str(store), "GRASP_RESULTS": str(results)}
    subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, env=environment, check=True)


def quick_cell(scratch: Path) -> str:
    """Measure the quick cell afresh and compare its figures; returns what was found, in words.

    Raises:
        GraspError: a figure differs.
    """
    name = "fidelity-quick"
    settings = f"config/{name}.yaml"
    _measure(
        ["benchmarks.fidelity", "--config", settings, "--name", name], scratch / "store", scratch / "results"
    )
    wanted = {row["figure"]: row for row in json.loads((RESULTS / f"{name}.json").read_text())}
    found = {row["figure"]: row for row in json.loads((scratch / "results" / f"{name}.json").read_text())}
    fields = ("value", "low", "high", "note")
    differing = [
        figure for figure in wanted.keys() | found.keys() if not _same(wanted, found, figure, fields)
    ]
    if differing:
        raise GraspError(
            f"{len(differing)} of {len(wanted)} figures differ: {', '.join(sorted(differing)[:5])}"
        )
    return f"the quick cell, measured again, gave the same {len(found)} figures"


def _same(wanted: dict[str, dict], found: dict[str, dict], figure: str, fields: Sequence[str]) -> bool:
    if figure not in wanted or figure not in found:
        return False
    pairs = [(wanted[figure][field], found[figure][field]) for field in fields]
    return all(
        abs(a - b) <= TOLERANCE if isinstance(a, float) and isinstance(b, float) else a == b for a, b in pairs
    )


def downstream_ground(ground: str, against: Path, scratch: Path) -> str:
    """Measure one ground afresh and compare the arrays of its cases; returns what was found, in words.

    Raises:
        GraspError: an array differs, or the store has no finished case of the ground.
    """
    _measure(["benchmarks.downstream", "--ground", ground], scratch / "store", scratch / "results")
    place = Path("laboratory") / "downstream" / ground
    cases = sorted((against / place).glob("case-*.npz"))
    if not cases:
        raise GraspError(f"{against} holds no finished case of {ground}; name the store of the published run")
    arrays = 0
    for case in cases:
        old, new = np.load(case), np.load(scratch / "store" / place / case.name)
        differing = [name for name in old.files if name not in new.files or not _equal(old[name], new[name])]
        if differing:
            raise GraspError(f"{case.name} of {ground} differs in {', '.join(differing)}")
        arrays += len(old.files)
    return f"{len(cases)} cases ({ground}), measured again, gave the same {arrays} arrays"


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype.kind == "f":
        return one.shape == other.shape and np.allclose(one, other, rtol=0, atol=TOLERANCE, equal_nan=True)
    return bool(np.array_equal(one, other))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure again, compare, and note that the results stand."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(SHARED))
    parser.add_argument("--ground", default="main/bundled/0", help="of downstream: KIND/CORPUS/SEED")
    parser.add_argument("--against", type=Path, help="of downstream: the store of the published run")
    options = parser.parse_args(arguments)
    results_folder()
    with tempfile.TemporaryDirectory(prefix="grasp-reproduce-") as folder:
        if options.name == "downstream":
            if options.against is None:
                parser.error("downstream needs --against, the store of the published run")
            said = downstream_ground(options.ground, options.against.resolve(), Path(folder))
        else:
            said = quick_cell(Path(folder))
    for name in SHARED[options.name]:
        path = reproduced_file(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            json.dumps({"commit": commit(), "sources": sources_digest(name), "said": said}, indent=1) + "\n"
        )
    print(f"{said}; `make tables` tells it")


if __name__ == "__main__":
    main()
