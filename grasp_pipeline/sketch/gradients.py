"""Exact per-example gradients of a language model by hooks, weight by weight, never all of them at once.

For a linear layer with activations a_t and output gradients delta_t the gradient of one example is
sum_t delta_t a_t'; of an embedding, delta_t added to the row that token t looks up; of a normalisation's weight,
sum_t delta_t * n_t with the normalised input n_t; of a bias, sum_t delta_t. At the output layer delta_t is
(p_t - e_{y_t}) / n. A parameter that is used twice, such as a tied embedding, has the sum over its uses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from grasp_pipeline.proxy.objective import CausalLM, Parameters
from grasp_pipeline.sketch.head import block_tokens, error_blocks, token_weights
from grasp_pipeline.sketch.hooks import Receive, Visit, as_layer, trial_uses, watched

BLOCK = 2**17
"""Entries of a weight whose gradients are held at once, for every example of the batch."""

_PADDING = (
    16  # entries between two examples: at strides of a power of two they would share lines of the cache
)


class Receiver(Protocol):
    """Takes gradients of named parameters in pieces, in any order, and adds them up."""

    def matrix(self, name: str, index: int, values: Tensor) -> None:
        """Take the gradient (B, r, c) by the block `row_blocks(shape)[index]` of a parameter's rows."""
        ...

    def lookup(self, name: str, ids: Tensor, values: Tensor) -> None:
        """Take gradients (B, M, c) by the rows `ids` (B, M) of a table; a row may occur many times."""
        ...

    def vector(self, name: str, values: Tensor) -> None:
        """Take the gradient (B, n) of a one-dimensional parameter."""
        ...


def row_blocks(shape: Sequence[int], most: int | None = None) -> list[slice]:
    """Cut a parameter of two or more dimensions along its first one into blocks of at most BLOCK (or so many) entries.

    A row that is longer is a block by itself.
    """
    step = max(1, (BLOCK if most is None else most) // math.prod(shape[1:]))
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def is_rms_norm(module: nn.Module) -> bool:
    """Tell whether a module computes weight * x / sqrt(mean x^2 + variance_epsilon), by its parts and a probe."""
    if [name for name, _ in module.named_parameters()] != ["weight"] or not hasattr(
        module, "variance_epsilon"
    ):
        return False
    weight = module.get_parameter("weight").detach()
    if weight.dim() != 1:
        return False
    probe = torch.linspace(-2.0, 3.0, 2 * len(weight), device=weight.device).view(2, -1).to(weight.dtype)
    expected = weight.float() * probe.float() * _inverse_rms(probe.float(), module)
    error = 8 * torch.finfo(weight.dtype).eps
    with torch.no_grad():
        return torch.allclose(module(probe).float(), expected, rtol=error, atol=error)


def known_modules(objective: CausalLM, parameters: Parameters) -> dict[str, nn.Module] | None:
    """Return the modules below the output layer that hold parameters; None if one's gradient is not known here.

    Known are linear layers, embeddings, LayerNorm and RMSNorm that keep chunks apart.
    """
    model = objective.model
    modules: dict[str, nn.Module] = {
        name: module
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
        and module is not model.get_output_embeddings()
    }
    for module in modules.values():
        if as_layer(module) is None and not _is_layer_norm(module) and not is_rms_norm(module):
            return None
    uses = trial_uses(objective, parameters, modules)
    return modules if all(use.by_chunk for use in uses) else None


class ExampleGradients:
    """Per-example gradients of a language model all of whose modules are known."""

    def __init__(self, objective: CausalLM, parameters: Parameters, modules: dict[str, nn.Module]) -> None:
        """Prepare passes at some weights.

        Args:
            objective: the model; it is used by one sketcher at a time.
            parameters: weights at which gradients are taken, not requiring gradients.
            modules: as `known_modules` returns them.
        """
        self._objective = objective
        self._parameters = parameters
        self._modules = modules
        self._names = {id(p): name for name, p in objective.model.named_parameters()}
        weight = objective.output_weight(parameters)
        self._dtype = torch.promote_types(weight.dtype, torch.float32)
        self._weight = weight.to(self._dtype)
        self._block_tokens = block_tokens(len(weight))
        shapes = [p.shape for p in parameters.values() if p.dim() > 1]
        self._stride = max(row_blocks(shape)[0].stop * math.prod(shape[1:]) for shape in shapes) + _PADDING

    @property
    def tables(self) -> set[str]:
        """Names of the parameters that are looked up by rows."""
        return {
            self._name(module, "weight")
            for module in self._modules.values()
            if isinstance(module, nn.Embedding)
        }

    def run(self, rows: Tensor, sizes: Tensor, receiver: Receiver) -> Tensor:
        """Give the receiver all gradients of a batch's mean token losses; return the losses (B,) in nats.

        Args:
            rows: (B, L + 1) token ids.
            sizes: (B,) tokens per chunk.
            receiver: takes gradients in float32, or float64 where the parameters are.
        """
        buffer = torch.empty(len(rows), self._stride, dtype=self._dtype, device=rows.device)
        inputs, targets = rows[:, :-1], rows[:, 1:]
        visit = self._visitor(receiver, buffer)
        with watched(self._objective.model, self._modules, len(rows), visit):
            hidden = self._objective.hidden(self._parameters, inputs)
            losses, slope = self._head(hidden.detach(), targets, sizes, receiver, buffer)
            torch.autograd.backward(hidden, slope)
        return losses

    @torch.no_grad()
    def _head(
        self, hidden: Tensor, targets: Tensor, sizes: Tensor, receiver: Receiver, buffer: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Give the output layer's gradient; return losses (B,) and their gradient by `hidden` (B, L, H)."""
        weights = token_weights(sizes, targets.shape[1], self._dtype)
        states = hidden.flatten(0, 1).to(self._dtype)
        errors = states.new_empty(len(states), len(self._weight))
        losses, slope = states.new_empty(len(states)), torch.empty_like(states)
        for part, error, loss in error_blocks(
            states, self._weight, targets.flatten(), self._block_tokens, errors
        ):
            losses[part] = loss
            torch.mm(error, self._weight, out=slope[part])
        scale = weights.unsqueeze(2)
        weighted = states.view(hidden.shape) * scale
        _outer(receiver, self._objective.output_name, errors.unflatten(0, weights.shape), weighted, buffer)
        slope = slope.view(hidden.shape).mul_(scale).to(hidden.dtype)
        return (losses.view_as(weights) * weights).sum(1), slope

    def _visitor(self, receiver: Receiver, buffer: Tensor) -> Visit:
        """Return what keeps a module's input and, on the way back, gives its gradients."""

        def visit(name: str, given: Tensor) -> Receive:
            module = self._modules[name]

            def receive(delta: Tensor) -> None:
                self._give(receiver, module, given, delta.flatten(1, -2).to(self._dtype), buffer)

            return receive

        return visit

    def _give(
        self, receiver: Receiver, module: nn.Module, given: Tensor, delta: Tensor, buffer: Tensor
    ) -> None:
        """Give the gradients of a module's parameters, from its input and its output's gradient (B, M, k)."""
        weight = self._name(module, "weight")
        if isinstance(module, nn.Embedding):
            ids = given.flatten(1)
            if module.padding_idx is not None:
                delta = delta * (ids != module.padding_idx).unsqueeze(
                    2
                )  # autograd gives this row no gradient
            receiver.lookup(weight, ids, delta)
            return
        inputs = given.flatten(1, -2).to(self._dtype)
        if getattr(module, "bias", None) is not None:
            receiver.vector(self._name(module, "bias"), delta.sum(1))
        if isinstance(module, nn.Linear):
            _outer(receiver, weight, delta, inputs, buffer)
        elif as_layer(module) is not None:  # Conv1D: its weight is (in, out)
            _outer(receiver, weight, inputs, delta, buffer)
        elif isinstance(module, nn.LayerNorm):
            normal = nn.functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)
            receiver.vector(weight, (delta * normal).sum(1))
        else:
            receiver.vector(
                weight, (_inverse_rms(inputs, module).transpose(1, 2) @ (delta * inputs)).squeeze(1)
            )

    def _name(self, module: nn.Module, parameter: str) -> str:
        """Return the name of a module's parameter, the first one where it is tied."""
        return self._names[id(module.get_parameter(parameter))]


def _is_layer_norm(module: nn.Module) -> bool:
    return type(module) is nn.LayerNorm and len(module.normalized_shape) == 1


def _inverse_rms(inputs: Tensor, module: nn.Module) -> Tensor:
    """Return 1 / sqrt(mean x^2 + epsilon) along the last axis, kept as one entry."""
    epsilon = float(module.variance_epsilon)  # type: ignore[arg-type]
    return torch.rsqrt(
        torch.linalg.vector_norm(inputs, dim=-1, keepdim=True).square() / inputs.shape[-1] + epsilon
    )


def _outer(receiver: Receiver, name: str, left: Tensor, right: Tensor, buffer: Tensor) -> None:
    """Give sum_t left_t right_t' (B, r, c) of left (B, M, r) and right (B, M, c), block by block of r."""
    batch, _, columns = right.shape
    for index, rows in enumerate(row_blocks((left.shape[2], columns))):
        part = left[:, :, rows].transpose(1, 2)
        product = buffer[:, : part.shape[1] * columns].view(batch, part.shape[1], columns)
        torch.bmm(part, right, out=product)
        receiver.matrix(name, index, product)
