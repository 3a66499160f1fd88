"""Devices, threads and number formats as an injected resource."""

from __future__ import annotations

import os
from math import inf
from typing import TYPE_CHECKING, Literal

import dagster as dg
from pydantic import Field

from grasp_pipeline.engine import Engine, LocalEngine, RayEngine, SerialEngine
from grasp_pipeline.engine.local import GIB, automatic_workers
from grasp_pipeline.errors import ConfigError

if TYPE_CHECKING:
    import torch

SMALL = 30.0
"""Seconds of one core below which `workers: 0` starts no worker: two take about 5 s to load torch."""


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

    engine: Literal["local", "ray"] = Field(
        default="local",
        description="What blocks of text, sketches and retrainings go through: processes of this machine, or a Ray "
        "cluster (`pip install 'grasp-pipeline[ray]'`). The rows are the same.",
    )
    ray_address: str = Field(
        default="",
        description="Of the Ray cluster: `auto` for the one that this machine belongs to, `host:6379`. Empty: that of "
        "the run, where Ray launched it, else one is started on this machine.",
    )
    gpus_per_worker: float = Field(
        default=0.0,
        ge=0.0,
        le=64.0,
        description="GPUs that each Ray worker holds; it computes on the first, unless `device` is cpu.",
    )
    workers: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="Workers of the engine. 0: the cores allowed over `threads_per_worker`, as many as fit the memory, "
        "none beside this process where the work is small; of a Ray cluster all that it has room for.",
    )
    threads_per_worker: int = Field(
        default=1,
        ge=1,
        le=256,
        description="CPU threads of each worker. One thread waits for no other, so on a busy machine workers of one "
        "thread lose only their share.",
    )
    memory_per_worker_gib: float = Field(
        default=0.0,
        ge=0.0,
        le=4096.0,
        description="Most memory for the data of a worker, GiB; a block that needs more fails with its number. "
        "0: no limit.",
    )

    def map_engine(self, core_seconds: float = inf) -> Engine:
        """Return the engine that blocks of work go through; nothing starts before the first block.

        On a GPU of this machine this process does the work.

        core_seconds: about how long one core would work on all of it. Where it is less than workers take to start and
        load their libraries several times over, and `workers` is 0, this process does the work.
        """
        memory = int(self.memory_per_worker_gib * GIB)
        small = self.workers == 0 and core_seconds < SMALL and not self.gpus_per_worker
        if self.engine == "ray" and not small:
            return RayEngine(
                self.workers, self.threads_per_worker, memory, self.gpus_per_worker, self.ray_address
            )
        workers = self.workers or automatic_workers(self.threads_per_worker, memory)
        if small or self._devices()[0].type != "cpu" or (self.workers == 0 and workers == 1):
            return SerialEngine()
        return LocalEngine(workers, self.threads_per_worker, memory)

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

    def worker_devices(self) -> list[torch.device]:
        """Return the devices that models of the engine's functions are on; of a Ray worker with GPUs its first."""
        import torch

        own = self.devices()
        if self.engine == "local":
            return own
        on_gpu = self.gpus_per_worker > 0 and self.device != "cpu"
        return [torch.device("cuda", 0) if on_gpu else torch.device("cpu")]

    def describe(self) -> dict[str, str | int]:
        """Return device names, threads and dtype for metadata."""
        import torch

        names = [
            torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
            for device in self._devices()
        ]
        return {"device": ", ".join(names), "threads": torch.get_num_threads(), "dtype": self.dtype}
