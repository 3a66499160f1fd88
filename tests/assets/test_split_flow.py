"""Which text reaches which step, which losses a refit sees, and that what ships is what was certified."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from witness import WORDS, Witness
from workplace import Curated

from grasp_pipeline import tables
from grasp_pipeline.corpus.tokenizer import load_saved

STEPS = {
    "proxy training": None,
    "proxy validation": "query",
    "fine-tuning for query": "query",
    "fine-tuning for judge": "judge",
    "n-grams of the candidates": "query",
    "likelihood of the judge": "judge",
    "retraining calibration subsets": "calibration",
    "retraining finalists": "calibration",
    "retraining sealed subsets": "evaluation",
    "retraining final arms": "evaluation",
}
"""What a step uses held-out text for -> the only split that it may see."""


Reader = Callable[[list[list[int]]], set[str]]


@pytest.fixture(scope="module")
def read(curated: Curated) -> Reader:
    """Return a function from token rows to the splits whose word is in their text."""
    place = curated.place
    stored = place.read(tables.TOKENIZER).row(0, named=True)
    tokenizer = load_saved(place.store / stored["path"], stored["bos"]).backend

    def splits(rows: list[list[int]]) -> set[str]:
        texts = tokenizer.decode_batch(rows)
        return {split for split, word in WORDS.items() if any(word in text for text in texts)}

    return splits


class TestText:
    @pytest.mark.parametrize("step", STEPS)
    def test_a_step_sees_the_text_of_its_split_alone(self, witness: Witness, read: Reader, step: str) -> None:
        own = STEPS[step]
        assert witness.texts[step]
        assert read(witness.texts[step]) == ({own} if own else set())

    def test_no_other_step_was_given_held_out_text(self, witness: Witness) -> None:
        assert set(witness.texts) == set(STEPS)

    def test_the_chunks_of_a_split_hold_its_word(self, curated: Curated, read: Reader) -> None:
        frame = curated.place.read(tables.TASKS)
        for split in WORDS:
            assert read(frame.filter(split=split)["input_ids"].to_list()) == {split}

    def test_a_task_sketch_is_the_mean_of_its_own_split(self, witness: Witness, read: Reader) -> None:
        assert set(witness.sketched) == {"query", "judge"}
        for split, rows in witness.sketched.items():
            assert read(rows) == {split}

    def test_who_ranks_by_which_task_sketches(self, witness: Witness) -> None:
        """Whoever builds takes the query's; the judge hears texts, and nobody the judge's sketches."""
        assert witness.vectors == {
            ("subsets", "query"),
            ("surrogates", "query"),
            ("finalists", "query"),
            ("certificates", "query"),
            ("pruned_corpus", "query"),
            ("sealed_evaluation", "query"),
        }


class TestWhatShips:
    def test_the_corpus_is_the_membership_of_the_certified_arm(self, curated: Curated) -> None:
        place = curated.place
        head = place.read(tables.CERTIFICATES).filter(baseline="random", task="mean").row(0, named=True)
        arms = pl.concat([place.read(tables.FINALISTS), place.read(tables.REFITTED_FINALISTS)])
        arm = arms.filter(arm=head["arm"]).row(0, named=True)
        packed = place.read(tables.SUBSETS).filter(subset_id=arm["subset_id"])["membership"][0]
        chunks = place.read(tables.TOKENIZED_SHARDS).sort("chunk_id")
        kept = np.unpackbits(np.frombuffer(packed, np.uint8), count=chunks.height).astype(bool)
        pruned = place.read(tables.PRUNED_CORPUS)
        assert set(pruned["chunk_id"]) == set(chunks["chunk_id"].filter(kept))
        assert pruned["repeats"].unique().to_list() == [arm["repeats"]]
        # The picks of the folds are the only arms that may be certified.
        assert head["arm"] in head["fold_picks"].split(",")
        others = arms.filter(pl.col("arm") != head["arm"], pl.col("subset_id") != arm["subset_id"])
        memberships = place.read(tables.SUBSETS).filter(
            pl.col("subset_id").is_in(others["subset_id"].implode())
        )
        assert packed not in memberships["membership"].to_list()

    def test_the_pick_of_a_fold_has_the_lowest_loss_there(self, curated: Curated) -> None:
        """Counted from the table of losses alone."""
        place = curated.place
        head = place.read(tables.CERTIFICATES).filter(baseline="random", task="mean").row(0, named=True)
        first = fold_losses(curated)
        arms = pl.concat([place.read(tables.FINALISTS), place.read(tables.REFITTED_FINALISTS)])
        pickable = arms.filter("pickable", "shortlisted")
        for fold, pick in enumerate(head["fold_picks"].split(",")):
            other = f"surrogate-refit-{1 - fold}"
            allowed = [arm for arm in pickable["arm"] if arm != other]
            losses = {arm: first[arm, fold] for arm in allowed}
            assert losses[pick] == pytest.approx(min(losses.values()))

    def test_a_refit_sees_the_losses_of_its_own_fold(self, curated: Curated, witness: Witness) -> None:
        losses, place = fold_losses(curated), curated.place
        finalists = place.read(tables.FINALISTS)
        compared = finalists.filter(pl.col("shortlisted"), pl.col("role") != "random")["arm"].to_list()
        draws = finalists.filter(role="random")["arm"].to_list()
        assert len(witness.refits) == 2
        for fold, utilities in enumerate(witness.refits):
            expected = [losses[arm, fold] for arm in [*compared, *draws]]
            np.testing.assert_allclose(np.sort(-utilities), np.sort(expected), rtol=1e-9)


def fold_losses(curated: Curated) -> dict[tuple[str, int], float]:
    """Return every arm's mean over tasks of its token loss on a fold in its first run, from `document_losses`."""
    place = curated.place
    arms = pl.concat([place.read(tables.FINALISTS), place.read(tables.REFITTED_FINALISTS)])
    rows = place.read(tables.DOCUMENT_LOSSES).filter(split="calibration")
    found = {}
    for arm, subset in arms.select("arm", "subset_id").iter_rows():
        own = rows.filter(subset_id=subset)
        own = own.filter(pl.col("seed") == pl.col("seed").min())
        per_task = own.group_by("task", "fold").agg(loss=pl.col("loss_sum").sum() / pl.col("n_tokens").sum())
        for fold in (0, 1):
            if own.height:
                found[arm, fold] = float(per_task.filter(fold=fold)["loss"].mean())
    return found
