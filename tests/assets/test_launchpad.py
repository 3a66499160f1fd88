"""The launchpad starts from the configuration in use, and a launch that must fail is refused before it is a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.errors import DagsterUserCodeProcessError
from toys import write_toy_corpus
from workplace import SMALLEST, Workplace

from assets import jobs, ui
from assets.launchpad import FILE, MATERIALIZE, config_of, launched_config, prefill_materialize, prefilled
from grasp_pipeline import tables
from grasp_pipeline.definitions import define, defs
from grasp_pipeline.errors import ConfigError

CURATE = defs.resolve_job_def("curate")


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    write_toy_corpus(tmp_path)
    return Workplace(tmp_path)


def plain_job() -> dg.JobDefinition:
    return define(jobs.JOBS).resolve_job_def("curate")


def default(job: dg.JobDefinition) -> Any:
    """Return what the launchpad holds of `ops`."""
    return job.run_config_schema.config_type.fields["ops"].default_value


def test_the_launchpad_holds_the_file_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    mine = {
        "candidates": {"config": {"budget_fraction": 0.5}},
        "filtered_shards": {"config": {"paths": ["x"]}},
    }
    path.write_text(yaml.safe_dump({"ops": mine, "resources": {"compute": {"config": {"device": "cpu"}}}}))
    monkeypatch.setenv(FILE, str(path))
    fields = prefilled(plain_job()).run_config_schema.config_type.fields
    assert fields["ops"].default_value == {
        "candidates": mine["candidates"]
    }  # what the job has no step for is left out
    assert fields["resources"].default_value["compute"] == {"config": {"device": "cpu"}}
    monkeypatch.setenv(FILE, str(tmp_path / "missing.yaml"))
    with pytest.raises(ConfigError, match=r"missing\.yaml cannot be read"):
        config_of("curate", ["candidates"])
    path.write_text(yaml.safe_dump({"ops": {"candidates": {"config": {"budget_fraction": 1.5}}}}))
    assert "budget_fraction is 1.5; give a share" in str(ui.unusable(path))


def test_a_launch_that_gives_steps_takes_no_other_from_the_file() -> None:
    demo = yaml.safe_load(Path("config/demo.yaml").read_text())["ops"]
    mapping: Any = CURATE.config_mapping

    def limit(config: dict[str, Any]) -> int:
        return config["ops"]["finalists"]["config"]["max_training_tokens"]

    assert default(CURATE) == demo
    assert limit(mapping.resolve_from_unvalidated_config({"ops": {}})) != limit({"ops": demo})
    assert limit(mapping.resolve_from_unvalidated_config({})) == limit({"ops": demo})
    # What the checks of a run look at is what it is executed with.
    assert launched_config({}, CURATE)["ops"] == demo
    assert launched_config({"ops": {}}, CURATE)["ops"] == {}


def test_materialize_starts_from_the_file_in_use(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an asset's page and the lineage: a part of the job over all assets, with nothing configured."""
    monkeypatch.chdir(place.folder)
    path = place.folder / "mine.yaml"
    path.write_text(yaml.safe_dump(place.run_config({"documents": {"min_characters": 3}})))
    monkeypatch.setenv(FILE, str(path))
    job = prefill_materialize(define(jobs.JOBS)).resolve_implicit_global_asset_job_def()

    def materialize(*names: str, **given: Any) -> dict[str, Any]:
        keys = [dg.AssetKey(name) for name in names]
        job.execute_in_process(instance=place.instance, asset_selection=keys, **given)
        settings = place.delta.settings(tables.ALL[names[-1]], names[-1])
        assert settings is not None
        return dict(settings.values or {})

    assert materialize("manifest")["text_column"] == "body"
    assert materialize("task_documents")["min_documents"] == 4
    assert materialize("documents")["min_characters"] == 3
    materialize("tokenizer")
    shards = [dg.AssetKey("tokenized_shards")]
    job.execute_in_process(instance=place.instance, asset_selection=shards, partition_key="shard-0000")
    assert set(place.read(tables.TOKENIZED_SHARDS)["shard"]) == {"shard-0000"}
    # A launch that gives steps is taken as it stands, here too.
    ops = {"documents": {"config": {"max_repetition": 0.5}}}
    given = {**place.run_config(), "ops": ops}
    documented = materialize("documents", run_config=given)
    assert (documented["max_repetition"], documented["min_characters"]) == (0.5, 50)
    with pytest.raises(DagsterUserCodeProcessError, match=r"documents\.max_repetition: Input should be less"):
        materialize("documents", run_config={"ops": {"documents": {"config": {"max_repetition": 1.5}}}})


def test_a_launch_of_shards_that_names_none_is_told_where_to_go(place: Workplace) -> None:
    job, key = defs.resolve_implicit_global_asset_job_def(), dg.AssetKey("tokenized_shards")
    given = {"run_config": {**place.run_config(), "ops": {}}, "instance": place.instance}
    with pytest.raises(
        DagsterUserCodeProcessError, match="launch the job curate or recurate from its Launchpad"
    ):
        job.execute_in_process(asset_selection=[key], **given)


@pytest.mark.parametrize("name", ["curate", MATERIALIZE])
def test_shards_alone_have_the_configuration_too(name: str) -> None:
    key = dg.AssetKey("gradient_sketches")
    part = defs.resolve_job_def(name).get_subset(asset_selection={key})
    assert part.config_mapping is not None
    assert {"gradient_sketches"} < {node.name for node in part.graph.nodes}  # and its checks
    assert launched_config({}, part)["ops"]["sketchers"]["config"]["output_hidden_dim"] == 32
    assert part.get_tags_for_partition_key("shard-0003", selected_asset_keys=[key])


def test_materialize_takes_from_the_files_of_jobs_what_the_file_in_use_says_nothing_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {node.name for node in defs.resolve_implicit_global_asset_job_def().graph.nodes}
    ops = config_of(MATERIALIZE, steps)["ops"]
    own = {
        step: section
        for path in ("config/apply_filter.yaml", "config/vision.yaml", "config/demo.yaml")
        for step, section in yaml.safe_load(Path(path).read_text())["ops"].items()
    }
    assert ops == own
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"ops": {"vision_fidelity": {"config": {"pool": 700}}}}))
    monkeypatch.setenv(FILE, str(mine))
    assert config_of(MATERIALIZE, steps)["ops"]["vision_fidelity"] == {"config": {"pool": 700}}
    monkeypatch.chdir(tmp_path)  # no file of a job
    job = prefill_materialize(define(jobs.JOBS)).resolve_implicit_global_asset_job_def()
    assert default(job) == {"vision_fidelity": {"config": {"pool": 700}}}


def test_a_launch_asks_for_no_partition() -> None:
    assert CURATE.partitions_def is None
    assert CURATE.run_tags["dagster/asset_partition_range_start"] == "shard-0000"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"candidates": {"budget_fraction": 1.5}}, "budget_fraction is 1.5; give a share of the corpus"),
        ({"candidates": {"target": "frnch"}}, "is 'frnch', which is no task; did you mean 'french'"),
        ({"candidates": {"task_weights": {"newz": 1.0}}}, "did you mean 'news'"),
    ],
)
def test_what_must_fail_is_never_a_run(
    place: Workplace, changes: dict[str, dict[str, Any]], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.folder)
    with pytest.raises(DagsterUserCodeProcessError, match=told) as refused:
        CURATE.execute_in_process(run_config=place.run_config(changes), instance=place.instance)
    (info,) = refused.value.user_code_process_error_infos
    assert info.stack == []  # the web interface shows the sentence alone
    assert place.instance.get_runs() == []
    assert not place.store.exists()


def test_a_device_that_is_not_there_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    config = {"ops": {}, "resources": {"compute": {"config": {"device": "cuda:91"}}}}
    with (
        dg.DagsterInstance.get() as instance,
        pytest.raises(DagsterUserCodeProcessError, match="device 'cuda:91' cannot be used here"),
    ):
        CURATE.execute_in_process(run_config=config, instance=instance)


def test_a_failed_step_is_told_by_its_sentence_alone(place: Workplace) -> None:
    """An empty store: nothing was read that `documents` could be made from."""
    result = place.run(only=["documents"], fails=True)
    (failure,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    error = failure.step_failure_data.error
    assert error is not None
    assert error.stack == []
    assert error.cause is None
    assert "manifest" in error.message
    assert error.cls_name == "StoreError"


def test_a_run_of_the_terminal_is_in_the_timeline_of_its_job(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    place.sections = {**SMALLEST, "manifest": {"paths": ["corpus/none*"]}}
    assert place.run_in_terminal() == 1
    with dg.DagsterInstance.get() as instance:
        (run,) = instance.get_runs()
    assert run.remote_job_origin is not None
    assert run.remote_job_origin.job_name == "curate"
    assert run.remote_job_origin.repository_origin.code_location_origin.location_name == "grasp_pipeline"
