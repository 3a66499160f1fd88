"""A slow attribution distilled into an embedding: the nearest neighbours of a text are the chunks that taught it.

    e(x) = unit( z + MLP(z) ),  z = (x - centre) / scale        x: frozen features, the same for texts and chunks
    sum over texts q and candidates i of BCE( sigmoid(a cos(e(q), e(i)) + b), 1 - rank_q(i) / (c - 1) )

After "Fast Data Attribution for Text-to-Image Models" (arXiv 2511.10721), which distils unlearning into an embedding of
features of images and captions. rank_q(i) is the teacher's place of candidate i, 0 the most influential of c. The
candidates of a text are its nearest chunks in the frozen features; a tenth as many chunks from elsewhere, the outliers,
are placed last without asking the teacher. The MLP's last layer starts at 0, so that training starts from the cosine of
the features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from grasp_pipeline.arrays import Floats
from grasp_pipeline.errors import InputError
from grasp_pipeline.seeds import generator, seed_for

OUTLIERS = 0.1
"""Outliers per candidate."""


@dataclass(frozen=True)
class Distillation:
    """How the embedding is trained.

    Attributes:
        hidden: units of the MLP's one layer.
        steps: of Adam.
        batch: texts per step.
        rate: of Adam.
        decay: weight decay.
    """

    hidden: int = 128
    steps: int = 400
    batch: int = 32
    rate: float = 3e-3
    decay: float = 1e-3


@dataclass(frozen=True, eq=False)
class Embedding:
    """e(x) of the module's formula; centre (h,); scale; first (h, k), bias (k,), second (k, h)."""

    centre: NDArray[np.float32]
    scale: NDArray[np.float32]
    first: NDArray[np.float32]
    bias: NDArray[np.float32]
    second: NDArray[np.float32]

    def __call__(self, features: ArrayLike) -> NDArray[np.float32]:
        """Return unit embeddings (k, h) of features (k, h), float32; rows of norm 0 stay 0."""
        z = (np.asarray(features, dtype=np.float32) - self.centre) / self.scale
        made = z + np.maximum(z @ self.first + self.bias, 0) @ self.second
        norms = np.linalg.norm(made, axis=1, keepdims=True)
        return (made / np.where(norms > 0, norms, 1)).astype(np.float32)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return its arrays by name, for a safetensors file."""
        return {name: np.ascontiguousarray(value) for name, value in vars(self).items()}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Embedding:
        """Return what `arrays` gave."""
        return cls(**{name: np.asarray(arrays[name], dtype=np.float32) for name in cls.__annotations__})


def nearest_features(
    features: NDArray[np.float32], queries: NDArray[np.float32], count: int
) -> NDArray[np.int64]:
    """Return for each query (Q, h) the `count` chunks of features (n, h) of highest centred cosine: (Q, count)."""
    centre = features.mean(axis=0)
    similar = _units(queries - centre) @ _units(features - centre).T
    return np.argsort(-similar, axis=1, kind="stable")[:, :count]


def _units(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)  # pyright: ignore[reportReturnType]  # float32 divided by float32


def distil(
    features: NDArray[np.float32],
    queries: NDArray[np.float32],
    candidates: NDArray[np.int64],
    effects: Floats,
    settings: Distillation | None = None,
    seed_name: str = "distilled",
) -> Embedding:
    """Train the embedding on what a teacher said.

    Args:
        features: (n, h) frozen features of the chunks.
        queries: (Q, h) of the texts.
        candidates: (Q, c) row numbers of chunks, c at least 2.
        effects: (Q, c) the teacher's value of each, higher is more influential.
        settings: of the training.
        seed_name: of its draws.

    Raises:
        InputError: shapes disagree, or an effect is not finite.
    """
    settings = settings or Distillation()
    n, h = features.shape
    if candidates.shape != effects.shape or len(candidates) != len(queries) or candidates.shape[1] < 2:
        raise InputError(
            f"candidates {candidates.shape}, effects {effects.shape} and {len(queries)} queries; give two "
            "candidates or more and one effect of each for every query"
        )
    if not np.isfinite(effects).all():
        raise InputError("an effect is not finite; leave its query out")
    centre = features.mean(axis=0)
    scale = np.full(h, max(float(np.sqrt(np.square(features - centre).mean())), 1e-12), dtype=np.float32)
    c = candidates.shape[1]
    places = np.argsort(np.argsort(-effects, axis=1, kind="stable"), axis=1, kind="stable")
    rows, targets = _with_outliers(candidates, 1.0 - places / (c - 1), n, seed_name)

    chosen = generator(seed_name, "batches")
    random = torch.Generator().manual_seed(seed_for(seed_name, "weights"))
    z = torch.from_numpy((features - centre) / scale)
    asked = torch.from_numpy((queries - centre) / scale)
    wanted, which = torch.from_numpy(targets.astype(np.float32)), torch.from_numpy(rows)
    first = (torch.randn(h, settings.hidden, generator=random) / h**0.5).requires_grad_()
    bias = torch.zeros(settings.hidden, requires_grad=True)
    second = torch.zeros(settings.hidden, h, requires_grad=True)
    slope, shift = torch.tensor(5.0, requires_grad=True), torch.zeros((), requires_grad=True)

    def embed(x: torch.Tensor) -> torch.Tensor:
        return normalize(x + torch.relu(x @ first + bias) @ second, dim=-1)

    optimiser = torch.optim.AdamW(
        [first, bias, second, slope, shift], lr=settings.rate, weight_decay=settings.decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps)
    for _ in range(settings.steps):
        batch = torch.from_numpy(chosen.permutation(len(queries))[: settings.batch])
        cosine = torch.einsum("qh,qch->qc", embed(asked[batch]), embed(z[which[batch]]))
        loss = binary_cross_entropy_with_logits(slope * cosine + shift, wanted[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    made = (value.detach().numpy().copy() for value in (first, bias, second))
    return Embedding(centre.astype(np.float32), scale, *made)


def _with_outliers(
    candidates: NDArray[np.int64], targets: Floats, n: int, seed_name: str
) -> tuple[NDArray[np.int64], Floats]:
    """Return candidates and targets with outliers, of target 0, beside them; none where all chunks are candidates."""
    queries, c = candidates.shape
    count = min(round(OUTLIERS * c), n - c)
    if count <= 0:
        return candidates, targets
    draw = generator(seed_name, "outliers")
    others = np.stack(
        [draw.choice(np.setdiff1d(np.arange(n), mine), count, replace=False) for mine in candidates]
    )
    return np.hstack([candidates, others]), np.hstack([targets, np.zeros((queries, count))])


def mean_average_precision(found: NDArray[np.int64], effects: Floats, k: int) -> Floats:
    """Return the average precision at k of every query, (Q,).

    found: (Q, k or more) row numbers in order of retrieval. effects: (Q, n) of the teacher on all chunks, of which the
    k highest are the relevant ones. AP = sum over j <= k of [found_j relevant] precision_j / k.
    """
    relevant = np.argsort(-effects, axis=1, kind="stable")[:, :k]
    hit = (found[:, :k, None] == relevant[:, None, :]).any(axis=2)
    precision = np.cumsum(hit, axis=1) / np.arange(1, k + 1)
    return (hit * precision).sum(axis=1) / k
