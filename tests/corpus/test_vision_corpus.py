"""The vision corpus: what is planted is recorded, splits are disjoint, data sets that cannot be read say so."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.corpus.images import (
    COPIES,
    FASHION_MNIST,
    SPLITS,
    ImageSet,
    VisionConfig,
    VisionCorpus,
    VisionTask,
    build_vision_corpus,
    load_digits,
    load_fashion_mnist,
)
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.seeds import generator

CONFIG = VisionConfig(
    pool=200, duplicate_share=0.25, copies_each=3, label_noise=0.15, query=6, judge=5, evaluation=9
)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_digits()


@pytest.fixture(scope="module")
def corpus(digits: ImageSet) -> VisionCorpus:
    return build_vision_corpus(digits.images, digits.labels, CONFIG)


def test_no_base_image_is_in_two_places(corpus: VisionCorpus) -> None:
    pool = set(corpus.base[: corpus.n].tolist())
    held = [corpus.base[chosen].tolist() for chosen in corpus.splits.values()]
    flat = [base for part in held for base in part]
    assert len(flat) == len(set(flat))
    assert not pool & set(flat)
    assert set(corpus.splits) == {(task.name, split) for task in CONFIG.tasks for split in SPLITS}
    indices = np.concatenate(list(corpus.splits.values()))
    np.testing.assert_array_equal(np.sort(indices), np.arange(corpus.n, len(corpus.images)))


def test_copies_are_what_they_are_recorded_to_be(corpus: VisionCorpus) -> None:
    n = corpus.n
    assert n == CONFIG.pool
    assert (corpus.copy > 0).sum() == round(CONFIG.duplicate_share * n)
    assert (corpus.copy == COPIES.index("exact")).sum() == (corpus.copy > 0).sum() // 2
    for cluster in np.unique(corpus.cluster):
        rows = np.flatnonzero(corpus.cluster == cluster)
        first = rows[corpus.copy[rows] == COPIES.index("first")]
        assert len(first) == 1
        assert len(rows) <= 1 + CONFIG.copies_each
        for known in (corpus.base, corpus.source, corpus.labels):
            assert len(np.unique(known[rows])) == 1
        for row in rows:
            same = np.array_equal(corpus.images[row], corpus.images[first[0]])
            assert same == (COPIES[corpus.copy[row]] != "near")
    assert len(np.unique(corpus.base[:n])) == len(np.unique(corpus.cluster))


def test_wrong_labels_are_planted_in_the_pool_alone(corpus: VisionCorpus, digits: ImageSet) -> None:
    assert corpus.mislabelled.sum() == round(CONFIG.label_noise * corpus.n)
    np.testing.assert_array_equal(corpus.labels[corpus.n :], corpus.true_labels[corpus.n :])
    np.testing.assert_array_equal(corpus.true_labels, digits.labels[corpus.base])
    assert set(corpus.labels) <= set(range(10))


def test_styles_and_classes_are_those_asked_for(corpus: VisionCorpus, digits: ImageSet) -> None:
    first = corpus.copy == 0
    bases = digits.images[corpus.base]
    turned = np.rot90(bases, axes=(2, 3))
    expected = {"original": bases, "inverted": 1 - bases, "rotated": turned}
    shares = np.array(list(CONFIG.sources.values()))
    for code, (name, share) in enumerate(zip(corpus.source_names, shares / shares.sum(), strict=True)):
        rows = np.flatnonzero((corpus.source == code) & first)
        assert abs(len(rows) - share * first.sum()) <= 1
        if name in expected:
            np.testing.assert_array_equal(corpus.images[rows], expected[name][rows])
        else:
            assert np.abs(corpus.images[rows] - bases[rows]).max(axis=(1, 2, 3)).min() > 0
    expected["inverted_rotated"] = 1 - turned
    for (task, split), rows in corpus.splits.items():
        assert len(rows) == getattr(CONFIG, split)
        if task in expected:
            np.testing.assert_array_equal(corpus.images[rows], expected[task][rows])
    low = corpus.labels[np.concatenate([corpus.splits["noisy_low", split] for split in SPLITS])]
    assert low.max() <= 4
    assert corpus.images.dtype == np.float32
    assert corpus.images.min() >= 0
    assert corpus.images.max() <= 1


def test_a_shift_moves_each_image_as_a_whole() -> None:
    images = np.zeros((60, 1, 12, 12), dtype=np.float32)
    images[:, 0, 5:7, 5:7] = 1
    tasks = (VisionTask("shifted", ("shifted",)),)
    config = VisionConfig(
        pool=20, duplicate_share=0, sources={"shifted": 1}, tasks=tasks, query=1, judge=1, evaluation=1
    )
    corpus = build_vision_corpus(images, np.arange(60) % 3, config)
    assert (corpus.images.sum(axis=(1, 2, 3)) == 4).all()
    assert not (corpus.images == images[:1]).all(axis=(1, 2, 3)).any()


def test_equal_settings_give_equal_corpora(corpus: VisionCorpus, digits: ImageSet) -> None:
    before = digits.images.copy()
    again = build_vision_corpus(digits.images, digits.labels, CONFIG)
    np.testing.assert_array_equal(digits.images, before)
    for name in ("images", "labels", "true_labels", "base", "source", "copy", "cluster"):
        np.testing.assert_array_equal(getattr(again, name), getattr(corpus, name))
    other = build_vision_corpus(digits.images, digits.labels, replace(CONFIG, seed=1))
    assert not np.array_equal(other.base, corpus.base)


def test_the_defaults_fit_the_digits(digits: ImageSet) -> None:
    corpus = build_vision_corpus(digits.images, digits.labels)
    assert corpus.n == 1000
    assert len(np.unique(corpus.source)) == 5


@given(
    st.integers(20, 60),
    st.floats(0, 0.6),
    st.integers(1, 9),
    st.floats(0, 0.9),
    st.integers(0, 99),
)
@settings(max_examples=30)
def test_counts_hold_for_any_setting(pool: int, share: float, each: int, noise: float, seed: int) -> None:
    images = generator("vision sizes").random((100, 1, 4, 4)).astype(np.float32)
    tasks = (VisionTask("one", ("noisy",)), VisionTask("two", ("rotated", "inverted"), (1,)))
    config = VisionConfig(pool, share, each, noise, tasks=tasks, query=2, judge=1, evaluation=3, seed=seed)
    if round(share * pool) > each * (pool - round(share * pool)):
        with pytest.raises(ConfigError, match="raise copies_each"):
            build_vision_corpus(images, np.arange(100) % 2, config)
        return
    corpus = build_vision_corpus(images, np.arange(100) % 2, config)
    assert len(corpus.images) == pool + 12
    assert (corpus.copy > 0).sum() == round(share * pool)
    # Whole clusters only: what is left over is less than the smallest cluster that kept its label.
    left = round(noise * pool) - int(corpus.mislabelled.sum())
    sizes = np.bincount(corpus.cluster[~corpus.mislabelled])
    assert 0 <= left < sizes[sizes > 0].min()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": {"upside_down": 1.0}}, "style 'upside_down' is not known"),
        ({"sources": {"original": 0.0}}, "shares"),
        ({"tasks": ()}, "at least one task"),
        ({"pool": 0}, "at least 1"),
        ({"label_noise": 1.0}, "label_noise is 1.0"),
        ({"duplicate_share": -0.1}, "duplicate_share is -0.1"),
    ],
)
def test_settings_out_of_bounds_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIG, **change)  # type: ignore[arg-type]


def test_data_that_do_not_fit_are_refused(digits: ImageSet) -> None:
    with pytest.raises(ConfigError, match=r"images left for the .* split of task 'noisy_low'"):
        build_vision_corpus(digits.images[:90], digits.labels[:90], CONFIG)
    with pytest.raises(ConfigError, match="base images, but"):
        build_vision_corpus(digits.images, digits.labels, replace(CONFIG, pool=5000))
    with pytest.raises(InputError, match="shape"):
        build_vision_corpus(digits.images, digits.labels[1:], CONFIG)
    with pytest.raises(InputError, match="divide bytes by 255"):
        build_vision_corpus(digits.images * 16, digits.labels, CONFIG)
    with pytest.raises(InputError, match="cannot be rotated"):
        build_vision_corpus(digits.images[..., :7], digits.labels, CONFIG)


def test_digits_come_scaled(digits: ImageSet) -> None:
    assert digits.images.shape == (1797, 1, 8, 8)
    assert digits.images.dtype == np.float32
    assert (digits.images.min(), digits.images.max()) == (0, 1)
    assert digits.labels.dtype == np.int64
    assert digits.class_names[3] == "3"


def write_idx(path: Path, values: np.ndarray) -> None:
    head = struct.pack(f">BBBB{values.ndim}i", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", np.arange(48).reshape(3, 4, 4) * 5)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.array([0, 9, 4]))
    return tmp_path


def test_idx_files_are_read(fashion: Path) -> None:
    found = load_fashion_mnist(fashion)
    np.testing.assert_allclose(found.images[1, 0, 2, 3], 27 * 5 / 255)
    assert found.images.shape == (3, 1, 4, 4)
    assert [found.class_names[label] for label in found.labels] == ["T-shirt/top", "Ankle boot", "Coat"]


def test_files_that_are_absent_or_damaged_say_what_to_do(fashion: Path) -> None:
    with pytest.raises(
        InputError, match=r"install the Debian package dataset-fashion-mnist.*or give the folder"
    ):
        load_fashion_mnist(fashion / "nowhere")
    with pytest.raises(InputError, match=r"no t10k-images-idx3-ubyte\.gz"):
        load_fashion_mnist(fashion, "t10k")
    labels, images = fashion / "train-labels-idx1-ubyte.gz", fashion / "train-images-idx3-ubyte.gz"
    write_idx(labels, np.array([0, 1]))
    with pytest.raises(InputError, match="do not fit its 3 images"):
        load_fashion_mnist(fashion)
    write_idx(labels, np.array([0, 1, 10]))
    with pytest.raises(InputError, match="do not fit its 3 images"):
        load_fashion_mnist(fashion)
    whole = images.read_bytes()
    images.write_bytes(labels.read_bytes())
    with pytest.raises(InputError, match="not an IDX file of bytes in 3 dimensions"):
        load_fashion_mnist(fashion)
    images.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    with pytest.raises(InputError, match="cut off"):
        load_fashion_mnist(fashion)
    for damaged in (b"not gzip", b"", whole[:-9], whole[:12] + b"\xff\xff\xff\xff" + whole[16:]):
        images.write_bytes(damaged)
        with pytest.raises(InputError, match="fetch it again"):
            load_fashion_mnist(fashion)


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_fashion_mnist_makes_a_corpus() -> None:
    found = load_fashion_mnist(part="t10k")
    assert found.images.shape == (10_000, 1, 28, 28)
    assert np.bincount(found.labels).tolist() == [1000] * 10
    corpus = build_vision_corpus(found.images, found.labels)
    assert corpus.n == 1000
