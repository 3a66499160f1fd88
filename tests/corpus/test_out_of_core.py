"""Cleaning block by block equals cleaning the whole corpus in memory, wherever it is cut."""

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale.whole_corpus import clean_documents as clean_whole
from benchmarks.scale.whole_corpus import slow_normalize
from grasp_pipeline.config import CleaningConfig, InputConfig
from grasp_pipeline.corpus.block_cleaning import BlockPlace, CleanWork, find_places, work_of
from grasp_pipeline.corpus.cleaning import clean_documents, compare_documents, rules_of
from grasp_pipeline.corpus.contamination import HeldOutGrams
from grasp_pipeline.corpus.files import resolve_inputs
from grasp_pipeline.corpus.manifest import PLACED_SCHEMA, DescribeFile, extend_manifest
from grasp_pipeline.corpus.noise import first_rejection, noise_rules, rejections
from grasp_pipeline.corpus.noise.repetition import Repetition
from grasp_pipeline.corpus.normalize import normalize_text
from grasp_pipeline.corpus.text_batch import TextBatch
from grasp_pipeline.engine import LocalEngine
from grasp_pipeline.errors import InputError
from grasp_pipeline.tables import MANIFEST, TASK_DOCUMENTS

WORDS = [f"w{number}" for number in range(90)] + ["été", "漢字", "naïve", "x"]


def text(seed: int, edits: int = 0, words: int = 40) -> str:
    draw = random.Random(seed)
    chosen = draw.choices(WORDS, k=words)
    for _ in range(edits):
        chosen[draw.randrange(words)] = draw.choice(WORDS)
    return " ".join(chosen)


def tasks() -> pl.DataFrame:
    rows = [("a", "query", 0, f"q{n}", text(1_000 + n)) for n in range(5)]
    rows += [("a", "evaluation", 0, "e0", text(3)), ("b", "judge", 0, "j0", text(5, words=7))]
    return TASK_DOCUMENTS.conform(pl.DataFrame(rows, schema=TASK_DOCUMENTS.schema, orient="row"))


PIECES = st.one_of(
    st.none(),
    st.sampled_from(["", " \r\n", "a b", "!!!!! ???", "again and again and again and again and again " * 9]),
    st.builds(text, st.integers(0, 9), st.integers(0, 3)),
    st.builds(lambda seed: text(seed) + " \r\n\r\n", st.integers(0, 9)),
    st.builds(lambda seed: "before " + text(seed) + " after", st.integers(0, 9)),
)
CONFIGS = st.builds(
    CleaningConfig,
    exact_duplicates=st.sampled_from(["drop", "keep"]),
    near_duplicates=st.sampled_from(["one", "all", "finalists"]),
    near_duplicate_threshold=st.sampled_from([0.4, 0.7, 1.0]),
    noise_rules=st.booleans(),
    perplexity_quantile=st.sampled_from([0.6, 0.9, 1.0]),
    contamination_share=st.sampled_from([0.2, 1.0]),
)


def placed(rows: list[str | None], cuts: Iterable[int], founding: int) -> pl.DataFrame:
    """Rows in blocks cut before the given places; blocks from `founding` on came later."""
    block, placed_rows = 0, []
    cuts = set(cuts)
    for number, one in enumerate(rows):
        block += number in cuts
        fault = (None, None) if one is not None else ("oversized", "too large")
        user = f"u{number}" if number % 3 else None
        placed_rows.append(
            (
                block,
                f"f{block}",
                f"s{block % 2}",
                block < founding,
                number,
                one,
                user,
                f"src{number % 2}",
                10,
                *fault,
            )
        )
    return pl.DataFrame(placed_rows, schema=PLACED_SCHEMA, orient="row")


@given(st.lists(PIECES, max_size=24), st.sets(st.integers(1, 24)), st.integers(0, 4), CONFIGS)
@settings(max_examples=80, deadline=None)
def test_it_equals_cleaning_the_whole_corpus_wherever_it_is_cut(rows, cuts, founding, config) -> None:
    raw = placed([text(77_777), *rows], cuts, founding)
    expected = clean_whole(raw, config, tasks())
    try:
        found = clean_documents(raw, config, tasks())
    except InputError:
        assert expected.documents.is_empty()
        return
    assert found.documents.equals(expected.documents)
    assert found.rejected.equals(expected.rejected)
    assert found.summary.equals(expected.summary)
    assert found.perplexity_limit == expected.perplexity_limit


@given(st.lists(st.text(max_size=80) | PIECES.filter(lambda one: one is not None), max_size=12))
def test_no_text_that_a_rule_rejects_escapes_suspicion(texts: list[str]) -> None:
    rules = noise_rules(CleaningConfig())
    slow = {index: first_rejection(one, rules) for index, one in enumerate(texts)}
    assert rejections(TextBatch(texts), rules) == {index: one for index, one in slow.items() if one}


@given(
    st.text(st.characters(exclude_categories=()))
    | st.text(st.sampled_from("a\r\n\t \x0b\x1c\x85\xa0é\u2028\u200b\x00"))
)
def test_normalising_agrees_with_the_slow_twin(one: str) -> None:
    assert normalize_text(one) == slow_normalize(one)


@pytest.mark.parametrize("limit", [0.01, 0.3])
def test_contamination_of_a_batch_is_that_of_its_texts(limit: float) -> None:
    held = {f"h{n}": text(n, words=n + 1) for n in range(30)}
    texts = [text(n % 40, edits=n % 3) for n in range(80)]
    grams = HeldOutGrams(held)
    whole = grams.contaminated(((str(n), one) for n, one in enumerate(texts)), limit)
    assert {str(n): one for n, one in grams.contaminated_of(TextBatch(texts), limit).items()} == whole
    assert whole


class Interrupted(RuntimeError):
    """Stands for a run that is stopped."""


def write_files(folder: Path, files: dict[str, list[str]]) -> InputConfig:
    for name, texts in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    return InputConfig(paths=[str(folder / "*.jsonl")], block_bytes=10_000)


def cleaned_by(
    map_blocks, config: CleaningConfig, source: InputConfig, scratch: Path, manifest=None, most_blocks=16
):
    """The rows, and the number of blocks that were cleaned."""
    files = resolve_inputs(source, None)
    manifest = MANIFEST.empty() if manifest is None else manifest
    described = pl.concat([DescribeFile(source)(file).drop("sources") for file in files])
    manifest = extend_manifest(manifest, described, ["s0", "s1", "s2"])
    rules = rules_of(config, tasks(), scratch)
    places = find_places(manifest, files, source, rules, scratch / "blocks")
    fresh = sum(not place.done for place in places)
    by_file: dict[str, list[BlockPlace]] = {}
    for place in places:
        by_file.setdefault(place.uri, []).append(place)
    list(map_blocks(CleanWork(rules, source), work_of(files, by_file, source, None, most_blocks)))
    corpus = compare_documents(places, config, tasks(), scratch, map_blocks)
    frames = [corpus.rows(number) for number in range(len(places))]
    return manifest, fresh, tuple(pl.concat(parts) for parts in zip(*frames, strict=True))


FILES = {
    "a": [text(n, n % 4, 300) for n in range(60)] + ["short"],
    "b": [text(n % 9, n % 3, 200) for n in range(60)],
    "c": [text(500, 0, 300), text(500, 1, 300), text(3, 0, 200)],
}
POLICY = CleaningConfig.model_validate(
    {"near_duplicates": "one", "near_duplicate_threshold": 0.6, "perplexity_quantile": 0.9}
)


def same(one, other) -> bool:
    return all(left.equals(right) for left, right in zip(one, other, strict=True))


@pytest.mark.parametrize("most_blocks", [0, 1, 16])
def test_workers_and_who_reads_change_nothing(tmp_path: Path, most_blocks: int) -> None:
    source = write_files(tmp_path, FILES)
    _, _, serial = cleaned_by(map, POLICY, source, tmp_path / "serial")
    with LocalEngine(2) as engine:
        _, fresh, parallel = cleaned_by(
            engine.map_blocks, POLICY, source, tmp_path / "parallel", most_blocks=most_blocks
        )
    assert fresh > 6
    assert same(serial, parallel)
    assert {"near_duplicate", "perplexity", "exact_duplicate", "noise"} <= set(serial[1]["stage"])


def test_a_new_file_costs_its_own_blocks_and_changes_no_earlier_verdict(tmp_path: Path) -> None:
    source = write_files(tmp_path, {name: FILES[name] for name in "ab"})
    manifest, _, before = cleaned_by(map, POLICY, source, tmp_path / "scratch")
    write_files(tmp_path, {"c": FILES["c"]})
    _, fresh, after = cleaned_by(map, POLICY, source, tmp_path / "scratch", manifest)
    assert fresh == 1
    origins = before[0]["origin"].to_list() + before[1]["origin"].to_list()
    for one, other in zip(before, after, strict=True):
        assert other.filter(pl.col("origin").is_in(origins)).equals(one)
    _, everything, anew = cleaned_by(map, POLICY, source, tmp_path / "anew", manifest)
    assert everything > fresh
    assert same(after, anew)


def test_other_rules_and_other_tasks_clean_anew_and_other_policies_do_not(tmp_path: Path) -> None:
    source = write_files(tmp_path, FILES)
    cleaned_by(map, POLICY, source, tmp_path / "scratch")
    policies = POLICY.model_copy(update={"near_duplicates": "all", "perplexity_quantile": 0.8})
    assert cleaned_by(map, policies, source, tmp_path / "scratch")[1] == 0
    rules = POLICY.model_copy(update={"min_characters": 900})
    assert cleaned_by(map, rules, source, tmp_path / "scratch")[1] > 6


def test_what_an_interrupted_run_cleaned_is_taken_up(tmp_path: Path) -> None:
    source = write_files(tmp_path, FILES)

    def interrupted(function, blocks) -> Iterator[int]:
        for number, block in enumerate(blocks):
            if number == 2:
                raise Interrupted
            yield function(block)

    with pytest.raises(Interrupted):
        cleaned_by(interrupted, POLICY, source, tmp_path / "scratch")
    _, fresh, taken_up = cleaned_by(map, POLICY, source, tmp_path / "scratch")
    _, whole, anew = cleaned_by(map, POLICY, source, tmp_path / "anew")
    assert 0 < fresh < whole
    assert same(taken_up, anew)


@pytest.mark.parametrize("most_blocks", [0, 16])
def test_a_file_that_changed_since_the_manifest_is_refused(tmp_path: Path, most_blocks: int) -> None:
    source = write_files(tmp_path, FILES)
    files = resolve_inputs(source, None)
    described = pl.concat([DescribeFile(source)(file).drop("sources") for file in files])
    manifest = extend_manifest(MANIFEST.empty(), described, ["s0"])
    write_files(tmp_path, {"a": FILES["a"][:-9]})
    rules = rules_of(POLICY, tasks(), tmp_path / "scratch")
    files = resolve_inputs(source, None)
    places = find_places(manifest, files, source, rules, tmp_path / "scratch" / "blocks")
    by_file = {file.uri: [place for place in places if place.uri == file.uri] for file in files}
    with pytest.raises(InputError, match=r"a\.jsonl' has changed since the manifest was made"):
        list(map(CleanWork(rules, source), work_of(files, by_file, source, None, most_blocks)))
    with pytest.raises(InputError, match=r"has changed since the manifest was made"):
        list(map(CleanWork(rules, source), work_of(files[1:], by_file, source, None)))


@pytest.mark.parametrize("limit", [0.2, 0.4, 0.6])
def test_a_share_of_repeated_windows_is_judged_as_the_rule_does(limit: float) -> None:
    texts = [" ".join(f"one two three four five u{n}" for n in range(k)) + " " + text(k) for k in range(40)]
    texts += [f"{text(n, words=60)} {text(n, words=n)}" for n in range(60)]
    rule = Repetition(limit)
    assert rule.suspects(TextBatch(texts)).tolist() == [rule.check(one) is not None for one in texts]
