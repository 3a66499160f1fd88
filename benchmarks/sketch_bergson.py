"""One build of a gradient index by bergson (github.com/EleutherAI/bergson), timed: a script of its own.

PYTHON benchmarks/sketch_bergson.py INPUTS OUTPUT THREADS all|last

bergson asks for other packages than this project (peft, bitsandbytes, torchvision), so it runs in an interpreter of its
own, and this file imports nothing of the project. It calls what `bergson build` calls: model set-up, batches, and
`collect_gradients`, which hooks the linear modules below the output layer, runs forward and backward with frozen
weights, projects every module's gradient to 16 x 16 values and writes `gradients.bin`. `all` is that build;
`last` keeps one module, the down projection of the last block, by bergson's own filter. Tokenisation is not timed.
The helpers are also those of the other workers, so that every run is measured by the same lines.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

BATCH_TOKENS = 4096
"""Tokens per batch, as in this project's own runs; the row of a chunk holds one token more, BOS."""

PROJECTION = 16


def peak_mib() -> float:
    """Return this process's peak resident memory in MiB.

    VmHWM, not `ru_maxrss`: the latter starts at the peak of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM; the benchmark runs on Linux")


def folder_bytes(folder: Path, pattern: str = "*") -> int:
    """Return the bytes of the files below a folder whose names match."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


def report(seconds: float, chunks: int, stored: int, **more: Any) -> None:
    """Print what a run measured as the last line of its output: seconds, chunks, bytes stored, peak MiB."""
    print(json.dumps({"seconds": seconds, "chunks": chunks, "bytes": stored, "mib": peak_mib(), **more}))


def build(inputs: Path, output: Path, threads: int, modules: str) -> None:
    """Build an index of the chunks in INPUTS below OUTPUT and print what it took."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    from bergson.collection import collect_gradients  # pyright: ignore[reportMissingImports]
    from bergson.config.config import IndexConfig  # pyright: ignore[reportMissingImports]
    from bergson.data import allocate_batches  # pyright: ignore[reportMissingImports]
    from bergson.utils.worker_utils import (  # pyright: ignore[reportMissingImports]
        create_processor,
        setup_model_and_peft,
    )
    from datasets import Dataset

    chunks = np.load(inputs / "chunks.npy")
    rows = chunks.tolist()
    data = Dataset.from_dict({"input_ids": rows, "length": [len(row) for row in rows]})
    config = IndexConfig(
        run_path=str(output),
        model=str(inputs / "model"),
        projection_dim=PROJECTION,
        token_batch_size=max(1, BATCH_TOKENS // (chunks.shape[1] - 1)) * chunks.shape[1],
        loss_reduction="mean",
    )
    config.partial_run_path.mkdir(parents=True, exist_ok=True)
    model, targets = setup_model_and_peft(config)
    if modules == "last":
        names = [name for name, module in model.base_model.named_modules() if name.endswith("down_proj")]
        targets = {names[-1]}
    processor = create_processor(model, config, targets)
    begun = time.perf_counter()
    batches = allocate_batches(data["length"][:], config.token_batch_size)
    collect_gradients(
        model=model, data=data, processor=processor, cfg=config, target_modules=targets, batches=batches
    )
    seconds = time.perf_counter() - begun
    (gradients,) = config.partial_run_path.rglob("gradients.bin")
    report(seconds, len(rows), gradients.stat().st_size)


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
