"""Devices, threads and number formats as an injected resource."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import dagster as dg
from pydantic import Field

from grasp_pipeline.errors import ConfigError

if TYPE_CHECKING:
    import torch


class Compute(dg.ConfigurableResource):
    """Where tensors are computed."""

    device: str = Field(
        default="auto",
        description="`auto` (CUDA, else Apple's MPS, else CPU), `cpu`, `cuda`, `cuda:1`, `mps`, or several, such as "
        "`cuda:0,cuda:1`: shards are sketched on all of them at once, everything else on the first. `auto` takes every "
        "CUDA device.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Type of the proxy's weights while sketching; sums and stored losses stay float32.",
    )
    threads: int = Field(
        default=0, ge=0, le=1024, description="CPU threads of torch; 0 uses every core allowed."
    )
    sketch_batch_tokens: int = Field(
        default=0,
        ge=0,
        description="Most padded tokens per sketching batch; halved where memory runs out. Speed and memory only. 0: "
        "by the free memory on CUDA (at most 65,536), 4,096 elsewhere.",
    )
    stacked_models: int = Field(
        default=16,
        ge=1,
        le=256,
        description="Models retrained together by stacked weights. Speed and memory only.",
    )

    def prepare(self) -> torch.device:
        """Set the thread count and return the device, the first where there are several.

        Raises:
            ConfigError: the device is not on this machine.
        """
        return self.devices()[0]

    def devices(self) -> list[torch.device]:
        """Set the thread count and return every device.

        Raises:
            ConfigError: one of them is not on this machine.
        """
        import torch

        torch.set_num_threads(self.threads or len(os.sched_getaffinity(0)))
        return self._devices()

    def _devices(self) -> list[torch.device]:
        import torch

        if self.device != "auto":
            return [self._named(name.strip()) for name in self.device.split(",")]
        if torch.cuda.is_available():
            return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
        return [torch.device("mps" if torch.backends.mps.is_available() else "cpu")]

    def _named(self, name: str) -> torch.device:
        import torch

        try:
            chosen = torch.device(name)
            torch.empty(1, device=chosen)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"the device {name!r} cannot be used here ({str(error).splitlines()[0]}); "
                "set resources.compute.config.device to auto or cpu"
            ) from error
        return chosen

    def describe(self) -> dict[str, str | int]:
        """Return device names, threads and dtype for metadata."""
        import torch

        names = [
            torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
            for device in self._devices()
        ]
        return {"device": ", ".join(names), "threads": torch.get_num_threads(), "dtype": self.dtype}
