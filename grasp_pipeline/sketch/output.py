"""Kind `output`: the gradient of the output layer, projected on both sides, by a forward pass alone.

For token t with logits z_t = W h_t the gradient of its loss with respect to W (V, H) is (p_t - e_{y_t}) h_t'
with p_t = softmax(z_t). With projections A (V, a) and B (H, b) the sketch of a chunk of n tokens is

    phi = -(1/n) sum_t  A'(p_t - e_{y_t})  (h_t' B)   in R^{a x b}, flattened.

<phi_i, phi_j> estimates the inner product of the two output-layer gradients. Where the output layer is tied to the
input embedding this is the gradient through the output side only. The idea of forward-only output-layer gradients
and two-sided projection is that of LoGRA (arXiv 2405.13954) restricted to the last layer. A is a count sketch, so
that a pass over blocks of logits is all that it takes (`grasp_pipeline.sketch.vocabulary`); B has dense signs.

Precision: hidden states and logits have the model's dtype, all that follows is float32. In bfloat16 a logit z is
rounded by up to 2^-9 |z|, which changes probabilities by the same share, as it does in the model's own loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from grasp_pipeline.proxy.objective import CausalLM, Objective, Parameters
from grasp_pipeline.sketch.head import token_weights
from grasp_pipeline.sketch.projections import sign_projection
from grasp_pipeline.sketch.vocabulary import CountSketch, ErrorProjector


class OutputSketcher:
    """Forward-only sketcher of the output layer's gradient.

    d: coordinates, a * b. hidden_side: B (H, b) float32.
    """

    kind = "output"

    def __init__(
        self,
        objective: Objective,
        parameters: Parameters,
        hidden_dim: int,
        vocab_dim: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Fix the projections, seeded by name.

        Args:
            objective: model whose output layer is sketched.
            parameters: weights at which gradients are taken.
            hidden_dim: b, projected size of the hidden states; smaller ones are kept as they are.
            vocab_dim: a, projected size of the vocabulary; a smaller one is kept as it is.
            seed: seed of the projections.
            device: where to compute.
        """
        self._objective = objective
        self._parameters = {name: p.detach().to(device) for name, p in parameters.items()}
        weight = objective.output_weight(self._parameters)
        vocab, hidden = weight.shape
        self.vocabulary = CountSketch(vocab, vocab_dim, "output", "vocabulary", seed)
        self._errors = ErrorProjector(weight, self.vocabulary)
        self.hidden_side = sign_projection(hidden, hidden_dim, "output", "hidden", seed).to(device)
        self.d = self.vocabulary.buckets * self.hidden_side.shape[1]

    def describe(self) -> dict[str, Any]:
        """Return the sketch's shape and coverage for metadata.

        dimensions: [a, b]. covered: share of all parameters that are the output weight, tied ones counted once.
        tied: whether the output weight is the input embedding too. projection: its kind.
        """
        weight = self._objective.output_weight(self._parameters)
        return {
            "dimensions": [self.vocabulary.buckets, self.hidden_side.shape[1]],
            "covered": weight.numel() / sum(p.numel() for p in self._parameters.values()),
            "tied": isinstance(self._objective, CausalLM) and self._objective.tied,
            "projection": "count sketch x signs",
        }

    @torch.no_grad()
    def sketch(self, rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Sketch a batch; see `Sketcher.sketch`."""
        inputs, targets = rows[:, :-1], rows[:, 1:]
        batch, length = inputs.shape
        hidden = self._objective.hidden(self._parameters, inputs)
        weights = token_weights(sizes, length)
        sketches = hidden.new_zeros(
            batch, self.vocabulary.buckets, self.hidden_side.shape[1], dtype=torch.float32
        )
        losses = hidden.new_zeros(batch, dtype=torch.float32)
        for chunks, positions in token_blocks(batch, length, self._errors.tokens):
            states, weight = hidden[chunks, positions], weights[chunks, positions]
            flat = states.flatten(0, 1)
            left, loss = self._errors(flat, targets[chunks, positions].flatten())
            left = left.unflatten(0, weight.shape) * -weight.unsqueeze(2)
            right = (flat.float() @ self.hidden_side).unflatten(0, weight.shape)
            sketches[chunks].baddbmm_(left.transpose(1, 2), right)
            losses[chunks] += (loss.view_as(weight) * weight).sum(1)
        return sketches.flatten(1), losses


def token_blocks(batch: int, length: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Cut (batch, length) tokens into blocks of at most `most`: whole chunks, or even parts of one chunk."""
    parts = -(-length // most)
    positions, chunks = -(-length // parts), max(1, most // length)
    for first in range(0, batch, chunks):
        for start in range(0, length, positions):
            yield slice(first, first + chunks), slice(start, start + positions)
