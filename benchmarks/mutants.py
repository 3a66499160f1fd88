"""Mutation testing of what must not be wrong unseen: the selection, the calibration, the asset checks and the audit.

cosmic-ray names the mutants and makes them; a seeded sample is run, each against the fast tests of its file in a copy
of the tracked files. A mutant is killed where a test fails, or where the tests take many times as long as without it.

    python -m benchmarks.mutants --sample 160 --workers 2
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue

from benchmarks.published import ROOT, Figure, commit, results_folder, save, stamp
from grasp_pipeline.seeds import digest

GOAL = 0.85
SURVIVORS = ROOT / "docs" / "mutants.md"

GROUPS = {
    "selection": "grasp_pipeline/selection",
    "calibration": "grasp_pipeline/calibration",
    "checks": "assets/checks.py",
    "audit": "resources/audit.py",
}
"""What is mutated: a file, or a folder of them."""

TESTS = (
    "tests/selection",
    "tests/calibration",
    "tests/resources/test_audit.py",
    "tests/assets/test_checks.py",
)
"""Where the tests of a mutated file are looked for; each ends within seconds."""

ALSO = {
    "ascent": ["test_certified_gap", "test_optimiser"],
    "optimiser": ["test_certified_gap"],
    "stream": ["test_certified_gap"],
    "feasible_set": ["test_optimiser"],
    "spec": ["test_constraints", "test_constraint_refusals"],
    "kinds": ["test_corpus_constraints"],
    "quotas": ["test_constraints"],
    "relaxation": ["test_constraints", "test_constraint_refusals"],
    "feasibility": ["test_constraints", "test_constraint_refusals"],
    "pricing": ["test_constraints"],
    "whole_units": ["test_constraints", "test_candidates"],
    "context": ["test_finalists", "test_candidates"],
    "candidate": ["test_candidates", "test_finalists"],
    "families": ["test_families", "test_finalists", "test_chunk_filter"],
    "family": ["test_families", "test_finalists", "test_chunk_filter"],
    "cross_fit": ["test_contest", "test_certificate"],
    "views": ["test_finalists"],
    "ngram_features": ["test_ngrams", "test_finalists"],
}
"""File, or folder of files -> tests that work on it through others."""

MOST_TESTS = 3
"""Test files of one mutated file."""

NOT_MUTATED = ("_Is", "_IsNot", "Operator_Is_", "Operator_IsNot_", "NoOp", "Variable")
"""Operators whose mutants are often the same program: `is` for `==` of small numbers or literals, or no change."""


@dataclass(frozen=True)
class Mutant:
    """One change: cosmic-ray's operator and which of its places in a file, at a line."""

    path: str
    operator: str
    occurrence: int
    line: int
    source: str = field(default="", repr=False, compare=False)

    @cached_property
    def code(self) -> str:
        """The file with the change."""
        from cosmic_ray.mutating import mutate_code  # pyright: ignore[reportMissingImports]
        from cosmic_ray.plugins import get_operator  # pyright: ignore[reportMissingImports]

        found = mutate_code(self.source, get_operator(self.operator)(), self.occurrence)
        assert found is not None, "named by the same operator"
        return found

    @property
    def change(self) -> str:
        """The changed lines, before and after."""
        before, after = self.source.splitlines(), self.code.splitlines()
        lines = difflib.unified_diff(before, after, lineterm="", n=0)
        return "\n".join(line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---"))


def mutants(path: Path) -> Iterator[Mutant]:
    """Yield one mutant for every place of a file that something can be changed at, chosen by a digest."""
    from cosmic_ray.ast import ast_nodes, get_ast  # pyright: ignore[reportMissingImports]
    from cosmic_ray.plugins import get_operator, operator_names  # pyright: ignore[reportMissingImports]

    source = path.read_text()
    nodes = list(ast_nodes(get_ast(source)))
    hints = set(_hints(source))
    places: dict[tuple[int, int], list[Mutant]] = {}
    for name in operator_names():
        if any(part in name for part in NOT_MUTATED):
            continue
        operator = get_operator(name)()
        positions = (place for node in nodes for place in operator.mutation_positions(node))
        for occurrence, (start, _) in enumerate(positions):
            if start not in hints:
                made = Mutant(str(path.relative_to(ROOT)), name, occurrence, start[0], source)
                places.setdefault(start, []).append(made)
    for found in places.values():
        yield min(found, key=lambda one: digest("mutant", one.path, one.operator, one.occurrence))


def _hints(source: str) -> Iterator[tuple[int, int]]:
    """Yield every position inside a type annotation: nothing evaluates it."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        for hint in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if not isinstance(hint, ast.expr):
                continue
            for row in range(hint.lineno, (hint.end_lineno or hint.lineno) + 1):
                first = hint.col_offset if row == hint.lineno else 0
                last = hint.end_col_offset if row == hint.end_lineno else len(lines[row - 1])
                yield from ((row, column) for column in range(first, last or 0))


def fast_tests(path: str) -> tuple[str, ...]:
    """Return the first test files of a mutated file: the one named for it, those in `ALSO`, those that import it."""
    module = path.removesuffix(".py").replace("/", ".")
    name = Path(path).stem
    files = [file for place in TESTS for file in sorted((ROOT / place).rglob("test_*.py"))]
    files += [ROOT / place for place in TESTS if place.endswith(".py")]

    def rank(file: Path) -> int | None:
        if file.stem == f"test_{name}":
            return 0
        if file.stem in (*ALSO.get(name, ()), *ALSO.get(Path(path).parent.name, ())):
            return 1
        text, (package, _, last) = file.read_text(), module.rpartition(".")
        return 2 if f"from {module} import" in text or f"from {package} import {last}" in text else None

    ranked = [(order, str(file.relative_to(ROOT))) for file in files if (order := rank(file)) is not None]
    return tuple(file for _, file in sorted(ranked)[:MOST_TESTS])


class Copy:
    """A copy of the tracked files, in which one mutant at a time is tested."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            if name.startswith("data/") or not (ROOT / name).is_file():
                continue
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)

    def test(self, files: Sequence[str], limit: float) -> tuple[int | None, float]:
        """Run test files until one fails; returns pytest's exit status, None beyond the limit, and the seconds."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "HYPOTHESIS_PROFILE": "ci",
        }
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
        started = time.perf_counter()
        try:
            ended = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return None, time.perf_counter() - started
        return ended.returncode, time.perf_counter() - started

    def survives(self, mutant: Mutant, files: Sequence[str], limit: float) -> bool:
        """Return whether a mutant's tests all pass."""
        target = self.folder / mutant.path
        target.write_text(mutant.code)
        try:
            return self.test(files, limit)[0] == 0
        finally:
            target.write_text(mutant.source)


def sample(count: int, seed: str, groups: dict[str, str]) -> list[Mutant]:
    """Return a sample of the mutants of some groups, the same for every run of one commit."""
    files = [
        file for place in groups.values() for file in sorted((ROOT / place).rglob("*.py")) or [ROOT / place]
    ]
    every = [mutant for file in files for mutant in mutants(file) if fast_tests(mutant.path)]
    every.sort(key=lambda one: digest(seed, one.path, one.operator, one.occurrence))
    return every[:count]


def run(chosen: Sequence[Mutant], workers: int) -> list[bool]:
    """Return for every mutant whether it survived.

    Raises:
        RuntimeError: tests fail, or take minutes, without any change.
    """
    limits: dict[tuple[str, ...], float] = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(workers) as pool:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(workers):
            copies.put(Copy(Path(folder) / str(number)))

        def measure(files: tuple[str, ...]) -> None:
            copy = copies.get()
            status, seconds = copy.test(files, 600)
            copies.put(copy)
            if status != 0:
                raise RuntimeError(f"{' '.join(files)} do not pass without a change; mend them first")
            limits[files] = 30 + 5 * seconds
            print(f"{seconds:6.1f} s  {' '.join(files)}", flush=True)

        def test(mutant: Mutant) -> bool:
            copy = copies.get()
            try:
                survived = copy.survives(mutant, fast_tests(mutant.path), limits[fast_tests(mutant.path)])
            finally:
                copies.put(copy)
            print(
                "survived" if survived else "killed  ",
                f"{mutant.path}:{mutant.line}",
                mutant.operator,
                flush=True,
            )
            return survived

        list(pool.map(measure, dict.fromkeys(fast_tests(mutant.path) for mutant in chosen)))
        return list(pool.map(test, chosen))


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share."""
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * ((share * (1 - share) + spread / 4) / trials) ** 0.5
    return centre - half, centre + half


def figures(chosen: Sequence[Mutant], survived: Sequence[bool], seed: str) -> list[Figure]:
    """Return the killed share of all and of every group."""
    found = []
    for name, place in {"all": "", **GROUPS}.items():
        own = [lives for mutant, lives in zip(chosen, survived, strict=True) if mutant.path.startswith(place)]
        if not own:
            continue
        killed = len(own) - sum(own)
        low, high = wilson(killed, len(own))
        goal = f"at least {GOAL}" if name == "all" else ""
        note = f"{killed} of {len(own)} mutants" + (
            f", seed {seed}; survivors: docs/mutants.md" if not place else ""
        )
        figure = "mutants.killed_share" + ("" if name == "all" else f"[{name}]")
        found.append(Figure(figure, killed / len(own), "share", goal, low, high, note))
    return found


def survivors_page(chosen: Sequence[Mutant], survived: Sequence[bool], command: str) -> str:
    """Return the page that lists what no test noticed."""
    lines = [
        "# Surviving mutants",
        "",
        f"What no test noticed in the last run of `{command}` (commit {commit()}); written by it. Some are the same",
        "program in other words, such as a bound that no value meets; the others are tests to write.",
    ]
    for mutant, lives in zip(chosen, survived, strict=True):
        if lives:
            lines += ["", f"`{mutant.path}:{mutant.line}`", "", "```diff", mutant.change, "```"]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=160, help="mutants to run (default %(default)s)")
    parser.add_argument("--seed", default="mutants/1", help="name of the sample (default %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="at once (default: cores)"
    )
    parser.add_argument("--only", choices=GROUPS, help="one group; prints, and writes no result")
    asked = parser.parse_args(arguments)
    groups = GROUPS if asked.only is None else {asked.only: GROUPS[asked.only]}
    command = "make mutants"
    if asked.sample != parser.get_default("sample"):
        command = f"python -m benchmarks.mutants --sample {asked.sample}"
    if asked.only is None:
        stamp("mutants", command)
        results_folder()
    chosen = sample(asked.sample, asked.seed, groups)
    survived = run(chosen, asked.workers)
    for figure in figures(chosen, survived, asked.seed):
        print(f"{figure.figure} {figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}] {figure.note}")
    page = survivors_page(chosen, survived, command)
    if asked.only is None:
        save("mutants", command, figures(chosen, survived, asked.seed))
        SURVIVORS.write_text(page)
    else:
        print(page)


if __name__ == "__main__":
    main()
