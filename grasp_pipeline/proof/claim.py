"""What a prover publishes: the training rows, how a head is trained on a subset of them, and one number per row."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.attribution.convex.head import checked, fit_head, fit_subsets
from grasp_pipeline.errors import InputError, boundary
from grasp_pipeline.seeds import generator

FORMAT = "grasp_pipeline attribution proof 1"
ARRAYS = ("features", "labels", "query", "attributions")
PER_ROW = 20
"""Heads retrained per row for the attributions that are fitted here."""


@dataclass(frozen=True, eq=False)
class Claim:
    """A linear attribution of f(x), the query's margin under the head that was trained on the rows of a subset x.

    Attributes:
        features: (N, d) float64; labels: (N,) 0 or 1; damping: lambda of the head.
        query: (d,), so that f(x) = <query, theta(x)>.
        attributions: (N,): what a row's presence in the subset adds to f.

    Raises:
        InputError: shapes differ, or a value is not finite.
        ConfigError: the damping is not above 0.
    """

    features: Floats
    labels: Floats
    damping: float
    query: Floats
    attributions: Floats

    def __post_init__(self) -> None:
        checked(self.features, self.labels, self.damping)
        n, d = self.features.shape
        if self.query.shape != (d,) or self.attributions.shape != (n,):
            raise InputError(
                f"a query of shape {self.query.shape} and attributions of shape {self.attributions.shape} do not "
                f"belong to features of shape {(n, d)}"
            )
        if not (np.isfinite(self.query).all() and np.isfinite(self.attributions).all()):
            raise InputError("the query or an attribution is not finite")

    @property
    def n(self) -> int:
        """Training rows."""
        return len(self.labels)

    @cached_property
    def start(self) -> Floats:
        """Parameters (d,) where every retraining begins; where it ends does not depend on it."""
        return fit_head(self.features, self.labels, self.damping).theta

    @cached_property
    def digest(self) -> str:
        """sha-256 of everything that is claimed."""
        whole = hashlib.sha256(json.dumps([FORMAT, self.damping, list(self.features.shape)]).encode())
        for name in ARRAYS:
            whole.update(np.ascontiguousarray(getattr(self, name), dtype="<f8").tobytes())
        return whole.hexdigest()

    def train(self, memberships: Bools) -> Floats:
        """Return theta (m, d) of heads trained on subsets (m, N)."""
        return fit_subsets(self.features, self.labels, self.damping, memberships, self.start)

    def linear(self, memberships: Bools) -> Floats:
        """Return (m,) what the attributions say of subsets, without the intercept that nobody claims."""
        return memberships @ self.attributions

    def save(self, folder: Path) -> None:
        """Write `claim.json` and `claim.safetensors`."""
        about = {"format": FORMAT, "digest": self.digest, "damping": self.damping, "rows": self.n}
        about |= {
            "claims": "what each row adds to the query's margin of a logistic regression trained on a subset"
        }
        write(folder, "claim", about, {name: getattr(self, name) for name in ARRAYS})

    @classmethod
    def load(cls, folder: Path) -> Claim:
        """Read a claim.

        Raises:
            InputError: a file is missing or damaged, of another format, or not what its digest says.
        """
        about, arrays = read(folder, "claim", ARRAYS)
        with boundary(
            InputError, f"{folder / 'claim.json'} is incomplete", "ask the prover for the folder again"
        ):
            damping, digest = float(about["damping"]), str(about["digest"])
        features, labels, query, attributions = (arrays[name] for name in ARRAYS)
        claim = cls(features, labels, damping, query, attributions)
        if claim.digest != digest:
            raise InputError(
                f"the claim in {folder} is not what its digest says; it was changed after it was made"
            )
        return claim


def make_claim(
    features: Floats, labels: Floats, damping: float, query: Floats, retrainings: int = 0, *name: str | int
) -> Claim:
    """Return the claim of an honest prover: least squares over heads retrained on random subsets (a datamodel).

    retrainings: 0 for `PER_ROW` for every row. Errors as in `Claim`.
    """
    n = len(labels)
    blank = Claim(features, labels, damping, query, np.zeros(n))
    draw = generator("prover", blank.digest, *name)
    members = draw.random((retrainings or PER_ROW * n, n)) < 0.5
    outputs = blank.train(members) @ query
    columns = np.concatenate([np.ones((len(members), 1)), members], axis=1)
    fitted = np.asarray(np.linalg.lstsq(columns, outputs, rcond=None)[0], dtype=np.float64)
    return Claim(features, labels, damping, query, fitted[1:])


def write(folder: Path, name: str, about: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    """Write NAME.json and NAME.safetensors; the folder is made."""
    from safetensors.numpy import save_file

    with boundary(InputError, f"nothing can be written to {folder}", "name a folder that is writable"):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {key: np.ascontiguousarray(each) for key, each in arrays.items()}, folder / f"{name}.safetensors"
        )
        (folder / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def read(folder: Path, name: str, arrays: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `write` wrote.

    Raises:
        InputError: a file is missing or damaged, or of another format; an array is missing.
    """
    from safetensors.numpy import load_file

    remedy = "name the folder that the other side sent, with its .json and .safetensors"
    with boundary(InputError, f"{folder / name}.json cannot be read", remedy):
        about = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        said = about.get("format")
    if said != FORMAT:
        raise InputError(f"{folder / name}.json has the format {said!r}, not {FORMAT!r}")
    with boundary(InputError, f"{folder / name}.safetensors cannot be read", remedy):
        found = load_file(folder / f"{name}.safetensors")
    missing = [key for key in arrays if key not in found]
    if missing:
        raise InputError(f"{folder / name}.safetensors has no array {missing[0]!r}")
    return about, found
