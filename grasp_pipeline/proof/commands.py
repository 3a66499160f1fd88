"""`python -m grasp_pipeline prove|verify`: the two sides of an attribution proof, over folders of files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from grasp_pipeline.arrays import Floats
from grasp_pipeline.errors import ConfigError, InputError, boundary
from grasp_pipeline.proof.claim import Claim, make_claim
from grasp_pipeline.proof.exchange import (
    CHECKS,
    EPSILON,
    PAIRS,
    Plan,
    Verdict,
    answer,
    ask,
    judge,
    load_answer,
)
from grasp_pipeline.proof.residual import RHO


def add_commands(commands: Any) -> None:
    """Add `prove` and `verify` to a parser's commands."""
    command = commands.add_parser(
        "prove", help="publish an attribution that others can check, or answer a verifier"
    )
    command.add_argument("claim", type=Path, metavar="CLAIM", help="folder of the claim")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--features",
        type=Path,
        metavar="FILE",
        help="make the claim from a .npz or .safetensors file with features (N, d), labels (N,), query (d,) and, where "
        "they are not to be fitted, attributions (N,)",
    )
    what.add_argument(
        "--answer", type=Path, metavar="CHALLENGE", help="train what a verifier's folder asks for"
    )
    command.add_argument(
        "--damping", type=float, default=1.0, metavar="LAMBDA", help="of the head; default 1"
    )
    command.set_defaults(run=prove)
    command = commands.add_parser(
        "verify", help="check a published attribution, alone or by asking the prover"
    )
    command.add_argument("claim", type=Path, metavar="CLAIM", help="folder of the claim")
    who = command.add_mutually_exclusive_group()
    who.add_argument(
        "--ask", type=Path, metavar="CHALLENGE", help="write private questions for the prover and stop"
    )
    who.add_argument(
        "--answer", type=Path, metavar="CHALLENGE", help="judge by the prover's answer in this folder"
    )
    command.add_argument(
        "--pairs", type=int, default=PAIRS, metavar="M", help=f"pairs of subsets; default {PAIRS}"
    )
    command.add_argument(
        "--epsilon", type=float, default=EPSILON, help=f"share of the variance let pass; default {EPSILON}"
    )
    command.add_argument(
        "--checks",
        type=int,
        default=CHECKS,
        metavar="K",
        help=f"answered heads trained again; default {CHECKS}",
    )
    command.add_argument(
        "--seed", type=int, help="of the subsets, to repeat a verdict; default: drawn, nobody knows it"
    )
    command.set_defaults(run=verify)


def prove(options: argparse.Namespace) -> str:
    """Make a claim, or answer a verifier's questions."""
    if options.answer is not None:
        trained = answer(Claim.load(options.claim), options.answer)
        return f"{trained:,} heads were trained; send {options.answer} back to the verifier"
    arrays = load_arrays(options.features)
    missing = [name for name in ("features", "labels", "query") if name not in arrays]
    if missing:
        raise InputError(
            f"{options.features} has no array {missing[0]!r}; features, labels and query are needed"
        )
    given = [np.asarray(arrays[name], dtype=np.float64) for name in ("features", "labels", "query")]
    features, labels, query = given
    if "attributions" in arrays:
        claim = Claim(
            features, labels, options.damping, query, np.asarray(arrays["attributions"], dtype=np.float64)
        )
    else:
        claim = make_claim(features, labels, options.damping, query)
    claim.save(options.claim)
    return f"claim {claim.digest[:12]} about {claim.n:,} rows stands in {options.claim}; publish the folder"


def load_arrays(file: Path) -> dict[str, Floats]:
    """Return the arrays of a .npz (nothing is unpickled) or .safetensors file."""
    from safetensors.numpy import load_file

    with boundary(InputError, f"{file} cannot be read", "give a .npz or .safetensors file of plain arrays"):
        if file.suffix == ".safetensors":
            return load_file(file)
        with np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}


def secret_of(challenge: Path) -> Path:
    """Return where the verifier keeps what it asked: beside the folder, not in it."""
    return challenge.with_name(f"{challenge.name}.secret.json")


def verify(options: argparse.Namespace) -> str:
    """Ask, or judge; a rejected claim is an error."""
    claim = Claim.load(options.claim)
    if options.ask is not None:
        plan = Plan.drawn(claim, options.pairs, RHO, options.seed)
        ask(plan, options.ask)
        plan.save(secret_of(options.ask))
        return (
            f"{2 * plan.pairs:,} subsets are asked for in {options.ask}; send the prover that folder, and keep "
            f"{secret_of(options.ask)} to yourself until it has answered"
        )
    if options.answer is not None:
        plan = Plan.load(secret_of(options.answer))
        verdict = judge(
            claim, plan, load_answer(claim, plan, options.answer), options.epsilon, options.checks
        )
    else:
        verdict = judge(claim, Plan.drawn(claim, options.pairs, RHO, options.seed), None, options.epsilon)
    if not verdict.accepted:
        raise RejectedClaim(f"the claim in {options.claim} is rejected: {verdict.reason}\n{words(verdict)}")
    return f"accepted: {verdict.reason}\n{words(verdict)}"


class RejectedClaim(ConfigError):
    """The verdict on a claim that does not hold, and its numbers; a command ends with status 1."""

    keeps_lines = True


def words(verdict: Verdict) -> str:
    """Return the numbers of a verdict."""
    checked = f"{verdict.failed} of {verdict.checks} checked heads differ; " if verdict.checks else ""
    return (
        f"error {verdict.error:.4f} of the variance, of it unavoidable {verdict.unavoidable:.4f}, excess "
        f"{verdict.excess:.4f} (at most {verdict.epsilon:g}); {checked}{verdict.trained:,} heads trained here"
    )
