"""What baselines may look at, and how they are tuned: on the same calibration subsets as the surrogate."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Codes, Floats, Ints
from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.blocks import SketchBlocks
from grasp_pipeline.attribution.metric import second_moment
from grasp_pipeline.attribution.protocol import Attributor, Membership
from grasp_pipeline.attribution.surrogate import SubsetMeans, subset_means
from grasp_pipeline.calibration.rank import task_level_spearman
from grasp_pipeline.memberships import Memberships
from grasp_pipeline.names import Form
from grasp_pipeline.sketch.views import Layers, View

T = TypeVar("T")

Candidate = tuple[str, Attributor]
"""The sketch kind that a method reads, empty where it reads none, and the method."""

FORMS: tuple[Form, ...] = ("mean", "sum")
DAMPINGS: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Dampings tried where a method's damping is tuned, in units of the mean eigenvalue of its second moment."""

GROUP_DAMPINGS: tuple[float, ...] = (0.1, 1.0, 3.0, 30.0)
"""Those tried where each costs more."""


class Sketched(Protocol):
    """What a baseline reads of a view; `grasp_pipeline.sketch.views.View` says what each is."""

    @property
    def sketches(self) -> SketchBlocks | NDArray[np.floating[Any]]: ...
    @property
    def targets(self) -> Floats: ...
    @property
    def losses(self) -> NDArray[np.floating[Any]]: ...
    @property
    def queries(self) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Sketches:
    """A view without query sketches: sketches (n, d) in blocks, targets (T, d), losses (n,) in nats per token."""

    sketches: SketchBlocks
    targets: Floats
    losses: Floats

    @property
    def queries(self) -> NDArray[np.float32]:
        """None: (0, d)."""
        return np.empty((0, self.sketches.d), dtype=np.float32)


@dataclass(frozen=True)
class BaselineInputs:
    """What baselines may look at.

    Attributes:
        n_tokens: (n,) per example. source, cluster: (n,) integer codes; near duplicates share a cluster.
        tasks: T, how many.
        views: sketches by kind that methods are tuned over; the first is of the final checkpoint alone.
        calibration: (m, n) subsets whose utilities (m, T) are known.
        checkpoints: by kind, views at several checkpoints of the reference training, in order.
        layers: by kind, views by layers.
        representations: (n, h) mean final hidden states; None: there are none.
        query_representations, query_shares: (Q, h) of the queries and (T, Q) their shares in a task; rows sum to 1.
        query_tokens, query_task: (Q,) tokens and task codes of the examples that `queries` of the views are of.
    """

    n_tokens: Ints
    source: Codes
    cluster: Codes
    tasks: int
    views: Mapping[str, Sketched]
    calibration: Membership
    utilities: Floats
    checkpoints: Mapping[str, Sequence[View]] = field(default_factory=dict)
    layers: Mapping[str, Layers] = field(default_factory=dict)
    representations: NDArray[np.float32] | None = None
    query_representations: NDArray[np.float32] | None = None
    query_shares: Floats | None = None
    query_tokens: Ints | None = None
    query_task: Ints | None = None
    _kept: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.n_tokens)

    @cached_property
    def seconds(self) -> Mapping[str, Floats]:
        """Second moment of every view, (d, d)."""
        return {kind: second_moment(view.sketches, self.n_tokens) for kind, view in self.views.items()}

    def remember(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what was made under a key, made once: what several methods need."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def means(self, kind: str, membership: Membership) -> SubsetMeans:
        """Return the mean sketches of subsets (m, n) in a view, read once per view."""
        held = membership.bits if isinstance(membership, Memberships) else np.asarray(membership)
        return self.remember(
            ("means", kind, membership.shape, held.tobytes()),
            lambda: subset_means(self.views[kind].sketches, self.n_tokens, membership),
        )

    def tuned_forms(self, candidates: Iterable[tuple[str, AdditiveScores]]) -> dict[Form, Candidate]:
        """Return for each form the candidate, taken in that form, of highest rank correlation in calibration."""
        tried = list(candidates)
        return {form: self.tuned(in_form(tried, form)) for form in FORMS} if tried else {}

    def tuned(self, candidates: Iterable[Candidate]) -> Candidate:
        """Return the candidate of highest task-level rank correlation on the calibration subsets."""
        tried = list(candidates)
        scores = [
            float(task_level_spearman(each.predict(self.calibration)[None], self.utilities)[0])
            for _, each in tried
        ]
        return tried[int(np.argmax(scores))]


def in_form(
    candidates: Iterable[tuple[str, AdditiveScores]], form: Form
) -> Iterator[tuple[str, AdditiveScores]]:
    """Yield the candidates in one form."""
    for kind, each in candidates:
        yield kind, AdditiveScores(each.scores(), each.n_tokens, form)
