"""Every command of docs/operations.md runs on a curated store, in the order in which it stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import dagster as dg
import pytest
from processes import free_port, served
from workplace import Workplace

from grasp_pipeline.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


COMMANDS = [line.strip() for block in blocks("sh") for line in block.splitlines() if line.strip()]
OWN = [command for command in COMMANDS if command.startswith(".venv/bin/python -m grasp_pipeline ")]
(WEB,) = (command for command in COMMANDS if "dagster-webserver" in command)
STARTS = [command for command in COMMANDS if re.match(r"\.venv/bin/dagster \w+ start ", command)]
COPIES = [command for command in COMMANDS if command.startswith("cp ")]
HOOKS = [command for command in COMMANDS if command.startswith("export GRASP_ON_FAILURE=")]


def test_every_command_is_run_here() -> None:
    assert sorted(COMMANDS) == sorted([*OWN, WEB, *STARTS, *COPIES, *HOOKS])
    assert (len(OWN), len(STARTS), len(COPIES), len(HOOKS)) == (6, 2, 1, 1)


def test_the_commands_run(
    copied: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(copied.folder)
    monkeypatch.delenv("GRASP_STORE", raising=False)
    for command in OWN:
        arguments = shlex.split(command)[3:]
        assert main(arguments) == 0, command
        assert capsys.readouterr().out
    assert (copied.folder / "diff.html").is_file()
    for command in COPIES:
        subprocess.run(shlex.split(command), check=True)
    names: dict = {}
    exec("\n".join(blocks("python")), names)
    assert names["told"]["curation"] == 1
    assert main(["vacuum", "--horizon-days", "0", "--compact"]) == 0
    before = copied.delta_versions()
    result = copied.run("recurate")
    assert result.success
    assert copied.delta_versions() == before
    assert main(["explain", "a.parquet#0", "--curation", "1"]) == 0
    monkeypatch.setenv("GRASP_STORE", "store.backup")
    assert main(["explain", "a.parquet#0", "--curation", "1"]) == 0


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"DAGSTER_HOME": str(home), "PYTHONPATH": str(ROOT)}


def program(command: str) -> list[str]:
    name, *arguments = shlex.split(command)
    return [str(Path(sys.executable).with_name(Path(name).name)), *arguments]


@pytest.mark.slow
def test_sensor_and_schedule_are_switched_on(home: Path) -> None:
    for command in STARTS:
        subprocess.run(program(command), cwd=ROOT, env=environment(home), check=True, timeout=300)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        running = {state.instigator_name for state in instance.all_instigator_state() if state.is_running}
    assert running >= {"landing_folder", "weekly_recuration"}


@pytest.mark.slow
def test_the_read_only_web_interface_launches_nothing(home: Path) -> None:
    port = free_port()
    command = program(WEB.replace("3001", str(port)))

    def asked(query: str) -> dict:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/graphql",
            json.dumps({"query": query}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["data"]

    with served(command, environment(home)):
        deadline = time.monotonic() + 300
        while True:
            try:
                told = asked("{permissions{permission value}}")
                break
            except (urllib.error.URLError, ConnectionError):
                assert time.monotonic() < deadline, "the web server did not come"
                time.sleep(1)
        allowed = {each["permission"] for each in told["permissions"] if each["value"]}
        assert not any(
            word in name for name in allowed for word in ("launch", "start", "stop", "delete", "edit")
        )
        selector = '{repositoryName: "__repository__", repositoryLocationName: "grasp_pipeline", jobName: "recurate"}'
        launched = asked(f"mutation{{launchRun(executionParams: {{selector: {selector}}}){{__typename}}}}")
        assert launched["launchRun"]["__typename"] == "UnauthorizedError"
