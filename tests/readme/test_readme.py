"""Every command of the README runs, on a toy corpus; the web interface runs what the command line launches."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import polars as pl
import pytest
import yaml
from processes import free_port, served
from toys import toy_texts, write_toy_corpus

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BY_CI = {"make lint": "make lint", "make test": "make test-all"}
"""Commands that .ci/run itself runs: running the tests inside a test would not end."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [line.strip() for block in blocks("sh") for line in block.splitlines() if line.strip()]

LOOKING = (
    ".venv/bin/python -m assets.run summary --config config/demo.yaml",
    ".venv/bin/python -m grasp_pipeline explain 01-encyclopaedia.parquet#0",
    "make browse",
    ".venv/bin/dg check defs",
    ".venv/bin/dg list defs",
)
"""Commands of the quick start that start no job."""


def toy_config(corpus: Path, tasks: Path) -> dict:
    def section(**values: object) -> dict:
        return {"config": values}

    return {
        "ops": {
            "manifest": section(
                paths=[f"{corpus}/*.parquet"],
                text_column="body",
                id_column="key",
                source_column="origin_name",
            ),
            "task_documents": section(paths=[f"{tasks}/*.parquet"], min_documents=5),
            "tokenizer": section(vocab_size=320, chunk_tokens=16),
            "proxy_checkpoints": section(reference_tokens=20_000, retrain_tokens=3_000),
            "sketchers": section(kinds=["output"], output_hidden_dim=8, output_vocab_dim=8),
            "candidates": section(bootstrap=200, lambdas=[0.0, 1.0]),
            "subsets": section(calibration_subsets=8, evaluation_subsets=8),
            "finalists": section(shortlist=1, random_draws=3, allow_uncertified=True),
            "sealed_evaluation": section(arm_seeds=2, bootstrap=200),
        }
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A toy corpus with its configuration, an empty store and an empty DAGSTER_HOME; returns the environment."""
    folder = tmp_path_factory.mktemp("readme")
    corpus, tasks = write_toy_corpus(folder, 120)
    config = folder / "my-corpus.yaml"
    config.write_text(yaml.safe_dump(toy_config(corpus, tasks)))
    home = folder / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text((ROOT / ".dagster_home" / "dagster.yaml").read_text())
    port = free_port()
    return os.environ | {
        "CONFIG": str(config),
        "GRASP_STORE": str(folder / "store"),
        "DAGSTER_HOME": str(home),
        "PORT": str(port),
        "COLUMNS": "100",
        "PYTHONWARNINGS": "ignore",
    }


def run(command: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def graphql(port: str, query: str) -> dict:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        data=json.dumps({"query": query}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)["data"]


def until(what: str, seconds: float, ready) -> object:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if (found := ready()) is not None:
                return found
        except OSError:
            pass
        time.sleep(1)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def test_the_commands_are_the_ones_tested_here() -> None:
    assert COMMANDS == [
        "make demo",
        "make ui",
        "make demo CONFIG=my-corpus.yaml GRASP_STORE=my-store",
        "make recurate CONFIG=my-corpus.yaml GRASP_STORE=my-store",
        ".venv/bin/python examples/select_corpus.py",  # run by tests/core/test_face.py
    ]


def test_the_demo_takes_as_long_as_was_measured() -> None:
    from benchmarks.demo import duration_sentence
    from benchmarks.published import RESULTS, replace_between

    said = duration_sentence(json.loads((RESULTS / "demo.json").read_text()))
    assert replace_between(README, "demo", said) == README
    assert "under ten minutes" not in README


def test_continuous_integration_runs_lint_and_tests() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    for command in BY_CI.values():
        assert f"step {command}\n" in script


def test_the_readmes_configuration_is_valid() -> None:
    from assets import graph as _graph  # noqa: F401  declares every stage
    from assets.stages import check_run_config

    (text,) = blocks("yaml")
    check_run_config(yaml.safe_load(text)["ops"])
    check_run_config(yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())["ops"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_command_line(place: dict[str, str]) -> None:
    config, store = place["CONFIG"], place["GRASP_STORE"]
    first = run("make demo", place)
    assert "CERTIFIED" in first
    assert "report.html" in first
    second = run("make demo", place)
    assert second.count("is up to date") > 15
    own = run(f"make demo CONFIG={config} GRASP_STORE={store}", place)
    assert "CERTIFIED" in own
    run(f"make recurate CONFIG={config} GRASP_STORE={store}", place)
    run(f"make fidelity CONFIG={config} GRASP_STORE={store}", place)
    look_around(place)
    code = blocks("python")[0].replace('"store/', f'"{store}/')
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "lower_bound" in shown.stdout


def look_around(place: dict[str, str]) -> None:
    """Run what the quick start names beside jobs, on the curated toy store; `make filter` on files that came later."""
    summary, explain, browse, check, listed = LOOKING
    told = run(summary.replace("config/demo.yaml", place["CONFIG"]), place)
    assert "CERTIFIED" in told
    first = yaml.safe_load(Path(place["CONFIG"]).read_text())["ops"]["manifest"]["config"]["paths"][0]
    name = min(Path(first).parent.glob("*.parquet")).name
    assert "kept" in run(explain.replace("01-encyclopaedia.parquet", name), place)
    assert "All definitions loaded successfully" in run(check, place)
    assert "gradient_sketches" in run(listed, place)

    folder = Path(place["CONFIG"]).parent
    wanted = folder / "filter.yaml"
    wanted.write_text(yaml.safe_dump(write_arrivals(folder)))
    assert "20 documents scored" in " ".join(run(f"make filter CONFIG={wanted}", place).split())

    port = free_port()

    def page() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
            return answer.read().decode()

    with served([*browse.split(), f"PORT={port}"], place):
        assert "<html" in str(until("the browser of the store", 120, page))


def write_arrivals(folder: Path) -> dict:
    """Write 20 documents that came later; returns the run configuration that filters them."""
    arrivals = folder / "arrivals"
    arrivals.mkdir()
    rows = [(source, text) for source in ("news", "junk") for text in toy_texts(source, 10, "tomorrow")]
    pl.DataFrame(rows, schema=["origin_name", "body"], orient="row").write_parquet(arrivals / "new.parquet")
    section = {"paths": [f"{arrivals}/*"], "text_column": "body", "source_column": "origin_name"}
    return {"ops": {"filtered_shards": {"config": section}}}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_web_interface_runs_what_the_command_line_launches(place: dict[str, str], tmp_path: Path) -> None:
    env = place | {"GRASP_STORE": str(tmp_path / "store")}
    with served(["make", "ui", f"PORT={env['PORT']}"], env):
        until("the web server", 120, lambda: graphql(env["PORT"], "{version}")["version"])
        run(f"make launch CONFIG={env['CONFIG']}", env)
        taken = subprocess.run(
            ["make", "ui", f"PORT={env['PORT']}"], cwd=ROOT, env=env, capture_output=True, text=True
        )
        assert "is taken" in taken.stderr

        def ended() -> str | None:
            runs = graphql(env["PORT"], "{runsOrError{... on Runs{results{jobName status}}}}")["runsOrError"][
                "results"
            ]
            status = runs[0]["status"] if runs else ""
            return status if status in {"SUCCESS", "FAILURE", "CANCELED"} else None

        assert until("the end of the run", 400, ended) == "SUCCESS"
        frame = pl.read_delta(f"{env['GRASP_STORE']}/pruned_corpus")
        assert frame.height > 0
        query = "{assetNodes{assetKey{path} groupName partitionStats{numMaterialized numPartitions}}}"
        nodes = {node["assetKey"]["path"][-1]: node for node in graphql(env["PORT"], query)["assetNodes"]}
        assert nodes["gradient_sketches"]["partitionStats"]["numMaterialized"] > 0
