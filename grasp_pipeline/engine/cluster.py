"""Blocks mapped by a Ray cluster, through Ray Core's public API (the optional extra `ray`).

Blocks are Ray tasks, not calls of actors: a task whose node is gone runs wherever there is room, while an actor would
wait for a place of its own. A worker process keeps the functions that it was sent, so a model is loaded once in each,
as it would be in an actor. Ray tries a task again once where its worker or node died; results that are lost with a node
it makes again.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self, TypeVar

from grasp_pipeline.engine.protocol import name_block
from grasp_pipeline.engine.worker import call, environment, limit_memory
from grasp_pipeline.errors import ConfigError, EngineError, boundary, reason_in

B = TypeVar("B")
R = TypeVar("R")

LOOPBACK = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
"""What keeps the servers of a cluster that is started here on 127.0.0.1; read when ray is imported."""

RETRIES = 1
"""Times that a block is tried again where its worker or node died."""


class RayEngine:
    """Tasks of a Ray cluster, each with its own CPUs and GPUs; the driver takes the results and commits them.

    Connects with the first block: to the cluster that this process is connected to, else to the one at `address` or in
    the environment (`RAY_ADDRESS`, which Ray sets for its jobs), else to one that is started on this machine and ends
    with `close`.
    """

    def __init__(
        self, workers: int = 0, threads: int = 1, memory: int = 0, gpus: float = 0.0, address: str = ""
    ) -> None:
        """Take the settings; nothing is connected yet.

        Args:
            workers: blocks worked on at the same time; 0: as many as the cluster has room for.
            threads: CPUs of each.
            memory: most bytes of data that a worker may hold, which Ray also plans with; 0 for no limit.
            gpus: GPUs of each.
            address: of the cluster, as `ray.init` takes it.
        """
        self._asked, self._threads, self._memory, self._gpus = workers, threads, memory, gpus
        self._address = address
        self._own = False

    @property
    def workers(self) -> int:
        """Blocks that are worked on at the same time.

        Raises:
            ConfigError: Ray is not installed, there is no such cluster, or it has room for no worker.
        """
        if self._asked:
            return self._asked
        has = self._connect().cluster_resources()
        room = int(has.get("CPU", 0) // self._threads)
        if self._gpus:
            room = min(room, int(has.get("GPU", 0) // self._gpus))
        if room < 1:
            raise ConfigError(
                f"the Ray cluster has {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs, which is no room for "
                f"a worker of {self._threads} threads and {self._gpus:g} GPUs; lower threads_per_worker or "
                "gpus_per_worker (resources.compute.config), or start more nodes"
            )
        return room

    def _connect(self) -> Any:
        """Return the module ray, connected."""
        place = self._address or os.environ.get("RAY_ADDRESS") or "local"
        if place == "local":
            os.environ.setdefault(*LOOPBACK)
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                "the engine ray needs Ray: pip install 'grasp-pipeline[ray]', or set "
                "resources.compute.config.engine to local"
            ) from error
        if not ray.is_initialized():
            with boundary(
                ConfigError,
                "Ray does not start" if place == "local" else f"there is no Ray cluster at {place}",
                "check resources.compute.config.ray_address",
            ):
                ray.init(
                    address=place, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False
                )
            self._own = True
        return ray

    def map_blocks(self, function: Callable[[B], R], blocks: Iterable[B]) -> Iterator[R]:
        """Yield the function's value of every block; see `Engine.map_blocks`.

        At most `workers` blocks are unfinished, and twice as many not yet yielded. Blocks that are unfinished when the
        caller stops are left to finish: a task that is cancelled while it ends makes Ray abort the driver
        (https://github.com/ray-project/ray/pull/54798 mends one such race; 2.60 has another).
        """
        ray = self._connect()
        workers = self.workers
        task = ray.remote(
            num_cpus=self._threads,
            num_gpus=self._gpus,
            memory=self._memory or None,
            max_calls=0,  # a worker with a GPU would end after one block
            max_retries=RETRIES,
            runtime_env={"env_vars": environment(self._threads)},
        )(_call)
        name, held, folder = uuid.uuid4().hex, [ray.put(function)], os.getcwd()
        source = enumerate(blocks)
        window: deque[tuple[int, Any]] = deque()
        running: set[Any] = set()
        while True:
            while len(running) < workers and len(window) < 2 * workers:
                if (item := next(source, None)) is None:
                    break
                number, block = item
                window.append((number, task.remote(name, held, self._memory, folder, block)))
                running.add(window[-1][1])
            if not window:
                return
            if window[0][1] in running:
                done, _ = ray.wait(list(running), num_returns=1, fetch_local=False)
                running.difference_update(done)
                continue
            result = self._result(ray, *window[0])
            window.popleft()
            yield result

    def _result(self, ray: Any, number: int, reference: Any) -> Any:
        """Return a finished block's result, or raise what befell it."""
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, ray.exceptions.RayError):  # what the block needs was lost with a node
                raise _died(number, cause) from error
            if isinstance(cause, MemoryError):
                raise EngineError(
                    f"block {number} needs more memory than a worker has; raise memory_per_worker_gib, or take fewer "
                    "workers (resources.compute.config)"
                ) from error
            name_block(cause, number)
            raise cause from error
        except ray.exceptions.RayError as death:
            raise _died(number, death) from death

    def close(self) -> None:
        """Leave the cluster where this engine connected to it."""
        if self._own:
            import ray

            ray.shutdown()
            self._own = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _died(number: int, death: Exception) -> EngineError:
    """Return the error of a block that Ray has given up."""
    return EngineError(
        f"a worker or its node died twice at block {number} ({reason_in(death)}); where memory ran out, raise "
        "memory_per_worker_gib, so that fewer workers share a node (resources.compute.config), then run the step again"
    )


def _call(name: str, held: list[Any], memory: int, folder: str, block: Any) -> Any:
    """Return a function's value of a block, in a worker; held: the function's reference, looked up once.

    folder: the driver's working folder, so that relative paths mean the same where a node has it.
    """
    import ray

    from grasp_pipeline.engine.worker import knows

    limit_memory(memory)
    if os.path.isdir(folder):
        os.chdir(folder)
    return call(name, None if knows(name) else ray.get(held[0]), block)
