"""The per-batch influence filter in reinforcement learning: PPO on FrozenLake, with and without it (arXiv 2505.19281).

    .venv/bin/python examples/filtered_ppo.py

The lake is that of gymnasium (FrozenLake-v1, 4 x 4), written out for many walkers at once. A tenth of the records is
spoilt: the sign of their advantage is turned. Before each update of the policy every record's gradient is compared with
that of the return, E[A log pi(a|s)] over the batch, and half of the records that go against it are left out.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grasp_pipeline.proxy.batch_filter import alignments, dropped
from grasp_pipeline.seeds import generator

MAP = "SFFFFHFHFFFHHFFG"
WALKERS, STEPS, ROUNDS, EPOCHS = 32, 32, 40, 4
DISCOUNT, TRACE, CLIP, RATE, SPOILT, SHARE = 0.99, 0.95, 0.2, 1.0, 0.1, 0.5
MOVES = np.array([[0, -1], [1, 0], [0, 1], [-1, 0]])


@dataclass
class Outcome:
    """returns: (ROUNDS,) goals reached per episode.

    enrichment: how many times as often a record that is left out is spoilt as one of the batch.
    """

    returns: np.ndarray
    enrichment: float


def slide(states: np.ndarray, actions: np.ndarray, slippery: bool, draw: np.random.Generator) -> np.ndarray:
    """Return the next states (n,): the move that was asked for; on slippery ice with two thirds one beside it."""
    moves = MOVES[(actions + slippery * draw.integers(-1, 2, len(actions))) % 4]
    rows, columns = np.clip(states // 4 + moves[:, 0], 0, 3), np.clip(states % 4 + moves[:, 1], 0, 3)
    return rows * 4 + columns


def train(seed: int, share: float, slippery: bool = True) -> Outcome:
    """Train a tabular policy and value; share: of the records against the target, how many are left out (0: off)."""
    draw = generator("frozen lake", seed)
    logits, values = torch.zeros(16, 4), np.zeros(16)
    state, age = np.zeros(WALKERS, dtype=int), np.zeros(WALKERS, dtype=int)
    kind = np.array(list(MAP))
    returns, gone, spoilt_gone = np.zeros(ROUNDS), 0, 0
    for turn in range(ROUNDS):
        seen, taken, rewards, ends = (np.zeros((STEPS, WALKERS), dtype=t) for t in (int, int, float, bool))
        bootstrap = np.zeros((STEPS, WALKERS))
        policy = torch.softmax(logits, 1).numpy()
        for step in range(STEPS):
            seen[step] = state
            taken[step] = (draw.random((WALKERS, 1)) > policy[state].cumsum(1)[:, :3]).sum(1)
            state = slide(state, taken[step], slippery, draw)
            age += 1
            rewards[step] = kind[state] == "G"
            over = (kind[state] == "G") | (kind[state] == "H")
            bootstrap[step] = values[state] * ~over
            ends[step] = over | (age >= 100)
            state, age = np.where(ends[step], 0, state), np.where(ends[step], 0, age)
        errors = rewards + DISCOUNT * bootstrap - values[seen]
        advantages, running = np.zeros_like(errors), np.zeros(WALKERS)
        for step in reversed(range(STEPS)):
            running = errors[step] + DISCOUNT * TRACE * running * ~ends[step]
            advantages[step] = running
        visits = np.bincount(seen.flatten(), minlength=16)
        values += 0.5 * np.bincount(seen.flatten(), advantages.flatten(), 16) / np.maximum(visits, 1)
        returns[turn] = rewards.sum() / max(1, ends.sum())
        states, actions = torch.from_numpy(seen.flatten()), torch.from_numpy(taken.flatten())
        clean = advantages.flatten()
        spoilt = draw.random(len(clean)) < SPOILT
        given = np.where(spoilt, -clean, clean)
        weight = torch.from_numpy((given - given.mean()) / (given.std() + 1e-8)).float()
        before = torch.log_softmax(logits, 1)[states, actions]

        def losses(parameters: dict[str, Tensor]) -> Tensor:
            ratio = (torch.log_softmax(parameters["logits"], 1)[states, actions] - before).exp()  # noqa: B023
            return -torch.minimum(ratio * weight, ratio.clamp(1 - CLIP, 1 + CLIP) * weight)  # noqa: B023

        for _ in range(EPOCHS):
            parameters = {"logits": logits.clone().requires_grad_()}
            kept = torch.ones(len(weight), dtype=torch.bool)
            if share:
                told = torch.log_softmax(parameters["logits"], 1)[states, actions]
                (wanted,) = torch.autograd.grad(-(weight * told).mean(), [parameters["logits"]])
                kept = ~dropped(alignments(losses, parameters, {"logits": wanted})[None], share)[0]
                gone += int((~kept).sum())
                spoilt_gone += int((~kept.numpy() & spoilt).sum())
            (slope,) = torch.autograd.grad(losses(parameters)[kept].mean(), [parameters["logits"]])
            logits = logits - RATE * len(MAP) * slope
    return Outcome(returns, spoilt_gone / max(1, gone) / SPOILT)


if __name__ == "__main__":
    for slippery in (True, False):
        for name, share in (("without the filter", 0.0), ("with it", SHARE)):
            runs = [train(seed, share, slippery) for seed in range(3)]
            late = np.mean([run.returns[-10:].mean() for run in runs])
            ice = "slippery" if slippery else "firm"
            print(f"{ice} ice, {name}: {late:.2f} goals per episode in the last ten rounds, 3 seeds", end="")
            enriched = np.mean([run.enrichment for run in runs])
            print(f"; what is left out is spoilt {enriched:.2f} times as often as the batch" if share else "")
