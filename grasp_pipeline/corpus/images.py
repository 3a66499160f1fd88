"""Images: two data sets that need no network, and a corpus made of one, with everything that is planted recorded.

The corpus is what attribution is tried on: a pool of labelled images in several styles (its sources), with wrong
labels, exact and jittered copies; and tasks, each with its own style and classes, from images the pool never saw.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Float32s, Ints
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.seeds import generator

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

COPIES = ("first", "exact", "near")
"""What a pool image is of its base image; its code is the position here."""

SPLITS = ("query", "judge", "evaluation")
"""Splits of each task's images; see `VisionConfig`."""

_UNSIGNED_BYTES = 8


class ImageSet(NamedTuple):
    """A labelled data set: images (N, 1, H, W) float32 in [0, 1], labels (N,) int64, names of the classes."""

    images: Float32s
    labels: Ints
    class_names: tuple[str, ...]


def load_digits() -> ImageSet:
    """Return scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, which it brings along."""
    from sklearn.datasets import load_digits as bundled

    data: Any = bundled()
    pixels = (data.images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return ImageSet(pixels, data.target.astype(np.int64), tuple(map(str, range(10))))


def load_fashion_mnist(
    folder: str | Path = FASHION_MNIST, part: Literal["train", "t10k"] = "train"
) -> ImageSet:
    """Read Fashion-MNIST (Xiao et al., arXiv 1708.07747): 28 x 28 pixels; 60,000 images, or 10,000 in `t10k`.

    Args:
        folder: holds `<part>-images-idx3-ubyte.gz` and `<part>-labels-idx1-ubyte.gz`.
        part: which of the two files of images.

    Raises:
        InputError: a file is absent or is not what its name says.
    """
    images = _read_idx(Path(folder) / f"{part}-images-idx3-ubyte.gz", 3)
    labels = _read_idx(Path(folder) / f"{part}-labels-idx1-ubyte.gz", 1)
    if len(images) != len(labels) or (len(labels) and int(labels.max()) >= len(FASHION_CLASSES)):
        raise InputError(
            f"the labels of Fashion-MNIST in {str(folder)!r} do not fit its {len(images):,} images; "
            "install the package dataset-fashion-mnist again"
        )
    return ImageSet(
        images[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64), FASHION_CLASSES
    )


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read a gzipped IDX file of bytes: 0, 0, type, dimensions, their sizes as big-endian int32, the values."""
    try:
        data = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"there is no {path.name} in {str(path.parent)!r}; install the Debian package "
            "dataset-fashion-mnist (apt-get install dataset-fashion-mnist), or give the folder that holds it"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{str(path)!r} cannot be read as a gzip file ({error}); fetch it again") from error
    start = 4 + 4 * dimensions
    sizes = np.frombuffer(data[4:start].ljust(start - 4, b"\0"), dtype=">i4")
    shape = tuple(int(size) for size in sizes)
    if data[:4] != bytes((0, 0, _UNSIGNED_BYTES, dimensions)) or len(data) != start + math.prod(shape):
        raise InputError(
            f"{str(path)!r} is not an IDX file of bytes in {dimensions} dimensions, or is cut off; fetch it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _original(images: Float32s, rng: np.random.Generator) -> Float32s:
    return images


def _inverted(images: Float32s, rng: np.random.Generator) -> Float32s:
    return 1 - images


def _rotated(images: Float32s, rng: np.random.Generator) -> Float32s:
    return np.rot90(images, axes=(2, 3))


def _noisy(images: Float32s, rng: np.random.Generator) -> Float32s:
    """Blur over 3 x 3 pixels, then add normal noise of standard deviation .2."""
    height, width = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = [padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return _clipped(sum(windows) / 9 + rng.normal(0, 0.2, images.shape))


def _shifted(images: Float32s, rng: np.random.Generator) -> Float32s:
    """Move each image by up to a sixth of its side along both axes; what comes in is black."""
    return _moved(images, rng, max(1, min(images.shape[2:]) // 6))


STYLES: dict[str, Callable[[Float32s, np.random.Generator], Float32s]] = {
    "original": _original,
    "inverted": _inverted,
    "rotated": _rotated,
    "noisy": _noisy,
    "shifted": _shifted,
}
"""Styles by name: (images (n, C, H, W), source of the draws) to images of the same shape in [0, 1]."""


def _moved(images: Float32s, rng: np.random.Generator, most: int) -> Float32s:
    """Move each image by -most..most pixels along both axes, not by zero along both."""
    steps = rng.integers(-most, most + 1, (len(images), 2))
    steps[(steps == 0).all(axis=1), 0] = 1
    height, width = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (most, most), (most, most)))
    moved = np.empty_like(images)
    for row, (down, right) in enumerate(most - steps):
        moved[row] = padded[row, :, down : down + height, right : right + width]
    return moved


def _jittered(images: Float32s, rng: np.random.Generator) -> Float32s:
    """Move each image by one pixel and add normal noise of standard deviation .03."""
    return _clipped(_moved(images, rng, 1) + rng.normal(0, 0.03, images.shape))


def _clipped(images: NDArray[np.floating]) -> Float32s:
    return np.clip(images, 0, 1).astype(np.float32)


class VisionTask(NamedTuple):
    """A target distribution: styles applied one after the other, and the classes it holds (None: all)."""

    name: str
    styles: tuple[str, ...]
    classes: tuple[int, ...] | None = None


TASKS = (
    VisionTask("original", ("original",)),
    VisionTask("rotated", ("rotated",)),
    VisionTask("inverted", ("inverted",)),
    VisionTask("noisy_low", ("noisy",), (0, 1, 2, 3, 4)),
    VisionTask("inverted_rotated", ("inverted", "rotated")),
)
"""One style that fills the pool, two that are rare in it, one with half of the classes, one that is not in it."""

SOURCES = {"original": 0.40, "shifted": 0.30, "inverted": 0.10, "rotated": 0.10, "noisy": 0.10}
"""Share of each style in the pool's base images."""


@dataclass(frozen=True)
class VisionConfig:
    """What to make of a data set.

    Attributes:
        pool: images of the pool, copies among them.
        duplicate_share: share of the pool that are copies, in equal parts exact and near (jittered).
        copies_each: most copies of a base image that has any.
        label_noise: share of the pool's images with a wrong label. Copies share their base image's label.
        sources: share of each style in the pool's base images.
        tasks: target distributions.
        query: images per task that attribution may see.
        judge: images per task for evidence that no optimiser has seen.
        evaluation: images per task on which retrained models are measured.
        seed: names all draws.
    """

    pool: int = 1000
    duplicate_share: float = 0.2
    copies_each: int = 4
    label_noise: float = 0.1
    sources: Mapping[str, float] = field(default_factory=lambda: dict(SOURCES))
    tasks: tuple[VisionTask, ...] = TASKS
    query: int = 40
    judge: int = 40
    evaluation: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: a setting is out of its bounds or a style is unknown.
        """
        used = {*self.sources, *(style for task in self.tasks for style in task.styles)}
        if unknown := used - set(STYLES):
            raise ConfigError(f"style {min(unknown)!r} is not known; use one of {', '.join(STYLES)}")
        if len({task.name for task in self.tasks}) < max(1, len(self.tasks)):
            raise ConfigError("give at least one task, each with a name of its own")
        if min(self.pool, self.copies_each, self.query, self.judge, self.evaluation) < 1:
            raise ConfigError(
                "pool, copies_each, query, judge and evaluation are counts; give at least 1 of each"
            )
        for name in ("duplicate_share", "label_noise"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give a share from 0 to below 1")
        if not self.sources or min(self.sources.values()) < 0 or sum(self.sources.values()) <= 0:
            raise ConfigError("the sources' shares must not be negative, and one must be above 0")


@dataclass(frozen=True)
class VisionCorpus:
    """A table of M images, the n of the pool first, in an order that says nothing; codes are int64.

    Attributes:
        images: (M, C, H, W) float32 in [0, 1].
        labels: (M,) labels as given, wrong ones among the pool's.
        true_labels: (M,) labels as they should be.
        base: (M,) index of the base image in the data set; none is both in the pool and in a split, or in two.
        source: (n,) code of the style in `source_names`.
        copy: (n,) code in `COPIES`.
        cluster: (n,) code shared by a base image and all its copies.
        source_names: styles of the pool.
        splits: indices (m,) into the table by (task, split), with a split of `SPLITS`.
    """

    images: Float32s
    labels: Ints
    true_labels: Ints
    base: Ints
    source: Ints
    copy: Ints
    cluster: Ints
    source_names: tuple[str, ...]
    splits: Mapping[tuple[str, str], Ints]

    @property
    def n(self) -> int:
        """Images of the pool: the table's first."""
        return len(self.source)

    @property
    def mislabelled(self) -> NDArray[np.bool_]:
        """Whether a pool image has a wrong label, (n,)."""
        return self.labels[: self.n] != self.true_labels[: self.n]


def build_vision_corpus(images: Float32s, labels: Ints, config: VisionConfig | None = None) -> VisionCorpus:
    """Make a pool and tasks of a data set; equal data and settings give equal corpora.

    Args:
        images: (N, C, H, W) float32 in [0, 1], square where a style rotates.
        labels: (N,) int64, from 0.
        config: sizes, shares, tasks and seed; None for the defaults.

    Raises:
        InputError: images and labels do not fit together, or values are not in [0, 1].
        ConfigError: the data set has too few images, of a task's classes or in all.
    """
    config = config or VisionConfig()
    _check(images, labels, config)
    name = ("vision corpus", config.seed)
    held = _held_out(labels, config, generator(*name, "split").permutation(len(labels)))
    taken = np.concatenate(list(held.values()))
    free = np.setdiff1d(np.arange(len(labels)), taken)
    pool = _pool(images, labels, config, generator(*name, "pool").permutation(free))

    tables, splits, end = [pool.images], {}, config.pool
    styles = {task.name: task.styles for task in config.tasks}
    for (task, split), chosen in held.items():
        drawn = images[chosen]
        for style in styles[task]:
            drawn = STYLES[style](drawn, generator(*name, "style", task, split, style))
        tables.append(drawn)
        splits[task, split] = np.arange(end, end + len(chosen))
        end += len(chosen)
    return VisionCorpus(
        images=np.concatenate(tables).astype(np.float32),
        labels=np.concatenate([pool.labels, labels[taken]]),
        true_labels=np.concatenate([labels[pool.base], labels[taken]]),
        base=np.concatenate([pool.base, taken]),
        source=pool.source,
        copy=pool.copy,
        cluster=pool.cluster,
        source_names=tuple(config.sources),
        splits=splits,
    )


def _check(images: Float32s, labels: Ints, config: VisionConfig) -> None:
    if images.ndim != 4 or len(images) != len(labels):
        raise InputError(
            f"images have shape {images.shape} and labels {labels.shape}; give (N, channels, height, width) and (N,)"
        )
    if len(images) == 0 or not (images.min() >= 0 and images.max() <= 1):
        raise InputError("there is no image, or a pixel is not in [0, 1]; divide bytes by 255")
    if int(labels.min()) < 0 or int(labels.max()) < 1:
        raise InputError("labels must be classes 0, 1, ... with two classes at least")
    used = {*config.sources, *(style for task in config.tasks for style in task.styles)}
    if "rotated" in used and images.shape[2] != images.shape[3]:
        raise InputError(
            f"images of {images.shape[2]} x {images.shape[3]} pixels cannot be rotated; crop them"
        )


def _held_out(labels: Ints, config: VisionConfig, order: Ints) -> dict[tuple[str, str], Ints]:
    """Return disjoint indices into the data set by (task, split), the first in `order` that fit."""
    held: dict[tuple[str, str], Ints] = {}
    free = np.ones(len(labels), dtype=bool)
    for task in config.tasks:
        fits = np.ones(len(labels), dtype=bool) if task.classes is None else np.isin(labels, task.classes)
        for split in SPLITS:
            count = getattr(config, split)
            chosen = order[(free & fits)[order]][:count]
            if len(chosen) < count:
                raise ConfigError(
                    f"the data set has {len(chosen)} images left for the {split} split of task {task.name!r}, "
                    f"which needs {count}; lower query, judge or evaluation, or use a larger data set"
                )
            free[chosen] = False
            held[task.name, split] = chosen
    return held


class _Pool(NamedTuple):
    images: Float32s
    labels: Ints
    base: Ints
    source: Ints
    copy: Ints
    cluster: Ints


def _pool(images: Float32s, labels: Ints, config: VisionConfig, order: Ints) -> _Pool:
    """Return the pool's rows: base images first in `order`, styled, labelled, copied and shuffled."""
    name = ("vision corpus", config.seed, "pool")
    copies = round(config.duplicate_share * config.pool)
    n = config.pool - copies
    owners = -(-copies // config.copies_each)
    if n > len(order) or owners > n:
        raise ConfigError(
            f"the pool needs {max(n, owners):,} base images, but {min(n, len(order)):,} are there; lower pool, "
            "query, judge or evaluation, raise copies_each, or use a larger data set"
        )
    base = order[:n]
    shares = np.cumsum(list(config.sources.values()))
    source = np.searchsorted(np.round(shares / shares[-1] * n), np.arange(n), side="right")
    styled = images[base]
    for code, style in enumerate(config.sources):
        styled[source == code] = STYLES[style](styled[source == code], generator(*name, "style", style))

    repeated = generator(*name, "copies").permutation(n)[:owners]
    cluster = np.concatenate([np.arange(n), np.resize(repeated, copies)])
    copy = np.zeros(config.pool, dtype=np.int64)
    copy[n:] = generator(*name, "kinds").permutation(1 + np.arange(copies) % 2)
    rows = styled[cluster]
    near = copy == COPIES.index("near")
    rows[near] = _jittered(rows[near], generator(*name, "jitter"))

    given = _mislabel(labels[base], int(labels.max()) + 1, cluster, config, generator(*name, "labels"))
    shuffle = generator(*name, "order").permutation(config.pool)
    cluster = cluster[shuffle]
    return _Pool(rows[shuffle], given[cluster], base[cluster], source[cluster], copy[shuffle], cluster)


def _mislabel(
    labels: Ints, classes: int, cluster: Ints, config: VisionConfig, rng: np.random.Generator
) -> Ints:
    """Return the base images' labels (n,), wrong for whole clusters until the share of the pool is reached."""
    left = round(config.label_noise * config.pool)
    sizes = np.bincount(cluster, minlength=len(labels))
    given = labels.copy()
    for index in rng.permutation(len(labels)):
        if sizes[index] <= left:
            given[index] = (labels[index] + rng.integers(1, classes)) % classes
            left -= sizes[index]
    return given
