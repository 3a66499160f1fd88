"""The export on a stand-in of the Hub: what is uploaded, what the card's front matter says, and what is refused."""

from __future__ import annotations

import base64
import json
import re
import shlex
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
import yaml
from huggingface_hub import DatasetCard
from test_export import corpus_of, exported, small_corpus

from grasp_pipeline.corpus.export.card import front_matter
from grasp_pipeline.corpus.export.push import push
from grasp_pipeline.errors import ConfigError, StoreError


@dataclass
class Hub:
    """What the stand-in was told: repositories made, and the files of the data set."""

    made: list[dict] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    summaries: list[str] = field(default_factory=list)
    validated: int = 0
    refuses: bool = False
    address: str = ""


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, content: object, status: int = 200) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            if hub.refuses:
                return self.answer({"error": "Invalid username or password."}, 401)
            siblings = [{"rfilename": name} for name in hub.files]
            if "/tree/" in self.path:
                self.answer(
                    [
                        {"type": "file", "path": n, "size": len(d), "oid": "0" * 40}
                        for n, d in hub.files.items()
                    ]
                )
            return self.answer({"id": "me/corpus", "sha": "0" * 40, "siblings": siblings})

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if hub.refuses:
                return self.answer({"error": "Invalid username or password."}, 401)
            if self.path.endswith("/repos/create"):
                hub.made.append(json.loads(data))
                return self.answer({"url": f"{hub.address}/datasets/me/corpus"})
            if self.path.endswith("/validate-yaml"):
                hub.validated += 1
                yaml.safe_load(json.loads(data)["content"].split("---")[1])
                return self.answer({"errors": [], "warnings": []})
            if "/preupload/" in self.path:
                names = [each["path"] for each in json.loads(data)["files"]]
                return self.answer(
                    {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
                )
            if "/commit/" in self.path:
                for line in data.decode().splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "header":
                        hub.summaries.append(entry["value"]["summary"])
                    elif entry["key"] == "file":
                        hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                    elif entry["key"] == "deletedFile":
                        del hub.files[entry["value"]["path"]]
                address = f"{hub.address}/datasets/me/corpus/commit/{'1' * 40}"
                return self.answer({"commitUrl": address, "commitOid": "1" * 40, "success": True})
            return self.answer({"error": f"no such path {self.path}"}, 404)

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(found))
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    exported(corpus_of(*small_corpus()), tmp_path, ["huggingface"])
    return tmp_path / "huggingface"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_the_whole_folder_arrives_as_one_commit(hub: Hub, folder: Path) -> None:
    hub.files["data/train-00000-of-00099.parquet"] = b"of an earlier export"
    address = push(folder, "me/corpus", endpoint=hub.address)
    assert address == f"{hub.address}/datasets/me/corpus/commit/{'1' * 40}"
    assert hub.files == contents(folder)
    assert hub.made[0]["visibility"] == "private"
    assert hub.validated == 1
    rows = sum(pl.read_parquet(data).height for name, data in hub.files.items() if name.endswith(".parquet"))
    (summary,) = hub.summaries
    assert summary.startswith(f"{rows:,} spans, ")


def test_what_the_hub_refuses_is_one_sentence(hub: Hub, folder: Path) -> None:
    hub.refuses = True
    with pytest.raises(ConfigError, match=r"the Hub refuses the export as me/corpus .*HF_TOKEN") as refused:
        push(folder, "me/corpus", endpoint=hub.address)
    assert "hf_of_nobody" not in str(refused.value)
    with pytest.raises(ConfigError, match=r"refuses the export as no name"):
        push(folder, "no name", endpoint=hub.address)


def test_an_export_that_is_missing_or_was_changed_is_refused(hub: Hub, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no export .*add huggingface to export\.formats"):
        push(tmp_path / "nowhere", "me/corpus", endpoint=hub.address)
    (folder / "README.md").write_text("another card")
    with pytest.raises(StoreError, match=r"README\.md was changed after the export"):
        push(folder, "me/corpus", endpoint=hub.address)
    assert not hub.files


@pytest.mark.parametrize("notices", [True, False])
@pytest.mark.parametrize(("rows", "size"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**13, "n>1T")])
def test_the_front_matter_is_what_the_hub_knows(notices: bool, rows: int, size: str) -> None:
    card = DatasetCard(front_matter(rows, notices) + "# Card\n")
    assert card.text.strip() == "# Card"
    told = card.data.to_dict()
    assert told["size_categories"] == [size]
    assert told["task_categories"] == ["text-generation"]
    assert told["license"] == ("other" if notices else "unknown")
    assert told.get("license_link") == ("LICENSES.md" if notices else None)
    assert told["configs"][0]["data_files"] == [{"split": "train", "path": "data/*.parquet"}]


def test_the_command_says_where_it_pushed_or_why_not(
    hub: Hub,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from huggingface_hub import HfApi

    from grasp_pipeline.__main__ import main

    monkeypatch.setattr("huggingface_hub.HfApi", lambda endpoint: HfApi(endpoint=hub.address))
    monkeypatch.setenv("GRASP_STORE", str(tmp_path / "store"))
    assert main(["push", "me/corpus"]) == 1
    assert capsys.readouterr().err.startswith("Error: there is no export ")
    (tmp_path / "store" / "export").mkdir(parents=True)
    folder.rename(tmp_path / "store" / "export" / "huggingface")
    assert main(["push", "me/corpus", "--public", "--revision", "v2"]) == 0
    assert "/datasets/me/corpus/commit/" in capsys.readouterr().out
    assert hub.made[0].get("visibility", "public") == "public"
    page = Path(__file__).resolve().parents[2] / "docs" / "exports.md"
    (command,) = re.findall(r"```sh\n(.*?)\n```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert main(shlex.split(command)[3:]) == 0
    assert capsys.readouterr().out.startswith("Pushed ")
    assert (hub.made[-1]["organization"], hub.made[-1]["name"]) == ("my-org", "my-corpus")
