"""Mean final hidden states of examples: frozen features for clustering, retrieval and trained projections."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grasp_pipeline.proxy.objective import Objective, Parameters


@torch.no_grad()
def representations(
    objective: Objective, parameters: Parameters, rows: Tensor, sizes: Tensor, batch: int = 64
) -> NDArray[np.float32]:
    """Return the mean final hidden state over each example's targets: (n, H) float32.

    rows: (n, L + 1) as from `pad_chunks`. sizes: (n,) targets of each, at least 1. The parameters say on which device.
    """
    device, parts = objective.output_weight(parameters).device, []
    for start in range(0, len(rows), batch):
        inputs, counts = (each[start : start + batch].to(device) for each in (rows[:, :-1], sizes))
        hidden = objective.hidden(parameters, inputs).float()
        valid = torch.arange(inputs.shape[1], device=device) < counts.unsqueeze(1)
        parts.append(((hidden * valid.unsqueeze(2)).sum(1) / counts.unsqueeze(1)).cpu())
    return torch.cat(parts).numpy()
