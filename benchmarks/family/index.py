"""The distilled attribution index against its teacher and against the cosine of the features that it was trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.family.learned_pool import LearnedPool, cpu_seconds, interval
from benchmarks.laboratory.text import TextPlan
from benchmarks.published import Figure
from grasp_pipeline.attribution.distilled import distil, mean_average_precision, nearest_features
from grasp_pipeline.attribution.unlearning import Unlearning
from grasp_pipeline.proxy.representations import representations
from grasp_pipeline.selection.explanation.nearest import neighbour_graph

PLAN = TextPlan(
    chunks=1200, chunk_tokens=32, tasks=4, query_documents=48, judge_documents=4, evaluation_documents=16
)
STEPS = 300
TEXTS, CANDIDATES, UNSEEN, TIMED = 160, 200, 48, 8
K, LOOKED_UP = 10, 5


def figures() -> list[Figure]:
    """Distil one ascent step at a tiny proxy and ask for the chunks behind unseen documents."""
    pool = LearnedPool.make(PLAN, STEPS)
    corpus, query, unseen = pool.corpus, pool.corpus.query, pool.corpus.evaluation
    teacher = Unlearning(pool.objective, pool.reference, corpus.rows, corpus.sizes)
    texts = np.linspace(0, len(query.rows) - 1, min(TEXTS, len(query.rows))).astype(int)
    asked = pool.states(query)[texts]
    candidates = nearest_features(pool.features, asked, CANDIDATES)
    effects = np.stack(
        [
            teacher.effects(query.rows[i], int(query.sizes[i]), mine)
            for i, mine in zip(texts, candidates, strict=True)
        ]
    )
    embedding = distil(pool.features, asked, candidates, effects, seed_name="family/index")

    tested = np.linspace(0, len(unseen.rows) - 1, min(UNSEEN, len(unseen.rows))).astype(int)
    states = pool.states(unseen)[tested]
    truth = np.stack([teacher.effects(unseen.rows[i], int(unseen.sizes[i])) for i in tested])
    embedded = embedding(pool.features)
    graph = neighbour_graph(embedded.shape[1])
    graph.add(np.arange(corpus.n), embedded, threads=1)
    found = np.asarray(graph.search(embedding(states), LOOKED_UP * K, threads=1).keys, dtype=np.int64)
    again = np.stack([mine[np.argsort(-truth[q][mine], kind="stable")] for q, mine in enumerate(found)])
    precision = {
        "distilled": mean_average_precision(found, truth, K),
        "distilled, then asked": mean_average_precision(again, truth, K),
        "cosine": mean_average_precision(_by_cosine(pool.features, states), truth, K),
        "centred cosine": mean_average_precision(nearest_features(pool.features, states, K), truth, K),
    }
    strongest = max(("cosine", "centred cosine"), key=lambda name: precision[name].mean())
    gain = interval(precision["distilled"] - precision[strongest], "index/gain")

    def row(number: int) -> tuple:
        i = tested[number % len(tested)]
        return unseen.rows[i], int(unseen.sizes[i])

    def look_up(number: int) -> NDArray[np.int64]:
        text, size = row(number)
        rows, sizes = text[None], unseen.sizes[:1].new_tensor([size])
        state = representations(pool.objective, pool.reference, rows, sizes)
        return np.asarray(
            graph.search(embedding(state), LOOKED_UP * K, threads=1).keys, dtype=np.int64
        ).reshape(-1)

    slow = cpu_seconds(lambda number: teacher.effects(*row(number)), TIMED)
    fast = cpu_seconds(look_up, 10 * TIMED)
    both = cpu_seconds(lambda number: teacher.effects(*row(number), look_up(number)), TIMED)  # pyright: ignore[reportCallIssue]
    made = f"{corpus.n} chunks of {PLAN.chunk_tokens} tokens, {len(texts)} texts taught, {len(tested)} unseen"
    return [
        Figure(
            "family.index_map_gain",
            gain[0],
            "mAP at 10",
            "above 0",
            *gain[1:],
            note=f"over the {strongest}, the better one; {made}",
        ),
        *(
            Figure(f"family.index_map[{name}]", *_placed(interval(values, f"index/{name}")), note=made)
            for name, values in precision.items()
        ),
        Figure(
            "family.index_speedup",
            slow / fast,
            "times less processor time than the teacher",
            "at least 100",
            note=f"{1e3 * fast:.2f} ms against {1e3 * slow:.0f} ms per text, the proxy's forward pass included",
        ),
        Figure(
            "family.index_speedup_asked",
            slow / both,
            "times less processor time than the teacher",
            note=f"the {LOOKED_UP * K} nearest put in order by the teacher, as the command does",
        ),
        Figure(
            "family.index_bytes",
            2.0 * embedded.shape[1],
            "bytes per chunk",
            note="float16, without the graph",
        ),
    ]


def _placed(found: tuple[float, float, float]) -> tuple[float, str, str, float, float]:
    value, low, high = found
    return value, "mAP at 10", "", low, high


def _by_cosine(features: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return all chunks for every query by the cosine of the features as they are, (Q, n)."""
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    return np.argsort(-(queries @ units.T), axis=1, kind="stable")
