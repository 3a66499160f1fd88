"""Shared fixtures: toy models, a toy cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from processes import free_port
from toys import tiny_model

from grasp_pipeline.proxy.objective import CausalLM

TESTS = Path(__file__).resolve().parent

# "ci" (built into hypothesis) draws the same examples every time: a verdict on a change depends on the change alone.
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(params=["llama", "gpt2", "neox"])
def objective(request: pytest.FixtureRequest) -> CausalLM:
    return tiny_model(request.param)


@pytest.fixture
def llama() -> CausalLM:
    return tiny_model("llama")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A Ray cluster of four raylets on this machine, one with a GPU that is none; this process is connected to it.

    `RAY_DASHBOARD_ADDRESS` names its job server.
    """
    from grasp_pipeline.engine.cluster import LOOPBACK

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*LOOPBACK)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS)]))
        # A job of the cluster is started as `dagster`, which only an activated environment has in PATH.
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        ray = pytest.importorskip("ray")
        from ray.cluster_utils import Cluster

        room = {"num_cpus": 1, "object_store_memory": 80 * 1024**2}
        # Ray's fixed ports may be those of another cluster; without a port of its own the head takes no jobs.
        ports = {"dashboard_port": free_port(), "dashboard_agent_listen_port": free_port()}
        started = Cluster(initialize_head=True, head_node_args={**room, **ports, "include_dashboard": True})
        started.add_node(**room)
        started.add_node(**room)
        started.add_node(**room, num_gpus=1)
        context = ray.init(address=started.address, log_to_driver=False)
        patch.setenv("RAY_DASHBOARD_ADDRESS", f"http://{context.dashboard_url}")
        try:
            yield started
        finally:
            ray.shutdown()
            started.shutdown()
