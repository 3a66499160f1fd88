"""The per-batch influence filter in reinforcement learning: PPO with and without it (arXiv 2505.19281).

    .venv/bin/python examples/filtered_ppo.py

Two worlds: the lake of gymnasium's FrozenLake-v1 (4 x 4, written out for many walkers; slippery or firm) and its
CartPole-v1 (`pip install gymnasium`; without it that world is left out). A tenth of the records is spoilt: the sign of
their advantage is turned. Before each update of the policy every record's gradient is compared with that of the return,
E[A log pi(a|s)] over the batch, and a share of the records that go against it is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grasp_pipeline.proxy.batch_filter import alignments, dropped
from grasp_pipeline.seeds import generator

ROUNDS, EPOCHS = 40, 4
DISCOUNT, TRACE, CLIP, SPOILT, SHARE = 0.99, 0.95, 0.2, 0.1, 0.5

Parameters = dict[str, Tensor]
Array = NDArray[Any]


class World(Protocol):
    """Walkers that act at once, with the policy and the values that fit them.

    Attributes:
        walkers, steps: of one round. weights: the policy's at the start. seen: (W, ...) what walkers see now.
    """

    walkers: int
    steps: int
    weights: Parameters
    seen: Array

    def logits(self, weights: Parameters, seen: Tensor) -> Tensor:
        """Return what the policy says of each action: (n, actions)."""
        ...

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Act, and return what was seen then, rewards, whether an episode failed or reached its goal, whether it ended
        at all, and whether this was a move: a walker may spend a step on starting again. (W,) each."""
        ...

    def values(self, seen: Array) -> Array:
        """Return the expected return from there on: (n,)."""
        ...

    def learn(self, seen: Array, errors: Array) -> None:
        """Bring the values nearer to what was reached: errors (n,) of them."""
        ...

    def optimizer(self, weights: list[Tensor]) -> torch.optim.Optimizer:
        """Return what updates the policy."""
        ...


class Lake:
    """FrozenLake-v1, 4 x 4: tables for policy and values; on slippery ice a move goes one beside in two thirds."""

    walkers, steps = 32, 32
    _map = np.array(list("SFFFFHFHFFFHHFFG"))
    _moves = np.array([[0, -1], [1, 0], [0, 1], [-1, 0]])

    def __init__(self, draw: np.random.Generator, slippery: bool) -> None:
        """Start all walkers at the first field."""
        self._draw, self._slippery = draw, slippery
        self.weights: Parameters = {"table": torch.zeros(16, 4)}
        self.seen: Array = np.zeros(self.walkers, dtype=np.int64)
        self._age, self._values = np.zeros(self.walkers, dtype=int), np.zeros(16)

    def logits(self, weights: Parameters, seen: Tensor) -> Tensor:
        """Look the fields up."""
        return weights["table"][seen]

    def slide(self, fields: Array, actions: Array) -> Array:
        """Return the next fields."""
        turned = actions + self._slippery * self._draw.integers(-1, 2, len(actions))
        moves = self._moves[turned % 4]
        rows = np.clip(fields // 4 + moves[:, 0], 0, 3)
        return rows * 4 + np.clip(fields % 4 + moves[:, 1], 0, 3)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Slide; an episode lasts 100 steps at most."""
        then = self.slide(self.seen, actions)
        self._age += 1
        won = self._map[then] == "G"
        over = won | (self._map[then] == "H")
        ends = over | (self._age >= 100)
        self.seen, self._age = np.where(ends, 0, then), np.where(ends, 0, self._age)
        return then, won.astype(float), over, ends, np.ones(len(then), dtype=bool)

    def values(self, seen: Array) -> Array:
        """Look the fields up."""
        return self._values[seen]

    def learn(self, seen: Array, errors: Array) -> None:
        """Go half of the way on every field."""
        self._values += 0.5 * np.bincount(seen, errors, 16) / np.maximum(np.bincount(seen, minlength=16), 1)

    def optimizer(self, weights: list[Tensor]) -> torch.optim.Optimizer:
        """Plain ascent, a unit step on every field."""
        return torch.optim.SGD(weights, lr=16.0)


class Cart:
    """CartPole-v1 of gymnasium: a network of 32 hidden units; values are quadratic in what is seen."""

    walkers, steps = 16, 64

    def __init__(self, draw: np.random.Generator) -> None:
        """Start all carts."""
        from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

        self._world = CartPoleVectorEnv(num_envs=self.walkers)
        self.seen: Array = self._world.reset(seed=int(draw.integers(2**31)))[0]
        self._resting = np.zeros(self.walkers, dtype=bool)
        self._coefficients = np.zeros(15)
        self.weights: Parameters = {
            "hidden": torch.from_numpy(draw.normal(0, 0.5, (4, 32))).float(),
            "shift": torch.zeros(32),
            "out": torch.from_numpy(draw.normal(0, 0.01, (32, 2))).float(),
        }

    def logits(self, weights: Parameters, seen: Tensor) -> Tensor:
        """One hidden layer."""
        return torch.tanh(seen @ weights["hidden"] + weights["shift"]) @ weights["out"]

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, Array]:
        """Push; after its end a cart spends one step on starting again."""
        then, rewards, over, late, _ = self._world.step(actions)
        moved = ~self._resting
        self.seen, self._resting = then, over | late
        return then, rewards, over, over | late, moved

    def _features(self, seen: Array) -> Array:
        pairs = [seen[:, i] * seen[:, j] for i in range(4) for j in range(i, 4)]
        return np.column_stack([np.ones(len(seen)), seen, *pairs])

    def values(self, seen: Array) -> Array:
        """Evaluate the quadratic form."""
        return self._features(seen) @ self._coefficients

    def learn(self, seen: Array, errors: Array) -> None:
        """Fit the errors by ridge regression and add what was found."""
        x = self._features(seen)
        self._coefficients += np.linalg.solve(x.T @ x + 1e-3 * len(x) * np.eye(15), x.T @ errors)

    def optimizer(self, weights: list[Tensor]) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(weights, lr=0.01)


WORLDS: dict[str, Callable[[np.random.Generator], World]] = {
    "slippery ice": lambda draw: Lake(draw, slippery=True),
    "firm ice": lambda draw: Lake(draw, slippery=False),
    "cart and pole": Cart,
}


@dataclass
class Outcome:
    """returns: (ROUNDS,) rewards per episode that ended, goals on ice and steps on the cart.

    enrichment: how many times as often a record that is left out is spoilt as one of the batch.
    """

    returns: np.ndarray
    enrichment: float


def train(seed: int, share: float, name: str = "slippery ice", running: float = 0.0) -> Outcome:
    """Train a policy.

    Args:
        seed: of all draws.
        share: of the records against the target, how many are left out (0: off).
        name: of the world.
        running: share of the last update's target in this one's, below 1: single batches may be noisy.
    """
    draw = generator("frozen lake", seed)
    world = WORLDS[name](draw)
    weights = {key: each.clone().requires_grad_() for key, each in world.weights.items()}
    optimizer = world.optimizer(list(weights.values()))
    wanted = {key: torch.zeros_like(each) for key, each in weights.items()}
    returns, gone, spoilt_gone = np.zeros(ROUNDS), 0, 0
    for turn in range(ROUNDS):
        seen, actions, advantages, returns[turn] = played(world, weights, draw)
        world.learn(seen, advantages)
        spoilt = draw.random(len(advantages)) < SPOILT
        given = np.where(spoilt, -advantages, advantages)
        weight = torch.from_numpy((given - given.mean()) / (given.std() + 1e-8)).float()
        where, what = torch.from_numpy(seen), torch.from_numpy(actions)

        def told(parameters: Parameters) -> Tensor:
            logits = torch.log_softmax(world.logits(parameters, where), 1)  # noqa: B023
            return logits.gather(1, what[:, None])[:, 0]  # noqa: B023

        before = told(weights).detach()

        def losses(parameters: Parameters) -> Tensor:
            ratio = (told(parameters) - before).exp()  # noqa: B023
            return -torch.minimum(ratio * weight, ratio.clamp(1 - CLIP, 1 + CLIP) * weight)  # noqa: B023

        for _ in range(EPOCHS):
            kept = torch.ones(len(weight), dtype=torch.bool)
            if share:
                slopes = torch.autograd.grad(-(weight * told(weights)).mean(), list(weights.values()))
                for key, slope in zip(weights, slopes, strict=True):
                    wanted[key] = running * wanted[key] + (1 - running) * slope
                kept = ~dropped(alignments(losses, weights, wanted)[None], share)[0]
                gone += int((~kept).sum())
                spoilt_gone += int((~kept.numpy() & spoilt).sum())
            optimizer.zero_grad()
            losses(weights)[kept].mean().backward()
            optimizer.step()
    return Outcome(returns, spoilt_gone / max(1, gone) / SPOILT)


def played(world: World, weights: Parameters, draw: np.random.Generator) -> tuple[Array, Array, Array, float]:
    """Play one round; returns what was seen, actions and advantages of all moves, and rewards per episode."""
    shape = (world.steps, world.walkers)
    seen, taken = [], np.zeros(shape, dtype=np.int64)
    rewards, errors, advantages = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    ends, moved = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for step in range(world.steps):
        seen.append(world.seen)
        with torch.no_grad():
            chances = torch.softmax(world.logits(weights, torch.from_numpy(world.seen)), 1).numpy()
        taken[step] = (draw.random((world.walkers, 1)) > chances.cumsum(1)[:, :-1]).sum(1)
        then, rewards[step], over, ends[step], moved[step] = world.step(taken[step])
        errors[step] = rewards[step] + DISCOUNT * world.values(then) * ~over - world.values(seen[step])
    running = np.zeros(world.walkers)
    for step in reversed(range(world.steps)):
        running = errors[step] + DISCOUNT * TRACE * running * ~ends[step]
        advantages[step] = running
    places = np.concatenate(seen)[moved.flatten()]
    score = float(rewards.sum() / max(1, ends.sum()))
    return places, taken.flatten()[moved.flatten()], advantages.flatten()[moved.flatten()], score


if __name__ == "__main__":
    for name in WORLDS:
        if name == "cart and pole" and find_spec("gymnasium") is None:
            print(f"{name}: left out, since gymnasium is not installed (pip install gymnasium)")
            continue
        for how, share in (("without the filter", 0.0), ("with it", SHARE)):
            runs = [train(seed, share, name) for seed in range(3)]
            late = np.mean([run.returns[-10:].mean() for run in runs])
            print(f"{name}, {how}: {late:.2f} per episode in the last ten rounds, 3 seeds", end="")
            enriched = np.mean([run.enrichment for run in runs])
            print(f"; what is left out is spoilt {enriched:.2f} times as often as the batch" if share else "")
