"""Proof from the tables' logs that the sealed evaluation stayed sealed until the choice was stored."""

from __future__ import annotations

from dataclasses import dataclass

from grasp_pipeline import tables
from resources.delta import DeltaTables

SEALED = ("subsets/split=evaluation", "subset_utilities/split=evaluation")
"""Labels of reads that open the seal."""


@dataclass(frozen=True)
class Seal:
    """Faults found (none is good), and the milestones with their commit times in milliseconds since the epoch."""

    faults: list[str]
    order: dict[str, int]


def sealed(lake: DeltaTables) -> Seal:
    """Check the order of the protocol's commits.

    The grid must be stored before the first utility of a calibration subset that the choice rests on; the evaluation
    subsets must be drawn before the choice; and no commit may have read or measured the present evaluation subsets
    before the commit that stored the choice.
    """
    faults: list[str] = []
    order: dict[str, int] = {}
    choice = lake.latest(tables.SELECTED_CONFIG)
    grid = lake.latest(tables.CANDIDATES)
    drawn = lake.latest(tables.SUBSETS, {"split": "evaluation"})
    calibration = lake.latest(tables.SUBSETS, {"split": "calibration"})
    if choice is None or grid is None or drawn is None or calibration is None:
        return Seal(
            ["the protocol is incomplete: candidates, subsets or selected_config was never written"], order
        )
    order |= {"candidates written": grid.timestamp, "evaluation subsets drawn": drawn.timestamp}
    order["choice stored"] = choice.timestamp

    measured = [
        c for c in lake.commits(tables.SUBSET_UTILITIES) if (c.partition or {}).get("split") == "calibration"
    ]
    resting = [c for c in measured if c.reads.get("subsets/split=calibration", -1) >= calibration.version]
    if resting:
        first = min(resting, key=lambda c: c.version)
        order["calibration measured"] = first.timestamp
        if first.timestamp < grid.timestamp:
            faults.append(
                f"calibration utilities (version {first.version}) were measured before the candidates were written"
            )
    if drawn.timestamp > choice.timestamp:
        faults.append("the evaluation subsets were drawn after the choice; materialize surrogates again")
    if choice.reads.get("candidates") != grid.version:
        faults.append("the choice was made from an older grid; materialize surrogates again")

    for table in tables.ALL.values():
        for commit in lake.commits(table):
            opened = [label for label in SEALED if commit.reads.get(label, -1) >= 0]
            wrote = table is tables.SUBSET_UTILITIES and (commit.partition or {}).get("split") == "evaluation"
            present = commit.reads.get(SEALED[0], -1) >= drawn.version
            if not (opened or wrote) or not present:
                continue
            if wrote:
                order.setdefault("evaluation measured", commit.timestamp)
                order["evaluation measured"] = min(order["evaluation measured"], commit.timestamp)
            if commit.timestamp < choice.timestamp or commit.reads.get("selected_config", -1) < 0:
                faults.append(
                    f"{table.name} version {commit.version} read the evaluation subsets before the choice was stored; "
                    "change subsets.seed to draw fresh ones"
                )
    return Seal(faults, order)
