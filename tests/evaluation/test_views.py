"""Views of a pool against loops over examples: targets, exact gradients, second moments, representations."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from lab_toys import PLAN, REFERENCE, descent, toy_view
from torch import Tensor

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.corpus.ngram_features import NgramFeatures
from grasp_pipeline.corpus.ngrams import bucket, hash_bigrams
from grasp_pipeline.corpus.pool import HeldOut, TaskPool
from grasp_pipeline.errors import InputError, TrainingError
from grasp_pipeline.evaluation.experiment import Views
from grasp_pipeline.evaluation.proxies import NGRAMS, PCA, TWO_CHECKPOINTS, take_views
from grasp_pipeline.proxy.objective import CausalLM, Parameters
from grasp_pipeline.proxy.representations import representations
from grasp_pipeline.proxy.runs import Trainer
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.full import FullSketcher
from grasp_pipeline.sketch.output import OutputSketcher
from grasp_pipeline.sketch.views import (
    View,
    compress,
    exact_view,
    join_views,
    ngram_view,
    pca_view,
    query_moments,
    take_view,
    train_checkpoints,
)


class Gradients:
    """A sketcher that sketches nothing: minus the gradient of one example at a time, by autograd."""

    kind = "gradients"

    def __init__(self, objective: CausalLM, parameters: Parameters) -> None:
        self.objective, self.parameters = objective, parameters
        self.d = sum(p.numel() for p in parameters.values())

    def sketch(self, rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        parts = [
            descent(self.objective, self.parameters, rows[i : i + 1], sizes[i : i + 1])
            for i in range(len(rows))
        ]
        return torch.stack(parts), torch.arange(len(rows)).float()


def task_descents(objective: CausalLM, parameters: Parameters, held: HeldOut) -> np.ndarray:
    """Return minus the gradient of every task's loss over all its tokens at once, (T, P)."""
    where = [torch.from_numpy(np.flatnonzero(held.task == task)) for task in range(held.task.max() + 1)]
    return torch.stack([descent(objective, parameters, held.rows[w], held.sizes[w]) for w in where]).numpy()


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Compare with a tolerance in units of the largest value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_targets_are_the_mean_gradients_of_the_tasks(proxy: CausalLM, corpus: TaskPool) -> None:
    view = take_view(Gradients(proxy, proxy.parameters()), corpus, batch_tokens=50)
    close(view.targets, task_descents(proxy, proxy.parameters(), corpus.query))
    for i in (0, 17, corpus.n - 1):
        close(
            view.sketches[i],
            descent(proxy, proxy.parameters(), corpus.rows[i : i + 1], corpus.sizes[i : i + 1]).numpy(),
        )
    assert view.queries.shape == (len(corpus.query.rows), view.sketches.shape[1])


def test_sketched_targets_are_sketches_of_the_mean_gradient(proxy: CausalLM, corpus: TaskPool) -> None:
    """A sketch is linear: that of the mean is the token-weighted mean of the examples' sketches."""
    sketcher = FullSketcher(proxy, proxy.parameters(), 48, 4, 0)
    view = take_view(sketcher, corpus)
    held = corpus.query
    for task in range(len(corpus.tasks)):
        total, tokens = np.zeros(48), 0
        for i in np.flatnonzero(held.task == task):
            values, _ = sketcher.sketch(held.rows[i : i + 1], held.sizes[i : i + 1])
            total += int(held.sizes[i]) * values[0].double().numpy()
            tokens += int(held.sizes[i])
        close(view.targets[task], total / tokens)


def test_batches_change_nothing(proxy: CausalLM, corpus: TaskPool) -> None:
    sketcher = FullSketcher(proxy, proxy.parameters(), 48, 4, 0)
    one, other = take_view(sketcher, corpus, batch_tokens=30), take_view(sketcher, corpus)
    close(one.sketches, other.sketches)
    close(one.losses, other.losses)
    close(one.queries, other.queries)


def test_a_sketch_that_is_not_finite_is_named(proxy: CausalLM, corpus: TaskPool) -> None:
    broken = {name: torch.full_like(p, torch.nan) for name, p in proxy.parameters().items()}
    with pytest.raises(TrainingError, match=r"the full sketch of chunk pool \d+ is not finite"):
        take_view(FullSketcher(proxy, broken, 48, 4, 0), corpus)


def test_the_exact_view_keeps_all_inner_products(proxy: CausalLM, corpus: TaskPool) -> None:
    parameters = proxy.parameters()
    view = exact_view(proxy, parameters, corpus, batch=7)
    explicit = take_view(Gradients(proxy, parameters), corpus)
    found = np.concatenate([view.sketches, view.targets]).astype(np.float64)
    expected = np.concatenate([explicit.sketches, explicit.targets]).astype(np.float64)
    close(found @ found.T, expected @ expected.T)
    assert view.sketches.shape[1] <= corpus.n + len(corpus.tasks)
    assert view.queries.shape == (0, view.sketches.shape[1])
    close(view.losses, take_view(FullSketcher(proxy, parameters, 8, 1, 0), corpus).losses)


def test_query_moments_are_weighted_means_of_outer_products(corpus: TaskPool) -> None:
    view = toy_view(corpus.n, 6)
    held = corpus.query
    slow = np.zeros((len(corpus.tasks), 6, 6))
    for task in range(len(corpus.tasks)):
        tokens = 0
        for i in np.flatnonzero(held.task == task):
            query = view.queries[i].astype(np.float64)
            slow[task] += int(held.sizes[i]) * np.outer(query, query)
            tokens += int(held.sizes[i])
        slow[task] /= tokens
    np.testing.assert_allclose(
        query_moments(view.queries, held.n_tokens, held.task, len(corpus.tasks)), slow, rtol=1e-10, atol=1e-12
    )


def test_representations_are_mean_hidden_states_of_the_targets(proxy: CausalLM, corpus: TaskPool) -> None:
    found = representations(proxy, proxy.parameters(), corpus.rows, corpus.sizes, batch=7)
    assert found.shape == (corpus.n, proxy.hidden_size)
    for row, size, value in zip(corpus.rows, corpus.sizes.tolist(), found, strict=True):
        hidden = proxy.hidden(proxy.parameters(), row[None, :size])[0].detach().double().numpy()
        close(value, sum(hidden) / size)


def test_the_early_checkpoint_is_on_the_way_to_the_reference(
    proxy: CausalLM, trainer: Trainer, corpus: TaskPool
) -> None:
    members = np.arange(corpus.n)

    def train(fraction: float, seed: int = 0) -> dict[str, Parameters]:
        return train_checkpoints(proxy, trainer.initial, corpus.stream, members, REFERENCE, fraction, seed)

    def moved(one: Parameters, other: Parameters) -> float:
        return max(float((one[name] - other[name]).abs().max()) for name in one)

    found = train(1 / 3)
    assert 0 < moved(found["early"], trainer.initial) < moved(found["reference"], trainer.initial)
    assert moved(train(1 / 3)["early"], found["early"]) == 0
    assert moved(train(1 / 3, seed=1)["reference"], found["reference"]) > 1e-4
    for fraction, same in ((1.0, True), (0.0, False)):
        ends = train(fraction)
        assert (moved(ends["early"], ends["reference"]) == 0) == same
        assert moved(ends["reference"], found["reference"]) == 0


def test_a_cell_sees_every_kind_of_view(views: Views, corpus: TaskPool, trainer: Trainer) -> None:
    widths = {"output": PLAN.hidden_dim * PLAN.vocab_dim, "full": PLAN.full_dim}
    dimensions = widths | {kind + TWO_CHECKPOINTS: 2 * width for kind, width in widths.items()}
    dimensions |= {
        kind + TWO_CHECKPOINTS + NGRAMS: 2 * width + PLAN.ngram_dim for kind, width in widths.items()
    }
    dimensions |= {"ngrams": PLAN.ngram_dim, "output" + PCA: widths["output"]}
    assert set(views.kinds) == set(views.second_seed) == set(dimensions) <= set(views.seconds)
    assert views.exact is not None
    assert list(views.layers) == ["layers", "layers" + TWO_CHECKPOINTS, "layers" + TWO_CHECKPOINTS + NGRAMS]
    for layered, slices in views.layers.values():
        assert [s.start for s in slices] == [0, *(s.stop for s in slices[:-1])]
        assert slices[-1].stop == layered.sketches.shape[1]
    every = [
        *views.kinds.values(),
        *views.second_seed.values(),
        *views.rivals.values(),
        views.design,
    ]
    for view in [*every, *(view for view, _ in views.layers.values()), views.exact]:
        d = view.sketches.shape[1]
        assert view.sketches.shape == (corpus.n, d)
        assert view.targets.shape == (len(corpus.tasks), d)
        assert view.losses.shape == (corpus.n,)
        assert np.isfinite(view.sketches).all()
        assert d <= view.dimension
        assert view.queries.shape[1] == d
    for kind, dimension in dimensions.items():
        assert views.kinds[kind].dimension == views.second_seed[kind].dimension == dimension
        alike = np.allclose(products(views.kinds[kind]), products(views.second_seed[kind]), rtol=0.1)
        assert alike == (kind == "ngrams"), "n-gram features have no projection"
        close(views.kinds[kind].losses, views.second_seed[kind].losses)
    early, final = views.checkpoints["full" + TWO_CHECKPOINTS]
    assert final.losses.mean() < early.losses.mean(), "the reference has learned more"
    hidden = trainer.objective.output_weight(trainer.initial).shape[1]
    assert views.representations.shape == (corpus.n, hidden)


def products(view: View) -> np.ndarray:
    """Return all inner products of sketches and targets."""
    rows = np.concatenate([view.sketches, view.targets]).astype(np.float64)
    return rows @ rows.T


def test_kinds_and_rivals_are_what_their_names_say(
    proxy: CausalLM, trainer: Trainer, views: Views, corpus: TaskPool
) -> None:
    """Against sketches taken and joined by hand. Rivals have every kind that the surrogate has."""
    found = train_checkpoints(
        proxy, trainer.initial, corpus.stream, np.arange(corpus.n), REFERENCE, 1 / 3, seed=0
    )
    early, final = found["early"], found["reference"]
    ngrams = ngram_view(corpus, PLAN.ngram_dim)
    assert ngrams is not None
    close(products(views.kinds["ngrams"]), products(ngrams))
    for draw, kinds in ((0, views.kinds), (1, views.second_seed)):
        pairs = {
            "output": [
                take_view(OutputSketcher(proxy, weights, PLAN.hidden_dim, PLAN.vocab_dim, draw), corpus)
                for weights in (early, final)
            ],
            "full": [
                take_view(FullSketcher(proxy, weights, PLAN.full_dim, PLAN.sparsity, draw), corpus)
                for weights in (early, final)
            ],
        }
        for kind, pair in pairs.items():
            close(products(kinds[kind]), products(pair[1]), 1e-4)
            both = join_views(pair, corpus.n_tokens)
            close(products(kinds[kind + TWO_CHECKPOINTS]), products(both), 1e-4)
            every = join_views([ngrams, *pair], corpus.n_tokens)
            close(products(kinds[kind + TWO_CHECKPOINTS + NGRAMS]), products(every), 1e-4)
    assert set(views.rivals) == set(views.kinds) - {"output" + PCA}
    assert all(view is views.kinds[kind] for kind, view in views.rivals.items())
    assert next(iter(views.rivals.values())) is views.kinds["full"], "the final checkpoint alone comes first"
    assert {len(view.queries) for view in views.rivals.values()} == {len(corpus.query.rows)}
    close(views.rivals["ngrams"].losses, views.kinds["full"].losses)
    for kind, pair in views.checkpoints.items():
        close(products(join_views(pair, corpus.n_tokens)), products(views.kinds[kind]), 1e-4)


def test_pools_that_are_not_text_have_no_ngrams(
    proxy: CausalLM, trainer: Trainer, views: Views, corpus: TaskPool
) -> None:
    images = replace(corpus, chunks=None)
    less = take_views(proxy, trainer, images, REFERENCE, replace(PLAN, exact=False), seed=0)
    gone = {"ngrams", *(kind + TWO_CHECKPOINTS + NGRAMS for kind in ("output", "full"))}
    assert set(less.kinds) == set(less.second_seed) == set(views.kinds) - gone
    assert set(less.kinds) <= set(less.seconds)
    assert less.exact is None
    assert list(less.rivals) == ["full", "output", "output" + TWO_CHECKPOINTS, "full" + TWO_CHECKPOINTS]
    assert less.rivals["full"] is less.kinds["full"]
    assert set(less.layers) == {"layers", "layers" + TWO_CHECKPOINTS}
    for kind, view in less.kinds.items():
        close(products(view), products(views.kinds[kind]), 1e-4)


def test_a_reduced_view_is_that_of_half_of_the_pool(views: Views, corpus: TaskPool) -> None:
    """Against the projection of the whole view on all eigenvectors of the moment of half of the examples."""
    whole, reduced = views.kinds["output"], views.kinds["output" + PCA]
    dimension = min(PLAN.pca_dim, corpus.n // 4)
    order = generator("laboratory", "pca", 0).permutation(corpus.n)
    fitted = order[: corpus.n // 2]
    moment = np.zeros((whole.sketches.shape[1],) * 2)
    for i in fitted:
        moment += corpus.n_tokens[i] * np.outer(whole.sketches[i], whole.sketches[i].astype(np.float64))
    first = np.linalg.eigh(moment)[1][:, ::-1][:, :dimension]
    assert reduced.sketches.shape == (corpus.n, dimension)
    slow = replace(
        whole,
        sketches=whole.sketches @ first,
        targets=whole.targets @ first,
    )
    close(products(reduced), products(slow), 1e-4)
    np.testing.assert_array_equal(reduced.losses, whole.losses)
    with pytest.raises(InputError, match="too few to fit"):
        pca_view(whole, corpus.n_tokens, corpus.n // 2 + 1, 0)


def test_compression_keeps_inner_products_and_moments_in_the_span(corpus: TaskPool) -> None:
    wide = toy_view(corpus.n, 200)
    narrow = compress(wide)
    assert narrow.sketches.shape == (corpus.n, corpus.n + len(corpus.tasks))
    assert narrow.dimension == wide.dimension == 200
    close(products(narrow), products(wide))
    close(narrow.losses, wide.losses)
    for one, other in ((narrow.sketches, wide.sketches), (narrow.targets, wide.targets)):
        close(narrow.queries @ one.T, wide.queries @ other.T)
    rows = corpus.n + len(corpus.tasks)
    for few in (toy_view(corpus.n, 20), toy_view(corpus.n, rows)):
        assert compress(few) is few
    one_less = compress(toy_view(corpus.n, rows + 1))
    assert (one_less.sketches.shape[1], one_less.dimension) == (rows, rows + 1)
    one, other = (
        query_moments(view.queries, corpus.query.n_tokens, corpus.query.task, len(corpus.tasks))
        for view in (narrow, wide)
    )
    close(narrow.targets @ one @ narrow.targets.T, wide.targets @ other @ wide.targets.T)


def test_compression_keeps_what_equal_examples_share(corpus: TaskPool) -> None:
    """Copies leave fewer independent rows than there are examples."""
    wide = toy_view(corpus.n, 200)
    copied = wide.sketches[np.arange(corpus.n) % 7]
    wide = replace(wide, sketches=copied)
    narrow = compress(wide)
    close(products(narrow), products(wide))
    blind = compress(replace(wide, queries=wide.queries[:0]))
    assert blind.queries.shape == (0, narrow.sketches.shape[1])
    close(products(blind), products(wide))


def mean_squared_norm(sketches: np.ndarray, corpus: TaskPool) -> float:
    """Return the mean over the pool's tokens, example by example."""
    total = 0.0
    for tokens, sketch in zip(corpus.n_tokens.tolist(), sketches.astype(np.float64), strict=True):
        total += tokens * float(sketch @ sketch)
    return total / int(corpus.n_tokens.sum())


def three_views(corpus: TaskPool) -> list[View]:
    """Return views of 8, 5 and 7 dimensions, the first with gradients 30 times as long."""
    large = toy_view(corpus.n, 8, "early")
    longer = {name: 30 * getattr(large, name) for name in ("sketches", "targets", "queries")}
    return [replace(large, **longer), toy_view(corpus.n, 5, "middle"), toy_view(corpus.n, 7, "final")]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_joined_views_weigh_alike(corpus: TaskPool, count: int) -> None:
    """Inner products are the sums over parts, each in units of its mean squared norm per token."""
    parts = three_views(corpus)[:count]
    joined = join_views(parts, corpus.n_tokens)
    widths = [view.sketches.shape[1] for view in parts]
    assert joined.dimension == joined.sketches.shape[1] == sum(widths)
    expected = np.zeros_like(products(joined))
    stop = 0
    for view, width in zip(parts, widths, strict=True):
        unit = mean_squared_norm(view.sketches, corpus)
        start, stop = stop, stop + width
        assert mean_squared_norm(joined.sketches[:, start:stop], corpus) == pytest.approx(1, rel=1e-5)
        close(joined.queries[:, start:stop], view.queries / np.sqrt(unit))
        expected += products(view) / unit
    close(products(joined), expected)
    assert mean_squared_norm(joined.sketches, corpus) == pytest.approx(count, rel=1e-5)
    np.testing.assert_array_equal(joined.losses, parts[-1].losses)
    assert (joined.sketches.dtype, joined.targets.dtype, joined.queries.dtype) == (
        np.float32,
        np.float64,
        np.float32,
    )
    moments = query_moments(joined.queries, corpus.query.n_tokens, corpus.query.task, len(corpus.tasks))
    assert moments.shape == (len(corpus.tasks), sum(widths), sum(widths))


def test_joining_keeps_the_dimensions_of_compressed_views(corpus: TaskPool) -> None:
    wide = [toy_view(corpus.n, 90, "early"), toy_view(corpus.n, 110, "final")]
    narrow = join_views([compress(view) for view in wide], corpus.n_tokens)
    assert narrow.dimension == 200
    assert narrow.sketches.shape[1] == 2 * (corpus.n + len(corpus.tasks))
    close(products(narrow), products(join_views(wide, corpus.n_tokens)))


@pytest.mark.parametrize("blind", [0, 1, 2])
def test_joined_views_have_queries_only_where_every_part_has(corpus: TaskPool, blind: int) -> None:
    parts = three_views(corpus)
    whole = join_views(parts, corpus.n_tokens)
    assert whole.queries.shape == (len(corpus.query.rows), 20)
    parts[blind] = replace(parts[blind], queries=parts[blind].queries[:0])
    joined = join_views(parts, corpus.n_tokens)
    assert joined.queries.shape == (0, 20)
    np.testing.assert_array_equal(joined.sketches, whole.sketches)
    np.testing.assert_array_equal(joined.targets, whole.targets)
    none = join_views([replace(view, queries=view.queries[:0]) for view in parts], corpus.n_tokens)
    assert none.queries.shape == (0, 20)


def test_ngram_views_are_the_features_of_pooled_text(corpus: TaskPool) -> None:
    """Chunk by chunk with features fitted on the pool; a task's direction is that of its tokens together."""
    assert corpus.chunks is not None
    view = ngram_view(corpus, 50)
    assert view is not None
    features = NgramFeatures.fit(corpus.chunks, 50)

    def texts(chunks: TokenLists) -> list[list[int]]:
        return [
            chunks.tokens[start:stop].tolist()
            for start, stop in zip(chunks.offsets[:-1], chunks.offsets[1:], strict=True)
        ]

    def feature(text: list[int]) -> np.ndarray:
        return features.transform(TokenLists.of([text]))[0].astype(np.float64)

    close(view.sketches, np.stack([feature(text) for text in texts(corpus.chunks)]))
    assert len(view.targets) == len(corpus.queries) == len(corpus.tasks)
    for direction, part in zip(view.targets, corpus.queries, strict=True):
        total = sum(len(text) * feature(text) for text in texts(part))
        close(direction, total / len(part.tokens))
    pool, slow = texts(corpus.chunks), np.zeros(50)
    for first, second in pairwise(pool[3]):
        holding = sum((first, second) in pairwise(text) for text in pool)
        hashed = hash_bigrams(np.array([first]), np.array([second]))
        sign = -1 if int(hashed[0]) % 2 else 1
        where = bucket(hashed >> np.uint64(32), 50)
        slow[where] += sign * np.log((1 + len(pool)) / (1 + holding)) / len(pool[3])
    close(view.sketches[3], slow)
    assert view.dimension == view.sketches.shape[1] == 50
    queries = [feature(text) for part in corpus.queries for text in texts(part)]
    close(view.queries, np.stack(queries))
    assert not view.losses.any()
    assert view.losses.shape == (corpus.n,)
    assert (view.sketches.dtype, view.targets.dtype) == (np.float32, np.float64)


def test_pools_that_are_not_text_have_no_ngram_view(corpus: TaskPool) -> None:
    assert ngram_view(replace(corpus, chunks=None), 50) is None


def test_the_full_sketch_estimates_the_exact_inner_products(views: Views) -> None:
    """Same checkpoint, sign and scale: correlated over two projections, and norms within a third."""
    assert views.exact is not None
    exact, sketched = views.exact, (views.kinds["full"], views.second_seed["full"])
    truth = exact.sketches @ exact.targets.T
    estimate = np.mean([view.sketches @ view.targets.T for view in sketched], axis=0)
    assert np.corrcoef(truth.ravel(), estimate.ravel())[0, 1] > 0.6
    norms = [np.square(view.sketches).sum() for view in sketched]
    assert np.mean(norms) == pytest.approx(np.square(exact.sketches).sum(), rel=1 / 3)
