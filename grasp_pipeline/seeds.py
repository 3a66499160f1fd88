"""Randomness by name: a draw depends on what it is for, never on when or in which order it is made."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np


def digest(*parts: Any) -> str:
    """Return a sha-256 hex digest of JSON-serialisable parts; equal parts give equal digests."""
    payload = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(payload.encode("utf-8", "surrogatepass")).hexdigest()


def seed_for(*name: str | int) -> int:
    """Return a 63-bit seed for a named draw, for example ``seed_for("subset", 3, "uniform")``."""
    return int(digest(*name)[:16], 16) >> 1


def generator(*name: str | int) -> np.random.Generator:
    """Return a NumPy generator for a named draw."""
    return np.random.Generator(np.random.PCG64(seed_for(*name)))
