"""Kind `output`: the gradient of the output layer, projected on both sides, by a forward pass alone.

For token t with logits z_t = W h_t the gradient of its loss with respect to W (V, H) is (p_t - e_{y_t}) h_t'
with p_t = softmax(z_t). With projections A (V, a) and B (H, b) the sketch of a chunk of n tokens is

    phi = -(1/n) sum_t  A'(p_t - e_{y_t})  (h_t' B)   in R^{a x b}, flattened.

<phi_i, phi_j> estimates the inner product of the two output-layer gradients. Where the output layer is tied to the
input embedding this is the gradient through the output side only. The idea of forward-only output-layer gradients
and two-sided projection is that of LoGRA (arXiv 2405.13954) restricted to the last layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grasp_pipeline.proxy.objective import Objective, Parameters
from grasp_pipeline.seeds import seed_for


def sign_projection(rows: int, columns: int, *name: str | int) -> Tensor:
    """Return a (rows, columns) float32 projection with entries +-1/sqrt(columns), seeded by name.

    When columns >= rows the identity (rows, rows) is returned: nothing would be saved by projecting.
    """
    if columns >= rows:
        return torch.eye(rows)
    source = torch.Generator().manual_seed(seed_for("projection", *name))
    bits = torch.randint(0, 2, (rows, columns), generator=source, dtype=torch.int8)
    return (bits.float() * 2 - 1) / columns**0.5


class OutputSketcher:
    """Forward-only sketcher of the output layer's gradient."""

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
        self._objective = objective
        self._parameters = {name: p.to(device) for name, p in parameters.items()}
        self._weight = objective.output_weight(self._parameters).float()
        vocab, hidden = self._weight.shape
        self.vocab_side = sign_projection(vocab, vocab_dim, "output", "vocabulary", seed).to(device)
        self.hidden_side = sign_projection(hidden, hidden_dim, "output", "hidden", seed).to(device)
        self.d = self.vocab_side.shape[1] * self.hidden_side.shape[1]
        self._device = device

    @torch.no_grad()
    def sketch(self, rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Sketch a batch; see `Sketcher.sketch`."""
        rows, sizes = rows.to(self._device), sizes.to(self._device)
        longest = int(sizes.max())
        inputs, targets = rows[:, :longest], rows[:, 1 : longest + 1]
        hidden = self._objective.hidden(self._parameters, inputs)
        valid = torch.arange(longest, device=rows.device).unsqueeze(0) < sizes.unsqueeze(1)
        # Padding is left out before the vocabulary-sized product, the most expensive step.
        states, labels = hidden[valid].float(), targets[valid]
        probabilities = torch.softmax(states @ self._weight.t(), dim=1)
        picked = probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
        left = probabilities @ self.vocab_side - self.vocab_side[labels]
        right = states @ self.hidden_side
        batch = len(rows)
        left_rows = left.new_zeros(batch, longest, left.shape[1])
        right_rows = right.new_zeros(batch, longest, right.shape[1])
        left_rows[valid], right_rows[valid] = left, right
        scale = (-1.0 / sizes.to(left.dtype)).view(-1, 1, 1)
        sketches = torch.bmm(left_rows.transpose(1, 2), right_rows) * scale
        token_loss = picked.new_zeros(batch, longest)
        token_loss[valid] = -picked.clamp_min(torch.finfo(picked.dtype).tiny).log()
        losses = token_loss.sum(1) / sizes
        return sketches.flatten(1).cpu(), losses.cpu()
