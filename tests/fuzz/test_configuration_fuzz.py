"""Run configurations and what is asked for on the command line: used, or refused in one sentence."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import yaml
from cases import many, told_or_done
from hostile import encodable, names, values
from hypothesis import given
from hypothesis import strategies as st

from assets import graph
from assets.settings import read_config
from assets.stages import STAGES, check_run_config
from grasp_pipeline import tables
from grasp_pipeline.lineage.curation import Curation
from grasp_pipeline.lineage.explain import explain, explanation_text

pytestmark = pytest.mark.slow

assert graph.MODULES, "the modules of all stages are loaded"
FIELDS = {
    name: list(stage.section.model_fields) for name, stage in STAGES.items() if stage.section is not None
}


@st.composite
def sections(draw: st.DrawFn) -> dict[str, Any]:
    """Draw sections with known and unknown steps and fields, and values of any kind."""
    ops: dict[str, Any] = {}
    for _ in range(draw(st.integers(0, 3))):
        step = draw(st.one_of(st.sampled_from(sorted(FIELDS)), names))
        known = FIELDS.get(step) or ["x"]
        config = draw(
            st.one_of(
                st.dictionaries(st.one_of(st.sampled_from(known), names), values, max_size=3),
                values,
            )
        )
        ops[step] = draw(st.sampled_from([{"config": config}, config, None, {"confg": config}]))
    return ops


@many("run configurations")
@given(sections())
def test_run_configurations(ops: dict[str, Any]) -> None:
    with told_or_done("run configurations"):
        check_run_config(ops)


@many("files of run configurations")
@given(
    st.one_of(
        st.binary(max_size=80),
        sections().map(
            lambda ops: yaml.safe_dump({"ops": ops}, allow_unicode=True).encode("utf-8", "replace")
        ),
        values.map(lambda value: yaml.safe_dump(value).encode()),
        st.sampled_from(
            [
                b"!!python/object/apply:os.system [id]",
                b"a: &a [*a]",
                b"ops: " + b"[" * 5_000,
                b"ops: {a: *nowhere}",
                b"- 1\n- 2",
                b"ops: 3",
                b"",
            ]
        ),
    )
)
def test_files_of_run_configurations(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "run.yaml"
    path.write_bytes(data)
    with told_or_done("files of run configurations"):
        check_run_config(read_config(path)["ops"])


class Toy:
    """The tables of a curation of one document, in memory."""

    def __init__(self, origin: str, text: str) -> None:
        row = dict.fromkeys(tables.DOCUMENTS.schema) | {
            "doc_id": "a" * 64,
            "text": text,
            "source": origin,
            "shard": "shard-0000",
            "n_bytes": len(text.encode()),
            "origin": origin,
            "survivor": True,
        }
        self.documents = pl.DataFrame([row], schema=tables.DOCUMENTS.schema)

    def read(self, table: tables.Table, version: int) -> pl.LazyFrame:
        return (self.documents if table is tables.DOCUMENTS else table.empty()).lazy()


@many("ids asked for")
@given(encodable, encodable, encodable)
def test_ids_asked_for(origin: str, text: str, wanted: str) -> None:
    row = {"versions": "{}", "published": True}
    curation = Curation(1, row | {"versions": '{"documents": 1}'}, Toy(origin, text))  # type: ignore[arg-type]
    for asked in (wanted, f"{origin}#0", "a" * 6):
        with told_or_done("ids asked for"):
            said = explanation_text(explain(curation, asked))
            assert "\x1b" not in said
            assert "\u202e" not in said
