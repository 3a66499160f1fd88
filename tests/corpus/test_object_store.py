"""Object stores: an S3 server of a few lines, spoken to by the real client."""

import gzip
import io
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grasp_pipeline.config import InputConfig
from grasp_pipeline.corpus.files import resolve_inputs
from grasp_pipeline.corpus.readers import read_corpus
from grasp_pipeline.errors import InputError

Objects = dict[str, tuple[bytes, datetime]]


class S3(BaseHTTPRequestHandler):
    """HEAD, ranged GET and ListObjectsV2 of `objects`, "bucket/key" to content and time of writing."""

    objects: Objects
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path).strip("/")
        if path in self.objects:
            self.send_object(*self.objects[path], body)
        elif "list-type" in url.query:
            listing = self.listing(path, parse_qs(url.query, keep_blank_values=True))
            self.send(200, listing if body else b"", {"Content-Type": "application/xml"})
        else:
            exists = any(name.startswith(path + "/") for name in self.objects) and "/" not in path
            self.send(200 if exists else 404, b"", {})

    def listing(self, bucket: str, query: dict) -> bytes:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        contents, folders = [], set()
        for name, (data, written) in sorted(self.objects.items()):
            key = name.removeprefix(bucket + "/")
            if name == key or not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
                continue
            contents.append(
                f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size>"
                f"<LastModified>{written:%Y-%m-%dT%H:%M:%S.000Z}</LastModified></Contents>"
            )
        contents += [f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in folders]
        head = f"<Name>{bucket}</Name><KeyCount>{len(contents)}</KeyCount><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult>{head}{''.join(contents)}</ListBucketResult>".encode()

    def send_object(self, data: bytes, written: datetime, body: bool) -> None:
        headers = {"Last-Modified": written.strftime("%a, %d %b %Y %H:%M:%S GMT"), "ETag": '"x"'}
        asked = self.headers.get("Range")
        if asked is None:
            self.send(200, data, headers, body)
            return
        first, last = asked.removeprefix("bytes=").split("-")
        stop = min(int(last or len(data)) + 1, len(data))
        headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(data)}"
        self.send(206, data[int(first) : stop], headers, body)

    def send(self, status: int, data: bytes, headers: dict, body: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def parquet(texts: list[str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), sink, row_group_size=1)
    return sink.getvalue()


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


@pytest.fixture
def store() -> Iterator[tuple[Objects, dict[str, str]]]:
    written = datetime(2026, 1, 2, tzinfo=UTC)
    objects: Objects = {
        "lake/corpus/web/a.parquet": (parquet(["one", "two"]), written),
        "lake/corpus/web/deep/b.jsonl.gz": (gzip.compress(lines(["three"])), written),
        "lake/corpus/c's.txt": (b"caf\xe9", written),
        "lake/corpus/_log/0.json": (b"{}", written),
        "lake/corpus/readme.md": (b"", written),
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (S3,), {"objects": objects}))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    options = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "SECRET",
        "aws_region": "eu-north-1",
        "endpoint_url": f"http://127.0.0.1:{server.server_port}",
        "allow_http": "true",
        "aws_conditional_put": "etag",
        "timeout": "5s",
    }
    yield objects, options
    server.shutdown()
    server.server_close()


def read(paths: list[str], options: dict[str, str]) -> dict[str, list]:
    frames: dict[str, list] = {}
    for file, block in read_corpus(InputConfig(paths=paths), options):
        frames.setdefault(file.uri, []).append(block.frame)
    return {uri: pl.concat(parts).select("text", "fault").rows() for uri, parts in frames.items()}


EXPECTED = {
    "s3://lake/corpus/c's.txt": [(None, "invalid_utf8")],
    "s3://lake/corpus/web/a.parquet": [("one", None), ("two", None)],
    "s3://lake/corpus/web/deep/b.jsonl.gz": [("three", None)],
}


def test_folders_globs_and_objects_are_read(store) -> None:
    _, options = store
    assert read(["s3://lake/corpus"], options) == EXPECTED
    assert read(["s3://lake/corpus/", *EXPECTED], options) == EXPECTED
    web = {uri: rows for uri, rows in EXPECTED.items() if "/web/" in uri}
    assert read(["s3://lake/corpus/**/*.[pj]*"], options) == web


def test_the_fingerprint_follows_size_and_time(store) -> None:
    objects, options = store

    def fingerprint() -> str:
        (file,) = resolve_inputs(InputConfig(paths=["s3://lake/corpus/web/*.parquet"]), options)
        return file.fingerprint

    first = fingerprint()
    assert fingerprint() == first
    data, _ = objects["lake/corpus/web/a.parquet"]
    objects["lake/corpus/web/a.parquet"] = (data, datetime(2026, 3, 4, tzinfo=UTC))
    assert fingerprint() != first


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s3://lake/corpus/none.parquet", "does not exist"),
        ("s3://lake/corpus/*.parquet", "matches no file"),
        ("s3://lake/corpus/readme.md", "ending that cannot be read"),
    ],
)
def test_bad_paths_are_named_without_secrets(store, path: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read([path], store[1])
    assert path in str(error.value)
    assert "SECRET" not in str(error.value)


def test_a_truncated_object_is_named(store) -> None:
    objects, options = store
    data, written = objects["lake/corpus/web/a.parquet"]
    objects["lake/corpus/web/a.parquet"] = (data[:-20], written)
    with pytest.raises(InputError, match=r"s3://lake/corpus/web/a\.parquet' is not a complete Parquet file"):
        read(["s3://lake/corpus/web/a.parquet"], options)
