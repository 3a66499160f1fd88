"""Cleaning: nothing is lost, every rejection has its reason, and order and shards change nothing."""

import base64
import json
import random
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.config import CleaningConfig, InputConfig
from grasp_pipeline.corpus.clean_corpus import STAGES
from grasp_pipeline.corpus.cleaning import Cleaned, clean_documents
from grasp_pipeline.corpus.manifest import PLACED_SCHEMA, describe_blocks, extend_manifest, place_blocks
from grasp_pipeline.corpus.normalize import document_id
from grasp_pipeline.corpus.readers import read_corpus
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.tables import DOCUMENTS, MANIFEST, REJECTED_DOCUMENTS, TASK_DOCUMENTS

VOCABULARY = [
    "the",
    "harbour",
    "was",
    "quiet",
    "when",
    "ferry",
    "came",
    "men",
    "on",
    "quay",
    "caught",
    "ropes",
    "woman",
    "with",
    "basket",
    "plums",
    "waited",
]
QUIET = CleaningConfig(noise_rules=False, perplexity_quantile=1, contamination_share=1, near_duplicates="all")


def prose(seed: int, words: int = 60) -> str:
    return " ".join(random.Random(seed).choices(VOCABULARY, k=words)) + f" {seed}."


def task_documents(*rows: tuple[str, str, str]) -> pl.DataFrame:
    """Rows of (split, document, text) of the task "sea", after a few query documents."""
    everything = [("query", f"q{seed}", prose(seed)) for seed in range(9_000, 9_010)] + list(rows)
    return TASK_DOCUMENTS.conform(
        pl.DataFrame(
            [("sea", split, 0, document, text) for split, document, text in everything],
            schema=TASK_DOCUMENTS.schema,
            orient="row",
        )
    )


def raw_rows(texts: list[str | None], shard: str = "s0") -> pl.DataFrame:
    """One block; a None becomes a row with a fault."""
    fault = {True: ("unparsable_json", "line"), False: (None, None)}
    rows = [
        (0, "a.jsonl", shard, True, number, text, None, "web", 10, *fault[text is None])
        for number, text in enumerate(texts)
    ]
    return pl.DataFrame(rows, schema=PLACED_SCHEMA, orient="row")


def clean(texts: list[str | None], config: CleaningConfig, **changes: object) -> Cleaned:
    return clean_documents(raw_rows(texts), config.model_copy(update=changes), task_documents())


def reasons(cleaned: Cleaned) -> dict[str, tuple[str, str]]:
    columns = cleaned.rejected.select("origin", "stage", "reason").iter_rows()
    return {origin.split("#")[1]: (stage, reason) for origin, stage, reason in columns}


PIECES = st.sampled_from(
    [None, "", " \n", "a b c d e f", "a b c d e f g", "a  b", "a b\r\n", *(prose(n, 12) for n in range(6))]
)
CONFIGS = st.builds(
    CleaningConfig,
    exact_duplicates=st.sampled_from(["drop", "keep"]),
    near_duplicates=st.sampled_from(["one", "all", "finalists"]),
    near_duplicate_threshold=st.sampled_from([0.4, 0.8]),
    noise_rules=st.booleans(),
    min_characters=st.just(8),
    perplexity_quantile=st.sampled_from([0.6, 1.0]),
    contamination_share=st.sampled_from([0.2, 1.0]),
)


@given(st.lists(PIECES, min_size=1, max_size=14), CONFIGS, st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_nothing_is_lost_and_order_and_shards_change_nothing(texts, config, draw) -> None:
    texts = ["an island of its own, far from all others, never a duplicate", *texts]
    raw = raw_rows(texts)
    tasks = task_documents(("evaluation", "e", prose(3, 12)))
    cleaned = clean_documents(raw, config, tasks)
    places = cleaned.documents["origin"].to_list() + cleaned.rejected["origin"].to_list()
    assert sorted(places) == sorted(f"a.jsonl#{number}" for number in range(len(texts)))
    assert cleaned.documents.schema == DOCUMENTS.schema
    assert cleaned.rejected.schema == REJECTED_DOCUMENTS.schema
    assert set(cleaned.rejected["stage"]) <= set(STAGES)
    assert cleaned.summary["documents"].sum() == len(texts)
    assert not cleaned.rejected["reason"].is_null().any()

    order = list(range(len(texts)))
    draw.shuffle(order)
    shuffled = clean_documents(raw[order], config, tasks)
    assert shuffled.documents.equals(cleaned.documents)
    assert shuffled.rejected.equals(cleaned.rejected)
    renamed = clean_documents(raw.with_columns(shard=pl.lit("x' OR 'a'='a")), config, tasks)
    assert renamed.documents.drop("shard").equals(cleaned.documents.drop("shard"))
    assert renamed.rejected.drop("shard").equals(cleaned.rejected.drop("shard"))

    ids = set(cleaned.documents["doc_id"]) | set(cleaned.rejected["doc_id"])
    assert set(cleaned.rejected["duplicate_of"].drop_nulls()) <= ids
    assert set(cleaned.documents["cluster"]) <= set(cleaned.documents["doc_id"])
    survivors = cleaned.documents.filter("survivor")
    assert survivors["doc_id"].to_list() == survivors["cluster"].to_list()
    assert set(survivors["cluster"]) == set(cleaned.documents["cluster"])


def test_every_stage_gives_its_reason_and_no_text() -> None:
    near = prose(1).split()
    near[0] = "gangway"
    held_out = "SECRET " + prose(77, 40)
    junk = base64.b64encode(random.Random(0).randbytes(300)).decode()
    texts = [prose(seed) for seed in range(200)]
    texts += [None, " \n", "SECRET", texts[5] + "\r\n", f"intro {held_out} outro", junk, " ".join(near)]
    config = CleaningConfig(near_duplicates="one", near_duplicate_threshold=0.7, perplexity_quantile=0.995)
    cleaned = clean_documents(raw_rows(texts), config, task_documents(("judge", "it's", held_out)))
    found = reasons(cleaned)
    assert [found.get(str(number)) for number in range(200, 207)] == [
        ("read", "unparsable_json"),
        ("read", "empty_text"),
        ("noise", "too_short"),
        ("exact_duplicate", "exact_duplicate"),
        ("contamination", "contamination"),
        ("perplexity", "query_perplexity"),
        ("near_duplicate", "near_duplicate"),
    ]
    assert not cleaned.rejected["detail"].str.contains("SECRET|harbour").any()
    by_stage = {row["stage"]: row for row in cleaned.rejected.iter_rows(named=True)}
    assert by_stage["exact_duplicate"]["duplicate_of"] == document_id(texts[5])
    assert by_stage["near_duplicate"]["duplicate_of"] == document_id(texts[1])
    assert 0.7 <= by_stage["near_duplicate"]["value"] < 1
    assert by_stage["contamination"]["detail"].endswith("of the task document sea/judge/it's")
    assert by_stage["contamination"]["value"] == 1
    assert by_stage["perplexity"]["value"] > cleaned.perplexity_limit
    assert cleaned.summary.row(0)[0] == "kept"
    assert cleaned.summary["stage"].unique(maintain_order=True).to_list() == ["kept", *STAGES]


def test_documents_carry_their_id_size_origin_and_shard() -> None:
    raw = raw_rows(["caf\u0065\u0301 \r\n" + prose(1)]).with_columns(
        user_id=pl.lit("u1"), shard=pl.lit("a/b's")
    )
    (row,) = clean_documents(raw, QUIET, task_documents()).documents.iter_rows(named=True)
    text = "caf\u00e9\n" + prose(1)
    assert row == {
        "doc_id": document_id(text),
        "text": text,
        "source": "web",
        "shard": "a/b's",
        "n_bytes": len(text.encode()),
        "origin": "a.jsonl#0 (u1)",
        "cluster": document_id(text),
        "survivor": True,
    }


def test_exact_copies_are_dropped_or_kept_with_a_number() -> None:
    texts: list[str | None] = [prose(1), prose(2), prose(1), prose(1) + " \n"]
    dropped = clean(texts, QUIET)
    digest = document_id(prose(1))
    assert dropped.documents["doc_id"].to_list() == [digest, document_id(prose(2))]
    assert dropped.rejected["duplicate_of"].to_list() == [digest] * 2
    assert all(one.startswith(digest + ":") for one in dropped.rejected["doc_id"])
    kept = clean(texts, QUIET, exact_duplicates="keep")
    other = document_id(prose(2))
    assert kept.documents["doc_id"].to_list() == [digest, other, f"{digest}:2", f"{digest}:3"]
    assert kept.documents["cluster"].to_list() == [digest, other, digest, digest]
    assert kept.documents["survivor"].to_list() == [True, True, False, False]
    assert kept.rejected.is_empty()
    one = clean(texts, QUIET, exact_duplicates="keep", near_duplicates="one")
    assert one.documents["doc_id"].to_list() == dropped.documents["doc_id"].to_list()
    assert one.rejected["stage"].to_list() == ["near_duplicate"] * 2


def test_copies_of_noise_are_noise_and_copies_of_contaminated_text_are_copies() -> None:
    held_out = prose(77, 40)
    texts: list[str | None] = ["short", "short", held_out, held_out, prose(1)]
    tasks = task_documents(("evaluation", "e", held_out))
    config = CleaningConfig(perplexity_quantile=1)
    dropped = clean_documents(raw_rows(texts), config, tasks)
    stages = [stage for stage, _ in reasons(dropped).values()]
    assert stages == ["noise", "noise", "contamination", "exact_duplicate"]
    keep = config.model_copy(update={"exact_duplicates": "keep"})
    kept = clean_documents(raw_rows(texts), keep, tasks)
    stages = [stage for stage, _ in reasons(kept).values()]
    assert stages == ["noise", "noise", "contamination", "contamination"]


@pytest.mark.parametrize("policy", ["all", "finalists"])
def test_near_duplicates_are_kept_in_clusters(policy: str) -> None:
    other = prose(1).replace("1.", "one.")
    cleaned = clean([prose(2), prose(1), other], QUIET, near_duplicates=policy)
    survivors = [prose(2), prose(1), prose(1)]
    assert cleaned.documents["cluster"].to_list() == [document_id(text) for text in survivors]
    assert cleaned.documents["survivor"].to_list() == [True, True, False]


@pytest.mark.parametrize("split", ["query", "judge", "calibration", "evaluation"])
def test_every_split_is_protected_from_contamination(split: str) -> None:
    held_out = prose(77, 40)
    tasks = task_documents((split, "d", held_out))
    texts: list[str | None] = [prose(1), "before " + held_out]
    config = QUIET.model_copy(update={"contamination_share": 0.2})
    cleaned = clean_documents(raw_rows(texts), config, tasks)
    assert reasons(cleaned) == {"1": ("contamination", "contamination")}
    assert f"sea/{split}/d" in cleaned.rejected["detail"].item()


def without_spaces(seed: int, alphabet: str, clauses: int = 8) -> str:
    """Text of a script that sets only commas between clauses."""
    draw = random.Random(seed)
    return (
        "".join("".join(draw.choices(alphabet, k=draw.randint(6, 14))) + "，" for _ in range(clauses)) + "。"
    )


@pytest.mark.parametrize("first", ["一", "あ", "ก"])
def test_contamination_is_seen_in_scripts_without_spaces(first: str) -> None:
    alphabet = "".join(chr(ord(first) + place) for place in range(46))
    held_out = [without_spaces(seed, alphabet) for seed in range(30)]
    tasks = task_documents(*(("evaluation", f"d{i}", text) for i, text in enumerate(held_out)))
    # A cut at a character, not at a clause: no clause at the border is whole on either side.
    texts: list[str | None] = [without_spaces(99, alphabet)[:20] + text[3:] for text in held_out]
    texts += [without_spaces(seed, alphabet) for seed in range(100, 130)]
    config = QUIET.model_copy(update={"contamination_share": 0.2})
    cleaned = clean_documents(raw_rows(texts), config, tasks)
    assert reasons(cleaned) == {str(row): ("contamination", "contamination") for row in range(30)}


def test_rules_that_are_off_reject_nothing() -> None:
    texts: list[str | None] = ["a", "!!!", prose(9_000), prose(1)]
    cleaned = clean(texts, QUIET)
    assert cleaned.rejected.is_empty()
    assert cleaned.perplexity_limit is None


def test_oversized_rows_keep_their_size_as_value() -> None:
    raw = raw_rows([None, prose(1)]).with_columns(
        fault=pl.when(pl.col("row") == 0).then(pl.lit("oversized")), n_bytes=pl.lit(50_000_000)
    )
    row = clean_documents(raw, QUIET, task_documents()).rejected.row(0, named=True)
    assert (row["reason"], row["value"], row["n_bytes"]) == ("oversized", 50_000_000.0, 50_000_000)
    assert row["doc_id"] == document_id("origin:a.jsonl#0")


def test_an_empty_result_is_refused_with_the_reasons() -> None:
    with pytest.raises(
        InputError, match=r"No document of 3 rows is left.*too_short \(2\).*; relax the rules"
    ):
        clean(["a", "b", None], CleaningConfig())
    with pytest.raises(InputError, match="No document of 0 rows is left after cleaning: there were none"):
        clean([], CleaningConfig())


def test_the_perplexity_rule_needs_query_texts() -> None:
    with pytest.raises(ConfigError, match=r"perplexity_quantile is 0\.99, but there are no query texts"):
        clean_documents(raw_rows([prose(1)]), CleaningConfig(), TASK_DOCUMENTS.empty())


def test_from_files_to_documents(tmp_path: Path) -> None:
    (tmp_path / "it's a.jsonl").write_text(f'{{"text": "{prose(1)}"}}\nnot json\n')
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    (tmp_path / "c.txt").write_text(prose(1))
    read = list(read_corpus(InputConfig(paths=[str(tmp_path)])))
    manifest = extend_manifest(MANIFEST.empty(), describe_blocks(read), ["s0", "x' OR 'a'='a"])
    placed = place_blocks([block for _, block in read], manifest)
    cleaned = clean_documents(placed, QUIET, task_documents())
    assert cleaned.documents["source"].to_list() == ["c"]
    assert cleaned.documents["origin"].to_list() == [f"{tmp_path}/c.txt#0"]
    assert sorted(cleaned.rejected["reason"]) == ["exact_duplicate", "invalid_utf8", "unparsable_json"]
    assert set(cleaned.rejected["source"]) == {"it's a", "b"}


def test_progress_is_told() -> None:
    told: list[str] = []
    clean_documents(raw_rows([prose(n) for n in range(20)]), CleaningConfig(), task_documents(), told.append)
    assert all("of" in line for line in told)


def test_arrivals_change_no_earlier_verdict() -> None:
    founding: list[str | None] = [prose(seed) for seed in range(60)]
    config = CleaningConfig(perplexity_quantile=0.9)
    before = clean_documents(raw_rows(founding), config, task_documents())
    odd = ["%%$$ " * 60 + str(number) for number in range(30)]
    arrivals = raw_rows([*odd, prose(3) + " again"]).with_columns(
        arrival=pl.lit(1, dtype=pl.Int64), uri=pl.lit("b.jsonl"), founding=pl.lit(False)
    )
    after = clean_documents(pl.concat([raw_rows(founding), arrivals]), config, task_documents())
    first = after.documents.filter(pl.col("origin").str.starts_with("a.jsonl"))
    assert first.equals(before.documents)
    assert after.perplexity_limit == before.perplexity_limit
    assert after.rejected.filter(pl.col("origin").str.starts_with("a.jsonl")).equals(before.rejected)


def test_a_renamed_file_keeps_every_verdict_and_names_its_new_origin(tmp_path: Path) -> None:
    """It stays among the founding documents, before those of later names, and first of two copies."""
    config = CleaningConfig(perplexity_quantile=0.9, near_duplicates="one")
    odd = ["%%$$ " * 60 + str(number) for number in range(6)]
    texts = {"a": [prose(seed) for seed in range(50)] + odd, "b": [prose(seed) for seed in range(45, 60)]}
    for name, rows in texts.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))

    def cleaned(manifest: pl.DataFrame) -> tuple[pl.DataFrame, Cleaned]:
        read = list(read_corpus(InputConfig(paths=[str(tmp_path)])))
        manifest = extend_manifest(manifest, describe_blocks(read), ["s0", "s1"])
        placed = place_blocks([block for _, block in read], manifest)
        return manifest, clean_documents(placed, config, task_documents())

    manifest, before = cleaned(MANIFEST.empty())
    (tmp_path / "a.jsonl").rename(tmp_path / "z.jsonl")
    _, after = cleaned(manifest)
    assert after.perplexity_limit == before.perplexity_limit
    named = ["source", "origin"]
    assert after.documents.drop(named).equals(before.documents.drop(named))
    verdicts = ["stage", "reason", "value", "duplicate_of"]
    assert after.rejected.select(verdicts).equals(before.rejected.select(verdicts))
    assert {"exact_duplicate", "query_perplexity"} <= set(after.rejected["reason"])
    assert set(after.documents["source"]) == {"z", "b"}
    origins = [origin.rpartition("/")[2].split("#")[0] for origin in after.documents["origin"]]
    assert origins == [f"{source}.jsonl" for source in after.documents["source"]]
