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
        """Sketch a batch without waiting for the device.

        Args:
            rows: (B, L + 1) token ids as laid out by `pad_chunks`, L the most tokens of a chunk in the batch, on the
                sketcher's device.
            sizes: (B,) tokens per chunk, on the same device.

        Returns:
            sketches (B, d) float32 and mean token losses (B,) float32 in nats, on the same device.
        """
        ...
