"""Kind `full`: the gradient of all parameters, projected by a sparse Johnson-Lindenstrauss transform.

Per-example gradients g in R^P come exactly from `torch.func` (vmap of grad). Parameter k of the tensor named N is
added to s of the d coordinates, drawn with random signs and seeded by N:

    phi = -(1/sqrt(s)) * sum_k sum_{j<s} sign_{N,j}(k) g_k e_{hash_{N,j}(k)}

a sum of s count sketches (Kane and Nelson, arXiv 1012.1577), so no (P, d) matrix is ever formed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from grasp_pipeline.proxy.objective import Objective, Parameters
from grasp_pipeline.seeds import seed_for


def hashes(name: str, size: int, d: int, sparsity: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the coordinates (s, size) int64 and signs (s, size) float32 of a tensor's entries, seeded by name."""
    source = torch.Generator().manual_seed(seed_for("projection", "full", name, seed))
    coordinates = torch.randint(0, d, (sparsity, size), generator=source)
    signs = torch.randint(0, 2, (sparsity, size), generator=source, dtype=torch.int8).float() * 2 - 1
    return coordinates, signs / sparsity**0.5


class FullSketcher:
    """Sketcher of the exact gradient of every parameter."""

    kind = "full"

    def __init__(
        self,
        objective: Objective,
        parameters: Parameters,
        d: int,
        sparsity: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._objective = objective
        self._parameters = {name: p.to(device) for name, p in parameters.items()}
        self.d = d
        self._hashes = {
            name: tuple(t.to(device) for t in hashes(name, p.numel(), d, sparsity, seed))
            for name, p in self._parameters.items()
        }
        self._device = device
        self._per_example = vmap(grad_and_value(self._loss), in_dims=(None, 0, 0, 0))

    def _loss(self, parameters: Parameters, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        hidden = self._objective.hidden(parameters, inputs.unsqueeze(0))[0]
        logits = (hidden @ self._objective.output_weight(parameters).t()).float()
        picked = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
        return ((torch.logsumexp(logits, dim=1) - picked) * weights).sum()

    def _per_parameter(self, rows: Tensor, sizes: Tensor) -> tuple[Parameters, Tensor]:
        rows, sizes = rows.to(self._device), sizes.to(self._device)
        longest = int(sizes.max())
        inputs, targets = rows[:, :longest], rows[:, 1 : longest + 1]
        valid = torch.arange(longest, device=rows.device).unsqueeze(0) < sizes.unsqueeze(1)
        weights = valid.float() / sizes.unsqueeze(1)
        return self._per_example(self._parameters, inputs, targets, weights)

    def gradients(self, rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients themselves, not projected: (B, P), and mean token losses (B,) in nats."""
        gradients, losses = self._per_parameter(rows, sizes)
        flat = [gradient.detach().float().reshape(len(rows), -1) for gradient in gradients.values()]
        return torch.cat(flat, dim=1).cpu(), losses.detach().cpu()

    def sketch(self, rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Sketch a batch; see `Sketcher.sketch`."""
        gradients, losses = self._per_parameter(rows, sizes)
        # (P, B) layout: one index adds to a whole row of the batch at once.
        sketches = torch.zeros(self.d, len(rows), device=self._device)
        for name, gradient in gradients.items():
            flat = gradient.detach().float().reshape(len(rows), -1).t().contiguous()
            coordinates, signs = self._hashes[name]
            for index, sign in zip(coordinates, signs, strict=True):
                sketches.index_add_(0, index, flat * sign.unsqueeze(1), alpha=-1.0)
        return sketches.t().contiguous().cpu(), losses.detach().cpu()
