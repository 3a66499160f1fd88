"""The family of attribution systems around GRASP: each one's published claim, at a size that two cores carry.

A member is a module of this package with `figures() -> list[Figure]`, its place in `MEMBERS`, the files that decide its
figures as `family-NAME` in `benchmarks/sources.py`, and a row for each of its systems in `systems.py`.
"""

from __future__ import annotations

MEMBERS: tuple[str, ...] = (
    "convex",
    "proof",
    "index",
    "groups",
    "batch_filter",
    "skew",
    "airrep",
)
"""Modules of this package that measure, in the order in which they run."""
