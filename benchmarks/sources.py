"""Which files define what a benchmark measures, and a digest of what they say, so that a table knows when it is old.

Comments, docstrings and layout do not count: a digest changes with what the code does.
"""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from pathlib import Path

from grasp_pipeline.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]

_PROTOCOL = (
    "grasp_pipeline/attribution/**/*.py",
    "grasp_pipeline/calibration/*.py",
    "grasp_pipeline/proxy/*.py",
    "grasp_pipeline/selection/**/*.py",
    "grasp_pipeline/sketch/**/*.py",
)
_CELL = (
    *_PROTOCOL,
    "grasp_pipeline/corpus/pool.py",
    *(
        f"grasp_pipeline/evaluation/{name}.py"
        for name in ("archive", "experiment", "fidelity", "proxies", "selectors")
    ),
    *(f"benchmarks/laboratory/{name}.py" for name in ("settings", "summary")),
)
_TEXT = (
    "benchmarks/laboratory/text.py",
    "grasp_pipeline/corpus/contamination.py",
    "grasp_pipeline/corpus/words.py",
    "grasp_pipeline/corpus/normalize.py",
    "grasp_pipeline/corpus/tokenizer.py",
)
_FIDELITY = (*_CELL, *_TEXT, "benchmarks/fidelity.py", "benchmarks/fidelity_figures.py")
_STORED = ("resources/sketches.py", "resources/delta/files.py")
_SKETCH = ("grasp_pipeline/sketch/**/*.py", "grasp_pipeline/proxy/*.py", *_STORED, "benchmarks/sketch*.py")

SOURCES: dict[str, tuple[str, ...]] = {
    "demo": (
        "grasp_pipeline/*.py",
        *(f"grasp_pipeline/{room}/**/*.py" for room in ("config", "corpus", "evaluation", "report")),
        *_PROTOCOL,
        "assets/*.py",
        "resources/**/*.py",
        "config/demo.yaml",
        "benchmarks/demo.py",
    ),
    "downstream": (
        *_CELL,
        *_TEXT,
        "benchmarks/downstream/*.py",
        "config/downstream.yaml",
    ),
    "fidelity": (*_FIDELITY, "config/fidelity.yaml"),
    "fidelity-fresh": (*_FIDELITY, "config/fidelity-fresh.yaml"),
    "fidelity-quick": (*_FIDELITY, "config/fidelity-quick.yaml"),
    "cell": (*_CELL, *_TEXT),
    "contamination": (*_TEXT, "benchmarks/contamination.py"),
    "mutants": (
        "grasp_pipeline/selection/**/*.py",
        "grasp_pipeline/calibration/*.py",
        "assets/checks.py",
        "resources/audit.py",
        "benchmarks/mutants.py",
    ),
    "retraining": ("grasp_pipeline/proxy/*.py", "benchmarks/retraining.py"),
    "selection": (
        "grasp_pipeline/selection/**/*.py",
        "grasp_pipeline/corpus/events.py",
        *_STORED[1:],
        "benchmarks/selection*.py",
    ),
    "sketch": _SKETCH,
    "sketch-gpu": _SKETCH,
    "transfer": (
        *_FIDELITY,
        "benchmarks/laboratory/transfer.py",
        "benchmarks/laboratory/decisions.py",
        "config/fidelity.yaml",
        "benchmarks/transfer.py",
    ),
    "vision": (
        *_CELL,
        "grasp_pipeline/evaluation/vision.py",
        "grasp_pipeline/corpus/images.py",
        "benchmarks/vision.py",
    ),
}
"""Result file, or `cell` of the laboratory -> patterns, from the root, of the files that decide its figures."""


def files_of(name: str) -> list[Path]:
    """Return the files that define a benchmark, sorted.

    Raises:
        ConfigError: the benchmark has no entry in `SOURCES`, or a pattern finds no file.
    """
    if name not in SOURCES:
        raise ConfigError(
            f"no benchmark is called {name} in benchmarks/sources.py; there are {', '.join(SOURCES)}"
        )
    found: set[Path] = set()
    for pattern in SOURCES[name]:
        mine = set(ROOT.glob(pattern))
        if not mine:
            raise ConfigError(f"the pattern {pattern} of the benchmark {name} finds no file; mend SOURCES")
        found |= mine
    return sorted(found)


def sources_digest(name: str) -> str:
    """Return a digest (12 hex digits) of what the files of a benchmark say; errors as in `files_of`."""
    whole = hashlib.sha256()
    for path in files_of(name):
        whole.update(f"{path.relative_to(ROOT).as_posix()} {content_digest(path)}\n".encode())
    return whole.hexdigest()[:12]


@cache
def content_digest(path: Path) -> str:
    """Return a digest of a Python file's code without docstrings, or of a YAML file's values."""
    text = path.read_text()
    if path.suffix == ".yaml":
        import yaml

        said = json.dumps(yaml.safe_load(text), sort_keys=True)
    else:
        tree = ast.parse(text)
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
        said = ast.dump(tree)
    return hashlib.sha256(said.encode()).hexdigest()


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is a docstring, or any string alone."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
