"""Sketches in fewer dimensions: a linear projection fitted on a sample by principal components.

Let C = sum_i w_i phi_i phi_i' / sum_i w_i be the second moment of the sketches, weighted by tokens and *not* centred,
with eigenvalues l_1 >= l_2 >= ..., and P (d, k) its first k eigenvectors. Every sketch is replaced by P' phi. With x^
the part of x outside the span of P:

    <x, y> - <P'x, P'y> = <x^, y^>                      for any two directions,
    mean_i (<r, phi_i> - <P'r, P'phi_i>)^2 = r^' C r^  <= l_{k+1} |r|^2     for any target r, in the sample or not,
    |mu|^2 - |P'mu|^2 = |mu^|^2,  mean_i |phi_i^|^2 = l_{k+1} + l_{k+2} + ...

No other projection to k dimensions has a smaller largest error over r (Courant-Fischer) or loses less of the squared
norms (Eckart-Young). The moment is not centred because inner products and norms of means are what everything
downstream is made of: a centred fit may drop the common mean of the sketches, the larger part of |mu|^2, and to
subtract it instead would not be linear. Being linear, the projection commutes with means: a task's direction is
projected as a chunk is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from grasp_pipeline.errors import InputError, StoreError
from grasp_pipeline.sketch.protocol import Sketcher

FILE = "projection.safetensors"

_LEAST_SAMPLE, _SAMPLES_PER_DIMENSION = 4096, 4
_HELD_OUT = 5
"""Every so manieth chunk of the sample is left out of the fit, to say what the projection keeps."""


@dataclass(frozen=True)
class Projection:
    """P and what it keeps.

    basis: (d, k) float32, orthonormal columns. kept: share of the squared norms of chunks outside of the fit.
    """

    basis: NDArray[np.float32]
    kept: float

    def save(self, folder: Path) -> None:
        """Write the file FILE into a folder."""
        from safetensors.numpy import save_file

        save_file({"basis": np.ascontiguousarray(self.basis)}, folder / FILE, {"kept": repr(self.kept)})

    @classmethod
    def load(cls, folder: Path) -> Projection:
        """Read what `save` wrote.

        Raises:
            StoreError: the file cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(folder / FILE, "numpy") as file:
                return cls(file.get_tensor("basis"), float(file.metadata()["kept"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{folder / FILE} is no projection of sketches ({error}); delete its folder and materialize sketchers "
                "again"
            ) from error


def sample_size(dimension: int) -> int:
    """Return how many chunks a projection to so many dimensions is fitted and judged on."""
    return max(_LEAST_SAMPLE, _SAMPLES_PER_DIMENSION * dimension)


def sample_chunks(frames: Iterable[pl.DataFrame], count: int, seed: int) -> pl.DataFrame:
    """Return the `count` chunks of lowest seeded digest of their ids, in that order: the same in any order of frames.

    frames: with a column chunk_id; besides the sample one is held at a time.
    """
    held: pl.DataFrame | None = None
    for frame in frames:
        keys = [_key(chunk_id, seed) for chunk_id in frame["chunk_id"]]
        found = frame.with_columns(key=pl.Series(keys, dtype=pl.UInt64))
        if held is not None and held.height == count:
            found = found.filter(pl.col("key") <= held["key"][-1])
        held = found if held is None else pl.concat([held, found])
        held = held.sort("key", "chunk_id").head(count)
    if held is None:
        raise InputError("there are no chunks to fit a projection on; materialize tokenized_shards first")
    return held.drop("key")


def _key(chunk_id: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{chunk_id}".encode(), digest_size=8).digest())


def fit_projection(
    sketches: NDArray[np.floating[Any]], n_tokens: NDArray[np.integer], dimension: int
) -> Projection:
    """Fit on four fifths of a sample and measure what is kept on the others.

    Args:
        sketches: (n, d).
        n_tokens: (n,) weights.
        dimension: k, below d.

    Raises:
        InputError: fewer than k chunks are left for the fit.
    """
    held = np.arange(len(sketches)) % _HELD_OUT == _HELD_OUT - 1
    basis = principal_directions(sketches[~held], n_tokens[~held], dimension)
    judged = held if held.any() else ~held
    return Projection(basis, kept_share(sketches[judged], n_tokens[judged], basis))


def principal_directions(
    sketches: NDArray[np.floating[Any]], n_tokens: NDArray[np.integer], dimension: int
) -> NDArray[np.float32]:
    """Return the first k eigenvectors (d, k) of the token-weighted second moment of (n, d) sketches.

    Raises:
        InputError: n < k.
    """
    from scipy.linalg import eigh

    n, d = sketches.shape
    if n < dimension:
        raise InputError(
            f"{n} chunks of the sample are too few to fit {dimension} principal directions; lower sketchers.pca_dim"
        )
    rows = sketches.astype(np.float64) * np.sqrt(n_tokens / n_tokens.sum())[:, None]
    small = rows @ rows.T if n < d else rows.T @ rows
    last = len(small) - 1
    _, vectors = eigh(small, subset_by_index=(last - dimension + 1, last))
    vectors = vectors[:, ::-1]
    if n < d:
        # The columns are orthogonal but for rounding; their lengths are the singular values.
        vectors, _ = np.linalg.qr(rows.T @ vectors)
    return vectors.astype(np.float32)


def kept_share(
    sketches: NDArray[np.floating[Any]], n_tokens: NDArray[np.integer], basis: NDArray[np.float32]
) -> float:
    """Return the share of the token-weighted squared norms of (n, d) sketches that lies in a basis (d, k)."""
    share = n_tokens / n_tokens.sum()
    whole, inside = (
        float(share @ np.square(rows, dtype=np.float64).sum(axis=1)) for rows in (sketches, sketches @ basis)
    )
    return inside / whole if whole else 1.0


class PcaSketcher:
    """A sketcher whose sketches are projected: P' phi, k float32 values."""

    def __init__(
        self, sketcher: Sketcher, projection: Projection, device: torch.device | str = "cpu"
    ) -> None:
        """Wrap a sketcher.

        Raises:
            StoreError: the projection is of another dimension than its sketches.
        """
        given, self.d = projection.basis.shape
        if given != sketcher.d:
            raise StoreError(
                f"the stored projection is of {given} dimensions and the {sketcher.kind} sketch has {sketcher.d}; "
                "materialize sketchers again"
            )
        self.kind, self._sketcher, self._kept = sketcher.kind, sketcher, projection.kept
        self._basis = torch.from_numpy(projection.basis).to(device)

    def describe(self) -> dict[str, Any]:
        """Return the sketcher's own description and, as pca: from and to dimensions, and the share of norms kept."""
        describe = getattr(self._sketcher, "describe", None)
        told = describe() if describe is not None else {}
        return {**told, "pca": {"from": self._sketcher.d, "to": self.d, "kept": self._kept}}

    def sketch(self, rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Sketch a batch; see `Sketcher.sketch`."""
        sketches, losses = self._sketcher.sketch(rows, sizes)
        return sketches @ self._basis, losses
