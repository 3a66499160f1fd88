"""Questions and answers: the verifier's private subsets, the heads that a prover trains on them, and the verdict.

The verifier draws pairs of subsets after the claim was published, and keeps to itself which belong together. It may
train all heads itself; or the prover does, and the verifier trains a few of them again: tampering with a share q of
the heads goes unnoticed by k checks with probability (1 - q)^k. Neither number of heads depends on how many rows
there are.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.errors import ConfigError, InputError, boundary
from grasp_pipeline.proof.claim import FORMAT, Claim, read, write
from grasp_pipeline.proof.residual import RHO, Pairs, Residual, draw_pairs, residual_of
from grasp_pipeline.seeds import generator

PAIRS, EPSILON, CHECKS = 4000, 0.1, 60
TOLERANCE = 1e-6
"""Difference of a parameter from the verifier's own, relative to the largest, that rounding may make."""


@dataclass(frozen=True)
class Plan:
    """What the verifier alone knows: the seed of its subsets. claim: digest of what it asks about."""

    claim: str
    rows: int
    pairs: int
    rho: float
    seed: int

    @classmethod
    def drawn(cls, claim: Claim, pairs: int = PAIRS, rho: float = RHO, seed: int | None = None) -> Plan:
        """Return a plan; without a seed it is drawn by the operating system."""
        return cls(claim.digest, claim.n, pairs, rho, secrets.randbits(62) if seed is None else seed)

    @cached_property
    def subsets(self) -> Pairs:
        """The pairs."""
        return draw_pairs(self.rows, self.pairs, self.rho, generator("verifier", self.claim, self.seed))

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """(2 m,): where the subsets stand in what the prover is asked."""
        return generator("verifier order", self.claim, self.seed).permutation(2 * self.pairs)

    def questions(self) -> Bools:
        """Return the subsets (2 m, N) as the prover sees them."""
        return self.subsets.both[self.order]

    def save(self, file: Path) -> None:
        """Write it as JSON; the prover must not see it before it has answered."""
        about = {name: getattr(self, name) for name in ("claim", "rows", "pairs", "rho", "seed")}
        with boundary(InputError, f"{file} cannot be written", "name a folder that is writable"):
            file.write_text(json.dumps({"format": FORMAT, **about}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Plan:
        """Read it; InputError where it is missing or damaged."""
        with boundary(InputError, f"{file} cannot be read", "it was written where the question was asked"):
            told = json.loads(file.read_text(encoding="utf-8"))
            rows, pairs, seed = (int(told[name]) for name in ("rows", "pairs", "seed"))
            return cls(str(told["claim"]), rows, pairs, float(told["rho"]), seed)


@dataclass(frozen=True)
class Verdict:
    """error, unavoidable, excess: in shares of the variance of f; failed of checks heads were not what was answered."""

    accepted: bool
    reason: str
    error: float
    unavoidable: float
    excess: float
    epsilon: float
    checks: int
    failed: int
    trained: int


def ask(plan: Plan, folder: Path) -> None:
    """Write the questions for the prover."""
    packed = np.packbits(plan.questions(), axis=1)
    about = {"format": FORMAT, "claim": plan.claim, "rows": plan.rows, "digest": _digest(packed)}
    write(folder, "challenge", about, {"subsets": packed})


def answer(claim: Claim, folder: Path) -> int:
    """Train the heads that are asked for and write them beside the questions; returns how many.

    Raises:
        InputError: the questions are of another claim, or damaged.
    """
    about, arrays = read(folder, "challenge", ("subsets",))
    if about.get("claim") != claim.digest:
        raise InputError(f"the questions in {folder} are about another claim; answer them with that one")
    packed = arrays["subsets"]
    if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != -(-claim.n // 8):
        raise InputError(f"the questions in {folder} are not subsets of {claim.n} rows")
    members = np.unpackbits(packed, axis=1, count=claim.n).astype(bool)
    write(folder, "answer", {"format": FORMAT, "challenge": _digest(packed)}, {"theta": claim.train(members)})
    return len(members)


def load_answer(claim: Claim, plan: Plan, folder: Path) -> Floats:
    """Return the heads (2 m, d) of an answer, in the order of the questions.

    Raises:
        InputError: the answer is to other questions, or has another shape.
    """
    if plan.claim != claim.digest:
        raise InputError(
            f"the questions in {folder} were asked about another claim; give the folder of that one"
        )
    about, arrays = read(folder, "answer", ("theta",))
    theta, shape = arrays["theta"], (2 * plan.pairs, claim.features.shape[1])
    if about.get("challenge") != _digest(np.packbits(plan.questions(), axis=1)):
        raise InputError(f"the answer in {folder} is to other questions than those that were asked")
    if theta.shape != shape or theta.dtype != np.float64:
        raise InputError(f"the answer in {folder} has heads of shape {theta.shape}, not float64 of {shape}")
    return theta


def judge(
    claim: Claim,
    plan: Plan,
    answered: Floats | None = None,
    epsilon: float = EPSILON,
    checks: int = CHECKS,
    draw: np.random.Generator | None = None,
) -> Verdict:
    """Decide on a claim.

    Args:
        claim: what was published. plan: what was asked.
        answered: (2 m, d) heads of the prover; None: the verifier trains all of them.
        epsilon: excess error that is let pass, as a share of the variance of f.
        checks: answered heads that are trained again.
        draw: which ones; by default nobody can know.

    Raises:
        ConfigError: epsilon or checks is out of range.
    """
    if not 0 < epsilon < 1 or (answered is not None and not 0 < checks <= 2 * plan.pairs):
        raise ConfigError(
            f"epsilon {epsilon} must be between 0 and 1, and {checks} checks from 1 to {2 * plan.pairs}"
        )
    questions, failed = plan.questions(), 0
    if answered is None:
        theta, checks, trained = claim.train(questions), 0, len(questions)
    else:
        theta, trained = answered, checks
        which = (draw or np.random.default_rng(secrets.randbits(128))).choice(
            len(theta), checks, replace=False
        )
        failed = differing(claim, questions[which], theta[which])
    outputs = np.empty(len(theta))
    outputs[plan.order] = theta @ claim.query
    variance = float(outputs.var()) if np.isfinite(outputs).all() else 0.0
    found = measured(claim, plan.subsets, outputs) if variance > 0 else Residual(np.inf, 0.0)
    error, unavoidable, excess = (
        part / (variance or 1.0) for part in (found.error, found.unavoidable, found.excess)
    )
    if failed:
        reason = f"{failed} of {checks} heads that were trained again are not those of the answer"
    elif variance == 0:
        reason = "the answered heads give no finite, varying margins"
    elif excess > epsilon:
        reason = f"a better linear attribution leaves {excess:.3f} of the variance less unexplained, above {epsilon:g}"
    else:
        reason = f"within {epsilon:g} of the variance of the best linear attribution"
    return Verdict(
        not failed and excess <= epsilon, reason, error, unavoidable, excess, epsilon, checks, failed, trained
    )


def differing(claim: Claim, subsets: Bools, theta: Floats) -> int:
    """Return how many heads (k, d) are not those of their subsets (k, N)."""
    own = claim.train(subsets)
    near = np.abs(own - theta).max(axis=1) <= TOLERANCE * np.maximum(np.abs(own).max(axis=1), 1e-12)
    return int((~near).sum())


def measured(claim: Claim, subsets: Pairs, outputs: Floats) -> Residual:
    """Return the claim's error, from f on all subsets (2 m,) in the order of `Pairs.both`."""
    wrong = outputs - claim.linear(subsets.both)
    m = len(subsets.correlation)
    return residual_of(wrong[:m], wrong[m:], subsets.correlation)


def _digest(packed: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(packed).tobytes()).hexdigest()
