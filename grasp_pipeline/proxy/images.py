"""Image classification as an `Objective`: an image is a chunk of one target, so the whole stack serves it as it is.

The row of an example is `[index of the image in a table, label]`: inputs (B, 1), targets (B, 1), L = 1. Its loss is
the cross-entropy of its label, in nats per image; "tokens" are images. Nothing above this file knows of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, relu

from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.proxy.objective import Parameters, mapped_hidden
from grasp_pipeline.seeds import generator, seed_for

FEATURES = 64
"""Features that the output layer reads, besides the constant 1 that carries its bias."""

_SMALLEST = 4


class ImageClassifier:
    """A small convolutional network over a table of images, as an `Objective`.

    Two 3 x 3 convolutions of stride 2 (width and 2 width channels) and a linear layer to `FEATURES` features, each
    with ReLU, then the output layer. No normalisation layer: an example's gradient is its own. Strides instead of
    pooling: under `vmap` the same width costs a third (pooled and strided conv2d, and unfold with a matrix product,
    measured on one CPU thread at 12 x 12 and 28 x 28 pixels).
    """

    def __init__(
        self,
        images: NDArray[np.float32],
        classes: int,
        seed: int = 0,
        width: int = 8,
        device: torch.device | str = "cpu",
    ) -> None:
        """Hold the images and draw the initial weights, each parameter's by its name.

        Args:
            images: (N, C, H, W), values in [0, 1].
            classes: number of labels.
            seed: names the initial weights.
            width: channels of the first convolution.
            device: where the table of images lies: the device to train and to sketch on.

        Raises:
            InputError: the images are not four-dimensional, not finite, or smaller than 4 x 4 pixels.
            ConfigError: fewer than two classes, or no channel.
        """
        if images.ndim != 4 or min(images.shape[2:]) < _SMALLEST:
            raise InputError(
                f"the images have shape {images.shape}; give (images, channels, height, width) with at least "
                f"{_SMALLEST} x {_SMALLEST} pixels"
            )
        if not np.isfinite(images).all():
            raise InputError("an image has a pixel that is not finite; give values between 0 and 1")
        if classes < 2 or width < 1:
            raise ConfigError(
                f"an image classifier needs 2 classes and a width of 1 at least, not {classes} and {width}"
            )
        # Centred at a half, so that inverted contrast is a change of sign.
        self._images = torch.as_tensor(images, dtype=torch.float32, device=device) - 0.5
        channels, height, pixels = images.shape[1:]
        flat = 2 * width * _quarter(height) * _quarter(pixels)
        self._initial: Parameters = {
            "conv1.weight": _normal("conv1.weight", seed, (width, channels, 3, 3), 2.0),
            "conv1.bias": torch.zeros(width),
            "conv2.weight": _normal("conv2.weight", seed, (2 * width, width, 3, 3), 2.0),
            "conv2.bias": torch.zeros(2 * width),
            "linear.weight": _normal("linear.weight", seed, (FEATURES, flat), 2.0),
            "linear.bias": torch.zeros(FEATURES),
            "output.weight": torch.cat(
                [_normal("output.weight", seed, (classes, FEATURES), 1.0), torch.zeros(classes, 1)], dim=1
            ),
        }
        self.output_name = "output.weight"
        self.vocab_size = classes
        self.hidden_size = FEATURES + 1

    def parameters(self) -> Parameters:
        """Return the initial parameters by name."""
        return dict(self._initial)

    def hidden(self, parameters: Parameters, inputs: Tensor) -> Tensor:
        """Map indices of images (B, 1) to representations (B, 1, FEATURES + 1), the last of them 1."""
        x = self._images[inputs[:, 0]].to(parameters[self.output_name].dtype)
        for layer in ("conv1", "conv2"):
            weight, bias = parameters[f"{layer}.weight"], parameters[f"{layer}.bias"]
            x = relu(conv2d(x, weight, bias, stride=2, padding=1))
        x = relu(x.flatten(1) @ parameters["linear.weight"].t() + parameters["linear.bias"])
        return torch.cat([x, torch.ones_like(x[:, :1])], dim=1).unsqueeze(1)

    def stacked_hidden(self, weights: Parameters, inputs: Tensor) -> Tensor:
        """Map indices (K, B, 1), or (B, 1) for all, to (K, B, 1, FEATURES + 1)."""
        return mapped_hidden(self, weights, inputs)

    def output_weight(self, parameters: Parameters) -> Tensor:
        """Return the output layer's weight (classes, FEATURES + 1); its last column is the bias."""
        return parameters[self.output_name]


@dataclass(frozen=True)
class ImageStream:
    """The images of a table as training rows; labels: (N,) int64, one per image of the table."""

    labels: NDArray[np.int64]

    def rows(
        self, members: NDArray[np.int64], count: int, length: int = 1, *name: str | int
    ) -> NDArray[np.int64]:
        """Return (count, 2) rows `[index, label]` of a subset, every member once per epoch.

        Each epoch is a fresh permutation seeded by `name` and the epoch's number, as in `packed_rows`.

        Args:
            members: indices of the subset's images; their order does not matter.
            count: rows wanted.
            length: targets per row: 1.
            name: names the draw, for example `("retrain", subset_id, seed)`.

        Raises:
            ConfigError: the subset is empty, or more than one target per row is asked for.
        """
        if length != 1:
            raise ConfigError(
                f"an image has one label, not {length}; train with a recipe of chunk_tokens = 1"
            )
        if len(members) == 0:
            raise ConfigError(
                f"cannot train on an empty subset ({'/'.join(map(str, name))}); raise the image budget"
            )
        members = np.sort(members)
        epochs = range(-(-count // len(members)))
        drawn = [generator(*name, "epoch", epoch).permutation(members) for epoch in epochs]
        chosen = np.concatenate([members[:0], *drawn])[:count]
        return np.stack([chosen, self.labels[chosen]], axis=1)


def image_rows(indices: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Lay images out for evaluation and sketching, as `pad_chunks` does chunks.

    Args:
        indices: (n,) indices into the table of images.
        labels: (N,) labels of the whole table.

    Returns:
        rows (n, 2) int64 and sizes (n,) int64, all 1.
    """
    rows = torch.from_numpy(np.stack([indices, labels[indices]], axis=1).astype(np.int64))
    return rows, torch.ones(len(indices), dtype=torch.int64)


def _quarter(pixels: int) -> int:
    """Pixels that are left of a side by two convolutions of stride 2."""
    return (pixels + 3) // 4


def _normal(name: str, seed: int, shape: tuple[int, ...], gain: float) -> Tensor:
    """Draw normal weights of variance gain / fan-in: 2 before a ReLU (He et al., arXiv 1502.01852), 1 elsewhere."""
    source = torch.Generator().manual_seed(seed_for("image classifier", name, seed))
    fan_in = int(np.prod(shape[1:]))
    return torch.randn(shape, generator=source) * (gain / fan_in) ** 0.5
