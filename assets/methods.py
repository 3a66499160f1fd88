"""Every method of the fidelity table, predicting the same subsets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from assets.data import Corpus
    from assets.step import Step

Method = tuple[str, str]


def predict_methods(
    step: Step, corpus: Corpus, membership: NDArray[np.bool_], chosen: dict[str, Any], names: list[str]
) -> tuple[dict[Method, NDArray[np.float64]], Method]:
    """Return predictions (m, T) by (method, form), and the key of the selected surrogate.

    All gradient methods use the sketches of the selected kind. Sum and mean forms are both given where they differ.
    """
    from assets.data import load_sketches, load_task_vectors
    from grasp_pipeline.attribution.methods.distinct_documents import DistinctDocuments
    from grasp_pipeline.attribution.methods.quadratic_only import quadratic_from_means
    from grasp_pipeline.attribution.methods.random_score import RandomScore
    from grasp_pipeline.attribution.metric import metric_matrix, second_moment
    from grasp_pipeline.attribution.surrogate import predict_from_means, subset_means
    from grasp_pipeline.selection.candidates.families.influence import INFLUENCE_RHO

    kind = chosen["sketch_kind"]
    sketches = load_sketches(step, corpus, kind)
    tasks, vectors = load_task_vectors(step, kind, "query")
    targets = vectors[[tasks.index(name) for name in names]]
    means = subset_means(sketches, corpus.n_tokens, membership)
    second = second_moment(sketches, corpus.n_tokens)
    inverse = metric_matrix(second, INFLUENCE_RHO)
    rho = chosen["rho"]
    metric = None if rho == 0 else metric_matrix(second, rho)
    reference = ("surrogate", chosen["form"])
    predictions: dict[Method, NDArray[np.float64]] = {
        reference: predict_from_means(means, targets, metric, chosen["lam"], chosen["form"]),
        ("quadratic-only", "mean"): quadratic_from_means(means, len(names), metric),
        ("distinct documents", "sum"): DistinctDocuments(corpus.codes("cluster"), len(names)).predict(
            membership
        ),
        ("random", "mean"): RandomScore(corpus.n_tokens, len(names)).predict(membership),
    }
    for form in ("mean", "sum"):
        predictions["GradDot", form] = predict_from_means(means, targets, None, 0.0, form)
        predictions["damped influence", form] = predict_from_means(means, targets, inverse, 0.0, form)
    return predictions, reference
