"""What people ask of a selection beside its tasks: budget, quotas per source, clusters, must-keep and must-drop.

A `ConstraintSet` is the feasible set of the optimiser. It moves chunks or whole documents, finds the exact maximum of
a linear function, and rounds to whole units. Demands that cannot be met together are refused when it is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Bools, Floats, Ints
from grasp_pipeline.errors import ConfigError, InputError, nearest
from grasp_pipeline.selection.constraints.feasibility import feasible_start
from grasp_pipeline.selection.constraints.pricing import priced_vertex
from grasp_pipeline.selection.constraints.quotas import totals
from grasp_pipeline.selection.constraints.relaxation import DROP
from grasp_pipeline.selection.constraints.spec import Bound, ConstraintSpec
from grasp_pipeline.selection.constraints.whole_units import fill_quotas
from grasp_pipeline.selection.solver.budget import check_budget, descending

_SLIP = 1e-6
"""Tokens by which a bound that is a share of the budget may look passed: rounding."""


class ConstraintSet:
    """The weights (n,) in [0, 1] of chunks that spend a budget exactly and meet every quota; a `FeasibleSet`.

    Chunks of a document, where documents are given, share one weight. A unit (chunk, or then document) longer than
    the budget, its source's cap or the token maximum of a cluster can never be kept whole and has weight 0.
    """

    def __init__(
        self,
        n_tokens: ArrayLike,
        budget: int,
        *,
        documents: NDArray[np.integer[Any]] | None = None,
        sources: NDArray[np.integer[Any]] | None = None,
        source_names: Sequence[str] = (),
        floors: Mapping[str, float] | None = None,
        caps: Mapping[str, float] | None = None,
        clusters: NDArray[np.integer[Any]] | None = None,
        cluster_units: int | None = None,
        cluster_tokens: int | None = None,
        keep: Bools | None = None,
        drop: Bools | Mapping[str, Bools] | None = None,
    ) -> None:
        """Check the demands and find one point that meets them.

        documents: (n,) codes, to keep or drop documents as one; None selects by chunk. sources: (n,) codes into
        source_names; floors, caps: by source name, above 1 in tokens, up to 1 as a share of the budget.
        clusters: (n,) codes of near-duplicate clusters; each keeps at most cluster_units chunks (documents, where
        they are given) or cluster_tokens tokens; None for no limit. keep, drop: (n,) chunks that must be kept or
        dropped, drop also by what drops them; in a document that one of its chunks marks, all of them.

        Raises:
            ConfigError: demands contradict each other; names them and the smallest relaxation that works.
            InputError: arrays do not belong together.
        """
        self._tokens = check_budget(n_tokens, budget)
        self._budget = int(budget)
        n = len(self._tokens)
        self._unit = _codes(documents, n, "documents") if documents is not None else None
        tokens = self._sum(self._tokens)
        source, names, floor, cap = _sources(sources, source_names, floors or {}, caps or {}, n)
        if cluster_units is not None and cluster_tokens is not None:
            raise ConfigError("a cluster's maximum is given in units and in tokens; give one of them")
        if clusters is None and (cluster_units is not None or cluster_tokens is not None):
            raise InputError("a maximum per cluster needs the chunks' clusters")
        self._spec = ConstraintSpec(
            unit="chunk" if documents is None else "document",
            tokens=tokens,
            budget=self._budget,
            source=self._same(source, "source"),
            names=names,
            floor=floor,
            cap=cap,
            cluster=None if clusters is None else self._same(_codes(clusters, n, "clusters"), "cluster"),
            cluster_units=cluster_units,
            cluster_tokens=cluster_tokens,
            keep=self._any(keep, "keep"),
            dropped_by={
                name: self._any(marked, "drop")
                for name, marked in (drop if isinstance(drop, Mapping) else {DROP: drop}).items()
            },
        )
        _check_lists(self._spec)
        self._start = feasible_start(self._spec)
        self._quotas = self._spec.quotas()
        (self._open,) = np.nonzero(self._spec.open)

    @property
    def n_tokens(self) -> Floats:
        """(n,) tokens of the chunks, 0 where a chunk can never be kept."""
        return np.where(self._expand(np.ones(len(self._open))) > 0, self._tokens, 0.0)

    @property
    def unit(self) -> Ints | None:
        """(n,) codes of the documents, where they are kept or dropped as one."""
        return self._unit

    @property
    def forced(self) -> Bools | None:
        """(n,) chunks that must be kept, None where there are none."""
        return self._expand_all(self._spec.keep.astype(np.float64)) > 0 if self._spec.keep.any() else None

    @property
    def budget(self) -> int:
        """Tokens that every feasible point spends."""
        return self._budget

    def vertex(self, gains: NDArray[np.floating[Any]]) -> Floats:
        """Return weights (n,) that maximise sum_i w_i n_i gains_i; ties go to the earlier unit.

        Exact by sorting where every limited cluster lies within one source with a floor or cap and limits tokens or
        units of equal tokens; else exact to 1e-9 of budget times the largest gain by `priced_vertex`.
        """
        gains = self._mean(gains)[self._open]
        return self._expand(priced_vertex(self._quotas, gains, self._start) / self._quotas.tokens)

    def round(self, weights: NDArray[np.floating[Any]], gains: NDArray[np.floating[Any]]) -> Bools:
        """Return a membership (n,) of whole units: by weight, equal weights by gain, until no other unit fits.

        Budget, caps, cluster maxima, must-keep and must-drop hold; floors may be missed by less than a unit where
        whole units do not add up.
        """
        order = descending(self._mean(weights)[self._open], self._mean(gains)[self._open])
        return self._expand(fill_quotas(self._quotas, order)) > 0

    def binding(self, membership: Bools) -> NDArray[np.str_]:
        """Return (n,) the constraint beside the budget that keeps a chunk out, "" where none does or it is kept.

        What drops it, the cap of its source, or the maximum of its near-duplicate cluster, in this order: what leaves
        no room for the chunk's unit beside what is kept.
        """
        d, kept = self._spec, self._mean(membership.astype(np.float64)) > 0
        feasible = (d.cap.tokens(self.budget) - d.by_source(kept))[d.source]
        named = np.full(len(kept), "", dtype=object)
        if d.cluster is not None:
            for limit, sizes in ((d.cluster_units, np.ones(len(kept))), (d.cluster_tokens, d.tokens)):
                if limit is not None:
                    held = totals(d.cluster[kept], sizes[kept], int(d.cluster.max(initial=0)) + 1)
                    named[held[d.cluster] + sizes > limit] = "maximum of its near-duplicate cluster"
        capped = d.tokens > feasible + _SLIP
        named[capped] = np.array([f"cap of {name}" for name in d.names], dtype=object)[d.source[capped]]
        for name, dropped in d.dropped_by.items():
            named[dropped] = name
        named[kept] = ""
        return (named if self._unit is None else named[self._unit]).astype(np.str_)

    def _sum(self, values: Floats) -> Floats:
        return values if self._unit is None else totals(self._unit, values, int(self._unit.max()) + 1)

    def _mean(self, values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Return the token-weighted mean of chunks' values (n,) per unit."""
        if self._unit is None:
            return np.asarray(values)
        return self._sum(values * self._tokens) / np.maximum(self._spec.tokens, 1.0)

    def _expand(self, chosen: NDArray[Any]) -> Floats:
        """Return chunk weights (n,) from weights of the open units; must-keep units have 1, others 0."""
        weights = self._spec.keep.astype(np.float64)
        weights[self._open] = chosen
        return self._expand_all(weights)

    def _expand_all(self, weights: Floats) -> Floats:
        return weights if self._unit is None else weights[self._unit]

    def _same(self, codes: Ints, what: str) -> Ints:
        """Return a unit's code from its chunks', which must agree."""
        if self._unit is None:
            return codes
        per_unit = np.zeros(int(self._unit.max()) + 1, dtype=np.int64)
        per_unit[self._unit] = codes
        if (wrong := np.nonzero(per_unit[self._unit] != codes)[0]).size:
            raise InputError(f"the document of chunk {wrong[0]} has chunks of more than one {what}")
        return per_unit

    def _any(self, marked: Bools | None, what: str) -> Bools:
        n = len(self._tokens)
        if marked is None:
            marked = np.zeros(n, dtype=np.bool_)
        if marked.shape != (n,) or marked.dtype != np.bool_:
            raise InputError(f"{what} has shape {marked.shape}; give true or false for each of {n} chunks")
        return marked if self._unit is None else np.bincount(self._unit, marked) > 0


def _codes(codes: NDArray[np.integer[Any]], n: int, what: str) -> Ints:
    """Return codes as (n,) int64; raises InputError for another shape or negative codes."""
    array = np.asarray(codes)
    if array.shape != (n,) or not np.issubdtype(array.dtype, np.integer) or array.min(initial=0) < 0:
        raise InputError(f"{what} of shape {array.shape} must be codes from 0, one for each of {n} chunks")
    return array.astype(np.int64)


def _sources(
    codes: NDArray[np.integer[Any]] | None,
    names: Sequence[str],
    floors: Mapping[str, float],
    caps: Mapping[str, float],
    n: int,
) -> tuple[Ints, list[str], Bound, Bound]:
    """Return codes (n,), names and bounds of the sources with a floor or cap; all others are one source, the last."""
    bounded = [name for name in names if name in floors or name in caps]
    for name in (*floors, *caps):
        if name not in names:
            raise ConfigError(
                f"no chunk comes from the source {name!r} that a floor or cap names; {nearest(name, names)}"
            )
    renamed = np.full(max(len(names), 1), len(bounded))
    for position, name in enumerate(names):
        if name in bounded:
            renamed[position] = bounded.index(name)
    known = _codes(codes, n, "sources") if codes is not None else np.zeros(n, dtype=np.int64)
    if codes is not None and known.max(initial=0) >= len(names):
        raise InputError(f"source codes reach {known.max()}, but {len(names)} sources are named")
    labels = [*(f"source {name}" for name in bounded), "all other sources" if bounded else "the corpus"]
    low = _bound([floors.get(name, 0.0) for name in bounded] + [0.0], labels)
    high = _bound([caps.get(name, np.inf) for name in bounded] + [np.inf], labels)
    return renamed[known], labels, low, high


def _bound(amounts: Sequence[float], labels: Sequence[str]) -> Bound:
    values = np.array(amounts, dtype=np.float64)
    for label, value in zip(labels, values, strict=True):
        if not value >= 0:
            raise ConfigError(f"the floor or cap of {label} is {value}; give tokens or a share, 0 or more")
    return Bound(np.where(values > 1, values, 0.0), np.where(values > 1, 0.0, values))


def _check_lists(spec: ConstraintSpec) -> None:
    """Refuse must-keep units that must be dropped, or that a cluster has no room for."""
    for name, dropped in spec.dropped_by.items():
        if both := int((spec.keep & dropped).sum()):
            raise ConfigError(
                f"{both:,} {spec.unit}s are in must_keep and in {name}, the first with chunk or document number "
                f"{int(np.argmax(spec.keep & dropped))}; take them out of one list"
            )
    if spec.cluster is None:
        return
    for limit, size, word in (
        (spec.cluster_units, None, f"{spec.unit}s"),
        (spec.cluster_tokens, spec.tokens[spec.keep], "tokens"),
    ):
        if limit is None:
            continue
        held = np.bincount(spec.cluster[spec.keep], size)
        over = np.maximum(held - limit, 0)
        if over.any():
            raise ConfigError(
                f"must_keep holds more of {int((over > 0).sum()):,} near-duplicate clusters than the cluster maximum "
                f"of {limit:,} {word}: raise the maximum to {int(held.max()):,}, or take {int(over.sum()):,} {word} "
                "of these clusters out of must_keep"
            )
