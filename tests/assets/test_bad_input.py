"""Bad input and settings: one sentence that names the thing and says what to do, and no half-written table."""

from __future__ import annotations

import html
import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from toys import toy_texts
from workplace import CLEANED, Workplace, step_of, steps_up_to_date

from grasp_pipeline import tables
from grasp_pipeline.definitions import defs
from grasp_pipeline.tables import ALL

Changes = dict[str, dict[str, Any]]
QUICK: Changes = {
    "proxy_checkpoints": {"reference_tokens": 1_000},
    "sketchers": {"kinds": ["output"]},
}
"""Where a fault shows only after the proxy was trained."""


def rows_of(place: Workplace) -> list[dict[str, str]]:
    return pl.read_parquet(place.corpus / "a.parquet").to_dicts()


def write_lines(path: Path, rows: list[dict[str, str]], *more: bytes) -> None:
    path.write_bytes(b"\n".join([*(json.dumps(row).encode() for row in rows), *more, b""]))


def save_model(folder: Path, vocabulary: int, spoiled: bool = False) -> str:
    """Save a Llama of a few thousand parameters; `spoiled` weights are not numbers."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if spoiled:
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, float("nan"))
    model.save_pretrained(str(folder))
    return str(folder)


def missing_path(place: Workplace) -> Changes:
    return {"manifest": {"paths": ["corpus/*.parquet", "nowhere/*.parquet"]}}


def truncated_parquet(place: Workplace) -> Changes:
    whole = (place.corpus / "a.parquet").read_bytes()
    (place.corpus / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    return {}


def not_parquet(place: Workplace) -> Changes:
    (place.corpus / "fake.parquet").write_text("not a Parquet file")
    return {}


def unknown_ending(place: Workplace) -> Changes:
    (place.folder / "table.xlsx").write_text("x")
    return {"manifest": {"paths": ["table.xlsx"]}}


def missing_text_column(place: Workplace) -> Changes:
    return {"manifest": {"text_column": "content"}}


def missing_id_column(place: Workplace) -> Changes:
    return {"manifest": {"id_column": "uuid"}}


def numbers_for_text(place: Workplace) -> Changes:
    frame = pl.read_parquet(place.corpus / "a.parquet").with_columns(body=pl.int_range(pl.len()))
    frame.write_parquet(place.corpus / "c.parquet")
    return {}


def empty_corpus(place: Workplace) -> Changes:
    for path in place.corpus.iterdir():
        pl.read_parquet(path).clear().write_parquet(path)
    return {}


def nothing_but_noise(place: Workplace) -> Changes:
    return {"documents": {"min_characters": 1_000_000}}


def json_array(place: Workplace) -> Changes:
    (place.corpus / "array.jsonl").write_text(json.dumps(rows_of(place)[:3]))
    return {}


def repeated_columns(place: Workplace) -> Changes:
    table = pq.read_table(place.corpus / "a.parquet")
    pq.write_table(table.append_column("body", table["body"]), place.corpus / "c.parquet")
    return {}


def notices_in_latin_1(place: Workplace) -> Changes:
    (place.folder / "LICENSES.md").write_bytes("# Bibliothèque".encode("latin-1"))
    return {}


def pretty_printed(place: Workplace) -> Changes:
    (place.corpus / "pretty.jsonl").write_text(json.dumps(rows_of(place)[0], indent=2))
    return {}


def error_page(place: Workplace) -> Changes:
    (place.corpus / "page.jsonl").write_text("<html><body>503</body></html>")
    return {}


def empty_task(place: Workplace) -> Changes:
    path = place.tasks / "news.parquet"
    pl.read_parquet(path).clear().write_parquet(path)
    (place.tasks / "french.parquet").unlink()
    return {}


def few_documents(place: Workplace) -> Changes:
    path = place.tasks / "french.parquet"
    pl.read_parquet(path).head(8).write_parquet(path)
    return {}


def task_named_mean(place: Workplace) -> Changes:
    path = place.tasks / "french.parquet"
    pl.read_parquet(path).with_columns(task=pl.lit("mean")).write_parquet(path)
    return {}


def vocabulary_too_large(place: Workplace) -> Changes:
    return {"tokenizer": {"vocab_size": 60_000}}


def unknown_tokenizer(place: Workplace) -> Changes:
    (place.folder / "nothing").mkdir()
    return {"tokenizer": {"name": str(place.folder / "nothing")}}


def missing_checkpoint(place: Workplace) -> Changes:
    (place.folder / "nothing").mkdir()
    return {"proxy_checkpoints": {"checkpoint": str(place.folder / "nothing")}}


def small_vocabulary(place: Workplace) -> Changes:
    return {"proxy_checkpoints": {"checkpoint": save_model(place.folder / "small", 100)}}


def spoiled_weights(place: Workplace) -> Changes:
    folder = save_model(place.folder / "spoiled", 300, spoiled=True)
    return {"proxy_checkpoints": {"checkpoint": folder, "reference_tokens": 1_000}}


def task_named_worst(place: Workplace) -> Changes:
    path = place.tasks / "french.parquet"
    pl.read_parquet(path).with_columns(task=pl.lit("worst")).write_parquet(path)
    return {}


def unknown_target(place: Workplace) -> Changes:
    return {"candidates": {"target": "chess"}}


def mistyped_target(place: Workplace) -> Changes:
    return {"candidates": {"target": "frensh"}}


def weight_of_no_task(place: Workplace) -> Changes:
    return {"candidates": {"task_weights": {"nws": 1.0}}}


def no_such_device(place: Workplace) -> Changes:
    place.compute = {"device": "cuda:7"}
    return {}


def no_retraining_left(place: Workplace) -> Changes:
    return {"finalists": {"max_retrainings": 6}}


def unknown_floor(place: Workplace) -> Changes:
    return {"finalists": {"constraints": {"source_floors": {"nws": 0.1}}}}


def unknown_must_keep(place: Workplace) -> Changes:
    return {"finalists": {"constraints": {"must_keep": ["no-such-document"]}}}


def floors_above_the_caps_of_all(place: Workplace) -> Changes:
    caps = {"code": 0.1, "french": 0.1, "junk": 0.1, "news": 0.1}
    return {"finalists": {"constraints": {"source_caps": caps}}}


def whole_corpus_in_tokens(place: Workplace) -> Changes:
    return {"candidates": {"budget_tokens": place_tokens(place)}}


def budget_above_the_corpus(place: Workplace) -> Changes:
    return {"candidates": {"budget_tokens": 10_000_000}}


def budget_of_one_token(place: Workplace) -> Changes:
    return {"candidates": {"budget_tokens": 1}}


def place_tokens(place: Workplace) -> int:
    """Return the tokens of the clean corpus."""
    place.run(only=[*CLEANED, "tokenizer", "tokenized_shards"])
    return int(place.read(tables.TOKENIZED_SHARDS)["n_tokens"].sum())


LAUNCH = "launch"
"""In place of a step: refused before there is a run."""


@dataclass(frozen=True)
class Fault:
    """What is prepared, the step that must fail, and the sentence it must give."""

    prepare: Callable[[Workplace], Changes]
    step: str
    sentence: str


FAULTS = [
    Fault(missing_path, "manifest", r"'nowhere/\*\.parquet' matches no file; correct it or create"),
    Fault(truncated_parquet, "manifest", r"'corpus/cut\.parquet' .*; (replace|repair|write|give|check)"),
    Fault(not_parquet, "manifest", r"'corpus/fake\.parquet' .*; (replace|repair|write|give|check)"),
    Fault(
        unknown_ending, "manifest", r"'table\.xlsx' has an ending that cannot be read; use one of \.parquet"
    ),
    Fault(
        missing_text_column,
        "manifest",
        r"no column 'content'; its columns are .*'body'.*: name the right one",
    ),
    Fault(missing_id_column, "manifest", r"no column 'uuid'; its columns are 'key', .*: name the right one"),
    Fault(
        numbers_for_text, "manifest", r"'body' of the input 'corpus/c\.parquet' holds int64, not text; name"
    ),
    Fault(empty_corpus, "manifest", r"The corpus 'corpus/\*' has no rows; name inputs that hold documents"),
    Fault(json_array, "manifest", r"'corpus/array\.jsonl' holds a JSON array; write it as JSON lines"),
    Fault(repeated_columns, "manifest", r"'corpus/c\.parquet' has more than one column 'body'; rename or"),
    Fault(notices_in_latin_1, "manifest", r"'LICENSES\.md' is not UTF-8 \(byte 10\); save it as UTF-8"),
    Fault(pretty_printed, "manifest", r"'corpus/pretty\.jsonl' take several lines each; write one object a"),
    Fault(error_page, "manifest", r"'corpus/page\.jsonl' is a JSON object: .* HTML or XML page; fetch it"),
    Fault(nothing_but_noise, "documents", r"No document of \d+ rows is left .*too_short \(\d+\); relax"),
    Fault(empty_task, "task_documents", r"The task files have no rows; give each task documents"),
    Fault(
        few_documents, "task_documents", r"The task 'french' has \d documents in the split .*; add documents"
    ),
    Fault(task_named_mean, "task_documents", r"named 'mean', which stands for .*; give it a name of its own"),
    Fault(
        task_named_worst, "task_documents", r"'worst', which stands for the task that gains least; give it"
    ),
    Fault(
        mistyped_target,
        LAUNCH,
        r"target is 'frensh', which is no task; did you mean 'french'\?(?!\.)",
    ),
    Fault(weight_of_no_task, LAUNCH, r"task_weights names nws, which .*; did you mean 'news'\?"),
    Fault(no_such_device, LAUNCH, r"device 'cuda:7' cannot be used .*device to auto or cpu"),
    Fault(no_retraining_left, "task_documents", r"max_retrainings is 6; .*: raise it by 4, or lower"),
    Fault(
        unknown_floor,
        "manifest",
        r"source_floors names the source 'nws', which no document comes from; did you mean 'news'\?",
    ),
    Fault(
        unknown_must_keep, "proxy_checkpoints", r"must_keep holds 1 ids .* such as no-such-document; correct"
    ),
    Fault(floors_above_the_caps_of_all, "proxy_checkpoints", r"the caps .*"),
    Fault(
        whole_corpus_in_tokens,
        "proxy_checkpoints",
        r"Found only \d of 8 distinct subsets of .*; ask for fewer",
    ),
    Fault(
        vocabulary_too_large,
        "tokenizer",
        r"too small for a vocabulary of 60000 .*; set tokenizer\.vocab_size",
    ),
    Fault(
        unknown_tokenizer,
        "tokenizer",
        r"the tokenizer '.*/nothing' cannot be loaded .*; give a folder",
    ),
    Fault(
        missing_checkpoint, "proxy_checkpoints", r"checkpoint '.*/nothing' cannot be loaded .*; give a folder"
    ),
    Fault(
        small_vocabulary,
        "proxy_checkpoints",
        r"small has 100 token embeddings, but the tokenizer has 300 tokens; set tokenizer\.name",
    ),
    Fault(
        spoiled_weights,
        "proxy_checkpoints",
        r"loss of the reference proxy is not finite at step 0 of \d+; lower proxy_checkpoints\.learning_rate",
    ),
    Fault(
        unknown_target,
        LAUNCH,
        r"candidates\.target is 'chess', which is no task; choose among french, mean, news, worst",
    ),
    Fault(
        budget_above_the_corpus,
        "proxy_checkpoints",
        r"budget of 10,000,000 tokens is above the corpus's [\d,]+; lower",
    ),
    Fault(
        budget_of_one_token,
        "proxy_checkpoints",
        r"The budget of 1 tokens is too small: .*\. Raise it to at least 32",
    ),
]


def tables_after(step: str) -> set[str]:
    """Return the tables of a step and of all that is built from them."""
    graph = defs.resolve_asset_graph()
    found = {name for name in ALL if step_of(name) == step}
    keys = {key for key in graph.get_all_asset_keys() if key.to_user_string() in found}
    for key in list(keys):
        keys |= {node for node in graph.get_all_asset_keys() if key in ancestors(node)}
    return {key.to_user_string() for key in keys} & set(ALL)


def ancestors(key: Any) -> set[Any]:
    graph = defs.resolve_asset_graph()
    found: set[Any] = set()
    todo = [key]
    while todo:
        for parent in graph.get(todo.pop()).parent_keys - found:
            found.add(parent)
            todo.append(parent)
    return found


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.prepare.__name__)
def test_a_fault_is_one_clear_sentence(
    place: Workplace, capsys: pytest.CaptureFixture[str], home: Path, fault: Fault
) -> None:
    changes = fault.prepare(place)
    assert place.run_in_terminal(changes) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "Traceback" not in said
    at_step = rf"{fault.step} failed: (.*?) Run [0-9a-f-]{{36}}; see it with"
    told = re.search(r"^Error: (.*)$" if fault.step == LAUNCH else at_step, said)
    assert told, said
    assert re.search(fault.sentence, told[1]), told[1]
    assert len(told[1]) < 500
    written = {name for name, table in ALL.items() if place.delta.exists(table)}
    after = set(ALL) if fault.step == LAUNCH else tables_after(fault.step)
    assert written.isdisjoint(after)
    assert list(place.store.rglob(".new-*")) == []


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        (
            {"candidates": {"budget_fraction": 0.0}},
            r"candidates\.config: budget_fraction is 0\.0; give a share",
        ),
        ({"candidates": {"budget_fraction": 1.0}}, r"budget_fraction is 1\.0; give a share .* below 1"),
        ({"candidates": {"budget_tokens": -5}}, r"budget_tokens is -5; give a number of tokens above 0"),
        ({"candidates": {"lambdas": [0.5]}}, r"lambdas must contain 0.*add 0\.0"),
        ({"sketchers": {"kinds": ["fulll"]}}, r"kinds is \['fulll'\]; name each of output, full"),
        (
            {"subsets": {"evaluation_subsets": 2}},
            r"subsets\.evaluation_subsets: .*greater than or equal to 8",
        ),
        (
            {"manifest": {"pathes": ["x"]}},
            r"manifest\.pathes: there is no such field; did you mean 'paths'\?",
        ),
        (
            {"finalists": {"constraints": {"source_flors": {}}}},
            r"finalists\.constraints\.source_flors: there is no such field; did you mean 'source_floors'\?",
        ),
        ({"subset": {"seed": 1}}, r"no step is named 'subset'; did you mean 'subsets'\?"),
        (
            {"subset": {"seed": 1}, "manifest": {"pathes": ["x"]}},
            r"did you mean 'subsets'\?; manifest\.pathes: there is no such field",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_is_refused_before_anything_runs(
    place: Workplace, capsys: pytest.CaptureFixture[str], home: Path, section: Changes, sentence: str
) -> None:
    assert place.run_in_terminal(section) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("Error: ")
    assert re.search(sentence, said), said
    assert not place.store.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("ops: [manifest]", r"`ops` in the configuration .* is not a mapping of steps; write"),
        ("just words", r"is not a mapping; start it with `ops:`"),
        ("ops: {manifest: [", r"is not YAML in line 1, column 18: .*; correct it"),
        ("ops:\n\tmanifest: {}", r"is not YAML in line 2, column 1: .*; correct it, indenting by spaces"),
        ("ops: \x00", r"is not YAML \(.*\); correct it"),
        ("opz: {}", r'entry "opz" at the root; did you mean .ops.\?\. Correct it'),
        (
            "ops: {candidates: {budget_fraction: 0.1}}",
            r"candidates\.budget_fraction: write fields below `config:`",
        ),
        (
            "resources: {store: {config: {folder: x}}}",
            r'"folder" at path root:resources:store:config; choose among root, sample_text, storage_options_from_env',
        ),
        ("resources: {computer: {config: {device: cpu}}}", r'"computer" .*; did you mean .compute.\?'),
    ],
)
def test_a_configuration_file_that_cannot_be_used(
    place: Workplace, capsys: pytest.CaptureFixture[str], home: Path, content: str, sentence: str
) -> None:
    path = place.folder / "broken.yaml"
    path.write_text(content)
    assert place.run_file(path) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("Error: ")
    assert re.search(sentence, said), said


def test_a_home_that_is_not_there(
    place: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(place.folder / "nowhere"))
    assert place.run_in_terminal() == 1
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"Error: DAGSTER_HOME is '.*nowhere'; set it to the absolute path of an existing folder", said
    )


def test_a_home_that_is_not_set(
    place: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the variable the checkout's folder is taken; in a package without one a sentence says what to set."""
    import dagster as dg

    from assets import run

    monkeypatch.setenv("DAGSTER_HOME", "for the fixture to take back")
    monkeypatch.delenv("DAGSTER_HOME")
    monkeypatch.setattr(run, "HOME", place.folder / "nowhere")
    assert place.run_in_terminal() == 1
    assert re.search(r"Error: DAGSTER_HOME is None; set it", " ".join(capsys.readouterr().out.split()))
    monkeypatch.setattr(run, "HOME", place.folder)
    with run.this_instance() as instance:
        assert isinstance(instance, dg.DagsterInstance)
        assert instance.root_directory == str(place.folder)


def test_a_store_that_cannot_be_written_is_one_sentence_before_any_work(
    place: Workplace, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    # A name this long is no folder, for an administrator neither.
    config = place.run_config()
    config["resources"]["store"]["config"]["root"] = str(place.folder / ("x" * 300))
    path = place.folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    assert place.run_file(path) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert len(re.findall(r"the store .+? cannot be written \(", said)) == 1
    assert "make the folder writable, or set GRASP_STORE to another" in said
    assert said.count(" failed: ") == 1


def test_an_unknown_job_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    from assets.run import main

    with pytest.raises(SystemExit):
        main(["recurat"])
    assert "there is no job 'recurat'; did you mean 'recurate'?" in capsys.readouterr().err


class TestPorts:
    def test_a_taken_port_is_told_with_a_free_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        from assets.ui import is_free, main

        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            assert main(["--port", str(port)]) == 1
            told = re.search(
                r"port (\d+) of 127\.0\.0\.1 is taken.*make ui PORT=(\d+)", capsys.readouterr().err
            )
        assert told is not None
        assert int(told[1]) == port
        assert is_free(int(told[2]))

    @pytest.mark.parametrize("given", ["0", "65536", "web", "-1"])
    def test_what_is_no_port_is_told(self, given: str, capsys: pytest.CaptureFixture[str]) -> None:
        from assets.ui import main

        with pytest.raises(SystemExit):
            main([f"--port={given}"])
        assert f"'{given}' is no port" in capsys.readouterr().err


class TestRejectedRows:
    """Rows that cannot be used do not stop a run: they are rejected, each with its reason."""

    def reasons(self, place: Workplace, origin: str) -> dict[str, tuple[str, str]]:
        """Return origin -> (reason, detail) of the rows of one file."""
        frame = place.read(tables.REJECTED_DOCUMENTS).filter(pl.col("origin").str.contains(origin))
        return {
            row: (why, detail) for row, why, detail in frame.select("origin", "reason", "detail").iter_rows()
        }

    def test_lines_that_are_not_json_or_not_utf8(self, place: Workplace) -> None:
        row = {"key": "k", "origin_name": "web", "body": toy_texts("news", 1, "web")[0]}
        bad = [
            b'{"body": "cut off',
            b'{"key": "1", "origin_name": "x", "body": "\xff\xfe"}',
            b'["a", "list"]',
        ]
        empty = [
            b'{"key": "2", "origin_name": "x", "body": null}',
            b'{"key": "3", "origin_name": "x", "body": 7}',
        ]
        write_lines(place.corpus / "c.jsonl", [row], *bad, *empty)
        place.run(only=CLEANED)
        found = self.reasons(place, "c.jsonl")
        assert [why for why, _ in found.values()] == [
            "unparsable_json",
            "invalid_utf8",
            "not_an_object",
            "missing_text",
            "text_not_string",
        ]
        assert [origin.split("#")[1].split()[0] for origin in found] == ["1", "2", "3", "4", "5"]
        assert all(f"line {line}" in detail for line, (_, detail) in enumerate(found.values(), 2))
        assert "cut off" not in str(found)
        documents = place.read(tables.DOCUMENTS)
        assert documents.filter(source="web").height == 1

    def test_invalid_utf8_in_parquet(self, place: Workplace) -> None:
        good, bad = toy_texts("news", 1, "web")[0].encode(), b"broken \xff\xfe bytes"
        body = pa.Array.from_buffers(
            pa.string(),
            2,
            [None, pa.py_buffer(int32s(0, len(good), len(good) + len(bad))), pa.py_buffer(good + bad)],
        )
        table = pa.table({"key": ["1", "2"], "origin_name": ["web", "web"], "body": body})
        pq.write_table(table, place.corpus / "c.parquet")
        place.run(only=CLEANED)
        assert self.reasons(place, "c.parquet") == {
            "corpus/c.parquet#1 (2)": ("invalid_utf8", "byte 7 is not UTF-8")
        }

    def test_a_parquet_file_without_any_text(self, place: Workplace) -> None:
        pq.write_table(
            pa.table({"key": ["1", "2"], "origin_name": [b"web"] * 2, "body": pa.nulls(2)}),
            place.corpus / "c.parquet",
        )
        place.run(only=CLEANED)
        assert self.reasons(place, "c.parquet") == {
            f"corpus/c.parquet#{row} ({row + 1})": ("missing_text", "the text is null") for row in (0, 1)
        }
        rejected = place.read(tables.REJECTED_DOCUMENTS).filter(reason="missing_text")
        assert rejected["source"].to_list() == ["web", "web"]

    def test_a_document_of_50_megabytes(self, place: Workplace) -> None:
        text = "a long story about everything. " * (50_000_000 // 31)
        frame = pl.DataFrame({"key": ["1"], "origin_name": ["web"], "body": [text]})
        frame.write_parquet(place.corpus / "c.parquet")
        write_lines(place.corpus / "d.jsonl", frame.to_dicts())
        result = place.run(only=CLEANED)
        assert result.success
        for name in ("c.parquet", "d.jsonl"):
            ((why, detail),) = self.reasons(place, name).values()
            assert why == "oversized"
            assert re.search(r"4999\d{4} bytes are above max_document_bytes 20000000", detail)
        rejected = place.read(tables.REJECTED_DOCUMENTS).filter(reason="oversized")
        assert rejected["value"].to_list() == [float(len(text))] * 2


class TestNothingToReject:
    def test_a_faultless_corpus_has_an_empty_table_of_rejected_documents(self, place: Workplace) -> None:
        for path in place.corpus.iterdir():
            clean = pl.read_parquet(path).filter(pl.col("origin_name") != "junk").unique("body")
            clean.write_parquet(path)
        off = {"documents": {"noise_rules": False, "perplexity_quantile": 1.0, "exact_duplicates": "keep"}}
        result = place.run(changes=off, only=CLEANED)
        assert place.read(tables.REJECTED_DOCUMENTS).height == 0
        assert all(check.passed for check in result.get_asset_check_evaluations())
        before = place.delta_versions()
        again = place.run(changes=off, only=CLEANED)
        assert place.delta_versions() == before
        assert all(steps_up_to_date(again).values())


def int32s(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)


class TestStrangeNames:
    SOURCES = ("x' OR 'a'='a", 'say "hi"/../../etc', "100% 🦜 \\ {name}", "[bold]<b>&amp;")

    def rename(self, place: Workplace) -> None:
        for path in place.corpus.iterdir():
            frame = pl.read_parquet(path)
            names = dict(zip(frame["origin_name"].unique().sort(), self.SOURCES, strict=True))
            frame.with_columns(pl.col("origin_name").replace(names)).write_parquet(path)

    @pytest.mark.slow
    def test_sources_with_quotes_and_slashes_go_all_the_way(self, place: Workplace, home: Path) -> None:
        self.rename(place)
        for path in list(place.corpus.iterdir()):
            path.rename(place.corpus / f"{path.stem} ' % ä{path.suffix}")
        assert place.run_in_terminal(QUICK) == 0
        for table in (tables.DOCUMENTS, tables.TOKENIZED_SHARDS, tables.DROP_REASONS):
            assert set(place.read(table)["source"]) == set(self.SOURCES)
        page = (place.store / "report" / "report.html").read_text(encoding="utf-8")
        assert all(html.escape(name) in page for name in self.SOURCES)
        assert "[bold]<b>" not in page
        assert {path.name for path in place.folder.iterdir()} == {"corpus", "tasks", "store", "run.yaml"}


class TestAGoodStoreStays:
    def test_a_bad_file_that_arrives_changes_no_table(self, copied: Workplace) -> None:
        before = copied.delta_versions()
        whole = (copied.corpus / "a.parquet").read_bytes()
        (copied.corpus / "cut.parquet").write_bytes(whole[: len(whole) // 2])
        copied.run("recurate", fails=True)
        assert copied.delta_versions() == before

    def test_a_checkpoint_that_does_not_fit_leaves_the_stored_proxy(self, copied: Workplace) -> None:
        before = copied.delta_versions()
        folder = save_model(copied.folder / "small", 100)
        copied.run(changes={"proxy_checkpoints": {"checkpoint": folder}}, fails=True)
        assert copied.delta_versions() == before
        assert len(list((copied.store / "files" / "proxies").iterdir())) == 1
