"""Kind `layers`: the gradient of every linear and embedding layer, projected on both sides, one block per layer.

A layer with activations a_t and outputs W a_t + c has the weight gradient sum_t delta_t a_t', where delta_t is the
loss's gradient with respect to its output. With projections A (out, a) and B (in, b) the block of a chunk is

    phi_W = -sum_t (A' delta_t) (a_t' B)   in R^{a x b}, flattened: minus A' G B.

Both factors are projected before they are contracted over tokens, so no weight gradient is ever formed; this is
LoGRA (arXiv 2405.13954). A bias is one more column of the weight, seen through a constant activation 1 (homogeneous
coordinates, arXiv 1503.05671): G = [G_W, g_c] and B has in + 1 rows. The activation of an embedding is one-hot: its
projection is a row of B. The output layer's delta_t is (p_t - e_{y_t}) / n, as in kind `output`.

An output layer tied to the input embedding has two blocks, one for each use of the shared weight: inner products
of sketches then lack the cross terms between the two uses. Elementwise parameters (normalisation) are left out;
`coverage` names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from grasp_pipeline.errors import ConfigError
from grasp_pipeline.proxy.objective import CausalLM, Parameters
from grasp_pipeline.sketch.output import sign_projection

LOGIT_TOKENS = 1024
"""Tokens whose logits are held at once."""


class Coverage(TypedDict):
    """Which parameters enter the sketch, as shares of all parameters; tied ones count once.

    covered: share of the parameters in blocks; skipped: name -> share of each parameter left out. They add to 1.
    """

    covered: float
    skipped: dict[str, float]


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


def find_layers(model: nn.Module) -> dict[str, Layer]:
    """Return the layers of a model by module name, in the model's order.

    Raises:
        ConfigError: another module holds a parameter of two or more dimensions, such as fused experts.
    """
    layers: dict[str, Layer] = {}
    unknown: dict[str, str] = {}
    for name, module in model.named_modules():
        if (layer := as_layer(module)) is not None:
            layers[name] = layer
        elif any(p.ndim > 1 for p in module.parameters(recurse=False)):
            unknown.setdefault(type(module).__name__, name)
    if unknown:
        named = ", ".join(f"{name} ({kind})" for kind, name in unknown.items())
        raise ConfigError(
            f"the sketch kind `layers` cannot split the weights of {named} into activations and output gradients: "
            "only linear layers and embeddings are supported, no fused experts; take `layers` out of "
            "sketchers.kinds and use `output` or `full`, or choose a dense proxy"
        )
    return layers


def parameter_coverage(model: nn.Module, layers: dict[str, Layer]) -> Coverage:
    """Return which parameters of a model lie in its layers."""
    inside = {id(p) for layer in layers.values() for p in layer.module.parameters(recurse=False)}
    total = sum(p.numel() for p in model.parameters())
    covered = sum(p.numel() for p in model.parameters() if id(p) in inside)
    skipped = {name: p.numel() / total for name, p in model.named_parameters() if id(p) not in inside}
    return {"covered": covered / total, "skipped": skipped}


class LayersSketcher:
    """Sketcher of every layer's gradient: one forward pass, and one backward pass without weight gradients.

    d: coordinates in all. blocks: module name -> its coordinates, in the model's order; a block is (a, b) row by row.
    projections: module name -> A (out, a) and B (in, b), or (in + 1, b) where the layer has a bias.
    coverage: shares of the parameters that are sketched and left out.
    """

    kind = "layers"

    def __init__(
        self,
        objective: CausalLM,
        parameters: Parameters,
        input_dim: int,
        output_dim: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Fix the projections, seeded by module name.

        Args:
            objective: model whose layers are sketched; it is used by one sketcher at a time.
            parameters: weights at which gradients are taken.
            input_dim: b, projected size of a layer's input; smaller inputs are kept as they are.
            output_dim: a, projected size of a layer's output; smaller outputs are kept as they are.
            seed: seed of the projections.
            device: where to compute.

        Raises:
            ConfigError: a module's weights are not those of a linear layer or an embedding.
        """
        self._objective = objective
        self._parameters = {name: p.detach().to(device) for name, p in parameters.items()}
        self._weight = objective.output_weight(self._parameters).float()
        self._device = device
        self._layers = find_layers(objective.model)
        head = objective.model.get_output_embeddings()
        self._head_name = next(name for name, layer in self._layers.items() if layer.module is head)
        self.coverage = parameter_coverage(objective.model, self._layers)
        self.blocks: dict[str, slice] = {}
        self.projections: dict[str, tuple[Tensor, Tensor]] = {}
        self.d = 0
        for name, layer in self._layers.items():
            output_side = sign_projection(layer.outputs, output_dim, "layers", name, "output", seed)
            input_side = sign_projection(layer.inputs, input_dim, "layers", name, "input", seed)
            if isinstance(layer.module, nn.Embedding) and layer.module.padding_idx is not None:
                input_side[layer.module.padding_idx] = 0.0  # autograd gives this row no gradient
            self.projections[name] = output_side.to(device), input_side.to(device)
            size = output_side.shape[1] * input_side.shape[1]
            self.blocks[name] = slice(self.d, self.d + size)
            self.d += size

    def sketch(self, rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Sketch a batch; see `Sketcher.sketch`.

        Raises:
            ConfigError: a layer is not applied to every token of every chunk, as experts are not.
        """
        rows, sizes = rows.to(self._device), sizes.to(self._device)
        longest = int(sizes.max())
        inputs, targets = rows[:, :longest], rows[:, 1 : longest + 1]
        valid = torch.arange(longest, device=rows.device).unsqueeze(0) < sizes.unsqueeze(1)
        sketches = torch.zeros(len(rows), self.d, device=rows.device)
        with self._collecting(sketches, longest), torch.enable_grad():
            hidden = self._objective.hidden(self._parameters, inputs)
            losses, descent = self._head(hidden.detach(), targets, valid, sizes, sketches)
            # Attention is causal, so behind a chunk's last token every delta_t is zero, as `descent` is.
            torch.autograd.backward(hidden, descent)
        return sketches.cpu(), losses.cpu()

    @torch.no_grad()
    def _head(
        self, hidden: Tensor, targets: Tensor, valid: Tensor, sizes: Tensor, sketches: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write the output layer's block; return mean losses (B,) and minus their gradient by `hidden` (B, L, H)."""
        output_side, input_side = self.projections[self._head_name]
        states, labels = hidden[valid].float(), targets[valid]
        left = states.new_empty(len(states), output_side.shape[1])
        descent, token_loss = torch.empty_like(states), states.new_empty(len(states))
        for start in range(0, len(states), LOGIT_TOKENS):
            part = slice(start, start + LOGIT_TOKENS)
            logits, label = states[part] @ self._weight.t(), labels[part].unsqueeze(1)
            total = torch.logsumexp(logits, dim=1, keepdim=True)
            token_loss[part] = (total - logits.gather(1, label)).squeeze(1)
            residual = torch.exp(logits - total).scatter_add_(1, label, -torch.ones_like(total))
            left[part], descent[part] = residual @ output_side, residual @ self._weight
        scale = (-1.0 / sizes.to(states.dtype)).view(-1, 1, 1)
        block = torch.bmm(_padded(left, valid).transpose(1, 2), _padded(states @ input_side, valid)) * scale
        sketches[:, self.blocks[self._head_name]] = block.flatten(1)
        losses = _padded(token_loss.unsqueeze(1), valid).sum((1, 2)) / sizes
        return losses, (_padded(descent, valid) * scale).to(hidden.dtype)

    @contextmanager
    def _collecting(self, sketches: Tensor, length: int) -> Iterator[None]:
        """Add every layer's block to `sketches` (B, d) while the body runs forward and backward, without dropout."""
        model = self._objective.model
        training = model.training
        model.eval()
        handles = [
            layer.module.register_forward_hook(self._observer(name, sketches[:, self.blocks[name]], length))
            for name, layer in self._layers.items()
            if name != self._head_name
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            model.train(training)

    def _observer(
        self, name: str, block: Tensor, length: int
    ) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        """Return a forward hook that keeps the projected activations and adds to a block (B, a * b) on the way back."""
        output_side, input_side = self.projections[name]
        batch = len(block)

        def observe(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not output.requires_grad and output.shape[0] == 1:
                # Position embeddings are looked up once per batch: their gradient is wanted for each chunk.
                output = output.expand(batch, *output.shape[1:])
            if output.ndim < 3 or output.shape[:2] != (batch, length):
                raise ConfigError(
                    f"the module {name} gives an output of shape {tuple(output.shape)} for {batch} chunks of {length} "
                    "tokens, so the sketch kind `layers` cannot tell chunks apart; take `layers` out of "
                    "sketchers.kinds and use `output` or `full`, or choose a dense proxy"
                )
            if not output.requires_grad:
                output = output.detach().requires_grad_()  # embeddings: the graph starts behind their weights
            right = _project_inputs(module, given[0], input_side)
            right = right.expand(batch, *right.shape[1:]).flatten(1, -2)

            def add(delta: Tensor) -> None:
                left = (delta.float() @ output_side).flatten(1, -2)
                block.add_(torch.bmm(left.transpose(1, 2), right).flatten(1))

            output.register_hook(add)
            return output

        return observe


@torch.no_grad()
def _project_inputs(module: nn.Module, given: Tensor, side: Tensor) -> Tensor:
    """Return a_t' B (..., b) for activations (..., in), or for the ids (...) that an embedding looks up."""
    if isinstance(module, nn.Embedding):
        return side[given]
    size = given.shape[-1]
    projected = given.float() @ side[:size]
    return projected + side[size] if len(side) > size else projected


def _padded(values: Tensor, valid: Tensor) -> Tensor:
    """Return values (N, k) of the valid tokens as (B, L, k), zero elsewhere."""
    rows = values.new_zeros(*valid.shape, values.shape[1])
    rows[valid] = values
    return rows
