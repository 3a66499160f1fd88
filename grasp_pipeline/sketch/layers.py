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

Cost: layers that read the same tensor share one product with their projections, the output layer needs no autograd
and no stored logits, and no weight gradient is formed. Precision: activations and delta_t have the model's dtype, all
that follows is float32. In bfloat16 sketches are within 5% of those in float32 (toy models of two layers; the error
is that of the model's own forward and backward pass).
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from grasp_pipeline.errors import ConfigError
from grasp_pipeline.proxy.objective import CausalLM, Parameters
from grasp_pipeline.sketch.head import block_tokens, error_blocks, token_weights
from grasp_pipeline.sketch.hooks import Layer, Receive, Visit, as_layer, trial_uses, watched
from grasp_pipeline.sketch.projections import sign_projection

_CPU_TOKENS = 1536
"""Tokens that run forward and backward together on a CPU: more take memory and gain 2%, fewer are slower."""


class Coverage(TypedDict):
    """Which parameters enter the sketch, as shares of all parameters; tied ones count once.

    covered: share of the parameters in blocks; skipped: name -> share of each parameter left out. They add to 1.
    """

    covered: float
    skipped: dict[str, float]


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


class _Inputs(NamedTuple):
    """The input projections B' of linear layers that read the same tensor, one below the other: one product for all.

    rows: layer name -> its rows, in the order in which the layers are applied. matrix: (sum of b, in). constant:
    (sum of b, 1), what the biases add; None where no layer has one.
    """

    rows: dict[str, slice]
    matrix: Tensor
    constant: Tensor | None

    @property
    def first(self) -> str:
        """The layer that is applied first."""
        return next(iter(self.rows))

    def project(self, activations: Tensor) -> Tensor:
        """Return the projections (sum of b, N) float32 of activations (..., in)."""
        projected = self.matrix @ _columns(activations)
        return projected if self.constant is None else projected.add_(self.constant)


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
            ConfigError: a module's weights are not those of a linear layer or an embedding, or a layer is not
                applied to every token of every chunk, as experts are not.
        """
        self._objective = objective
        self._parameters = {name: p.detach().to(device) for name, p in parameters.items()}
        self._weight = objective.output_weight(self._parameters).float()
        self._block_tokens = block_tokens(len(self._weight))
        layers = find_layers(objective.model)
        head = objective.model.get_output_embeddings()
        self._head = next(name for name, layer in layers.items() if layer.module is head)
        self._modules = {name: layer.module for name, layer in layers.items() if name != self._head}
        self.coverage = parameter_coverage(objective.model, layers)
        self.blocks: dict[str, slice] = {}
        self.projections: dict[str, tuple[Tensor, Tensor]] = {}
        self._output_sides: dict[str, Tensor] = {}
        self.d = 0
        for name, layer in layers.items():
            output_side = sign_projection(layer.outputs, output_dim, "layers", name, "output", seed)
            input_side = sign_projection(layer.inputs, input_dim, "layers", name, "input", seed)
            if isinstance(layer.module, nn.Embedding) and layer.module.padding_idx is not None:
                input_side[layer.module.padding_idx] = 0.0  # autograd gives this row no gradient
            # The products are fastest with the long side last, about three times so on a CPU.
            self._output_sides[name] = output_side.t().contiguous().to(device)
            self.projections[name] = self._output_sides[name].t(), input_side.to(device)
            size = output_side.shape[1] * input_side.shape[1]
            self.blocks[name] = slice(self.d, self.d + size)
            self.d += size
        self._inputs = self._shared_inputs()

    def _shared_inputs(self) -> dict[str, _Inputs]:
        """Return the input projections of every linear layer but the output layer."""
        uses = trial_uses(self._objective, self._parameters, self._modules)
        groups: dict[int | str, list[str]] = {}
        for use in uses:
            if not use.by_chunk:
                raise ConfigError(
                    f"the module {use.name} gives outputs whose first axes are not chunks and positions, so the sketch "
                    "kind `layers` cannot tell chunks apart; take `layers` out of sketchers.kinds and use `output` "
                    "or `full`, or choose a dense proxy"
                )
            if not isinstance(self._modules[use.name], nn.Embedding):
                # A layer applied twice reads two tensors: it shares none of them.
                once = sum(other.name == use.name for other in uses) == 1
                groups.setdefault(use.source if once else use.name, []).append(use.name)
        return {
            name: inputs
            for names in groups.values()
            for inputs in [self._stack_inputs(list(dict.fromkeys(names)))]
            for name in inputs.rows
        }

    def _stack_inputs(self, names: list[str]) -> _Inputs:
        rows: dict[str, slice] = {}
        biased = [getattr(self._modules[name], "bias", None) is not None for name in names]
        matrices, constants, start = [], [], 0
        for name, has_bias in zip(names, biased, strict=True):
            side = self.projections[name][1]
            size = len(side) - has_bias
            matrices.append(side[:size].t())
            constants.append(side[size:].t() if has_bias else side.new_zeros(side.shape[1], 1))
            rows[name] = slice(start, start + side.shape[1])
            start += side.shape[1]
        return _Inputs(rows, torch.cat(matrices).contiguous(), torch.cat(constants) if any(biased) else None)

    def describe(self) -> dict[str, Any]:
        """Return the sketch's shape and coverage for metadata.

        blocks: module name -> [a, b]. covered: share of the parameters in blocks, tied ones counted once. skipped:
        name -> share of each parameter left out. tied: whether the output weight is the input embedding too.
        """
        return {
            "blocks": {
                name: [left.shape[1], right.shape[1]] for name, (left, right) in self.projections.items()
            },
            **self.coverage,
            "tied": self._objective.tied,
        }

    def sketch(self, rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Sketch a batch; see `Sketcher.sketch`."""
        most = _CPU_TOKENS if rows.device.type == "cpu" else rows.numel()
        chunks = max(1, most // (rows.shape[1] - 1))
        parts = [self._sketch(*part) for part in zip(rows.split(chunks), sizes.split(chunks), strict=True)]
        sketches, losses = (torch.cat(part) for part in zip(*parts, strict=True))
        return sketches, losses

    def _sketch(self, rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        inputs, targets = rows[:, :-1], rows[:, 1:]
        sketches = torch.zeros(len(rows), self.d, device=rows.device)
        with watched(self._objective.model, self._modules, len(rows), self._collector(sketches)):
            hidden = self._objective.hidden(self._parameters, inputs)
            losses, descent = self._descend(hidden.detach(), targets, sizes, sketches)
            # Attention is causal, so behind a chunk's last token every delta_t is zero, as `descent` is.
            torch.autograd.backward(hidden, descent)
        return sketches, losses

    @torch.no_grad()
    def _descend(
        self, hidden: Tensor, targets: Tensor, sizes: Tensor, sketches: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write the output layer's block; return mean losses (B,) and minus their gradient by `hidden` (B, L, H)."""
        weights = token_weights(sizes, targets.shape[1])
        states, scale = hidden.flatten(0, 1).float(), weights.flatten().neg()
        output_side, input_side = self._output_sides[self._head], self.projections[self._head][1]
        left = states.new_empty(len(output_side), len(states))
        descent, losses = torch.empty_like(states), states.new_empty(len(states))
        for part, error, loss in error_blocks(states, self._weight, targets.flatten(), self._block_tokens):
            losses[part] = loss
            left[:, part] = output_side @ error.t()
            torch.mm(error, self._weight, out=descent[part])
        self._add(sketches, self._head, left * scale, input_side.t() @ states.t())
        descent.mul_(scale.unsqueeze(1))
        return (losses.view_as(weights) * weights).sum(1), descent.view(hidden.shape).to(hidden.dtype)

    def _collector(self, sketches: Tensor) -> Visit:
        """Return what projects activations and, on the way back, gradients, and adds blocks to `sketches` (B, d)."""
        projected: dict[str, Tensor] = {}

        def visit(name: str, given: Tensor) -> Receive:
            if isinstance(self._modules[name], nn.Embedding):
                right = self.projections[name][1][given].flatten(0, -2).t()
            else:
                inputs = self._inputs[name]
                if name == inputs.first:
                    projected[name] = inputs.project(given)
                right = projected[inputs.first][inputs.rows[name]]

            def receive(delta: Tensor) -> None:
                self._add(sketches, name, self._output_sides[name] @ _columns(delta), right)

            return receive

        return visit

    def _add(self, sketches: Tensor, name: str, left: Tensor, right: Tensor) -> None:
        """Add sum_t left_t right_t' to a block of `sketches`, from left (a, B * M) and right (b, B * M)."""
        batch = len(sketches)
        block = sketches[:, self.blocks[name]].unflatten(1, (len(left), len(right)))
        by_chunk = [side.unflatten(1, (batch, -1)).transpose(0, 1) for side in (left, right)]
        block.baddbmm_(by_chunk[0], by_chunk[1].transpose(1, 2))


def _columns(values: Tensor) -> Tensor:
    """Return values (..., k) as (k, N) float32."""
    return values.flatten(0, -2).float().t()
