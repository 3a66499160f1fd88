"""The balanced count sketch, and projected errors against a dense softmax in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.sketch.vocabulary import CountSketch, ErrorProjector


def problem(size: int, count: int, spread: float, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return a weight (V, 8), states (n, 8) and labels (n,); logits have about the standard deviation `spread`."""
    source = torch.Generator().manual_seed(seed)
    weight = torch.randn(size, 8, generator=source)
    states = torch.randn(count, 8, generator=source) * (spread / 8**0.5)
    return weight, states, torch.randint(0, size, (count,), generator=source)


def slow(
    weight: torch.Tensor, sketch: CountSketch, states: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The obvious twin: all logits in float64, token by token, times the dense A."""
    errors, losses = [], []
    for state, label in zip(states.double(), labels, strict=True):
        logits = weight.double() @ state
        error = torch.softmax(logits, 0)
        error[label] -= 1
        errors.append(sketch.matrix().double().t() @ error)
        losses.append(torch.nn.functional.cross_entropy(logits, label))
    return torch.stack(errors), torch.stack(losses)


@given(st.integers(1, 90), st.integers(1, 100), st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_halves_of_buckets_are_balanced(size: int, buckets: int, seed: int) -> None:
    sketch = CountSketch(size, buckets, seed)
    matrix = sketch.matrix()
    assert matrix.shape == (size, min(size, buckets))
    if buckets >= size:
        torch.testing.assert_close(matrix, torch.eye(size))
        return
    assert ((matrix != 0).sum(1) == 1).all()
    assert (matrix.abs().sum(1) == 1).all()
    halves = torch.cat([(matrix > 0).sum(0), (matrix < 0).sum(0)])
    assert halves.sum() == size
    assert halves.max() - halves.min() <= 1
    torch.testing.assert_close(matrix, CountSketch(size, buckets, seed).matrix())


@pytest.mark.parametrize(("size", "buckets"), [(24, 3), (29, 4), (7, 5)])
def test_inner_products_are_unbiased_as_derived(size: int, buckets: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, size)) + 0.5
    draws = 10_000
    seen = np.empty(draws)
    centred = np.empty(draws)
    for seed in range(draws):
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).numpy()
        matrix = _hash(size, buckets, order)
        seen[seed] = (x @ matrix) @ (y @ matrix)
        centred[seed] = ((x - x.mean()) @ matrix) @ ((y - y.mean()) @ matrix)
    uneven = sum(
        (len(range(c, size, 2 * buckets)) - len(range(c + buckets, size, 2 * buckets))) ** 2
        for c in range(buckets)
    )
    k = (size - uneven) / (size * (size - 1))
    expected = (1 + k) * (x @ y) - k * x.sum() * y.sum()
    assert abs(seen.mean() - expected) < 4 * seen.std() / draws**0.5
    expected = (1 + k) * ((x - x.mean()) @ (y - y.mean()))
    assert abs(centred.mean() - expected) < 4 * centred.std() / draws**0.5


def _hash(size: int, buckets: int, order: np.ndarray) -> np.ndarray:
    """A of a given permutation, written out: deal tokens to 2a halves in turn."""
    matrix = np.zeros((size, buckets))
    for place, token in enumerate(order):
        half = place % (2 * buckets)
        matrix[token, half % buckets] = 1.0 if half < buckets else -1.0
    return matrix


@pytest.mark.parametrize(("size", "buckets"), [(29, 4), (7, 5), (24, 3)])
def test_the_hash_is_the_dealing_of_its_permutation(size: int, buckets: int) -> None:
    sketch = CountSketch(size, buckets, "named", 3)
    expected = _hash(size, buckets, sketch.order.numpy())
    np.testing.assert_array_equal(sketch.matrix().numpy(), expected)
    assert not torch.equal(sketch.order, CountSketch(size, buckets, "named", 4).order)


def test_sketched_errors_keep_their_inner_products() -> None:
    """Over seeds, the mean of <A'x, A'y> of two errors p - e_y comes close to <x, y>."""
    weight, states, labels = problem(200, 2, 2.0)
    errors = torch.softmax(states @ weight.t(), 1)
    errors[torch.arange(2), labels] -= 1
    dense = errors.numpy()
    draws = [dense @ CountSketch(200, 8, seed).matrix().numpy() for seed in range(1500)]
    products = np.stack([draw @ draw.T for draw in draws])
    gram = dense @ dense.T
    noise = products.std(0) / len(draws) ** 0.5
    # 1 + k is not 1: the expected products are larger by a share of at most 1 / (V - 1).
    assert (np.abs(products.mean(0) - gram) < 4 * noise + np.abs(gram) / 199).all()
    bound = ((gram[0, 0] * gram[1, 1] + gram[0, 1] ** 2) / 8) ** 0.5
    assert products[:, 0, 1].std() < 1.1 * bound


@given(
    st.integers(2, 80),
    st.integers(1, 90),
    st.integers(1, 9),
    st.integers(1, 12),
    st.integers(1, 400),
    st.sampled_from([0.1, 3.0, 300.0]),
)
@settings(max_examples=150, deadline=None)
def test_projected_errors_equal_the_dense_twin(
    size: int, buckets: int, count: int, tokens: int, logits: int, spread: float
) -> None:
    weight, states, labels = problem(size, count, spread)
    sketch = CountSketch(size, buckets, "twin")
    project = ErrorProjector(weight, sketch, tokens, logits)
    assert 1 <= project.tokens <= tokens
    parts = [
        project(s, y) for s, y in zip(states.split(project.tokens), labels.split(project.tokens), strict=True)
    ]
    errors, losses = (torch.cat(p) for p in zip(*parts, strict=True))
    expected, expected_losses = slow(weight, sketch, states, labels)
    # Logits are rounded in float32, by a share of their size.
    rounding = 2e-6 * max(1.0, spread)
    torch.testing.assert_close(errors.double(), expected, rtol=0, atol=rounding)
    torch.testing.assert_close(losses.double(), expected_losses, rtol=1e-6, atol=2 * rounding)


def test_no_exponential_overflows_wherever_the_maximum_lies() -> None:
    """Logits rise to 1e4, fall, or peak in the middle of the vocabulary: blocks come before and after the maximum."""
    size = 64
    sketch = CountSketch(size, 4, "steep")
    for profile in (torch.arange(64.0), -torch.arange(64.0), -(torch.arange(64.0) - 30).abs()):
        weight = torch.empty(size, 1)
        weight[sketch.order] = profile.unsqueeze(1) * 160
        labels = sketch.order[torch.tensor([0, 30, 63])]
        states = torch.ones(3, 1)
        errors, losses = ErrorProjector(weight, sketch, 3, 24)(states, labels)
        expected, expected_losses = slow(weight, sketch, states, labels)
        torch.testing.assert_close(errors.double(), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(losses.double(), expected_losses, rtol=1e-6, atol=1e-3)


def test_bfloat16_is_as_far_as_its_logits_are_rounded() -> None:
    weight, states, labels = problem(300, 40, 3.0)
    weight, states = weight.bfloat16(), states.bfloat16()
    sketch = CountSketch(300, 8, "half")
    errors, losses = ErrorProjector(weight, sketch, 16 + 24, 1024)(states, labels)
    assert errors.dtype == losses.dtype == torch.float32
    expected, expected_losses = slow(weight, sketch, states, labels)
    largest = float((states.double() @ weight.double().t()).abs().max())
    # p changes by a share 2 * 2^-9 max |z| at most, and A'p by no more than the change of p in absolute values.
    bound = 2 * 2**-9 * largest
    assert 1e-5 < float((errors - expected).abs().max()) < bound
    assert float((losses - expected_losses).abs().max()) < bound
