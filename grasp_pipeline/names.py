"""Names that several rooms write, store and compare: each is spelled here once."""

from __future__ import annotations

from typing import Literal

Split = Literal["query", "judge", "calibration", "evaluation"]
"""What held-out documents, and whatever is measured on them, are for; `evaluation` is sealed."""

SubsetSplit = Literal["calibration", "evaluation", "finalist", "refit"]
"""What subsets were drawn or chosen for."""

CheckpointRole = Literal["initial", "reference"]
"""Checkpoints of the proxy: before training, near its beginning, at its end."""

ArmRole = Literal["candidate", "simple", "random", "full"]
"""`candidate`: optimised, for the judge; `simple`: a baseline; `random`: a draw; `full`: do not prune."""

Form = Literal["mean", "sum", "joint", "conditional"]
"""`mean`: a subset's value is that of its average token; `sum`: that of all its tokens together; `joint`,
`conditional`: log-coverage of the queries' events (see `attribution.log_coverage`)."""

COVERAGE_FORMS: tuple[Form, ...] = ("joint", "conditional")
"""The forms of log-coverage."""

EVENTS = "events"
"""What configurations of the forms `joint` and `conditional` have in place of a sketch kind."""

Dedup = Literal["none", "soft", "hard"]
"""Of the documents of a near-duplicate cluster of size k: all, ceil(sqrt(k)) or one."""

RANDOM = "random"
"""Role of the arms that are independent draws; their runs together are the baseline of the headline certificate."""

MEAN = "mean"
"""The task that is the mean of all tasks."""

WORST = "worst"
"""The target that is the task that gains least."""
