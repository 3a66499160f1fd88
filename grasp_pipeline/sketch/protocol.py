"""What a sketcher is: examples in, low-dimensional descent directions out."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Sketcher(Protocol):
    """Maps chunks to sketches of their descent direction, minus the gradient of the mean token loss.

    The projection is linear, the same for every example, and seeded by parameter name, so inner products of
    sketches estimate inner products of gradients, and neither batch size nor order changes a sketch beyond
    floating-point rounding.
    """

    kind: str
    d: int

    def sketch(self, rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Sketch a batch.

        Args:
            rows: (B, L + 1) token ids as laid out by `pad_chunks`.
            sizes: (B,) tokens per chunk.

        Returns:
            sketches (B, d) float32 and mean token losses (B,) float32 in nats.
        """
        ...
