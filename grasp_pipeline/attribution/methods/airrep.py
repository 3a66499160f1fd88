"""AirRep: similarity in a space that is trained on measured utilities, pooled by attention (arXiv 2505.18513).

    f(x, S) = sum_S alpha_i s_i ,   s_i = Enc(x)' Enc(z_i) ,   alpha = softmax over S of |s_i| + log w_i

The paper trains a whole sentence encoder on far more subsets. Here the encoder is frozen (the mean hidden states of the
reference proxy) and a small network on top of it is trained, on the subsets that a calibration has measured. Chunks
differ in length, so a token counts as the paper's example: the weight w_i is the tokens of a chunk. Without attention
alpha_i is w_i / sum_S w_i, and the method is additive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import softplus

from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.attribution.methods.inputs import BaselineInputs, Candidate
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.calibration.rank import task_level_spearman
from grasp_pipeline.errors import InputError
from grasp_pipeline.names import Form
from grasp_pipeline.seeds import generator, seed_for

FAINTEST = -60.0
"""Least exponent of a chunk's attention beside the strongest chunk's: a subset without any near it keeps a mean."""

QUERY_BLOCK = 64
"""Queries whose similarities with all chunks are held at once."""

IGNORED, LARGEST = 0.1, 5.0
"""Differences of standardised utilities below the first do not count; above the second they count as it."""

FOLDS = 3
"""Parts of the calibration subsets, each of which is left out once to choose how long to train."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """Enc(x) = P' z + B' relu(A' z),  z = [(x - centre) / scale, 1].

    centre: (h,) mean of the pool's features. scale: root of their mean squared norm about it. projection: P (h + 1, p);
    its last row lets a chunk be worth something to every query, which similarity alone cannot say. first, second:
    A (h + 1, k) and B (k, p).
    """

    centre: NDArray[np.float32]
    scale: float
    projection: NDArray[np.float32]
    first: NDArray[np.float32]
    second: NDArray[np.float32]

    @classmethod
    def untrained(cls, features: ArrayLike, gain: float = 1.0) -> Encoder:
        """Return the frozen encoder alone: P = gain I and k = 0, for features (n, h) of the pool.

        Raises:
            InputError: the features are not (n, h), not finite or all alike.
        """
        x = np.asarray(features, dtype=np.float32)
        if x.ndim != 2 or not np.isfinite(x).all():
            raise InputError(f"features of shape {x.shape}; give a finite (n, h) array, a row per chunk")
        centre = x.mean(axis=0)
        scale = float(np.sqrt(np.square(x - centre, dtype=np.float64).sum(axis=1).mean()))
        if not scale > 0:
            raise InputError("all chunks have the same features; give those of an encoder")
        width = x.shape[1] + 1
        none = np.zeros((width, 0), dtype=np.float32)
        return cls(centre, scale, gain * np.eye(width, dtype=np.float32), none, none.T)

    def __call__(self, features: ArrayLike) -> NDArray[np.float32]:
        """Return embeddings (k, p) of features (k, h)."""
        z = self.normal(features)
        return z @ self.projection + np.maximum(z @ self.first, 0) @ self.second

    def normal(self, features: ArrayLike) -> NDArray[np.float32]:
        """Return features (k, h) as the projection takes them, (k, h + 1)."""
        x = (np.asarray(features, dtype=np.float32) - self.centre) / self.scale
        return np.hstack([x, np.ones((len(x), 1), dtype=np.float32)]).astype(np.float32)


class AirRep:
    """Predicts by pooled similarity of embeddings.

    chunks: (n, p). queries: (Q, p). shares: (T, Q) weight of every query in its task, rows sum to 1. n_tokens: (n,).
    attention: whether chunks are pooled by their similarity, or by their tokens alone.

    Raises:
        InputError: shapes disagree.
    """

    def __init__(
        self,
        chunks: NDArray[np.float32],
        queries: NDArray[np.float32],
        shares: ArrayLike,
        n_tokens: ArrayLike,
        attention: bool = True,
    ) -> None:
        self.chunks, self.queries, self.attention = chunks, queries, attention
        self.shares = np.atleast_2d(np.asarray(shares, dtype=np.float64))
        self.n_tokens = np.asarray(n_tokens, dtype=np.float64)
        same = chunks.ndim == 2 == queries.ndim and chunks.shape[1] == queries.shape[1]
        if not same or self.n_tokens.shape != chunks.shape[:1] or self.shares.shape[1] != len(queries):
            raise InputError(
                f"chunks {chunks.shape}, queries {queries.shape}, shares {self.shares.shape} and token counts "
                f"{self.n_tokens.shape}; give (n, p), (Q, p), (T, Q) and (n,)"
            )

    def predict(self, membership: Membership) -> Floats:
        """Return (m, T) for (m, n) memberships; InputError for a subset without tokens."""
        tokens = np.asarray(membership, dtype=np.float64) * self.n_tokens
        sizes = tokens.sum(axis=1)
        if not (sizes > 0).all():
            raise InputError(f"subset {int(np.argmin(sizes > 0))} holds no tokens and so has no mean")
        values = np.empty((len(tokens), len(self.queries)))
        for start in range(0, len(self.queries), QUERY_BLOCK):
            block = slice(start, start + QUERY_BLOCK)
            similar = (self.chunks @ self.queries[block].T).astype(np.float64)
            weight = self._weight(similar)
            values[:, block] = (tokens @ (weight * similar)) / (tokens @ weight)
        return values @ self.shares.T

    def _weight(self, similar: Floats) -> Floats:
        """Return exp |s| (n, k) up to a factor per query."""
        if not self.attention:
            return np.ones_like(similar)
        size = np.abs(similar)
        return np.exp(np.maximum(size - size.max(axis=0), FAINTEST))


@dataclass(frozen=True)
class Training:
    """How the encoder is trained.

    Attributes:
        steps: at most; how many is chosen on subsets left out.
        every: steps between two looks at those.
        rate: of Adam.
        decay: weight of ||P / gain - I||^2 / h in the loss.
        gain: of the projection at first; it sets how sharp the attention begins.
        hidden: k, units beside the projection.
        subsets, tasks: in a step, drawn anew; their pairs are compared.
        queries: of each task in a step, drawn anew: similarities with all chunks are held for these alone.
    """

    steps: int = 400
    every: int = 50
    rate: float = 0.01
    decay: float = 0.03
    gain: float = 1.0
    hidden: int = 64
    subsets: int = 48
    tasks: int = 16
    queries: int = 16


@dataclass(frozen=True, eq=False)
class Task:
    """What the projection is trained on: chunks (n, h), queries (Q, h), shares (T, Q), utilities (m, T)."""

    chunks: NDArray[np.float32]
    queries: NDArray[np.float32]
    shares: Floats
    n_tokens: NDArray[np.integer[Any]]
    membership: Bools
    utilities: Floats

    def predictions(self, encoder: Encoder, attention: bool, rows: NDArray[np.int64]) -> Floats:
        """Return (k, T) for some of the subsets."""
        made = AirRep(encoder(self.chunks), encoder(self.queries), self.shares, self.n_tokens, attention)
        return made.predict(self.membership[rows])


def train_encoder(
    task: Task, attention: bool = True, settings: Training | None = None, seed_name: str = "airrep"
) -> Encoder:
    """Train the encoder by the weighted pairwise ranking loss on measured subsets.

        sum over tasks and pairs of subsets of w softplus(-c sign(u_a - u_b) (f_a - f_b)),  u standardised per task

    w is 0 where |u_a - u_b| < .1, else min(|u_a - u_b|, 5) (arXiv 2505.18513); c, which only sets the slope of
    the loss, is learned. B begins at 0, so that training begins at the encoder itself. The number of steps is the one
    of highest mean rank correlation over `FOLDS` parts of the subsets, each left out once, 0 included: what cannot be
    learned stays untrained.

    Raises:
        InputError: shapes disagree, a utility is not finite, or there are fewer than two subsets in a part.
    """
    settings = settings or Training()
    subsets = len(task.membership)
    if task.utilities.shape != (subsets, len(task.shares)) or not np.isfinite(task.utilities).all():
        raise InputError(
            f"utilities of shape {task.utilities.shape} for {subsets} subsets and {len(task.shares)} tasks; give one "
            "finite utility of each"
        )
    if subsets < 2 * FOLDS:
        raise InputError(f"{subsets} measured subsets; a projection is trained on {2 * FOLDS} or more")
    order = generator(seed_name, "folds").permutation(subsets)
    looks = []
    for fold in range(FOLDS):
        left_out = np.sort(order[fold::FOLDS])
        learned = np.setdiff1d(np.arange(subsets), left_out)
        looks.append(
            [
                float(
                    task_level_spearman(
                        task.predictions(each, attention, left_out)[None], task.utilities[left_out]
                    )[0]
                )
                for each in _path(task, learned, attention, settings)
            ]
        )
    best = int(np.argmax(np.mean(looks, axis=0)))
    return _path(task, np.arange(subsets), attention, settings, best)[best]


def _path(
    task: Task, rows: NDArray[np.int64], attention: bool, settings: Training, looks: int | None = None
) -> list[Encoder]:
    """Return the encoder before training and after every `every` steps on some of the subsets."""
    start = Encoder.untrained(task.chunks, settings.gain)
    chunks = torch.from_numpy(start.normal(task.chunks))
    queries = torch.from_numpy(start.normal(task.queries))
    tokens = torch.from_numpy((task.membership[rows] * task.n_tokens).astype(np.float32))
    standard = _standardised(task.utilities[rows])
    width = chunks.shape[1]
    identity = torch.eye(width)
    random = torch.Generator().manual_seed(seed_for("airrep", "weights"))
    first = (torch.randn(width, settings.hidden, generator=random) / width**0.5).requires_grad_()
    second = torch.zeros(settings.hidden, width, requires_grad=True)
    projection = (settings.gain * identity).requires_grad_()
    slope = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([projection, first, second, slope], lr=settings.rate)
    draw = generator("airrep", "draws")

    def embed(z: Tensor) -> Tensor:
        return z @ projection + torch.relu(z @ first) @ second

    path = [start]
    for step in range(settings.every * (settings.steps // settings.every if looks is None else looks)):
        some = draw.permutation(len(rows))[: settings.subsets]
        tasks = draw.permutation(len(task.shares))[: settings.tasks]
        drawn, shares = _drawn(task.shares[tasks], settings.queries, draw)
        similar = embed(chunks) @ embed(queries[drawn]).T
        pooling = torch.ones_like(similar)
        if attention:
            size = similar.abs()
            pooling = torch.exp((size - size.detach().amax(dim=0)).clamp(min=FAINTEST))
        held = tokens[some]
        pooled = ((held @ (pooling * similar)) / (held @ pooling)) @ shares.T
        if step == 0:
            with torch.no_grad():  # differences of predictions start at order 1, whatever the features
                slope.copy_(-pooled.std(dim=0).mean().clamp(min=1e-6).log())
        gap, weight, above, below = _pairs(standard[some][:, tasks])
        margin = slope.exp() * (pooled[above] - pooled[below]) * gap.sign()
        away = ((projection / settings.gain - identity) ** 2).sum() / width
        loss = (weight * softplus(-margin)).sum() + settings.decay * away
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % settings.every == 0:
            made = (value.detach().numpy().copy() for value in (projection, first, second))
            path.append(Encoder(start.centre, start.scale, *made))
    return path


def _standardised(utilities: Floats) -> Floats:
    """Return utilities (m, T) of mean 0 and standard deviation 1 in every task; 0 where all are alike."""
    spread = utilities.std(axis=0)
    return (utilities - utilities.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def _pairs(standard: Floats) -> tuple[Tensor, Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """Return differences (pairs, T) of standardised utilities (m, T), their weights, which sum to 1, and the pairs."""
    above, below = np.triu_indices(len(standard), 1)
    gap = torch.from_numpy((standard[above] - standard[below]).astype(np.float32))
    weight = torch.where(gap.abs() < IGNORED, 0.0, gap.abs().clamp(max=LARGEST))
    return gap, weight / weight.sum().clamp(min=1e-12), above, below


def _drawn(shares: Floats, count: int, draw: np.random.Generator) -> tuple[NDArray[np.int64], Tensor]:
    """Return some queries of each task (T, Q), at most `count`, and their shares in it."""
    found = [
        draw.permutation(mine)[:count] if len(mine) > count else mine for mine in map(np.flatnonzero, shares)
    ]
    drawn = np.unique(np.concatenate(found))
    member = np.zeros_like(shares)
    for row, mine in zip(member, found, strict=True):
        row[mine] = 1
    weights = (member * shares)[:, drawn]
    return drawn, torch.from_numpy((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))


@baseline(
    "AirRep",
    ("mean",),
    "sum_S alpha_i s_i, s_i = Enc(x)' Enc(z_i), alpha = softmax |s|",
    "arXiv 2505.18513",
    needs=("representations", "query_representations", "query_shares"),
)
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    chunks, queries, shares = inputs.representations, inputs.query_representations, inputs.query_shares
    assert chunks is not None, "asked for in needs"
    assert queries is not None, "asked for in needs"
    assert shares is not None, "asked for in needs"
    task = Task(chunks, queries, shares, inputs.n_tokens, np.asarray(inputs.calibration), inputs.utilities)
    encoder = train_encoder(task)
    return {"mean": ("", AirRep(encoder(chunks), encoder(queries), shares, inputs.n_tokens))}
