"""Images through the unmodified stack: training, evaluation, retraining and sketches against a plain torch module."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from grasp_pipeline.corpus.images import load_digits
from grasp_pipeline.errors import ConfigError, InputError, TrainingError
from grasp_pipeline.proxy.evaluation import stacked_chunk_losses
from grasp_pipeline.proxy.images import FEATURES, ImageClassifier, ImageStream, image_rows
from grasp_pipeline.proxy.objective import Parameters
from grasp_pipeline.proxy.retrain import Job, retrain
from grasp_pipeline.proxy.training import Recipe, stack, train_stacked, unstack
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.full import FullSketcher, hashes
from grasp_pipeline.sketch.output import OutputSketcher
from grasp_pipeline.sketch.protocol import Sketcher
from grasp_pipeline.sketch.run import sketch_rows

SHAPE, CLASSES, WIDTH, N = (2, 7, 9), 5, 3, 40
IMAGES = generator("test images").random((N, *SHAPE)).astype(np.float32)
LABELS = generator("test labels").integers(0, CLASSES, N)
RECIPE = Recipe(
    steps=8,
    batch_sequences=6,
    chunk_tokens=1,
    learning_rate=1e-2,
    warmup_fraction=0.2,
    weight_decay=0.1,
    clip_norm=0.5,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Operations this small only lose time on a second thread, a lot of it where cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def classifier() -> ImageClassifier:
    return ImageClassifier(IMAGES, CLASSES, seed=3, width=WIDTH)


def perturbed(classifier: ImageClassifier) -> Parameters:
    """Return weights with no bias at zero, in float64."""
    source = torch.Generator().manual_seed(1)
    return {
        name: (p + 0.1 * torch.randn(p.shape, generator=source)).double()
        for name, p in classifier.parameters().items()
    }


class Twin(nn.Module):
    """The slow twin: torch's own layers, an output layer with a bias of its own, float64, one model."""

    def __init__(self, weights: Parameters) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(SHAPE[0], WIDTH, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, 2 * WIDTH, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * WIDTH * 2 * 3, FEATURES),
            nn.ReLU(),
        )
        self.output = nn.Linear(FEATURES, CLASSES)
        self.double()
        values = {name: p.double() for name, p in weights.items()}
        with torch.no_grad():
            for layer, name in ((0, "conv1"), (2, "conv2"), (5, "linear")):
                self.body[layer].weight.copy_(values[f"{name}.weight"])  # type: ignore[operator]
                self.body[layer].bias.copy_(values[f"{name}.bias"])  # type: ignore[operator]
            self.output.weight.copy_(values["output.weight"][:, :-1])
            self.output.bias.copy_(values["output.weight"][:, -1])

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        return self.output(self.body((torch.from_numpy(IMAGES)[indices] - 0.5).double()))

    def gradients(self, index: int) -> Parameters:
        """Return the gradient of one image's loss, by the classifier's names."""
        self.zero_grad()
        logits = self(torch.tensor([index]))
        nn.functional.cross_entropy(logits, torch.tensor([int(LABELS[index])])).backward()
        found: Parameters = {}
        for layer, name in ((0, "conv1"), (2, "conv2"), (5, "linear")):
            found[f"{name}.weight"] = self.body[layer].weight.grad  # type: ignore[assignment]
            found[f"{name}.bias"] = self.body[layer].bias.grad  # type: ignore[assignment]
        assert self.output.weight.grad is not None
        assert self.output.bias.grad is not None
        found["output.weight"] = torch.cat(
            [self.output.weight.grad, self.output.bias.grad.unsqueeze(1)], dim=1
        )
        return found


def train_alone(weights: Parameters, rows: torch.Tensor) -> Twin:
    twin = Twin(weights)
    decayed = [p for p in twin.parameters() if p.dim() >= 2] + [twin.output.bias]
    plain = [p for p in twin.body.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": RECIPE.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=RECIPE.learning_rate,
        betas=(0.9, 0.95),
    )
    for step in range(RECIPE.steps):
        batch = rows[step * RECIPE.batch_sequences : (step + 1) * RECIPE.batch_sequences]
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(batch[:, 0]), batch[:, 1]).backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), RECIPE.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = RECIPE.rate(step)
        optimizer.step()
    return twin


def rows_for(seed: int) -> torch.Tensor:
    return torch.from_numpy(ImageStream(LABELS).rows(np.arange(N), RECIPE.rows, 1, "test", seed))


def test_stacked_training_equals_one_model_at_a_time(classifier: ImageClassifier) -> None:
    initial = perturbed(classifier)
    rows = [rows_for(seed) for seed in range(3)]
    stacked = train_stacked(classifier, initial, rows, RECIPE, ["a", "b", "c"])
    probe, every = torch.arange(N).unsqueeze(1), torch.arange(N)
    before = Twin(initial)(every)
    for index, row in enumerate(rows):
        weights = unstack(stacked, index)
        fast = classifier.hidden(weights, probe)[:, 0] @ classifier.output_weight(weights).t()
        slow = train_alone(initial, row)(every)
        assert (slow - before).abs().max() > 0.1
        assert (fast - slow).abs().max() < 1e-5 * (slow - before).abs().max()


def test_held_out_losses_match_the_plain_module(classifier: ImageClassifier) -> None:
    weights = perturbed(classifier)
    chosen = np.array([7, 3, 31, 3, 12])
    rows, sizes = image_rows(chosen, LABELS)
    fast = stacked_chunk_losses(classifier, stack(weights, 2), rows, sizes, batch_rows=2)
    slow = nn.functional.cross_entropy(
        Twin(weights)(torch.from_numpy(chosen)), torch.from_numpy(LABELS[chosen]), reduction="none"
    )
    torch.testing.assert_close(fast[0], slow.detach(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(fast[0], fast[1])


def sketch_all(sketcher: Sketcher, batch: int = 11) -> tuple[np.ndarray, np.ndarray]:
    rows, sizes = image_rows(np.arange(N), LABELS)
    return sketch_rows(sketcher, rows, sizes, [f"image {i}" for i in range(N)], batch)


def test_full_is_the_projected_gradient(classifier: ImageClassifier) -> None:
    weights = perturbed(classifier)
    single = {name: p.float() for name, p in weights.items()}
    fast, losses = sketch_all(FullSketcher(classifier, single, d=40, sparsity=3, seed=5))
    twin = Twin(weights)
    for index in range(N):
        slow = torch.zeros(40, dtype=torch.float64)
        for name, gradient in twin.gradients(index).items():
            coordinates, signs = hashes(name, gradient.numel(), 40, 3, 5)
            for where, sign in zip(coordinates, signs, strict=True):
                slow.index_add_(0, where, sign.double() * gradient.flatten(), alpha=-1.0)
        np.testing.assert_allclose(fast[index], slow.numpy(), atol=1e-5 * float(slow.norm()), rtol=1e-4)
        expected = -torch.log_softmax(twin(torch.tensor([index]))[0], 0)[LABELS[index]]
        assert losses[index] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(("hidden", "classes"), [(6, 3), (99, 99)])
def test_output_is_the_projected_output_layer_gradient(
    classifier: ImageClassifier, hidden: int, classes: int
) -> None:
    weights = perturbed(classifier)
    single = {name: p.float() for name, p in weights.items()}
    sketcher = OutputSketcher(classifier, single, hidden_dim=hidden, vocab_dim=classes, seed=2)
    fast, _ = sketch_all(sketcher)
    twin = Twin(weights)
    for index in range(N):
        gradient = twin.gradients(index)["output.weight"]
        slow = -(
            sketcher.vocabulary.matrix().double().t() @ gradient @ sketcher.hidden_side.double()
        ).flatten()
        np.testing.assert_allclose(fast[index], slow.numpy(), atol=1e-5 * float(slow.norm()), rtol=1e-4)


def test_a_sketch_that_is_not_finite_names_the_image(classifier: ImageClassifier) -> None:
    broken = {name: p.clone() for name, p in classifier.parameters().items()}
    broken["linear.bias"][0] = float("nan")
    with pytest.raises(TrainingError, match=r"image 0 is not finite"):
        sketch_all(OutputSketcher(classifier, broken, 4, 4, 0))


def test_retraining_on_images_does_not_depend_on_group_size(classifier: ImageClassifier) -> None:
    held = image_rows(np.arange(30, N), LABELS)
    jobs = [Job(f"s{i}", np.arange(i, 12 + i, dtype=np.int64), i) for i in range(3)]
    results = [
        np.stack(
            [
                outcome.chunk_losses
                for outcome in retrain(
                    classifier, classifier.parameters(), ImageStream(LABELS), jobs, RECIPE, held, size
                )
            ]
        )
        for size in (1, 3)
    ]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-3)
    assert len({tuple(row) for row in results[0]}) == 3


def test_digits_are_learned_in_seconds() -> None:
    digits = load_digits()
    order = generator("digits split").permutation(len(digits.labels))
    classifier = ImageClassifier(digits.images, 10)
    recipe = Recipe(300, 32, 1, 3e-3, 0.1, 0.1, 1.0)
    rows = torch.from_numpy(ImageStream(digits.labels).rows(order[:1200], recipe.rows, 1, "digits"))
    weights = unstack(train_stacked(classifier, classifier.parameters(), [rows], recipe, ["digits"]), 0)
    held, _ = image_rows(order[1200:], digits.labels)
    with torch.no_grad():
        scores = classifier.hidden(weights, held[:, :1])[:, 0] @ classifier.output_weight(weights).t()
    assert (scores.argmax(1) == held[:, 1]).float().mean() > 0.9


def test_initial_weights_depend_on_seed_and_name_alone() -> None:
    one, again = (ImageClassifier(IMAGES, CLASSES, seed=3, width=WIDTH).parameters() for _ in range(2))
    other = ImageClassifier(IMAGES, CLASSES, seed=4, width=WIDTH).parameters()
    for name, value in one.items():
        assert torch.equal(value, again[name])
    for name in ("conv1.weight", "conv2.weight", "linear.weight", "output.weight"):
        assert not torch.equal(one[name], other[name])
    assert torch.equal(one["output.weight"][:, -1], torch.zeros(CLASSES))


def test_the_stream_shows_every_member_once_per_epoch() -> None:
    stream, members = ImageStream(LABELS), np.array([9, 2, 30, 17])
    rows = stream.rows(members, 10, 1, "epochs", 1)
    assert rows.shape == (10, 2)
    np.testing.assert_array_equal(rows[:, 1], LABELS[rows[:, 0]])
    for start in (0, 4):
        assert sorted(rows[start : start + 4, 0]) == [2, 9, 17, 30]
    np.testing.assert_array_equal(rows, stream.rows(members[::-1].copy(), 10, 1, "epochs", 1))
    assert not np.array_equal(rows, stream.rows(members, 10, 1, "epochs", 2))
    assert stream.rows(members, 0, 1, "none").shape == (0, 2)


def test_what_the_stream_cannot_give_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty subset"):
        ImageStream(LABELS).rows(np.array([], dtype=np.int64), 3, 1, "x")
    with pytest.raises(ConfigError, match="chunk_tokens = 1"):
        ImageStream(LABELS).rows(np.arange(3), 3, 2, "x")


def test_images_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(40, 2, 7\)"):
        ImageClassifier(IMAGES[..., 0], CLASSES)
    with pytest.raises(InputError, match="at least 4 x 4"):
        ImageClassifier(IMAGES[..., :3], CLASSES)
    with pytest.raises(InputError, match="not finite"):
        ImageClassifier(np.where(IMAGES > 0.5, np.float32(np.nan), IMAGES), CLASSES)
    with pytest.raises(ConfigError, match="2 classes"):
        ImageClassifier(IMAGES, 1)
