"""The toy cell of a file's tests, on one thread: two threads on busy cores wait a hundred times as long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from lab_toys import PLAN, RECIPE, REFERENCE, toy_corpus
from toys import tiny_model

from grasp_pipeline.corpus.pool import TaskPool
from grasp_pipeline.evaluation.experiment import Views
from grasp_pipeline.evaluation.proxies import take_views
from grasp_pipeline.proxy.objective import CausalLM
from grasp_pipeline.proxy.runs import Trainer


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpus() -> TaskPool:
    return toy_corpus()


@pytest.fixture(scope="module")
def proxy() -> CausalLM:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def trainer(proxy: CausalLM) -> Trainer:
    return Trainer(proxy, proxy.parameters(), RECIPE, "tiny llama", stacked_models=16)


@pytest.fixture(scope="module")
def views(proxy: CausalLM, trainer: Trainer, corpus: TaskPool) -> Views:
    return take_views(proxy, trainer, corpus, REFERENCE, PLAN, seed=0)
