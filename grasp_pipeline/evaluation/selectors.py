"""Task-optimised subsets: finalists of several selector families for several tasks, as a curation would build them.

An optimiser exploits what its score gets wrong, so these are the subsets that are hardest to rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.attribution.blocks import ArrayBlocks
from grasp_pipeline.attribution.log_coverage import LogCoverage
from grasp_pipeline.attribution.metric import metric_matrix, second_moment
from grasp_pipeline.attribution.partition import group_count, kmeans_groups
from grasp_pipeline.calibration.strata import OPTIMISED, budget_of
from grasp_pipeline.calibration.subsets import Subsets, join
from grasp_pipeline.corpus.events import count_events
from grasp_pipeline.corpus.ngram_features import NgramFeatures
from grasp_pipeline.corpus.pool import TaskPool
from grasp_pipeline.selection.candidates.candidate import maximise, top_k
from grasp_pipeline.selection.candidates.families.dsir import dsir_resample, dsir_scores
from grasp_pipeline.selection.candidates.families.ggda import best_groups
from grasp_pipeline.selection.candidates.judge import judge_coverage
from grasp_pipeline.selection.candidates.views import stack_views
from grasp_pipeline.selection.constraints.feasible_sets import FeasibleSets
from grasp_pipeline.selection.solver.coverage import Coverage, cover
from grasp_pipeline.sketch.views import View

GROUPS = 64
LAMBDAS = (0.4, 0.7, 1.0)
SMOOTHING = 0.6
"""rho of the corpus of highest log-coverage."""


def optimised_subsets(corpus: TaskPool, view: View, tasks: Sequence[int]) -> Subsets:
    """Return the finalists of every selector for some of the tasks (codes); equal ones once."""
    budget, tokens = budget_of(corpus), corpus.n_tokens
    second = second_moment(view.sketches, tokens)
    inverse = metric_matrix(second, 1.0)
    ranking = metric_matrix(second, 3.0)
    blocks = ArrayBlocks(view.sketches)
    groups = kmeans_groups(blocks, group_count(corpus.n, GROUPS), "laboratory")
    feasible_sets = FeasibleSets.of(corpus, budget)
    feasible = feasible_sets.feasible_set()
    text = corpus.chunks
    ngrams = None if text is None else NgramFeatures.fit(text)
    features = None if text is None or ngrams is None else ArrayBlocks(ngrams.transform(text))
    parts = []
    for task in tasks:
        target = view.targets[task]
        alignment = view.sketches @ target

        surrogate = partial(maximise, feasible=feasible, target=target)
        members = [surrogate(blocks, lam=lam).membership for lam in LAMBDAS]
        members += [
            surrogate(blocks, metric=ranking, lam=1.0).membership,
            surrogate(blocks, feasible=feasible_sets.feasible_set("hard")).membership,
            top_k(alignment, feasible),
            top_k(view.sketches @ (inverse @ target), feasible),
            best_groups(groups, alignment, feasible),
        ]
        if text is not None and ngrams is not None and features is not None:
            query = corpus.query.texts(task)
            counts = count_events(text, query, np.zeros(query.n, dtype=np.int64), 1)
            covered = LogCoverage(counts, SMOOTHING)
            wanted = query.lengths / query.lengths.sum() @ ngrams.transform(query).astype(np.float64)
            both, direction = stack_views([(blocks, target), (features, wanted)], tokens)
            members += [
                dsir_resample(dsir_scores(text, query), feasible, 0),
                surrogate(both, target=direction).membership,
                cover(Coverage(counts.events, counts.weights[0], covered.floor), tokens, feasible).membership,
            ]
        count = len(members)
        parts.append(Subsets((OPTIMISED,) * count, np.stack(members), np.full(count, task, dtype=np.int64)))
    return join(parts)


def judge_predictions(corpus: TaskPool, membership: Bools) -> Floats | None:
    """Return the judge's scores (m, T), from judge examples alone; None where examples are not text.

    J of `grasp_pipeline.selection.candidates.judge`, without conditional losses.
    """
    if corpus.chunks is None:
        return None
    columns = [judge_coverage(corpus.chunks, query).predict(membership)[:, 0] for query in corpus.judges]
    return np.stack(columns, axis=1)
