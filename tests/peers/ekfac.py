"""EK-FAC influence by the package `kronfluence`, as a peer to compare with.

    s_it = (grad m_t)' (G + damping I)^-1 (grad L_i) ,   m_t = sum_Q L_q / sum_Q w_q  over the queries of task t

with L the sum of a chunk's w token losses, so that s_it is how far all tokens of chunk i lower the task's loss per
token: positive is helpful. G is the eigenvalue-corrected Kronecker-factored Fisher (George et al. 2018, arXiv
1806.03884; influence with it: Grosse et al. 2023, arXiv 2308.03296), its labels drawn from the model itself, which
is `kronfluence`'s default (`use_empirical_fisher=False`).

Tracked are the linear modules of the body: embeddings and norms have no Kronecker factors, and the output layer's
would be V x V. The optional peer is imported on use; it writes safetensors and JSON, no pickles.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from grasp_pipeline.arrays import Floats
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.proxy.objective import CausalLM, pad_chunks
from grasp_pipeline.seeds import generator

INSTALL = "pip install 'grasp-pipeline[bench]' && pip install --no-deps kronfluence"
"""Without --no-deps `kronfluence` brings torchvision, which it never imports: a CUDA build that stops transformers
from loading next to a CPU build of torch."""


def ekfac_scores(
    objective: CausalLM,
    chunks: list[list[int]],
    bos: int,
    query_chunks: list[list[int]],
    query_tasks: NDArray[np.integer[Any]],
    damping: float | None,
    workdir: Path,
    batch: int,
) -> Floats:
    """Return (n, T) scores of n chunks, worth of all tokens of a chunk; one pass over the chunks per task.

    Args:
        objective: the model at which gradients are taken; a copy is used.
        chunks: n chunks of tokens, without BOS.
        bos: token put before each chunk.
        query_chunks: Q chunks of the tasks' held-out text.
        query_tasks: (Q,) task of every query, 0 .. T - 1.
        damping: added to the eigenvalues of G, a mean over chunks of squared gradients of L; None is 0.1 of
            their mean, module by module.
        workdir: folder for the factors; they are removed at the end.
        batch: chunks per backward pass; bounds the memory, batch x tracked parameters.

    Raises:
        ConfigError: `kronfluence` is not installed, or the damping is negative.
        InputError: a task has no query, or the queries and their tasks differ in number.
    """
    try:
        from kronfluence.analyzer import Analyzer, prepare_model  # pyright: ignore[reportMissingImports]
        from kronfluence.arguments import (  # pyright: ignore[reportMissingImports]
            FactorArguments,
            ScoreArguments,
        )
    except ImportError as error:
        raise ConfigError(f"EK-FAC needs the package kronfluence ({error}); run: {INSTALL}") from error
    if damping is not None and not damping >= 0:
        raise ConfigError(f"damping is {damping}; give 0 or more, or None for 0.1 of the mean eigenvalue")
    tasks = np.asarray(query_tasks)
    counts = np.bincount(tasks) if tasks.size and tasks.min() >= 0 else np.zeros(1, dtype=int)
    if len(tasks) != len(query_chunks) or not counts.all():
        raise InputError(
            f"{len(query_chunks)} queries have {len(tasks)} tasks, {np.count_nonzero(counts)} of {len(counts)} "
            "with a query; number the tasks from 0 and give each at least one query"
        )
    model = linear_copy(objective.model)
    task = _token_loss_task(tracked_modules(model))
    train = _dataset(chunks, bos, "train")
    scores = np.empty((len(chunks), len(counts)))
    workdir.mkdir(parents=True, exist_ok=True)
    # A fresh folder: kronfluence takes factors that it finds for its own, whatever model and data they are from.
    with TemporaryDirectory(dir=workdir, prefix="ekfac-") as folder:
        analyzer = Analyzer(
            analysis_name="ekfac",
            model=prepare_model(model, task),
            task=task,
            cpu=objective.model.device.type == "cpu",
            disable_tqdm=True,
            output_dir=folder,
        )
        analyzer.fit_all_factors(
            factors_name="ekfac",
            dataset=train,
            per_device_batch_size=batch,
            factor_args=FactorArguments(
                strategy="ekfac",
                use_empirical_fisher=False,
                covariance_max_examples=None,
                lambda_max_examples=None,
            ),
        )
        for t in range(len(counts)):
            queries = [query_chunks[q] for q in np.flatnonzero(tasks == t)]
            name = f"task-{t}"
            analyzer.compute_pairwise_scores(
                scores_name=name,
                factors_name="ekfac",
                query_dataset=_dataset(queries, bos, "query"),
                train_dataset=train,
                per_device_query_batch_size=batch,
                per_device_train_batch_size=batch,
                score_args=ScoreArguments(damping_factor=damping, aggregate_query_gradients=True),
            )
            found: Any = analyzer.load_pairwise_scores(name)
            summed = found["all_modules"]  # (1, n)
            scores[:, t] = summed[0].double().numpy() / sum(map(len, queries))
    return scores


def linear_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy in which every Conv1D of transformers (GPT-2) is the nn.Linear of the same function."""
    copied = copy.deepcopy(model)
    for name, module in list(copied.named_modules()):
        if isinstance(module, Conv1D):
            rows, columns = module.weight.shape
            linear = nn.Linear(rows, columns, device="meta")  # draws no random initial values
            linear.weight = nn.Parameter(module.weight.detach().t().contiguous())
            linear.bias = nn.Parameter(module.bias.detach())
            copied.set_submodule(name, linear)
    return copied


def tracked_modules(model: PreTrainedModel) -> list[str]:
    """Return the names of the linear modules whose gradients count: all but the output layer."""
    head = model.get_output_embeddings()
    return [
        name for name, module in model.named_modules() if type(module) is nn.Linear and module is not head
    ]


def _dataset(chunks: list[list[int]], bos: int, name: str) -> TensorDataset:
    """Return rows (n, L + 1) and sizes (n,) as `pad_chunks` lays them out, and uniform draws (n, L) for labels.

    A chunk's labels hang on its place alone, not on the batch.
    """
    length = max(map(len, chunks))
    rows, sizes = pad_chunks(chunks, bos, length)
    draws = generator("ekfac", "labels", name).random((len(chunks), length))
    return TensorDataset(rows, sizes, torch.from_numpy(draws))


def _token_loss_task(modules: list[str]) -> Any:
    """Return kronfluence's view of language modelling: both loss and measurement are the sum of token losses."""
    from kronfluence.task import Task  # pyright: ignore[reportMissingImports]

    class TokenLoss(Task):
        def compute_train_loss(
            self, batch: Sequence[Tensor], model: nn.Module, sample: bool = False
        ) -> Tensor:
            rows, sizes, draws = batch
            longest = int(sizes.max())
            valid = self.get_attention_mask(batch)
            logits = model(input_ids=rows[:, :longest], use_cache=False).logits[valid].float()
            labels = rows[:, 1 : longest + 1][valid]
            if sample:
                labels = _draw(logits.detach(), draws[:, :longest][valid])
            return cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: Sequence[Tensor], model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

        def get_influence_tracked_modules(self) -> list[str]:
            return modules

        def get_attention_mask(self, batch: Sequence[Tensor]) -> Tensor:
            sizes = batch[1]
            return torch.arange(int(sizes.max()), device=sizes.device).unsqueeze(0) < sizes.unsqueeze(1)

    return TokenLoss()


def _draw(logits: Tensor, draws: Tensor) -> Tensor:
    """Return labels (k,) of softmax(logits), logits (k, V), by inversion of draws (k,) in [0, 1)."""
    cumulated = torch.softmax(logits.double(), dim=1).cumsum(dim=1)
    labels = torch.searchsorted(cumulated, draws.unsqueeze(1) * cumulated[:, -1:], right=True).squeeze(1)
    return labels.clamp_max(logits.shape[1] - 1)
