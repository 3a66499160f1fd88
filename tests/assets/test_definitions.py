"""What the code location offers: jobs, described assets, a schedule and a sensor that are off until switched on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml
from workplace import ARRIVALS

from assets.jobs import weekly_recuration
from assets.landing import landing_folder
from assets.partitions import SHARDS, WHOLE_RANGE, shard_names
from assets.stages import STAGES
from grasp_pipeline.definitions import defs
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.tables import ALL

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {"corpus", "tokens", "proxy", "sketches", "calibration", "selection", "publication"}
GROUPS |= {"filtering", "evidence", "vision", "attribution"}
FILES = {"export", "report", "attribution_proof"}
ROWS = {"vision_fidelity"}
"""Assets that write rows of a table that another asset is named after."""


def specs() -> list[dg.AssetSpec]:
    return sorted(defs.resolve_all_asset_specs(), key=lambda spec: spec.key)  # the same in every process


def definitions() -> list[dg.AssetsDefinition]:
    """Return what materializes assets, without the checks."""
    graph = defs.resolve_asset_graph()
    found = {node.node_def.name: node for node in graph.assets_defs if node.keys}
    return [found[name] for name in sorted(found)]


class TestCodeLocation:
    def test_the_workspace_loads(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"]
        environment = {**os.environ, "DAGSTER_HOME": str(tmp_path), "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "grasp_pipeline" in done.stdout + done.stderr

    def test_everything_resolves_and_the_jobs_are_named(self) -> None:
        dg.Definitions.validate_loadable(defs)
        names = {name for name in defs.get_repository_def().job_names if not name.startswith("__")}
        assert names == {
            "curate",
            "recurate",
            "fidelity",
            "apply_filter",
            "curate_vision",
            "prove_attribution",
        }
        assert all(defs.resolve_job_def(name).description for name in names)

    def test_the_demo_configuration_fits_every_job(self) -> None:
        config = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())
        for name in ("curate", "recurate", "fidelity"):
            job = defs.resolve_job_def(name)
            steps = {node.name for node in job.graph.nodes}
            given = {step: section for step, section in config["ops"].items() if step in steps}
            assert dg.validate_run_config(job, {**config, "ops": given})

    def test_the_vision_configuration_fits_its_job(self) -> None:
        config = yaml.safe_load((ROOT / "config" / "vision.yaml").read_text())
        assert dg.validate_run_config(defs.resolve_job_def("curate_vision"), config)

    def test_the_filters_configuration_fits_its_job(self) -> None:
        config = yaml.safe_load((ROOT / "config" / "apply_filter.yaml").read_text())
        assert dg.validate_run_config(defs.resolve_job_def("apply_filter"), config)

    def test_the_demo_configuration_names_only_steps_of_curate(self) -> None:
        config = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())
        assert set(config["ops"]) <= {node.name for node in defs.resolve_job_def("curate").graph.nodes}


class TestAssets:
    def test_every_table_is_an_asset(self) -> None:
        assert {spec.key.to_user_string() for spec in specs()} == set(ALL) | FILES | ROWS

    @pytest.mark.parametrize("spec", specs(), ids=lambda spec: spec.key.to_user_string())
    def test_an_asset_says_what_it_is_and_whose(self, spec: dg.AssetSpec) -> None:
        assert spec.group_name in GROUPS
        assert spec.kinds
        assert spec.description
        assert spec.owners
        assert spec.code_version

    @pytest.mark.parametrize("asset", definitions(), ids=lambda asset: asset.node_def.name)
    def test_a_backfill_is_one_run(self, asset: dg.AssetsDefinition) -> None:
        """One launch covers partitioned and unpartitioned assets only with this policy."""
        assert asset.backfill_policy == dg.BackfillPolicy.single_run()

    def test_only_the_shards_of_the_corpus_are_partitioned(self) -> None:
        graph = defs.resolve_asset_graph()
        partitioned = {
            key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).is_partitioned
        }
        assert partitioned == {"tokenized_shards", "gradient_sketches"}
        assert list(WHOLE_RANGE.values()) == ["shard-0000", SHARDS.get_last_partition_key()]

    def test_work_on_the_device_is_in_the_pool(self) -> None:
        pooled = {asset.node_def.name for asset in definitions() if asset.op.pool}
        assert pooled == {
            "proxy_checkpoints",
            "sketchers",
            "gradient_sketches",
            "task_sketches",
            "subset_utilities",
            "certificates",
            "conditional_losses",
            "sealed_evaluation",
            "filtered_shards",
        }

    def test_the_terminal_shows_the_time_of_every_step(self) -> None:
        assert set(STAGES) == {asset.node_def.name for asset in definitions()}

    def test_every_check_is_described(self) -> None:
        graph = defs.resolve_asset_graph()
        checks = [graph.get(key) for key in graph.asset_check_keys]
        assert len(checks) == 12
        assert all(check.description for check in checks)
        assert [check.key.name for check in checks if check.blocking] == ["certificate_above_zero"]

    def test_recurate_leaves_the_models_and_the_protocol_alone(self) -> None:
        steps = {node.name for node in defs.resolve_job_def("recurate").graph.nodes}
        frozen = {"tokenizer", "proxy_checkpoints", "sketchers", "subsets", "subset_utilities", "surrogates"}
        assert steps.isdisjoint(frozen | {"sealed_evaluation"})
        assert steps >= {"manifest", "documents", "tokenized_shards", "gradient_sketches", "pruned_corpus"}
        assert {node.name for node in defs.resolve_job_def("fidelity").graph.nodes} >= {"sealed_evaluation"}

    def test_only_apply_filter_scores_new_files(self) -> None:
        for name in ("curate", "recurate", "fidelity", "curate_vision"):
            assert "filtered_shards" not in {node.name for node in defs.resolve_job_def(name).graph.nodes}
        assets = defs.resolve_job_def("apply_filter").asset_layer.selected_asset_keys
        assert {key.to_user_string() for key in assets} == ARRIVALS

    def test_only_curate_vision_works_on_images(self) -> None:
        for name in ("curate", "recurate", "fidelity"):
            assert "vision_fidelity" not in {node.name for node in defs.resolve_job_def(name).graph.nodes}
        assets = {
            key.to_user_string()
            for key in defs.resolve_job_def("curate_vision").asset_layer.selected_asset_keys
        }
        assert assets == {"vision_fidelity"}


class TestShards:
    @pytest.mark.parametrize("text", ["0", "-1", "many", "10001", "1.5", ""])
    def test_a_number_of_shards_that_is_none_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        monkeypatch.setenv("GRASP_SHARDS", text)
        with pytest.raises(ConfigError, match=r"GRASP_SHARDS is .*; set it to a number of shards from 1 to"):
            shard_names()

    def test_their_number_can_be_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GRASP_SHARDS", "2")
        assert shard_names() == ["shard-0000", "shard-0001"]


class TestAutomation:
    def test_both_are_off_until_switched_on(self) -> None:
        assert landing_folder.default_status == dg.DefaultSensorStatus.STOPPED
        assert weekly_recuration.default_status == dg.DefaultScheduleStatus.STOPPED
        assert landing_folder.job_name == weekly_recuration.job_name == "recurate"

    def test_the_schedule_launches_recurate_with_the_configured_corpus(
        self, monkeypatch: pytest.MonkeyPatch, home: Path
    ) -> None:
        monkeypatch.chdir(ROOT)
        context = dg.build_schedule_context(dg.DagsterInstance.get())
        data = weekly_recuration.evaluate_tick(context)
        (request,) = data.run_requests or []
        assert request.tags.items() >= WHOLE_RANGE.items()
        assert dg.validate_run_config(defs.resolve_job_def("recurate"), request.run_config)
        config = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())
        assert request.run_config["ops"]["manifest"] == config["ops"]["manifest"]
