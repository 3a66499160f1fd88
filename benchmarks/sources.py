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
    "grasp_pipeline/proxy/**/*.py",
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
_LEARNED = (
    *_TEXT,
    "grasp_pipeline/proxy/**/*.py",
    "grasp_pipeline/attribution/unlearning.py",
    "benchmarks/family/learned_pool.py",
)
_STORED = ("resources/sketches.py", "resources/delta/files.py")
_SKETCH = ("grasp_pipeline/sketch/**/*.py", "grasp_pipeline/proxy/**/*.py", *_STORED, "benchmarks/sketch*.py")

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
    "report": (
        "grasp_pipeline/report/**/*.py",
        "assets/browse.py",
        "benchmarks/report.py",
    ),
    "downstream": (
        *_CELL,
        *_TEXT,
        "benchmarks/downstream/*.py",
        "config/downstream.yaml",
    ),
    "ladder": (
        *_CELL,
        *_TEXT,
        *(f"benchmarks/downstream/{name}.py" for name in ("ladder", "prepared_pool", "settings", "shipping")),
        "benchmarks/downstream/target_study.py",
        "config/ladder.yaml",
    ),
    "family": ("benchmarks/family/*.py",),
    "family-groups": (
        *(
            f"grasp_pipeline/attribution/{name}.py"
            for name in (
                "blocks",
                "group_gradients",
                "grouped",
                "partition",
                "methods/grouped_trak",
                "methods/trak",
            )
        ),
        "grasp_pipeline/attribution/methods/damped_influence.py",
        "grasp_pipeline/proxy/**/*.py",
        "grasp_pipeline/sketch/*.py",
        *(f"benchmarks/family/{name}.py" for name in ("groups", "samples")),
    ),
    "family-skew": (
        "grasp_pipeline/attribution/skew/*.py",
        "grasp_pipeline/proxy/**/*.py",
        *(f"benchmarks/family/{name}.py" for name in ("skew", "samples")),
    ),
    "family-batch_filter": (
        "grasp_pipeline/proxy/**/*.py",
        "examples/filtered_ppo.py",
        *(f"benchmarks/family/{name}.py" for name in ("batch_filter", "samples")),
    ),
    "family-convex": (
        "grasp_pipeline/attribution/convex/*.py",
        "grasp_pipeline/corpus/images.py",
        "benchmarks/family/convex.py",
    ),
    "family-proof": (
        "grasp_pipeline/attribution/convex/*.py",
        *(f"grasp_pipeline/proof/{name}.py" for name in ("claim", "exchange", "residual")),
        "grasp_pipeline/corpus/images.py",
        "benchmarks/family/proof.py",
    ),
    "family-index": (*_LEARNED, "grasp_pipeline/attribution/distilled.py", "benchmarks/family/index.py"),
    "family-airrep": (
        *_LEARNED,
        "grasp_pipeline/attribution/methods/airrep.py",
        "benchmarks/family/airrep.py",
    ),
    "fidelity": (*_FIDELITY, "config/fidelity.yaml"),
    "fidelity-fresh": (*_FIDELITY, "config/fidelity-fresh.yaml"),
    "fidelity-quick": (*_FIDELITY, "config/fidelity-quick.yaml"),
    "cell": (*_CELL, *_TEXT),
    "contamination": (*_TEXT, "benchmarks/contamination.py"),
    "contexts": (
        *(f"grasp_pipeline/attribution/{name}.py" for name in ("log_coverage", "natural_gradient")),
        "grasp_pipeline/calibration/*.py",
        "grasp_pipeline/corpus/events.py",
        "grasp_pipeline/proxy/**/*.py",
        *_TEXT,
        "benchmarks/laboratory/settings.py",
        "benchmarks/contexts.py",
    ),
    "mutants": (
        "grasp_pipeline/selection/**/*.py",
        "grasp_pipeline/calibration/*.py",
        "assets/checks.py",
        "resources/audit.py",
        "benchmarks/mutants.py",
    ),
    "reliability": (
        *(f"grasp_pipeline/{name}.py" for name in ("errors", "locations", "tables")),
        *(f"grasp_pipeline/{room}/**/*.py" for room in ("config", "corpus", "proxy", "sketch")),
        "assets/*.py",
        "resources/**/*.py",
        *(f"tests/{room}/*.py" for room in ("faults", "fuzz", "reliability")),
        "benchmarks/reliability.py",
    ),
    "retraining": ("grasp_pipeline/proxy/**/*.py", "benchmarks/retraining.py"),
    "scale": (
        "grasp_pipeline/corpus/**/*.py",
        "grasp_pipeline/engine/*.py",
        *(f"assets/{name}.py" for name in ("corpus", "scratch", "tokens")),
        "resources/compute.py",
        "scripts/rewrite_corpus.py",
        "grasp_pipeline/sketch/**/*.py",
        "grasp_pipeline/proxy/**/*.py",
        "benchmarks/scale/*.py",
    ),
    "selection": (
        "grasp_pipeline/selection/**/*.py",
        "grasp_pipeline/corpus/events.py",
        *_STORED[1:],
        "benchmarks/selection*.py",
        "benchmarks/filter_agreement.py",
        "benchmarks/read_ahead.py",
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
    "transfer-large": (
        *_PROTOCOL,
        *_TEXT,
        "grasp_pipeline/corpus/events.py",
        *(f"benchmarks/downstream/{name}.py" for name in ("prepared_pool", "settings", "shipping")),
        "benchmarks/transfer_large.py",
        "config/transfer-large.yaml",
    ),
    "week": (
        "grasp_pipeline/*.py",
        *(f"grasp_pipeline/{room}/**/*.py" for room in ("config", "corpus", "lineage")),
        *_PROTOCOL,
        "assets/*.py",
        "resources/**/*.py",
        "config/week.yaml",
        "benchmarks/week.py",
    ),
    "vision": (
        *_CELL,
        *(f"grasp_pipeline/evaluation/{name}.py" for name in ("image_contexts", "vision")),
        "grasp_pipeline/corpus/events.py",
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
