"""The fidelity laboratory: how well does each method predict what a training subset is worth?

A cell is one corpus, one proxy architecture and one seed of the whole protocol. It designs subsets, really retrains
them, lets every method predict them, and keeps what was measured. Text and images go through the same code.
"""
