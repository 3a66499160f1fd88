"""Log-coverage in gradients: one natural-gradient step of the output layer, on frozen states, and the log of its gain.

    G_S = mean over the tokens of S of (e_y - p) h' ,   D_S = diag(1 / f) G_S (C + c tr(C)/H I)^-1
    f = p (1 - p) + b mean(p (1 - p)) ,   r_q = 1 + (e_q - p)' D_S h_q
    GL_t(S) = mean over the query's tokens of log( softplus(4 r_q) / 4 + floor )

h is the state that predicts a token y, C the second moment of the pool's states, p its unigram distribution. The step
starts from the logits log p for every state, the Fisher matrix is taken as Kronecker-factored there, and 1 + <., .> is
to first order by which factor the step raises the probability of the query's token. softplus keeps it above 0. G_S is
a mean of per-token gradients: with the identity for the logarithm GL is additive influence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from grasp_pipeline.arrays import Float32s, Floats, TokenLists
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.errors import ConfigError, InputError

Passes = Callable[[TokenLists], Iterator[tuple[slice, Float32s]]]
"""Chunks -> consecutive tokens and their states (t, H); `proxy.token_states.TokenStates.passes`."""

_SHARP = 4.0


@dataclass(frozen=True, eq=False)
class NaturalGradientCoverage:
    """GL over a pool; an `Attributor`.

    Memory grows with subsets times distinct query tokens times H, and not with the pool.

    chunks: the pool's n. queries: q chunks, query_task: (q,) their tasks in [0, tasks). passes: gives states.
    state_damping: c. logit_damping: b. floor: added to the gain.

    Raises:
        ConfigError: a damping or the floor is not above 0.
        InputError: a task has no query token, or the pool none.
    """

    chunks: TokenLists
    queries: TokenLists
    query_task: NDArray[np.integer[Any]]
    tasks: int
    passes: Passes
    state_damping: float = 0.01
    logit_damping: float = 0.1
    floor: float = 0.03

    def __post_init__(self) -> None:
        if min(self.state_damping, self.logit_damping, self.floor) <= 0:
            raise ConfigError("dampings and floor of the natural gradient must be above 0")
        if not len(self.chunks.tokens):
            raise InputError("the pool holds no tokens to take gradients of")
        task = np.repeat(np.asarray(self.query_task), self.queries.lengths)
        if missing := sorted(set(range(self.tasks)) - set(task.tolist())):
            raise InputError(f"the query of task {missing[0]} holds no tokens")

    def predict(self, membership: Membership) -> Floats:
        """Return (m, T) predicted utilities of (m, n) subsets.

        Raises:
            InputError: the memberships are of another number of chunks, or a subset is without tokens.
        """
        inside = np.asarray(membership, dtype=np.float64)
        if inside.ndim != 2 or inside.shape[1] != self.chunks.n:
            raise InputError(f"memberships of shape {inside.shape} do not fit {self.chunks.n} chunks")
        total = inside @ self.chunks.lengths
        if not (total > 0).all():
            raise InputError(f"subset {int(np.argmin(total > 0))} holds no tokens and so has no gradient")
        p, scale = self._rates
        wanted, place = np.unique(self.queries.tokens, return_inverse=True)
        asked = self._whitened_queries
        # Sums over a subset of h by token, of h, and of (p / f)_y h: all that the gains need of G_S.
        width = asked.shape[1]
        by_token = np.zeros((len(inside), len(wanted), width))
        plain, weighed = np.zeros((2, len(inside), width))
        chunk = np.repeat(np.arange(self.chunks.n), self.chunks.lengths)
        for at, states in self.passes(self.chunks):
            tokens, h = self.chunks.tokens[at], states.astype(np.float64)
            weights = inside[:, chunk[at]]
            plain += weights @ h
            weighed += weights @ (h * (p * scale)[tokens][:, None])
            column = np.minimum(np.searchsorted(wanted, tokens), len(wanted) - 1)
            mine = np.flatnonzero(wanted[column] == tokens)
            for s, taken in enumerate(weights[:, mine]):
                some = mine[taken != 0]
                cells = (taken[taken != 0], (column[some], np.arange(len(some))))
                by_token[s] += csr_array(cells, shape=(len(wanted), len(some))) @ h[some]
        own = p[wanted], scale[wanted]
        shared = weighed - (p**2 * scale).sum() * plain
        gains = np.empty((len(inside), len(asked)))
        for s in range(len(inside)):
            rows = own[1][:, None] * (by_token[s] - own[0][:, None] * plain[s]) - shared[s]
            gains[s] = 1 + np.einsum("qh,qh->q", rows[place.ravel()], asked) / total[s]
        worth = np.log(np.logaddexp(0, _SHARP * gains) / _SHARP + self.floor)
        task = np.repeat(np.asarray(self.query_task), self.queries.lengths)
        member = (task == np.arange(self.tasks)[:, None]).astype(np.float64)
        return worth @ (member / member.sum(axis=1, keepdims=True)).T

    @cached_property
    def _rates(self) -> tuple[Floats, Floats]:
        """p and 1 / f, (V,)."""
        vocabulary = 1 + int(max(self.chunks.tokens.max(), self.queries.tokens.max()))
        counts = np.bincount(self.chunks.tokens, minlength=vocabulary) + 1.0
        p = counts / counts.sum()
        spread = p * (1 - p)
        return p, 1 / (spread + self.logit_damping * spread.mean())

    @cached_property
    def _whitened_queries(self) -> Floats:
        """(C + c tr(C)/H I)^-1 h of every query token, (Q, H)."""
        second, seen = 0.0, 0
        for _, states in self.passes(self.chunks):
            h = states.astype(np.float64)
            second, seen = second + h.T @ h, seen + len(h)
        second = np.asarray(second) / seen
        damped = second + self.state_damping * np.trace(second) / len(second) * np.eye(len(second))
        asked = np.concatenate([states for _, states in self.passes(self.queries)]).astype(np.float64)
        return np.linalg.solve(damped, asked.T).T
