"""Kind `full`: the gradient of all parameters, projected by a sparse Johnson-Lindenstrauss transform.

Parameter k of the tensor named N is added to s of the d coordinates, drawn with random signs and seeded by N:

    phi = -(1/sqrt(s)) * sum_k sum_{j<s} sign_{N,j}(k) g_k e_{hash_{N,j}(k)}

a sum of s count sketches (Kane and Nelson, arXiv 1012.1577), so no (P, d) matrix is ever formed.

Per-example gradients g in R^P are exact. They come from hooks (`grasp_pipeline.sketch.gradients`) where the objective
is a language model of known modules: the gradient of a block of a weight is formed, projected and dropped. Any other
objective takes `torch.func` (vmap of grad), which holds all gradients of the batch at once. Sums are float32, in a
fixed order; on CUDA those of embedding rows are in a fixed order only with `torch.use_deterministic_algorithms`.
In bfloat16 activations and output gradients are rounded as in the model's own passes: sketches are within 5%
(toy models).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn.functional import embedding_bag, pad

from grasp_pipeline.proxy.head import token_losses
from grasp_pipeline.proxy.objective import CausalLM, Objective, Parameters
from grasp_pipeline.seeds import seed_for
from grasp_pipeline.sketch.gradients import BLOCK, ExampleGradients, Receiver, known_modules, row_blocks
from grasp_pipeline.sketch.head import token_weights

_CPU_ENTRIES = 2**14
"""Entries projected at once on a CPU: the gradients of a batch by them stay in the second-level cache."""


def hashes(name: str, size: int, d: int, sparsity: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the coordinates (s, size) int64 and signs (s, size) float32 of a tensor's entries, seeded by name."""
    source = torch.Generator().manual_seed(seed_for("projection", "full", name, seed))
    coordinates = torch.randint(0, d, (sparsity, size), generator=source)
    signs = torch.randint(0, 2, (sparsity, size), generator=source, dtype=torch.int8).float() * 2 - 1
    return coordinates, signs / sparsity**0.5


class _Bags(NamedTuple):
    """The projection of n entries as sums over lists of them, one list per coordinate.

    Lists instead of scattered sums: one read serves all examples, every sum has a fixed order on every device.

    members: (s * n,) int32 entries, coordinate by coordinate. offsets: (d + 1,) int32. signs: (s * n,) float32.
    """

    members: Tensor
    offsets: Tensor
    signs: Tensor

    @classmethod
    def of(cls, coordinates: Tensor, signs: Tensor, d: int, device: torch.device | str) -> _Bags:
        """Sort coordinates and signs (s, n) by coordinate."""
        flat = coordinates.flatten()
        order = torch.sort(flat, stable=True).indices
        offsets = pad(torch.bincount(flat, minlength=d).cumsum(0), (1, 0))
        members = order % coordinates.shape[1]
        return cls(members.int().to(device), offsets.int().to(device), signs.flatten()[order].to(device))

    def project(self, values: Tensor) -> Tensor:
        """Map values (n, B) to sums (d, B)."""
        signs = self.signs.to(values.dtype)
        return embedding_bag(
            self.members, values, self.offsets, mode="sum", per_sample_weights=signs, include_last_offset=True
        )


class _Projection:
    """The transform of all parameters.

    matrices: name -> for each of `row_blocks`, parts of its rows and their projections.
    tables: name -> columns (s, V, H) int32 of an embedding: the coordinate, plus d where the sign is negative.
    vectors: of all one-dimensional parameters, end to end as in `places`; None without any.
    """

    def __init__(
        self,
        parameters: Parameters,
        d: int,
        sparsity: int,
        seed: int,
        tables: set[str],
        device: torch.device | str,
    ) -> None:
        self.d, self.sparsity = d, sparsity
        self.matrices: dict[str, list[list[tuple[slice, _Bags]]]] = {}
        self.tables: dict[str, Tensor] = {}
        self.places = _places({name: p for name, p in parameters.items() if p.dim() < 2})
        vectors: list[tuple[Tensor, Tensor]] = []
        for name, p in parameters.items():
            coordinates, signs = hashes(name, p.numel(), d, sparsity, seed)
            if name in self.places:
                vectors.append((coordinates, signs))
                continue
            coordinates, signs = (side.view(sparsity, len(p), -1) for side in (coordinates, signs))
            most = _CPU_ENTRIES if torch.device(device).type == "cpu" else BLOCK
            self.matrices[name] = [
                [
                    (part, _Bags.of(columns[:, part].flatten(1), sign[:, part].flatten(1), d, device))
                    for part in row_blocks(columns.shape[1:], most)
                ]
                for rows in row_blocks(p.shape)
                for columns, sign in [(coordinates[:, rows], signs[:, rows])]
            ]
            if name in tables:
                self.tables[name] = (coordinates + d * (signs < 0)).int().to(device)
        self.vectors = None
        if vectors:
            coordinates, signs = (torch.cat(side, dim=1) for side in zip(*vectors, strict=True))
            self.vectors = _Bags.of(coordinates, signs, d, device)


class _Sketch:
    """Receives gradients of a batch and keeps their projection alone."""

    def __init__(self, projection: _Projection, batch: int, device: torch.device, dtype: torch.dtype) -> None:
        self._projection = projection
        self._batch = batch
        self._sums = torch.zeros(projection.d, batch, device=device, dtype=dtype)
        self._halves = torch.zeros(batch, 2 * projection.d, device=device, dtype=dtype)
        entries = sum(place.stop - place.start for place in projection.places.values())
        self._vectors = torch.zeros(batch, entries, device=device, dtype=dtype)
        self._buffer = self._sums.new_empty(0)

    def matrix(self, name: str, index: int, values: Tensor) -> None:
        """Take the gradient (B, r, c) by a block of rows."""
        if self._buffer.numel() < values.numel():
            self._buffer = self._sums.new_empty(values.numel())
        for rows, bags in self._projection.matrices[name][index]:
            part = values[:, rows]
            by_entry = self._buffer[: part.numel()].view(*part.shape[1:], self._batch)
            by_entry.copy_(part.permute(1, 2, 0))
            self._sums += bags.project(by_entry.flatten(0, 1))

    def lookup(self, name: str, ids: Tensor, values: Tensor) -> None:
        """Take gradients (B, M, c) by rows `ids` (B, M) of a table: there are too few for a pass over the table."""
        first = torch.arange(self._batch, device=ids.device).view(-1, 1, 1) * self._halves.shape[1]
        for columns in self._projection.tables[name]:
            self._halves.view(-1).scatter_add_(0, (columns[ids] + first).flatten(), values.flatten())

    def vector(self, name: str, values: Tensor) -> None:
        """Take the gradient (B, n) of a one-dimensional parameter."""
        self._vectors[:, self._projection.places[name]] += values

    def finish(self) -> Tensor:
        """Return minus the projected gradients, (B, d) float32."""
        projection = self._projection
        if projection.vectors is not None:
            self._sums += projection.vectors.project(self._vectors.t().contiguous())
        positive, negative = self._halves.split(projection.d, dim=1)
        looked_up = (positive - negative) / projection.sparsity**0.5
        return -(self._sums.t() + looked_up).float()


class _Whole:
    """Receives gradients of a batch and lays them out in the order of the parameters."""

    def __init__(self, parameters: Parameters, batch: int, device: torch.device, dtype: torch.dtype) -> None:
        self._shapes = {name: p.shape for name, p in parameters.items()}
        self._places = _places(parameters)
        entries = sum(p.numel() for p in parameters.values())
        self._gradients = torch.zeros(batch, entries, device=device, dtype=dtype)

    def _rows(self, name: str) -> Tensor:
        return self._gradients[:, self._places[name]].unflatten(1, (self._shapes[name][0], -1))

    def matrix(self, name: str, index: int, values: Tensor) -> None:
        """Take the gradient (B, r, c) by a block of rows."""
        self._rows(name)[:, row_blocks(self._shapes[name])[index]] += values

    def lookup(self, name: str, ids: Tensor, values: Tensor) -> None:
        """Take gradients (B, M, c) by rows `ids` (B, M) of a table."""
        self._rows(name).scatter_add_(1, ids.unsqueeze(2).expand_as(values), values)

    def vector(self, name: str, values: Tensor) -> None:
        """Take the gradient (B, n) of a one-dimensional parameter."""
        self._gradients[:, self._places[name]] += values

    def finish(self) -> Tensor:
        """Return the gradients, (B, P) float32."""
        return self._gradients.float()


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
        """Fix the projection, seeded by parameter name.

        Args:
            objective: model whose gradients are sketched; it is used by one sketcher at a time.
            parameters: weights at which gradients are taken.
            d: coordinates.
            sparsity: s, coordinates that each gradient entry is added to.
            seed: seed of the projection.
            device: where to compute.
        """
        self._objective = objective
        self._parameters = {name: p.detach().to(device) for name, p in parameters.items()}
        self._dtype = torch.promote_types(objective.output_weight(self._parameters).dtype, torch.float32)
        self.d = d
        self._sparsity = sparsity
        self._hooks: ExampleGradients | None = None
        if isinstance(objective, CausalLM):
            modules = known_modules(objective, self._parameters)
            if modules is not None:
                self._hooks = ExampleGradients(objective, self._parameters, modules)
        tables = set() if self._hooks is None else self._hooks.tables
        self._projection = _Projection(self._parameters, d, sparsity, seed, tables, device)
        self._per_example = vmap(grad_and_value(self._loss), in_dims=(None, 0, 0, 0))

    def describe(self) -> dict[str, Any]:
        """Return the sketch's coverage for metadata.

        covered: share of the parameters: all. sparsity: s. path: how gradients are taken, "hooks" or "vmap".
        """
        return {
            "covered": 1.0,
            "sparsity": self._sparsity,
            "path": "vmap" if self._hooks is None else "hooks",
        }

    def gradients(self, rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients themselves, not projected.

        Returns:
            (B, P) float32 in the order of the parameters, and mean token losses (B,) float32 in nats, on the
            sketcher's device.
        """
        receiver = _Whole(self._parameters, len(rows), rows.device, self._dtype)
        losses = self._run(rows, sizes, receiver)
        return receiver.finish(), losses

    def sketch(self, rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Sketch a batch; see `Sketcher.sketch`."""
        receiver = _Sketch(self._projection, len(rows), rows.device, self._dtype)
        losses = self._run(rows, sizes, receiver)
        return receiver.finish(), losses

    def sum_gradient(self, rows: Tensor, sizes: Tensor) -> tuple[Parameters, Tensor]:
        """Return the gradient of a batch's summed token loss, by one backward pass, and that loss in nats.

        rows and sizes: as for `sketch`. The gradient is not projected: sums over batches are projected together.
        """
        weights = {name: p.requires_grad_() for name, p in self._detached().items()}
        hidden = self._objective.hidden(weights, rows[:, :-1])
        valid = torch.arange(hidden.shape[1], device=sizes.device).unsqueeze(0) < sizes.unsqueeze(1)
        output = self._objective.output_weight(weights)
        loss = token_losses(hidden[valid].to(self._dtype), output.to(self._dtype), rows[:, 1:][valid]).sum()
        gradients = torch.autograd.grad(loss, list(weights.values()))
        return dict(zip(weights, gradients, strict=True)), loss.detach()

    def project(self, gradients: Sequence[Parameters]) -> Tensor:
        """Return the sketches (G, d) float32 of G gradients: minus their projections."""
        stacked = {name: torch.stack([each[name] for each in gradients]) for name in self._parameters}
        receiver = _Sketch(self._projection, len(gradients), next(iter(stacked.values())).device, self._dtype)
        self._give(stacked, receiver)
        return receiver.finish()

    def _detached(self) -> Parameters:
        return {name: p.detach() for name, p in self._parameters.items()}

    def _run(self, rows: Tensor, sizes: Tensor, receiver: Receiver) -> Tensor:
        """Give the receiver all gradients of a batch; return the losses (B,) float32."""
        if self._hooks is not None:
            return self._hooks.run(rows, sizes, receiver).float()
        weights = token_weights(sizes, rows.shape[1] - 1, self._dtype)
        gradients, losses = self._per_example(self._parameters, rows[:, :-1], rows[:, 1:], weights)
        self._give(gradients, receiver)
        return losses.detach().float()

    def _give(self, gradients: Parameters, receiver: Receiver) -> None:
        """Give the receiver gradients that are formed already: stacked, (B, ...) by parameter."""
        for name, gradient in gradients.items():
            values = gradient.detach().to(self._dtype)
            if values.dim() < 3:
                receiver.vector(name, values.reshape(len(values), -1))
                continue
            for index, part in enumerate(row_blocks(values.shape[1:])):
                receiver.matrix(name, index, values.flatten(2)[:, part])

    def _loss(self, parameters: Parameters, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        hidden = self._objective.hidden(parameters, inputs.unsqueeze(0))[0]
        logits = (hidden @ self._objective.output_weight(parameters).t()).to(self._dtype)
        picked = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
        return ((torch.logsumexp(logits, dim=1) - picked) * weights).sum()


def _places(parameters: Parameters) -> dict[str, slice]:
    """Return where each parameter's entries lie if all are laid end to end."""
    places, start = {}, 0
    for name, p in parameters.items():
        places[name] = slice(start, start + p.numel())
        start += p.numel()
    return places
