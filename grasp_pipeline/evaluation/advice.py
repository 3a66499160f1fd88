"""`python -m grasp_pipeline advise`: which estimate of a removal is safe on the user's own features."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grasp_pipeline.errors import InputError


def add_command(commands: Any) -> None:
    """Add `advise` to a parser's commands."""
    command = commands.add_parser(
        "advise",
        help="whether influence, rescaled influence or a Newton step can be trusted on your features",
    )
    command.add_argument(
        "features",
        type=Path,
        metavar="FILE",
        help=".npz or .safetensors with features (N, d) and labels (N,)",
    )
    command.add_argument(
        "--damping", type=float, default=1.0, metavar="LAMBDA", help="of the head; default 1"
    )
    command.add_argument(
        "--remove",
        type=int,
        nargs="+",
        default=[1, 10],
        metavar="K",
        help="rows removed at once; default 1 10",
    )
    command.add_argument("--tolerance", type=float, default=0.1, help="relative error let pass; default .1")
    command.add_argument("--outliers", type=int, default=5, metavar="M", help="rows of most leverage to name")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=advise_command)


def advise_command(options: argparse.Namespace) -> str:
    """Return the measured errors and, for every size, the cheapest estimator that is safe; rows of most leverage.

    Raises:
        InputError: the file has no features or labels, or they cannot be used.
        ConfigError: a number of rows, the damping or the tolerance is out of range.
    """
    import numpy as np

    from grasp_pipeline.attribution.convex.advisor import advise, safest
    from grasp_pipeline.attribution.convex.head import fit_head
    from grasp_pipeline.attribution.convex.influence import HeadInfluence
    from grasp_pipeline.proof.commands import load_arrays

    arrays = load_arrays(options.features)
    missing = [name for name in ("features", "labels") if name not in arrays]
    if missing:
        raise InputError(f"{options.features} has no array {missing[0]!r}; features and labels are needed")
    head = fit_head(arrays["features"], arrays["labels"], options.damping)
    advice = advise(head, options.remove, options.tolerance)
    leverage = HeadInfluence(head).leverage
    most = np.argsort(-leverage, kind="stable")[: max(0, options.outliers)]
    told = {
        "advice": [asdict(each) for each in advice],
        "safe": {str(k): safest(advice, k) or "refit" for k in options.remove},
        "outliers": [{"row": int(row), "leverage": round(float(leverage[row]), 4)} for row in most],
    }
    if options.json:
        return json.dumps(told, indent=2)
    n, d = head.features.shape
    lines = [f"{n:,} rows, {d:,} features, lambda {head.damping:g}; relative error of the change in margins:"]
    lines += [
        f"  remove {each.k:>5}: {each.estimator:<18} median {each.median:.3f}, worst of 32 sets {each.worst:.3f}"
        f"{', safe' if each.safe else ''}"
        for each in advice
    ]
    lines += [f"To remove {k}: {name}" for k, name in told["safe"].items()]
    if len(most):
        named = ", ".join(f"{each['row']} ({each['leverage']:.2f})" for each in told["outliers"])
        lines.append(f"Rows of most leverage (near 1: alone decides what the head says of it): {named}")
    return "\n".join(lines)
