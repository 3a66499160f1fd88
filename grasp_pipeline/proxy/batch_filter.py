"""Per-batch influence filter: records whose gradient goes against the target's are left out of the update.

Iterative influence-based filtering (IIF, Hu et al., arXiv 2505.19281, section 5), which was made for reinforcement
learning, on any objective: before each update

    a_i = <grad l_i, grad l_target>        at the current weights, for every record i of the batch

and of the records with a_i < 0 the lowest share is dropped. No record's gradient is formed: with the target's gradient
g fixed, all a_i are one derivative of the losses along g, d/ds l_i(theta + s g) at s = 0 (forward mode). That is the
ghost dot product of Wang et al. (arXiv 2406.11011), summed over all layers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from grasp_pipeline.errors import ConfigError
from grasp_pipeline.proxy.objective import Objective, Parameters, mapped_hidden
from grasp_pipeline.seeds import generator


def alignments(losses: Callable[[Parameters], Tensor], weights: Parameters, direction: Parameters) -> Tensor:
    """Return <grad l_i, direction> of every loss: the shape of `losses(weights)`, in one forward pass.

    losses: per-record losses as a function of parameters. direction: tensors of the shapes of `weights`.
    """
    detached = {name: p.detach() for name, p in weights.items()}
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward derivative
        return jvp(losses, (detached,), ({name: direction[name] for name in detached},))[1]


def dropped(alignment: Tensor, share: float) -> Tensor:
    """Return which records (K, B) bool are left out: of each row's negatives the lowest share, rounded up.

    At least one record of a row stays.
    """
    below = (alignment < 0).sum(1)
    count = torch.ceil(share * below.double() - 1e-9).long().clamp(max=alignment.shape[1] - 1)
    return alignment.argsort(dim=1, stable=True).argsort(dim=1) < count.unsqueeze(1)


@dataclass(frozen=True)
class BatchFilter:
    """What `train_stacked` asks before every update which records of the batch count.

    A record is a training row: of packed text about one chunk, with the ends of its neighbours.

    Attributes:
        rows, sizes: (Q, L + 1) token ids and (Q,) targets of the target's examples, as `pad_chunks` lays them out.
        share: of a batch's records that go against the target, how many are dropped, above 0 and at most 1.
        target_rows: target examples drawn for each update.
        name: names the draws.
        log: for every update, which records were dropped: (K, B) bool.
    """

    rows: Tensor
    sizes: Tensor
    share: float
    target_rows: int = 16
    name: tuple[str | int, ...] = ("batch filter",)
    log: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.target_rows < 1 or len(self.rows) == 0:
            raise ConfigError(
                f"a batch filter of share {self.share} with {self.target_rows} of {len(self.rows)} target rows; give a "
                "share above 0 and at most 1, and at least one target row"
            )

    def keep(self, objective: Objective, weights: Parameters, batch: Tensor, step: int) -> Tensor:
        """Return which records (K, B) bool of a batch (K, B, L + 1) are trained on; keeps the rest in `log`.

        weights: stacked parameters that require gradients; their `grad` is left as it is.
        """
        drawn = generator(*self.name, step).permutation(len(self.rows))[: self.target_rows]
        chosen = torch.from_numpy(drawn)
        device = batch.device
        direction = target_gradient(
            objective, weights, self.rows[chosen].to(device), self.sizes[chosen].to(device)
        )
        out = dropped(alignments(record_losses(objective, batch), weights, direction), self.share)
        self.log.append(out.cpu())
        return ~out


def record_losses(objective: Objective, batch: Tensor) -> Callable[[Parameters], Tensor]:
    """Return mean losses (K, B) of rows (K, B, L + 1), all of whose positions are targets, by stacked parameters."""

    def losses(weights: Parameters) -> Tensor:
        hidden = mapped_hidden(objective, weights, batch[:, :, :-1])
        logits = torch.einsum("kblh,kvh->kblv", hidden, objective.output_weight(weights))
        picked = logits.gather(3, batch[:, :, 1:].unsqueeze(3)).squeeze(3)
        return (torch.logsumexp(logits, 3) - picked).mean(2)

    return losses


def target_gradient(objective: Objective, weights: Parameters, rows: Tensor, sizes: Tensor) -> Parameters:
    """Return the gradient of the mean target loss of rows (Q, L + 1), under each of K stacked models."""
    hidden = objective.stacked_hidden(weights, rows[:, :-1])
    output = objective.output_weight(weights)
    valid = torch.arange(rows.shape[1] - 1, device=rows.device).unsqueeze(0) < sizes.unsqueeze(1)
    logits = torch.einsum("knh,kvh->knv", hidden[:, valid].to(output.dtype), output)
    targets = rows[:, 1:][valid].expand(len(logits), -1)
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(1)
    found = torch.autograd.grad(losses.sum(), list(weights.values()))
    return dict(zip(weights, found, strict=True))
