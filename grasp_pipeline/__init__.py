"""Which documents are worth training a language model on: the library's public face, for notebooks and scripts.

    sketch     `train_bpe`, `build_model`, `CausalLM`, `build_sketcher`, `sketch_chunks`
    predict    `Surrogate`
    fit        `Configuration`, `choose_configuration`: the lower confidence bound on retrained subsets
    optimise   `optimise`: the corpus that maximises the surrogate at a token budget
    measure    `Job`, `Recipe`, `TextStream`, `retrain`
    explain    `drop_reasons`: why every other chunk was left out, and the kept one most like it
    certify    `Evidence`, `Entrants`, `cross_fit`, `Certificate`

Nothing is loaded before it is used. `examples/select_corpus.py` runs through it in a few lines; everything else, and
everything that knows Dagster, lies in the modules.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grasp_pipeline.arrays import TokenLists
    from grasp_pipeline.attribution.surrogate import Surrogate
    from grasp_pipeline.calibration.lcb import Configuration, choose_configuration
    from grasp_pipeline.config import ProxyConfig, SketchConfig
    from grasp_pipeline.corpus.tokenizer import train_bpe
    from grasp_pipeline.proxy.objective import CausalLM, pad_chunks
    from grasp_pipeline.proxy.packing import TextStream
    from grasp_pipeline.proxy.presets import build_model
    from grasp_pipeline.proxy.retrain import Job, retrain
    from grasp_pipeline.proxy.training import Recipe
    from grasp_pipeline.selection.certification.certificate import Certificate
    from grasp_pipeline.selection.certification.cross_fit import Entrants, cross_fit
    from grasp_pipeline.selection.certification.evidence import Evidence
    from grasp_pipeline.selection.explanation.reasons import drop_reasons
    from grasp_pipeline.selection.solver.optimiser import optimise
    from grasp_pipeline.sketch.build import build_sketcher
    from grasp_pipeline.sketch.run import sketch_chunks

_MODULES = {
    "arrays": ("TokenLists",),
    "attribution.surrogate": ("Surrogate",),
    "calibration.lcb": ("Configuration", "choose_configuration"),
    "config": ("ProxyConfig", "SketchConfig"),
    "corpus.tokenizer": ("train_bpe",),
    "proxy.objective": ("CausalLM", "pad_chunks"),
    "proxy.packing": ("TextStream",),
    "proxy.presets": ("build_model",),
    "proxy.retrain": ("Job", "retrain"),
    "proxy.training": ("Recipe",),
    "selection.certification.certificate": ("Certificate",),
    "selection.certification.cross_fit": ("Entrants", "cross_fit"),
    "selection.certification.evidence": ("Evidence",),
    "selection.explanation.reasons": ("drop_reasons",),
    "selection.solver.optimiser": ("optimise",),
    "sketch.build": ("build_sketcher",),
    "sketch.run": ("sketch_chunks",),
}

__all__ = [
    "CausalLM",
    "Certificate",
    "Configuration",
    "Entrants",
    "Evidence",
    "Job",
    "ProxyConfig",
    "Recipe",
    "SketchConfig",
    "Surrogate",
    "TextStream",
    "TokenLists",
    "build_model",
    "build_sketcher",
    "choose_configuration",
    "cross_fit",
    "drop_reasons",
    "optimise",
    "pad_chunks",
    "retrain",
    "sketch_chunks",
    "train_bpe",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"grasp_pipeline.{module}"), name)
    raise AttributeError(f"module 'grasp_pipeline' has no attribute {name!r}")
