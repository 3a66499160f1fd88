"""Attributions that a third party can check: a prover's claim, a verifier's private questions, a verdict.

Source: Karchmer, Neel & Pawelczyk 2025, "Efficiently Verifiable Proofs of Data Attribution", arXiv 2508.10866. It
has no experiments; what was left open there and chosen here is told in `residual.py` and `docs/family.md`.
"""
