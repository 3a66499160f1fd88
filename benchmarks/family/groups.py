# pyright: reportInvalidTypeForm=false, reportArgumentType=false
"""Group attribution at speed (GGDA, arXiv 2410.09940): digits with wrong labels, and chunks of the bundled corpus.

Speed is told in seconds of processor time on one thread, which other work on the machine does not change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
import polars as pl
import torch

from benchmarks.family.samples import mean_figure, share_above
from benchmarks.published import ROOT, Figure
from grasp_pipeline.arrays import Bools, Floats, Ints, TokenLists
from grasp_pipeline.attribution.group_gradients import group_gradients
from grasp_pipeline.attribution.grouped import Grouped, Groups
from grasp_pipeline.attribution.methods.damped_influence import DampedInfluence
from grasp_pipeline.attribution.methods.grad_dot import GradDot
from grasp_pipeline.attribution.methods.grouped_trak import grouped_trak
from grasp_pipeline.attribution.partition import kmeans_groups, random_groups, streaming_groups
from grasp_pipeline.attribution.protocol import AdditiveAttributor
from grasp_pipeline.config import ProxyConfig
from grasp_pipeline.corpus.images import load_digits
from grasp_pipeline.corpus.tokenizer import train_bpe
from grasp_pipeline.proxy.evaluation import stacked_chunk_losses
from grasp_pipeline.proxy.images import ImageClassifier, ImageStream, image_rows
from grasp_pipeline.proxy.objective import CausalLM, Objective, Parameters
from grasp_pipeline.proxy.presets import build_model
from grasp_pipeline.proxy.representations import representations
from grasp_pipeline.proxy.training import Recipe, train_stacked, unstack
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.full import FullSketcher
from grasp_pipeline.sketch.output import OutputSketcher
from grasp_pipeline.sketch.run import Examples, LaidOut, Texts, sketch_chunks, sketch_rows

SEEDS, POOL, QUERY, WRONG, SIZE = 5, 1_200, 200, 0.15, 16
"""Repetitions, images to attribute to, clean ones that say what is wanted, share of wrong labels, images per group."""

RECIPE = Recipe(240, 32, 1, 3e-3, 0.1, 0.01, 1.0)
DIMENSION, DAMPING = 512, 0.3
REMOVED = (0.25, 0.5, 0.75)
PARTITIONERS = ("random", "inputs", "representations", "sketches", "sketches, streaming")
METHODS = ("influence", "TracIn", "TRAK")
CHUNKS, CHUNK_TOKENS = 384, 64

T, P = TypeVar("T"), ParamSpec("P")


@dataclass(frozen=True)
class Digits:
    """One repetition: a classifier trained on digits some of whose labels are wrong."""

    objective: ImageClassifier
    trained: Parameters
    labels: Ints
    wrong: Bools
    query: Ints
    test: Ints

    @property
    def pool(self) -> LaidOut:
        """The images that are attributed to."""
        return LaidOut(*image_rows(np.arange(POOL), self.labels))


def digits(seed: int) -> Digits:
    """Draw the images, plant the wrong labels and train."""
    data, draw = load_digits(), generator("groups, digits", seed)
    order = draw.permutation(len(data.labels))
    labels = data.labels[order].copy()
    wrong = np.zeros(POOL, dtype=bool)
    wrong[draw.permutation(POOL)[: round(WRONG * POOL)]] = True
    labels[:POOL][wrong] = (labels[:POOL][wrong] + draw.integers(1, 10, wrong.sum())) % 10
    objective = ImageClassifier(data.images[order], 10, seed)
    rows = ImageStream(labels).rows(np.arange(POOL), RECIPE.rows, 1, "groups", seed)
    trained = train_stacked(
        objective, objective.parameters(), [torch.from_numpy(rows)], RECIPE, ["the classifier"]
    )
    query = np.arange(POOL, POOL + QUERY)
    return Digits(objective, unstack(trained, 0), labels, wrong, query, np.arange(POOL + QUERY, len(labels)))


def timed(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
    """Return what a call gives, and the seconds of processor time that it took."""
    begun = time.process_time()
    return work(*args, **kwargs), time.process_time() - begun


def labels_by(name: str, each: Digits, seed: int) -> Ints:
    """Return the groups of a partitioner; what it reads of the model is a forward pass."""
    count, pool = POOL // SIZE, each.pool
    if name == "random":
        return random_groups(POOL, count, seed)
    if name == "inputs":
        pixels = each.objective._images[:POOL].flatten(1).numpy()
        return kmeans_groups(pixels, count, "inputs", seed)
    if name == "representations":
        return kmeans_groups(
            representations(each.objective, each.trained, pool.rows, pool.counts), count, "h", seed
        )
    sketcher = OutputSketcher(each.objective, each.trained, 64, 10, 0)
    sketches, _ = sketch_rows(sketcher, pool.rows, pool.counts, [""] * POOL, 4096)
    find = streaming_groups if name.endswith("streaming") else kmeans_groups
    return find(sketches, count, "sketches", seed)


def method(name: str, targets: Floats) -> Callable[[Groups], AdditiveAttributor]:
    """Return what scores groups, or examples as groups of one."""
    if name == "influence":
        return lambda groups: DampedInfluence(groups.sketches, groups.sizes, targets, DAMPING)
    if name == "TracIn":
        return lambda groups: GradDot(groups.sketches, groups.sizes, targets)
    return grouped_trak(targets, lambda kernel: DAMPING * kernel.mean)


def pruned_loss(each: Digits, kept: list[Ints], seed: int) -> Floats:
    """Return the mean test loss (k,) in nats after training on each of k sets of images."""
    stream = ImageStream(each.labels)
    rows = [torch.from_numpy(stream.rows(members, RECIPE.rows, 1, "pruned", seed)) for members in kept]
    names = [f"set {i}" for i in range(len(kept))]
    weights = train_stacked(each.objective, each.objective.parameters(), rows, RECIPE, names)
    losses = stacked_chunk_losses(
        each.objective, weights, *image_rows(each.test, each.labels), batch_rows=128
    )
    return losses.numpy().mean(1)


def digits_figures() -> list[Figure]:
    """Wrong labels found, cost, and what pruning does, over repetitions."""
    areas: dict[tuple[str, str], list[float]] = {}
    passes, slow, batched, grouped = [], [], [], []
    pruned: dict[tuple[str, float], list[float]] = {}
    whole: list[float] = []
    for seed in range(SEEDS):
        each = digits(seed)
        sketcher = FullSketcher(each.objective, each.trained, DIMENSION, 4, 0)
        ask = LaidOut(*image_rows(each.query, each.labels))
        targets = group_gradients(sketcher, ask, np.zeros(QUERY)).sketches.astype(np.float64)
        pool = each.pool
        alone, seconds = timed(group_gradients, sketcher, pool, np.arange(POOL))
        _, vectorised = timed(sketch_rows, sketcher, pool.rows, pool.counts, [""] * POOL, 256)
        slow.append(seconds)
        batched.append(vectorised)
        found = {"pointwise": alone}
        for name in PARTITIONERS:
            labels, clustering = timed(labels_by, name, each, seed)
            groups, gradients = timed(group_gradients, sketcher, pool, labels)
            found[name] = groups
            if name == "sketches":
                passes.append(alone.passes / groups.passes)
                grouped.append(clustering + gradients)
        scores = {
            (name, how): Grouped(method(how, targets), groups).scores()[:, 0]
            for name, groups in found.items()
            for how in METHODS
        }
        for key, values in scores.items():
            areas.setdefault(key, []).append(share_above(-values[each.wrong], -values[~each.wrong]))
        arms = {name: scores[name, "influence"] for name in ("pointwise", "sketches", "random")}
        arms["drawn"] = generator("drawn", seed).random(POOL)
        sets = [np.arange(POOL)]
        keys = [(name, share) for name in arms for share in REMOVED]
        sets += [np.argsort(arms[name], kind="stable")[round(share * POOL) :] for name, share in keys]
        losses = pruned_loss(each, sets, seed)
        whole.append(losses[0])
        for key, loss in zip(keys, losses[1:], strict=True):
            pruned.setdefault(key, []).append(float(loss))
    note = f"digits, {WRONG:.0%} wrong labels, {POOL} images in groups of {SIZE} on average, {SEEDS} seeds"
    area = {key: np.array(values) for key, values in areas.items()}
    figures = [
        mean_figure(
            "family.groups_backward_passes",
            passes,
            "ratio",
            ">= 10",
            f"{note}; one by one / k-means of sketches",
        ),
        mean_figure(
            "family.groups_speed",
            np.array(slow) / grouped,
            "ratio",
            ">= 6",
            f"{note}; processor time of one backward pass per image / that of groups, k-means of sketches included",
        ),
        mean_figure(
            "family.groups_speed_vectorised",
            np.array(batched) / grouped,
            "ratio",
            "",
            f"{note}; the same against all images' gradients by one vectorised pass, 256 at a time",
        ),
        mean_figure(
            "family.groups_auc_below_pointwise",
            area["pointwise", "influence"] - area["sketches", "influence"],
            "AUC",
            "<= .05",
            f"{note}; influence of images less that of k-means groups of sketches",
        ),
        mean_figure(
            "family.groups_auc_above_random",
            area["sketches", "influence"] - area["random", "influence"],
            "AUC",
            ">= .2",
            f"{note}; influence, k-means groups of sketches less random groups",
        ),
    ]
    figures += [
        mean_figure(f"family.groups_auc[{how}, {name}]", values, "AUC", "", note)
        for (name, how), values in area.items()
    ]
    figures += [
        mean_figure(
            f"family.groups_pruned[{name}, {share:.0%}]",
            np.array(values) - whole,
            "nats",
            "",
            f"{note}; test loss after removing the lowest {share:.0%} by "
            + ("a draw" if name == "drawn" else f"influence, {name}")
            + " less that of all images",
        )
        for (name, share), values in pruned.items()
    ]
    return figures


def text_figures() -> list[Figure]:
    """Cost of groups against sketches of every chunk of a sample of the bundled corpus."""
    corpus = (
        pl.read_parquet(ROOT / "data" / "corpus" / "*.parquet")
        .sample(CHUNKS, seed=0, shuffle=True)["text"]
        .to_list()
    )
    encoder = train_bpe(corpus, 512)
    chunks = [ids[:CHUNK_TOKENS] for ids, _ in encoder.encode(corpus)]
    model: Objective = CausalLM(build_model(ProxyConfig(preset="tiny"), encoder.vocab_size, CHUNK_TOKENS))
    parameters = model.parameters()
    sketcher = FullSketcher(model, parameters, 1024, 4, 0)
    texts: Examples = Texts(TokenLists.of(chunks), encoder.bos)
    rows, sizes = texts.pack(np.arange(CHUNKS))

    def in_groups() -> Groups:
        hidden = representations(model, parameters, rows, sizes)
        return group_gradients(sketcher, texts, kmeans_groups(hidden, CHUNKS // SIZE, "text"))

    in_groups()
    groups, seconds = timed(in_groups)
    _, each = timed(sketch_chunks, sketcher, chunks, [""] * CHUNKS, encoder.bos, 32 * CHUNK_TOKENS)
    _, alone = timed(group_gradients, sketcher, texts, np.arange(CHUNKS))
    note = (
        f"{CHUNKS} chunks of up to {CHUNK_TOKENS} tokens, proxy tiny, {groups.passes} k-means groups of "
        "representations, whose forward pass and k-means are included; processor time of "
    )
    return [
        Figure(
            "family.groups_speed_text",
            alone / seconds,
            "ratio",
            "",
            note=f"{note}a backward pass per chunk / theirs",
        ),
        Figure(
            "family.groups_speed_text_vectorised",
            each / seconds,
            "ratio",
            note=f"{note}the sketches of every chunk as the pipeline takes them, 32 at a time / theirs",
        ),
    ]


def figures() -> list[Figure]:
    """Measure the member."""
    return digits_figures() + text_figures()
