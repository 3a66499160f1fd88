"""Grounds of the downstream study by name, and where what was measured on them is kept."""

from __future__ import annotations

from pathlib import Path

from benchmarks.downstream.settings import DownstreamSettings, GroundSettings
from benchmarks.fidelity import laboratory
from grasp_pipeline.names import MEAN
from grasp_pipeline.seeds import digest

VERSION = "4"
"""Part of a finished case's file name; raised when what a case holds changes."""

CONTESTS = "2"
"""Likewise for its repeated contests: raised when what a certificate says of the same runs changes."""

KINDS = ("main", "coverage")


def size_of(settings: DownstreamSettings, kind: str) -> GroundSettings:
    """Return the sizes of a kind of ground."""
    return settings.main if kind == "main" else settings.coverage


def ground_names(settings: DownstreamSettings) -> list[str]:
    """Return KIND/CORPUS/SEED of every ground, the ones of full size first."""
    return [
        f"{kind}/{corpus}/{seed}"
        for kind in KINDS
        for seed in size_of(settings, kind).seeds
        for corpus in settings.corpora
    ]


def case_files(settings: DownstreamSettings, ground: str) -> dict[str, Path]:
    """Return target -> where its finished case lies."""
    kind, corpus, _ = ground.split("/")
    size = size_of(settings, kind).model_copy(update={"seeds": [0]})
    shared = settings.model_dump(
        exclude={"corpora", "targets", "main", "coverage", "coverage_repeats", "shortlist"}
    )
    key = digest(VERSION, shared, size.model_dump(), settings.corpora[corpus], settings.targets[corpus])[:12]
    folder = laboratory() / "downstream" / ground
    return {
        target: folder / f"case-{target}-{key}.npz" for target in (*sorted(settings.targets[corpus]), MEAN)
    }


def contest_files(settings: DownstreamSettings, ground: str) -> dict[str, Path]:
    """Return target -> where its repeated contests lie; none for a ground of full size."""
    if ground.split("/")[0] != "coverage":
        return {}
    key = f"contests-{CONTESTS}-{settings.coverage_repeats}"
    return {
        target: path.with_name(path.name.replace("case", key, 1))
        for target, path in case_files(settings, ground).items()
    }
