"""Dagster's web interface as a person meets it: launch with a changed budget, look at assets, a check, automation."""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import free_port, served
from toys import write_toy_corpus
from workplace import SMALLEST

ROOT = Path(__file__).resolve().parents[2]
SHOTS = os.environ.get("GRASP_SCREENSHOTS")
"""Folder that screenshots are written to, for the documentation."""

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the web interface over a toy corpus; returns its address."""
    folder = tmp_path_factory.mktemp("ui")
    corpus, tasks = write_toy_corpus(folder, 40)
    sections = {
        **SMALLEST,
        "manifest": {**SMALLEST["manifest"], "paths": [f"{corpus}/*"]},
        "task_documents": {**SMALLEST["task_documents"], "paths": [f"{tasks}/*"]},
        "finalists": {"shortlist": 2, "random_draws": 3},
    }
    config = folder / "toy.yaml"
    config.write_text(yaml.safe_dump({"ops": {name: {"config": each} for name, each in sections.items()}}))
    home = folder / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text((ROOT / ".dagster_home" / "dagster.yaml").read_text())
    port = free_port()
    environment = {
        "DAGSTER_HOME": str(home),
        "GRASP_STORE": str(folder / "store"),
        "PYTHONWARNINGS": "ignore",
    }
    place = f"http://127.0.0.1:{port}"
    with served(["make", "ui", f"PORT={port}", f"CONFIG={config}"], os.environ | environment):
        end = time.monotonic() + 180
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"{place}/server_info", timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        yield place


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    tab = browser.new_page(viewport={"width": 1300, "height": 860})
    tab.set_default_timeout(120_000)
    yield tab
    tab.close()


def shot(tab: Any, name: str) -> None:
    if SHOTS:
        tab.wait_for_timeout(1500)
        tab.screenshot(path=str(Path(SHOTS, f"{name}.png")))


def edit(tab: Any, old: str, new: str) -> None:
    """Change the launchpad's text as typing does."""
    tab.evaluate(
        "([old, now]) => { const editor = document.querySelector('.CodeMirror').CodeMirror;"
        " editor.setValue(editor.getValue().replace(old, now)); }",
        [old, new],
    )


def editor_text(tab: Any) -> str:
    """Return what the launchpad holds, once it has loaded; its policy allows no code in strings, so it is polled."""
    tab.locator(".CodeMirror-line", has_text="ops:").first.wait_for()
    return tab.evaluate("() => document.querySelector('.CodeMirror').CodeMirror.getValue()")


LAUNCHPAD = "/locations/grasp_pipeline/jobs/curate/playground"


def test_a_value_out_of_range_is_refused_in_a_sentence_and_nothing_runs(tab: Any, address: str) -> None:
    tab.goto(f"{address}{LAUNCHPAD}")
    text = editor_text(tab)
    assert "vocab_size: 300" in text  # the configuration in use, not the defaults
    assert tab.get_by_placeholder("Partition").count() == 0
    edit(tab, "  candidates:\n    config:\n", "  candidates:\n    config:\n      budget_fraction: 1.5\n")
    tab.get_by_role("button", name="Launch Run").click()
    dialog = tab.get_by_text("budget_fraction is 1.5; give a share of the corpus above 0")
    dialog.wait_for()
    assert tab.get_by_text('File "').count() == 0  # no trace
    shot(tab, "ui-refused")
    tab.goto(f"{address}/runs")
    tab.get_by_text("No runs").first.wait_for()


def test_a_changed_budget_is_launched_and_what_it_made_is_on_the_pages(tab: Any, address: str) -> None:
    tab.goto(f"{address}{LAUNCHPAD}")
    editor_text(tab)
    # Who keeps nearly all gains nothing that could be certified: the check fails.
    edit(tab, "  candidates:\n    config:\n", "  candidates:\n    config:\n      budget_fraction: 0.98\n")
    shot(tab, "ui-launchpad")
    tab.get_by_role("button", name="Launch Run").click()
    tab.wait_for_url("**/runs/**")
    done = tab.get_by_text("RUN_SUCCESS").or_(tab.get_by_text("RUN_FAILURE")).first
    done.wait_for(timeout=900_000)
    run = tab.url.rpartition("/")[2].partition("?")[0]

    tab.goto(f"{address}/assets/documents?view=events")
    tab.get_by_text("sample_rows").wait_for()
    assert tab.get_by_text("row 1").count() > 0
    assert tab.get_by_text("characters").count() > 0  # of the text no more than its length
    shot(tab, "ui-sample-rows")
    tab.goto(f"{address}/assets/rejected_documents?view=events")
    tab.get_by_text("documents rejected").first.wait_for()
    assert tab.get_by_text("█").count() > 0
    tab.goto(f"{address}/assets/surrogates?view=events")
    picture = tab.locator("img[src^='data:image/svg+xml']").first  # a plot, without a click
    picture.wait_for()
    assert picture.evaluate("picture => picture.naturalWidth") > 100
    assert picture.get_attribute("alt")
    picture.scroll_into_view_if_needed()
    shot(tab, "ui-plot")
    shot(tab, "ui-bars")
    tab.goto(f"{address}/assets/documents?view=overview")
    tab.get_by_text("Column name").wait_for()
    assert tab.get_by_text("doc_id").count() > 0

    tab.goto(f"{address}/assets/certificates?view=checks")
    tab.get_by_text("certificate_above_zero").first.wait_for()
    tab.get_by_text("certificate_above_zero").first.click()
    tab.get_by_text("finalists.allow_uncertified").first.wait_for()  # what to do about the failure
    assert tab.get_by_text("Failed").count() > 0
    shot(tab, "ui-failing-check")
    tab.goto(f"{address}/overview/activity/timeline")
    tab.get_by_text("curate").first.wait_for()
    shot(tab, "ui-timeline")
    assert len(run) == 36


def test_materialize_starts_from_the_configuration_in_use(tab: Any, address: str) -> None:
    """With Shift a Launchpad of the step opens and refuses what a job's does; without, the step is run."""
    tab.goto(f"{address}/assets/tokenizer")
    tab.get_by_role("button", name="Materialize").first.click(modifiers=["Shift"])
    assert "vocab_size: 300" in editor_text(tab)
    edit(tab, "vocab_size: 300", "vocab_size: 3")
    tab.get_by_role("button", name="Materialize").last.click()
    tab.get_by_text("tokenizer.vocab_size: Input should be greater than or equal to 300").wait_for()
    shot(tab, "ui-materialize-refused")
    tab.goto(f"{address}/assets/tokenizer")
    with tab.expect_response(lambda answer: "mutation" in (answer.request.post_data or "")):
        tab.get_by_role("button", name="Materialize").first.click()
    tab.goto(f"{address}/runs")
    tab.get_by_text("tokenizer", exact=True).first.wait_for()
    tab.get_by_text("Canceled").first.wait_for(timeout=300_000)  # as a run that found nothing to do ends


def test_schedule_and_sensors_have_pages(tab: Any, address: str) -> None:
    for kind, name in (
        ("schedules", "weekly_recuration"),
        ("sensors", "landing_folder"),
        ("sensors", "failure_hook"),
    ):
        tab.goto(f"{address}/locations/grasp_pipeline/{kind}/{name}")
        tab.get_by_text(name).first.wait_for()
        assert tab.get_by_text("not found").count() == 0
        shot(tab, f"ui-{name.replace('_', '-')}")
