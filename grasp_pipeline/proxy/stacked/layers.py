"""Layers of K stacked models, each with its backward pass: activations (K, N, H), weights (K, ...).

A layer returns its output and a function from the output's gradient to the input's, which also notes the gradients
of the weights. In models this small autograd's own work per operation costs as much as the operation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

Backward = Callable[[Tensor], Tensor]


class Layers:
    """The layers of K models that have parameters, by the parameters' names; collects their gradients."""

    def __init__(self, weights: dict[str, Tensor], dtype: torch.dtype) -> None:
        """Take stacked weights and the type in which matrices are multiplied."""
        self.weights = weights
        self.dtype = dtype
        self.gradients: dict[str, Tensor] = {}

    def linear(self, x: Tensor, name: str) -> tuple[Tensor, Callable[..., Tensor]]:
        """Multiply by W^T and add the bias, if there is one; backward adds to its second argument, if given."""
        stored, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias")
        x, weight = x.to(self.dtype), stored.to(self.dtype)
        y = torch.bmm(x, weight.mT)
        if bias is not None:
            y.add_(bias.unsqueeze(1))

        def backward(grad: Tensor, into: Tensor | None = None) -> Tensor:
            self.gradients[f"{name}.weight"] = torch.bmm(grad.mT, x).to(stored.dtype)
            if bias is not None:
                self.gradients[f"{name}.bias"] = grad.sum(1, dtype=bias.dtype)
            return torch.bmm(grad, weight) if into is None else into.baddbmm_(grad, weight)

        return y, backward

    def embedding(self, ids: Tensor, name: str) -> tuple[Tensor, Callable[[Tensor], None]]:
        """Look ids (K, N) up; backward returns nothing, since ids have no gradient."""
        table = self.weights[f"{name}.weight"]
        where = torch.arange(len(ids), device=ids.device).unsqueeze(1).expand_as(ids), ids

        def backward(grad: Tensor) -> None:
            self.gradients[f"{name}.weight"] = torch.zeros_like(
                table, memory_format=torch.contiguous_format
            ).index_put_(where, grad, accumulate=True)

        return table[where], backward

    def rms_norm(self, x: Tensor, name: str, eps: float) -> tuple[Tensor, Backward]:
        """Divide by the root mean square and scale."""
        weight = self.weights[f"{name}.weight"].unsqueeze(1)
        size = x.shape[-1]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(size).add_(eps).rsqrt_()

        def backward(grad: Tensor) -> Tensor:
            normed = x * scale
            self.gradients[f"{name}.weight"] = (grad * normed).sum(1)
            d_normed = grad * weight
            along = torch.linalg.vecdot(d_normed, normed).unsqueeze(-1).div_(size)
            return d_normed.sub_(normed.mul_(along)).mul_(scale)

        return (x * scale).mul_(weight), backward


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    out = torch.empty_like(x, dtype=cos.dtype, memory_format=torch.contiguous_format)
    (first, second), (to_first, to_second) = x.to(cos.dtype).chunk(2, -1), out.chunk(2, -1)
    torch.mul(first, cos, out=to_first).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=to_second).addcmul_(first, sin, value=sign)
    return out.to(x.dtype)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Backward]:
    """Rotate the pairs (i, i + D/2) of x (..., D) by angles whose cosines and sines are (..., D/2)."""
    return _turn(x, cos, sin, 1.0), lambda grad: _turn(grad, cos, sin, -1.0)


def attention(
    query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
    """Causal attention by torch's fused kernels, forward and backward; all (rows, L, heads, D).

    Keys and values may have fewer heads, each shared by as many queries.
    """
    parts = [part.detach().requires_grad_() for part in (query, key, value)]
    with torch.enable_grad():
        by_head = [part.transpose(1, 2) for part in parts]
        grouped = query.shape[2] != key.shape[2]
        mixed = scaled_dot_product_attention(
            by_head[0], by_head[1], by_head[2], is_causal=True, enable_gqa=grouped
        ).transpose(1, 2)

    def backward(grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        d_query, d_key, d_value = torch.autograd.grad(mixed, parts, grad)
        return d_query, d_key, d_value

    return mixed.detach(), backward


def swiglu(gate: Tensor, up: Tensor) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """silu(gate) * up."""
    opened = silu(gate)

    def backward(grad: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ops.aten.silu_backward(grad * up, gate), grad * opened

    return opened * up, backward
