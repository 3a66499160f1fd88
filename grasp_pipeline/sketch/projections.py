"""Dense random projections, seeded by name."""

from __future__ import annotations

import torch
from torch import Tensor

from grasp_pipeline.seeds import seed_for


def sign_projection(rows: int, columns: int, *name: str | int) -> Tensor:
    """Return a (rows, columns) float32 projection with entries +-1/sqrt(columns), seeded by name.

    When columns >= rows the identity (rows, rows) is returned: nothing would be saved by projecting.
    """
    if columns >= rows:
        return torch.eye(rows)
    source = torch.Generator().manual_seed(seed_for("projection", *name))
    bits = torch.randint(0, 2, (rows, columns), generator=source, dtype=torch.int8)
    return (bits.float() * 2 - 1) / columns**0.5
