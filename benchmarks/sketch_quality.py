"""What sketches keep of gradients, by kind and dimension, on a small proxy trained on the bundled corpus.

- `cosine_error`: the 95% quantile of the error of an inner product, in units of the two gradients' norms, against the
  exact gradient of the same parameters: the output layer for `output`, linear layers and embeddings (both uses of a
  tied one apart) for `layers`, all parameters for `full`.
- `whole_correlation`: correlation of the sketches' inner products with those of the whole exact gradient.
- `seed_agreement`: rank correlation of the inner products of two seeds.
- `bf16_error`: the median relative distance of a sketch with bfloat16 weights from that with float32 weights.

All are over pairs of different chunks that training had not seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from benchmarks.published import ROOT, Figure
from benchmarks.sketch_inner_products import inner_product_distortion, seed_agreement
from benchmarks.sketch_speed import SKETCH
from grasp_pipeline.config import ProxyConfig
from grasp_pipeline.corpus.tokenizer import train_bpe
from grasp_pipeline.proxy.objective import CausalLM
from grasp_pipeline.proxy.presets import build_model
from grasp_pipeline.proxy.training import Recipe, train_stacked
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.build import build_sketcher
from grasp_pipeline.sketch.full import FullSketcher
from grasp_pipeline.sketch.layers import LayersSketcher
from grasp_pipeline.sketch.output import OutputSketcher
from grasp_pipeline.sketch.protocol import Sketcher
from grasp_pipeline.sketch.run import sketch_chunks

CORPUS = ROOT / "data" / "corpus"
BATCH_TOKENS = 2048
SIZES = {"output": (16, 32, 64, 128), "layers": (4, 8, 16), "full": (256, 1024, 4096)}
"""Values of a side for `output` and `layers`, dimensions for `full`."""


@dataclass(frozen=True)
class Plan:
    """The proxy, its training and the chunks that are compared."""

    preset: str
    vocabulary: int
    chunk_tokens: int
    train_tokens: int
    chunks: int


FULL = Plan("tiny-4x", 2048, 64, 500_000, 200)
QUICK = Plan("tiny", 300, 16, 800, 6)


@dataclass(frozen=True)
class Trained:
    """A trained proxy with chunks it has not seen."""

    objective: CausalLM
    chunks: list[list[int]]
    bos: int

    def sketches(self, sketcher: Sketcher) -> NDArray[np.float32]:
        """Return the sketches of all chunks, (n, d)."""
        names = [f"chunk {number}" for number in range(len(self.chunks))]
        return sketch_chunks(sketcher, self.chunks, names, self.bos, BATCH_TOKENS)[0]

    def sketcher(self, kind: str, size: int, seed: int = 0) -> Sketcher:
        """Return a kind's sketcher at a size; see `SIZES`."""
        parameters = self.objective.parameters()
        if kind == "full":
            return FullSketcher(self.objective, parameters, size, SKETCH.full_sparsity, seed, "cpu")
        made = OutputSketcher if kind == "output" else LayersSketcher
        return made(self.objective, parameters, size, size, seed, "cpu")

    def exact(self, kind: str) -> NDArray[np.float32]:
        """Return the exact gradients of a kind's parameters, (n, P_kind), minus signs included."""
        if kind != "full":
            # Sides as large as any are not projected.
            return self.sketches(self.sketcher(kind, 2**20))
        from grasp_pipeline.proxy.objective import pad_chunks

        sketcher = FullSketcher(self.objective, self.objective.parameters(), 1, 1, 0, "cpu")
        parts = []
        for start in range(0, len(self.chunks), 16):
            batch = self.chunks[start : start + 16]
            rows, sizes = pad_chunks(batch, self.bos, max(map(len, batch)))
            parts.append(-sketcher.gradients(rows, sizes)[0].cpu().numpy())
        return np.concatenate(parts)


def train(plan: Plan) -> Trained:
    """Train the proxy on chunks of the bundled corpus; the chunks compared are drawn from the rest."""
    texts = pl.read_parquet(CORPUS / "*.parquet", columns=["text"]).get_column("text").sort().to_list()
    draw = generator("sketch benchmark", "quality")
    recipe = Recipe.from_config(ProxyConfig(batch_sequences=8), plan.chunk_tokens, plan.train_tokens)
    # About 5 bytes a token at most.
    chosen = _up_to([texts[i] for i in draw.permutation(len(texts))], 6 * plan.train_tokens + 100_000)
    encoder = train_bpe(chosen, plan.vocabulary)
    tokens = np.concatenate([np.asarray(ids) for ids, _ in encoder.encode(chosen)])
    length = plan.chunk_tokens
    needed = recipe.rows + plan.chunks
    if len(tokens) < needed * length:
        raise ValueError(f"the corpus gave {len(tokens)} tokens of {needed * length}; lower train_tokens")
    chunks = tokens[: needed * length].reshape(needed, length)[draw.permutation(needed)]
    rows = np.concatenate([np.full((needed, 1), encoder.bos), chunks], axis=1)
    config = ProxyConfig.model_validate({"preset": plan.preset})
    objective = CausalLM(build_model(config, encoder.vocab_size, length))
    seen = torch.from_numpy(rows[: recipe.rows]).long()
    learned = train_stacked(objective, objective.parameters(), [seen], recipe, ["proxy"])
    with torch.no_grad():
        for name, parameter in objective.model.named_parameters():
            parameter.copy_(learned[name][0])
    return Trained(objective, chunks[recipe.rows :].tolist(), encoder.bos)


def _up_to(texts: list[str], n_bytes: int) -> list[str]:
    sizes = np.cumsum([len(text.encode()) for text in texts])
    return texts[: int(np.searchsorted(sizes, n_bytes)) + 1]


def figures(plan: Plan) -> list[Figure]:
    """Return all figures of the module's docstring."""
    torch.set_num_threads(2)
    trained = train(plan)
    whole = trained.exact("full")
    found = []
    for kind, sizes in SIZES.items():
        exact = whole if kind == "full" else trained.exact(kind)
        for size in sizes:
            found += _of_size(trained, kind, size, exact, whole)
        found.append(_bf16(trained, kind))
    return found


def _of_size(
    trained: Trained, kind: str, size: int, exact: NDArray[np.float32], whole: NDArray[np.float32]
) -> list[Figure]:
    one, other = (trained.sketches(trained.sketcher(kind, size, seed)) for seed in (0, 1))
    name = f"[{kind}, {size if kind == 'full' else f'{size} x {size}'}]"
    distortion = inner_product_distortion(one, exact)
    note = f"{one.shape[1]:,} values of {exact.shape[1]:,}; {distortion.pairs:,} pairs, median error "
    note += f"{distortion.median_error:.3g}, correlation {distortion.correlation:.4f}"
    return [
        Figure(f"sketch.cosine_error{name}", distortion.error_95, "of the norms", note=note),
        Figure(
            f"sketch.whole_correlation{name}", inner_product_distortion(one, whole).correlation, "correlation"
        ),
        Figure(f"sketch.seed_agreement{name}", seed_agreement(one, other).spearman, "rank correlation"),
    ]


def _bf16(trained: Trained, kind: str) -> Figure:
    wide, narrow = (
        trained.sketches(build_sketcher(kind, trained.objective, SKETCH, "cpu", dtype))
        for dtype in (torch.float32, torch.bfloat16)
    )
    errors = np.linalg.norm(wide - narrow, axis=1) / np.linalg.norm(wide, axis=1)
    agreement = seed_agreement(wide, narrow)
    note = f"inner products correlate by {agreement.pearson:.5f}; on a CPU"
    return Figure(
        f"sketch.bf16_error[{kind}]",
        float(np.median(errors)),
        "relative distance",
        low=float(errors.min()),
        high=float(errors.max()),
        note=note,
    )
