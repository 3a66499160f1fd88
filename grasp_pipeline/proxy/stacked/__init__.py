"""Stacked models written out, forward and backward: what `vmap` of their modules computes, with less overhead.

`vmap` copies between layouts, has no rule for fused attention, and leaves autograd some hundred small operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from grasp_pipeline.proxy.stacked.layers import Layers
from grasp_pipeline.proxy.stacked.llama import StackedLlama

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class StackedBody(Protocol):
    """The body of an architecture, for K sets of weights at once."""

    def run(self, layers: Layers, inputs: Tensor, keep: bool) -> tuple[Tensor, Callable[[Tensor], None]]:
        """Map token ids (K, B, L) to hidden states (K, B, L, H); see `StackedLlama.run`."""
        ...


def stacked_body(body: PreTrainedModel) -> StackedBody | None:
    """Return the written-out form of a transformers body, or None where there is none for it."""
    return StackedLlama(body) if StackedLlama.supported(body) else None


def stacked_hidden(body: StackedBody, weights: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """Run a body; differentiable (once) in the weights.

    Under `torch.autocast` matrices are multiplied in its type; norms and sums stay in that of the weights.
    """
    first = next(iter(weights.values()))
    device, dtype = first.device.type, first.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    keep = torch.is_grad_enabled() and any(p.requires_grad for p in weights.values())
    with torch.autocast(device, enabled=False):
        return _Run.apply(body, dtype, inputs, keep, list(weights), *weights.values())  # type: ignore[no-any-return]


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        body: StackedBody,
        dtype: torch.dtype,
        inputs: Tensor,
        keep: bool,
        names: list[str],
        *values: Tensor,
    ) -> Tensor:
        layers = Layers(dict(zip(names, values, strict=True)), dtype)
        hidden, ctx.pull = body.run(layers, inputs, keep)
        ctx.layers = layers
        return hidden

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        ctx.pull(grad_outputs[0])
        gradients = ctx.layers.gradients
        found = [gradients.pop(name) for name in ctx.layers.weights]
        return (None, None, None, None, None, *found)
