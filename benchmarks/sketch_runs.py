"""Whole sketching runs, from a saved model and token ids to files on disk, each in a process of its own.

python -m benchmarks.sketch_runs WHO INPUTS OUTPUT THREADS CHUNKS

WHO is a kind of this project (`output`, `layers`, `full`: the Dagster asset `gradient_sketches` into its Delta table),
`traker` or `dattri`. bergson has a script of its own, `benchmarks/sketch_bergson.py`. What is timed:

- this project: the asset's step, loading the checkpoint and committing to Delta included, as its metadata says;
- bergson: from the loaded model to `gradients.bin`;
- traker and dattri: from the loaded model to features on disk, with their own default dimension (2,048 and 512) and
  the projector that they take on a CPU, a dense matrix made again in blocks for every batch. The gradient is that of
  the chunk's mean loss over all parameters. As this takes seconds per chunk, they get the first chunks alone, in one
  batch as large as memory allows; figures are per chunk.

Imports and process start are in `process` alone, the seconds of the whole process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.published import ROOT
from benchmarks.sketch_bergson import folder_bytes, report

if TYPE_CHECKING:
    from torch import Tensor, nn

KINDS = ("output", "layers", "full")
PEERS = ("bergson", "bergson-last", "traker", "dattri")
BERGSON_PYTHON = "GRASP_BERGSON_PYTHON"
PEER_BATCH = 32
"""Chunks whose whole gradients traker and dattri hold at once."""


@dataclass(frozen=True)
class Run:
    """One finished run: seconds timed, seconds of the process, chunks, bytes stored and peak resident MiB."""

    seconds: float
    process: float
    chunks: int
    bytes: int
    mib: float

    @property
    def per_chunk(self) -> float:
        """Seconds per chunk."""
        return self.seconds / self.chunks


class PeerError(Exception):
    """A contestant that does not run here; the message is the last line of what it said."""


def run(who: str, inputs: Path, threads: int, chunks: int, bergson_python: str = sys.executable) -> Run:
    """Run a contestant in a process of its own; its output is removed.

    Raises:
        PeerError: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="grasp-sketch-") as scratch:
        output = Path(scratch) / "out"
        if who in KINDS:
            shutil.copytree(inputs / f"store-{who}", output)
        if who.startswith("bergson"):
            modules = "last" if who == "bergson-last" else "all"
            script = str(ROOT / "benchmarks" / "sketch_bergson.py")
            command = [bergson_python, script, str(inputs), str(output), str(threads), modules]
        else:
            worker = [sys.executable, "-W", "ignore", "-m", "benchmarks.sketch_runs"]
            command = [*worker, who, str(inputs), str(output), str(threads), str(chunks)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        begun = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        process = time.perf_counter() - begun
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise PeerError(f"{who} does not run here: {said[-1][:300]}")
    return Run(process=process, **json.loads(done.stdout.strip().splitlines()[-1]))


def ours(store: Path, threads: int, chunks: int) -> None:
    """Materialise `gradient_sketches` in a prepared store and print what it took."""
    from benchmarks.sketch_store import materialize_sketches
    from grasp_pipeline.proxy.presets import load_model

    load_model(store / "files" / "model")  # its imports, which the contestants have behind them too
    seconds = materialize_sketches(store, threads)
    report(seconds, chunks, folder_bytes(store / "gradient_sketches", "*.parquet"))


def _load(inputs: Path, chunks: int) -> tuple[Any, Tensor]:
    """Return the model and the rows (n, L + 1) of the first chunks."""
    import numpy as np
    import torch

    from grasp_pipeline.proxy.presets import load_model

    return load_model(inputs / "model"), torch.from_numpy(np.load(inputs / "chunks.npy")[:chunks]).long()


def mean_loss(model: nn.Module, parameters: Any, row: Tensor) -> Tensor:
    """Return the mean token loss of one chunk's row (L + 1,), as a function that `torch.func.vmap` takes."""
    import torch

    length = len(row) - 1
    blocked = torch.full((length, length), torch.finfo(torch.float32).min)
    given = {
        "input_ids": row[:-1].unsqueeze(0),
        "attention_mask": torch.triu(blocked, diagonal=1).view(1, 1, length, length),
        "position_ids": torch.arange(length).unsqueeze(0),
        "use_cache": False,
    }
    logits = torch.func.functional_call(model, parameters, args=(), kwargs=given).logits[0]
    return torch.nn.functional.cross_entropy(logits, row[1:])


def traker(inputs: Path, output: Path, chunks: int) -> None:
    """Featurise by traker at its defaults for a CPU; its store is on disk."""
    import torch
    from trak import TRAKer
    from trak.modelout_functions import AbstractModelOutput

    class MeanLoss(AbstractModelOutput):
        """The loss itself as the model's output, so that the gradient of the loss by it is 1."""

        def __init__(self) -> None:
            """Nothing to set up; the base class leaves this abstract."""

        # traker calls these with other arguments than its base class declares, as its own subclasses know.
        def get_output(self, model: Any, weights: Any, buffers: Any, row: Tensor) -> Tensor:  # pyright: ignore
            """Return the loss of one row (L + 1,)."""
            return mean_loss(model, (weights, buffers), row)

        def get_out_to_loss_grad(self, model: Any, weights: Any, buffers: Any, batch: Any) -> Tensor:  # pyright: ignore
            """Return ones (B, 1)."""
            return torch.ones(len(batch[0]), 1)

    model, rows = _load(inputs, chunks)
    begun = time.perf_counter()
    featuriser = TRAKer(
        model=model,
        task=MeanLoss(),
        train_set_size=chunks,
        save_dir=str(output),
        device="cpu",
        use_half_precision=False,
        logging_level=40,
    )
    featuriser.load_checkpoint(model.state_dict(), model_id=0)
    for batch in rows.split(PEER_BATCH):
        featuriser.featurize([batch], num_samples=len(batch))
    seconds = time.perf_counter() - begun
    report(seconds, chunks, folder_bytes(output, "grads.mmap"))


def dattri(inputs: Path, output: Path, chunks: int) -> None:
    """Featurise by dattri's TRAK at its defaults for a CPU, and save what it caches."""
    import torch
    from dattri.algorithm.trak import TRAKAttributor
    from dattri.task import AttributionTask

    model, rows = _load(inputs, chunks)

    def loss(parameters: Any, batch: tuple[Tensor]) -> Tensor:
        return mean_loss(model, parameters, batch[0])

    begun = time.perf_counter()
    task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
    # Fewer chunks than dimensions: without a ridge its kernel has no inverse.
    attributor = TRAKAttributor(task, lambda p, batch: torch.exp(-loss(p, batch)), regularization=1.0)
    data = torch.utils.data.TensorDataset(rows)
    attributor.cache(torch.utils.data.DataLoader(data, batch_size=PEER_BATCH))
    output.mkdir(parents=True)
    features = attributor.inv_XTX_XT_list
    torch.save(features, output / "features.pt")
    seconds = time.perf_counter() - begun
    report(seconds, chunks, sum(each.numel() * each.element_size() for each in features))


def main(arguments: Sequence[str]) -> None:
    """Run one contestant in this process."""
    import torch

    who, inputs, output = arguments[0], Path(arguments[1]), Path(arguments[2])
    threads, chunks = int(arguments[3]), int(arguments[4])
    torch.set_num_threads(threads)
    if who in KINDS:
        ours(output, threads, chunks)
    else:
        {"traker": traker, "dattri": dattri}[who](inputs, output, chunks)


if __name__ == "__main__":
    main(sys.argv[1:])
