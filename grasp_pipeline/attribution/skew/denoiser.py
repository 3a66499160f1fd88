"""The image form: a small denoiser, the smallest diffusion model (Ho et al., arXiv 2006.11239).

    x_s = sqrt(a_s) x + sqrt(1 - a_s) e,   loss = mean over pixels of (e - e_theta(x_s, s))^2,   a_s = cos^2(pi s / 2)

with levels s in (0, 1) and normal noise e.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grasp_pipeline.arrays import Float32s, Floats
from grasp_pipeline.proxy.objective import Parameters
from grasp_pipeline.seeds import seed_for


class Denoiser:
    """A perceptron of two hidden layers that predicts the noise of images; parameters are drawn by their names."""

    def __init__(self, pixels: int, width: int = 256, seed: int = 0) -> None:
        shapes = {"first": (width, pixels + 3), "second": (width, width), "last": (pixels, width)}
        self._initial: Parameters = {}
        for name, shape in shapes.items():
            source = torch.Generator().manual_seed(seed_for("denoiser", name, seed))
            scale = (1.0 if name == "last" else 2.0) / shape[1]
            self._initial[f"{name}.weight"] = torch.randn(shape, generator=source) * scale**0.5
            self._initial[f"{name}.bias"] = torch.zeros(shape[0])

    def parameters(self) -> Parameters:
        """Return the initial parameters."""
        return dict(self._initial)

    def losses(self, parameters: Parameters, images: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Return the losses (B,) of images (B, P) with noise (B, P) at levels (B,)."""
        angle = levels.unsqueeze(1) * (np.pi / 2)
        x = images * angle.cos() + noise * angle.sin()
        x = torch.cat([x, angle.cos(), angle.sin(), levels.unsqueeze(1)], dim=1)
        for name in ("first", "second"):
            x = torch.nn.functional.silu(x @ parameters[f"{name}.weight"].t() + parameters[f"{name}.bias"])
        return (x @ parameters["last.weight"].t() + parameters["last.bias"] - noise).square().mean(1)


def draw(
    *name: str | int, rows: int, pixels: int, levels: tuple[float, float] = (0.02, 0.98)
) -> tuple[Tensor, Tensor]:
    """Return named noise (rows, pixels) and levels (rows,)."""
    source = torch.Generator().manual_seed(seed_for("denoiser noise", *name))
    noise = torch.randn((rows, pixels), generator=source)
    low, high = levels
    return noise, low + (high - low) * torch.rand(rows, generator=source)


def train_denoiser(
    denoiser: Denoiser,
    images: Float32s,
    members: NDArray[np.int64],
    steps: int,
    batch: int,
    rate: float,
    seed: int,
) -> Parameters:
    """Train on some of the images (n, P), in [-1, 1], with Adam; returns the parameters."""
    data = torch.from_numpy(images[members])
    weights = {name: p.clone().requires_grad_() for name, p in denoiser.parameters().items()}
    optimizer = torch.optim.Adam(list(weights.values()), lr=rate, fused=True)
    source = torch.Generator().manual_seed(seed_for("denoiser order", seed))
    for step in range(steps):
        chosen = data[torch.randint(0, len(data), (batch,), generator=source)]
        noise, levels = draw("train", seed, step, rows=batch, pixels=data.shape[1])
        optimizer.zero_grad()
        denoiser.losses(weights, chosen, noise, levels).mean().backward()
        optimizer.param_groups[0]["lr"] = rate * (0.05 + 0.95 * (1 - step / steps))
        optimizer.step()
    return {name: p.detach() for name, p in weights.items()}


@torch.no_grad()
def shared_losses(
    denoiser: Denoiser, parameters: Parameters, images: Float32s, draws: int, *name: str | int
) -> Floats:
    """Return losses (R, n) of n images on R named draws of noise, the same for every image and every model.

    Levels are the R midpoints of equal parts of (0, 1).
    """
    data, found = torch.from_numpy(images), []
    for index in range(draws):
        noise, _ = draw("shared", *name, index, rows=1, pixels=data.shape[1])
        level = torch.full((len(data),), (index + 0.5) / draws)
        found.append(denoiser.losses(parameters, data, noise.expand(len(data), -1), level))
    return torch.stack(found).double().numpy()
