"""Plain meanings of the reasons and terms that the report uses."""

from __future__ import annotations

from grasp_pipeline.corpus.noise import RULES

REJECTION_REASONS: dict[str, str] = {
    "missing_text": "The row has no text.",
    "empty_text": "Nothing is left of the text after normalisation.",
    "text_not_string": "The text column holds something else than text.",
    "invalid_utf8": "The bytes are not UTF-8.",
    "unparsable_json": "The line is not JSON.",
    "not_an_object": "The line is JSON but not an object.",
    "oversized": "Longer than the limit for one document.",
    **{rule.name: rule.meaning for rule in RULES},
    "exact_duplicate": "The same normalised text came before.",
    "near_duplicate": "Nearly the same text is kept.",
    "contamination": "Holds text of a held-out task document.",
    "query_perplexity": "Least like the tasks' query texts, by n-gram perplexity.",
}
"""Reason of `rejected_documents` -> what it means."""

DROP_REASONS: dict[str, str] = {
    "low_alignment": "Training on it would help the task too little, whatever else is kept.",
    "redundant": "It would help, but what is kept already covers it.",
    "quota": "Good enough, but the budget or another constraint, which is named, left no room.",
    "duplicate": "The picked corpus takes one document of each near-duplicate cluster, and not this one.",
    "noise": "Noise; cleaning rejects it before tokenization, as a document.",
}
"""Reason of `drop_reasons` -> what it means."""

TERMS: dict[str, str] = {
    "Nats per token": "The held-out loss: the average of minus the natural logarithm of the probability that the "
    "model gave to the token that came. Lower is better; 0.01 nats less is a perplexity about 1% lower.",
    "Perplexity": "The exponential of the loss: between how many equally likely tokens the model is as good as "
    "undecided. Lower is better.",
    "Proxy": "The small model that is trained on every candidate corpus in place of the one that is planned. What "
    "ranks first for it need not rank first for a model a thousand times as large.",
    "Pass": "Training once on everything that is kept. A training shorter than the planned one hides what repetition "
    "costs.",
    "Arm": "A candidate corpus. Every arm is trained on for the same number of tokens, from the same initial "
    "weights.",
    "Certificate": "What can be said of the picked corpus against a baseline: the improvement in nats per token "
    "and a bound below which it does not lie, with the confidence given. The documents and the training run that "
    "certify an arm are not those that picked it.",
    "Lower bound": "The smallest value that the measurements still allow at the confidence given. A result counts "
    "only where its lower bound is above 0. Each certificate holds on its own; several of them do not hold at "
    "once at the same confidence.",
    "Simultaneous lower bound": "A lower bound that holds for all candidate configurations at once, so that the "
    "best of many is not picked for its luck.",
    "Surrogate": "A formula that predicts from gradients how well a model trained on a subset will do, without "
    "training it. Lambda is the weight of its penalty on redundancy; with lambda 0 it is additive: every chunk "
    "counts for itself.",
    "Rank correlation": "Spearman's: 1 if a method puts the retrained subsets in the order of their measured "
    "loss, 0 if it does no better than chance. Taken per task, then averaged.",
    "Interval": "Two numbers in brackets: the range that fits the measurements, at 95% unless it says otherwise.",
    "Paired gain": "The surrogate's rank correlation minus the method's on the same subsets. An interval wholly "
    "above 0 says that the surrogate ranks better.",
    "Noise ceiling": "How well the measured losses agree with themselves under another training seed. No method "
    "can be expected to correlate better than that.",
    "Stratum": "One way of drawing the subsets that are retrained: uniform, tilted to sources, to redundancy, or "
    "optimised for a task.",
    "Leverage": "How much of what a model says of a text that text decides alone, 0 to 1. A text of high leverage has "
    "nothing like it beside it: an outlier, or a mistake.",
    "Judge score": "Rates an optimised corpus by evidence that its optimiser did not see, to decide which are "
    "worth a retraining. Higher is better; it is comparable within one table only.",
    "Sealed evaluation": "Documents and subsets that were drawn before anything was measured and read only after "
    "the choice was stored.",
}
"""Term -> definition, in the order in which the report shows them."""
