"""The Ray engine on a cluster of several raylets: what becomes of the blocks when workers and nodes die."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from engine import functions

from grasp_pipeline.engine import RayEngine
from grasp_pipeline.errors import ConfigError, EngineError

pytestmark = pytest.mark.ray

SQUARES = [n * n for n in range(20)]


@pytest.mark.parametrize("at", [0, 19])
def test_a_killed_worker_costs_nothing_but_time(cluster: Any, tmp_path: Path, at: int) -> None:
    assert list(RayEngine(3).map_blocks(functions.Killed(tmp_path, at, times=1), range(20))) == SQUARES
    assert len(list(tmp_path.iterdir())) == 1


def test_a_block_that_kills_its_worker_again_is_named(cluster: Any, tmp_path: Path) -> None:
    done: list[int] = []
    with pytest.raises(EngineError, match=r"died twice at block 7 .*run the step again"):
        done.extend(RayEngine(2).map_blocks(functions.Killed(tmp_path, 7, times=9), range(20)))
    assert done == SQUARES[:7]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_block_that_needs_more_memory_than_allowed_is_named(cluster: Any) -> None:
    engine = RayEngine(1, memory=3 * 1024**3)
    with pytest.raises(EngineError, match=r"block 1 needs more memory .*memory_per_worker_gib"):
        list(engine.map_blocks(functions.allocate, [0.1, 8.0]))


def test_gpus_are_held_one_worker_each(cluster: Any) -> None:
    engine = RayEngine(gpus=1.0)
    assert engine.workers == 1
    assert list(engine.map_blocks(functions.device, range(3))) == ["0", "0", "0"]
    assert RayEngine().workers == 4


def test_a_cluster_without_room_is_refused(cluster: Any) -> None:
    with pytest.raises(ConfigError, match=r"no room for a worker of 1 threads and 2 GPUs.*gpus_per_worker"):
        list(RayEngine(gpus=2.0).map_blocks(functions.square, range(3)))


def test_blocks_of_a_raylet_that_dies_are_done_elsewhere(cluster: Any, tmp_path: Path) -> None:
    """The node is killed while it works; every block is there once, in its place."""
    extra = cluster.add_node(num_cpus=2, object_store_memory=80 * 1024**2)
    mine = extra.node_id

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not any(path.name.startswith(mine) for path in tmp_path.iterdir()):
            assert time.monotonic() < deadline, "the node was given no block"
            time.sleep(0.05)
        cluster.remove_node(extra, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    work = functions.Noted(tmp_path, 0.5, slow_node=mine, slow_seconds=30)  # so the node dies within a block
    results = list(RayEngine(6).map_blocks(work, range(20)))
    killer.join()
    assert results == SQUARES
    begun = [int(path.name.split("-")[1]) for path in tmp_path.iterdir()]
    assert set(begun) == set(range(20))
    assert len(begun) > 20, "what the dead node had begun was begun again"
