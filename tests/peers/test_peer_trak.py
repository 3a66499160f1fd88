"""Our TRAK against traker: its featuriser, its projection and its scores on a small classifier.

traker takes gradients of the model output f = log(p / (1 - p)), ours of the loss, -log p; a training example's are
its q_i = 1 - p_i times theirs, and a target's too, a positive factor per target. traker divides gradients by the
square root of the number of parameters and the inverse by its mean absolute entry. So ranks must agree, and scores
up to one factor per target.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from grasp_pipeline.attribution.methods.trak import Trak
from grasp_pipeline.calibration.rank import spearman

trak = pytest.importorskip("trak")

N, T, INPUTS, HIDDEN, CLASSES, PROJECTED = 150, 8, 6, 5, 4, 16


class World:
    """A two-layer classifier after some training, training examples and targets."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(INPUTS, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, CLASSES)
        )
        self.inputs, self.targets = torch.randn(N, INPUTS), torch.randn(T, INPUTS)
        truth = torch.randn(INPUTS, CLASSES)
        self.labels, self.target_labels = ((x @ truth).argmax(1) for x in (self.inputs, self.targets))
        optimiser = torch.optim.SGD(self.model.parameters(), lr=0.5)
        for _ in range(100):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(self.model(self.inputs), self.labels).backward()
            optimiser.step()
        self.n_parameters = sum(p.numel() for p in self.model.parameters())

    def loss_gradients(
        self, inputs: torch.Tensor, labels: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Gradients of the loss, name -> (B, ...), and losses (B,), by a loop of backward()."""
        rows: dict[str, list[torch.Tensor]] = {name: [] for name, _ in self.model.named_parameters()}
        losses = []
        for x, y in zip(inputs, labels, strict=True):
            self.model.zero_grad()
            loss = torch.nn.functional.cross_entropy(self.model(x), y)
            loss.backward()
            losses.append(loss.detach())
            for name, p in self.model.named_parameters():
                assert p.grad is not None
                rows[name].append(p.grad.clone())
        return {name: torch.stack(each) for name, each in rows.items()}, torch.stack(losses)


@pytest.mark.parametrize("ridge", [0.0, 0.5], ids=["undamped", "damped"])
def test_traker(tmp_path: Path, ridge: float) -> None:
    world = World()
    # Two blocks: the projector's single-block form cannot project targets after `finalize_features` (0.3.2).
    projector = trak.projectors.BasicProjector(
        world.n_parameters, PROJECTED, 0, "normal", "cpu", block_size=PROJECTED // 2
    )
    peer = trak.TRAKer(
        model=world.model,
        task="image_classification",
        train_set_size=N,
        save_dir=str(tmp_path),
        device="cpu",
        projector=projector,
        use_half_precision=False,
        lambda_reg=ridge,
        logging_level=40,
    )
    checkpoint = {name: value.clone() for name, value in world.model.state_dict().items()}
    peer.load_checkpoint(checkpoint, model_id=0)
    peer.featurize([world.inputs, world.labels], num_samples=N)
    features = np.array(peer.saver.current_store["grads"])  # (n, d), of f, over sqrt(parameters)
    q = np.array(peer.saver.current_store["out_to_loss"])[:, 0]
    gradients, losses = world.loss_gradients(world.inputs, world.labels)
    target_gradients, _ = world.loss_gradients(world.targets, world.target_labels)
    sketches, targets = (
        -projector.project(each, model_id=0).numpy() for each in (gradients, target_gradients)
    )
    peer.finalize_features()
    peer.start_scoring_checkpoint("targets", checkpoint, 0, num_targets=T)
    peer.score([world.targets, world.target_labels], num_samples=T)
    theirs = np.array(peer.finalize_scores("targets")).astype(np.float64)  # (n, T)

    # The chain rule: our descent direction of the loss is q_i times their gradient of the margin.
    scale = np.sqrt(world.n_parameters)
    np.testing.assert_allclose(
        sketches, q[:, None] * features * scale, rtol=1e-3, atol=1e-4 * np.abs(sketches).max()
    )
    np.testing.assert_allclose(q, 1 - np.exp(-losses.numpy()), rtol=1e-4)

    damping = ridge * world.n_parameters  # theirs is added to X'X of the scaled gradients
    ours = Trak(sketches, np.ones(N), targets, losses.numpy(), damping).scores()
    same = Trak(q[:, None] * features * scale, np.ones(N), targets, losses.numpy(), damping).scores()
    for scores in (ours, same):
        factors = (scores * theirs).sum(0) / np.square(theirs).sum(0)
        assert (factors > 0).all()
        np.testing.assert_allclose(
            scores, factors * theirs, rtol=1e-3, atol=1e-4 * float(np.abs(scores).max())
        )
        np.testing.assert_array_less(1 - 1e-5, spearman(scores.T, theirs.T))
