"""The hidden state that predicts each token, and its cluster: a context for log-coverage that a model gives.

Results do not depend on how chunks are divided into calls, shards or ranges: a forward pass always has the same shape,
and what clusters are fitted on is picked by the texts of the chunks alone.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq

from grasp_pipeline.arrays import Float32s, Ints, TokenLists
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.proxy.objective import Objective, Parameters, pad_chunks
from grasp_pipeline.seeds import generator

PASS_ROWS = 8
"""Chunks of every forward pass; missing ones are filled up."""

CLUSTER_CODES = 1 << 22
"""Code of the first cluster as a context, above the ids of any vocabulary, so that both may stand side by side."""

SAMPLE_TOKENS = 32_768
"""Tokens that clusters are fitted on."""

ITERATIONS = 20
"""Steps of k-means."""


@dataclass(frozen=True, eq=False)
class TokenStates:
    """Gives the state that predicts every token of chunks, pass by pass.

    objective, parameters: the proxy; bos: id that starts each chunk; chunk_tokens: L, of the longest chunk.
    """

    objective: Objective
    parameters: Parameters
    bos: int
    chunk_tokens: int

    def __call__(self, chunks: TokenLists) -> Float32s:
        """Return (tokens, H); the first token of a chunk is predicted by BOS alone. Errors as in `passes`."""
        parts = [states for _, states in self.passes(chunks)]
        width = self.objective.output_weight(self.parameters).shape[1]
        return np.concatenate([np.empty((0, width), dtype=np.float32), *parts])

    @torch.no_grad()
    def passes(self, chunks: TokenLists) -> Iterator[tuple[slice, Float32s]]:
        """Yield consecutive tokens and their states (t, H), a forward pass at a time.

        Raises:
            InputError: a state is not finite.
        """
        device = self.objective.output_weight(self.parameters).device
        for start in range(0, chunks.n, PASS_ROWS):
            end = min(start + PASS_ROWS, chunks.n)
            rows, sizes = pad_chunks(
                [chunks.chunk(i) for i in range(start, end)], self.bos, self.chunk_tokens
            )
            filled = torch.zeros((PASS_ROWS, self.chunk_tokens), dtype=rows.dtype)
            filled[: len(rows)] = rows[:, :-1]
            states = self.objective.hidden(self.parameters, filled.to(device)).float().cpu()[: len(rows)]
            found = states[torch.arange(self.chunk_tokens) < sizes.unsqueeze(1)].numpy()
            if not np.isfinite(found).all():
                raise InputError("a hidden state of the proxy is not finite; it predicts no token")
            yield slice(int(chunks.offsets[start]), int(chunks.offsets[end])), found


@dataclass(frozen=True, eq=False)
class StateClusters:
    """Clusters of states as contexts; one of `corpus.events.Contexts`.

    centres: (k, H) float64.
    """

    states: TokenStates
    centres: NDArray[np.float64]

    @classmethod
    def fit(cls, states: TokenStates, chunks: TokenLists, clusters: int, seed: int = 0) -> StateClusters:
        """Fit k-means on the states of chunks that are picked by a hash of their tokens, in its order.

        The order of the chunks changes nothing. Clusters may be empty.

        Raises:
            ConfigError: there is no cluster, or the chunks have fewer tokens than clusters.
        """
        names = np.array(
            [hashlib.sha256(np.asarray(chunks.chunk(i), "<i8").tobytes()).digest() for i in range(chunks.n)]
        )
        first = np.unique(names, return_index=True)[1]
        end = 1 + int(np.searchsorted(np.cumsum(chunks.lengths[first]), SAMPLE_TOKENS))
        points = states(TokenLists.of([chunks.chunk(i) for i in first[:end].tolist()])).astype(np.float64)
        if not 0 < clusters <= len(points):
            raise ConfigError(
                f"{clusters} clusters of the states of {len(points)} tokens; give between 1 and the tokens"
            )
        start = points[generator("state clusters", seed).permutation(len(points))[:clusters]]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="One of the clusters is empty")
            return cls(states, kmeans2(points, start, iter=ITERATIONS, minit="matrix")[0])

    def __call__(self, chunks: TokenLists, first: int) -> Ints:
        """Return the context of every token: `CLUSTER_CODES` and more."""
        codes = np.empty(len(chunks.tokens), dtype=np.int64)
        for tokens, states in self.states.passes(chunks):
            codes[tokens] = CLUSTER_CODES + vq(states.astype(np.float64), self.centres)[0]
        return codes
