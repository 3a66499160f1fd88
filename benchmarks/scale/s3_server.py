"""An S3 server on 127.0.0.1, for tests and benchmarks: moto, which knows conditional puts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

SECRET = "not-to-be-seen"

_SERVER = """
import logging, sys, threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
moto, alone = DomainDispatcherApplication(create_backend_app), threading.Lock()

def one_by_one(environ, start):
    with alone:
        return list(moto(environ, start))

server = make_server("127.0.0.1", 0, one_by_one, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
"""
"""moto itself looks whether an object is there and writes it in two steps, between which another request may come."""


@contextmanager
def s3_server(bucket: str) -> Iterator[str]:
    """Run a server with an empty bucket, which every client finds by the environment; gives the bucket's URI.

    It is a process of its own, since delta-rs holds the interpreter while it waits for an answer. It ends with its
    standard input, however this process ends.
    """
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        given = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.stdout.readline().strip()}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "writer",
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
        try:
            with patch.dict(os.environ, given):
                import boto3

                boto3.client("s3").create_bucket(Bucket=bucket)
                yield f"s3://{bucket}"
        finally:
            assert server.stdin is not None
            server.stdin.close()
            server.wait(30)
