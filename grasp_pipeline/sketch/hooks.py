"""Inputs and output gradients of a model's modules, by hooks: what a gradient by weights is made of.

A layer with activations a_t and outputs W a_t + c has the weight gradient sum_t delta_t a_t', where delta_t is the
loss's gradient with respect to its output. `watched` shows both factors of every module while a model without
trainable parameters runs forward and backward, so autograd forms no gradient by a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from grasp_pipeline.proxy.objective import CausalLM, Parameters

Receive = Callable[[Tensor], None]
"""Takes the loss's gradient by a module's output."""

Visit = Callable[[str, Tensor], Receive]
"""Takes the name and the input of a module that has just been applied; returns what takes its output's gradient."""


class Layer(NamedTuple):
    """A module whose gradient is a sum of outer products of `outputs` and `inputs` values per token.

    A bias counts as one more input.
    """

    module: nn.Module
    outputs: int
    inputs: int


def as_layer(module: nn.Module) -> Layer | None:
    """Return a linear module or an embedding as a layer, None for any other module.

    Subclasses are not taken: what they add to the forward pass is not known here.
    """
    from transformers.pytorch_utils import Conv1D

    if type(module) is nn.Linear:
        return Layer(module, module.out_features, module.in_features + (module.bias is not None))
    if type(module) is Conv1D:
        return Layer(module, module.nf, module.nx + 1)
    if type(module) is nn.Embedding:
        return Layer(module, module.embedding_dim, module.num_embeddings)
    return None


class Use(NamedTuple):
    """One application of a module in a forward pass.

    source: uses of one number read the same tensor. by_chunk: the output's first axes are chunks and positions.
    """

    name: str
    source: int
    by_chunk: bool


@torch.no_grad()
def trial_uses(objective: CausalLM, parameters: Parameters, modules: Mapping[str, nn.Module]) -> list[Use]:
    """Return how modules are used, in order, from a trial pass over two chunks of three tokens."""
    batch, length = 2, 3
    uses: list[Use] = []
    sources: list[tuple[Tensor, int]] = []

    def observer(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def observe(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            # A tensor that was changed in place in the meantime is another source.
            key = given[0]._version
            same = [i for i, (seen, version) in enumerate(sources) if seen is given[0] and version == key]
            if not same:
                sources.append((given[0], key))
            shape = tuple(output.shape[:2])
            # Position embeddings are looked up once for all chunks.
            shared = isinstance(module, nn.Embedding) and shape == (1, length)
            by_chunk = output.ndim > 2 and (shape == (batch, length) or shared)
            uses.append(Use(name, same[0] if same else len(sources) - 1, by_chunk))

        return observe

    handles = [module.register_forward_hook(observer(name)) for name, module in modules.items()]
    device = objective.output_weight(parameters).device
    try:
        with in_evaluation(objective.model):
            objective.hidden(parameters, torch.zeros(batch, length, dtype=torch.int64, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return uses


@contextmanager
def watched(model: nn.Module, modules: Mapping[str, nn.Module], batch: int, visit: Visit) -> Iterator[None]:
    """Show every use of some modules to `visit` while the body runs forward and backward, without dropout.

    The parameters must not require gradients: the graph starts at the outputs of the embeddings.

    Args:
        model: the model; it is left as it was.
        modules: module name -> module of that model.
        batch: chunks in the batch; lookups shared by all chunks, as those of positions, are shown once for each.
        visit: called without autograd; so is what it returns.
    """

    def observer(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def observe(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            source = given[0]
            if not output.requires_grad:
                if output.shape[0] != batch:
                    output = output.expand(batch, *output.shape[1:])
                    source = source.expand(batch, *source.shape[1:])
                output = output.detach().requires_grad_()
            with torch.no_grad():
                receive = visit(name, source.detach())
            output.register_hook(receive)
            return output

        return observe

    handles = [module.register_forward_hook(observer(name)) for name, module in modules.items()]
    try:
        with in_evaluation(model), torch.enable_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Switch dropout off while the body runs."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
