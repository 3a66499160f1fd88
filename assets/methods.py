"""Every method of the fidelity table, predicting the same subsets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from assets.data import StoredPool
    from assets.step import Step
    from grasp_pipeline.arrays import TokenLists
    from grasp_pipeline.memberships import Memberships

Method = tuple[str, str]

OWN_NAMES = {
    "damped influence": "damped influence, tuned damping",
    "quadratic only": "quadratic-only, tuned damping",
}
"""Baselines whose plain name stands in the table for one of fixed damping -> what the tuned one is called there."""


def predict_methods(
    step: Step,
    corpus: StoredPool,
    membership: Memberships,
    chosen: dict[str, Any],
    names: list[str],
    calibration: Memberships,
    utilities: NDArray[np.float64],
    states: Callable[[TokenLists], NDArray[np.float32]] | None,
) -> tuple[dict[Method, NDArray[np.float64]], Method, dict[str, str]]:
    """Return predictions (m, T) by (method, form), the key of the selected surrogate, and who is left out and why.

    All gradient methods use the sketches of the selected kind. Sum and mean forms are both given where they differ.
    What is tuned or fitted is so on the calibration subsets (m_c, n) and their utilities (m_c, T). states: gives
    features (k, h) of chunks; None: methods that read them are left out.
    """
    from assets.data import load_losses, load_sketches, load_task_vectors, query_events
    from assets.finalists import load_texts
    from grasp_pipeline.attribution.methods.inputs import BaselineInputs, Sketches
    from grasp_pipeline.attribution.methods.quadratic_only import quadratic_from_means
    from grasp_pipeline.attribution.methods.registry import baselines, predict
    from grasp_pipeline.attribution.metric import metric_matrix, second_moment
    from grasp_pipeline.attribution.surrogate import predict_from_means, subset_means
    from grasp_pipeline.calibration.grid_predictions import coverage_of
    from grasp_pipeline.calibration.lcb import Configuration
    from grasp_pipeline.errors import GraspError
    from grasp_pipeline.names import COVERAGE_FORMS, EVENTS
    from grasp_pipeline.selection.candidates.families.influence import INFLUENCE_RHO

    kind = chosen["sketch_kind"]
    sketches = load_sketches(step, corpus, kind)
    tasks, vectors = load_task_vectors(step, kind, "query")
    targets = vectors[[tasks.index(name) for name in names]].astype(np.float64)
    means = subset_means(sketches, corpus.n_tokens, membership)
    second = second_moment(sketches, corpus.n_tokens)
    inverse = metric_matrix(second, INFLUENCE_RHO)
    rho = chosen["rho"]
    metric = None if rho == 0 else metric_matrix(second, rho)
    reference = ("surrogate", chosen["form"])
    predictions: dict[Method, NDArray[np.float64]] = {
        ("quadratic-only", "mean"): quadratic_from_means(means, len(names), metric),
    }
    for form in ("mean", "sum"):
        predictions["GradDot", form] = predict_from_means(means, targets, None, 0.0, form)
        predictions["damped influence", form] = predict_from_means(means, targets, inverse, 0.0, form)

    events = query_events(step, corpus, names)
    if chosen["form"] not in COVERAGE_FORMS:
        predictions[reference] = predict_from_means(means, targets, metric, chosen["lam"], chosen["form"])
    else:
        whole = Configuration(chosen["config_id"], EVENTS, chosen["rho"], chosen["lam"], chosen["form"])
        predictions[reference] = coverage_of(whole, events).predict(membership)
    queries = load_texts(step, "query", names)
    tokens = np.concatenate([each.lengths for each in queries]).astype(np.float64)
    task = np.repeat(np.arange(len(names)), [each.n for each in queries])
    shares = (task == np.arange(len(names))[:, None]) * tokens
    inputs = BaselineInputs(
        n_tokens=corpus.n_tokens,
        source=corpus.source,
        cluster=corpus.cluster,
        tasks=len(names),
        views={kind: Sketches(sketches, targets, load_losses(step, corpus, kind))},
        calibration=calibration,
        utilities=utilities,
        representations=None if states is None else states(corpus.text),
        query_representations=None if states is None else np.concatenate([states(each) for each in queries]),
        query_shares=shares / shares.sum(axis=1, keepdims=True),
    )
    left_out: dict[str, str] = {}
    for name, each in baselines().items():
        if lacks := each.lacks(inputs):
            left_out[name] = f"no {' or '.join(lacks)} are stored"
            continue
        try:
            found = predict(each, inputs, membership)
        except GraspError as error:
            left_out[name] = str(error)
            continue
        for (_, form), prediction in found.items():
            predictions.setdefault((OWN_NAMES.get(name, name), form), prediction.values)
    return predictions, reference, left_out
