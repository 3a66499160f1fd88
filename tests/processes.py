"""Servers that tests start in a process session of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


def end_session(leader: subprocess.Popen[bytes]) -> None:
    """End a process and all of its session: politely, and after 30 seconds at once."""
    os.killpg(leader.pid, signal.SIGTERM)
    try:
        leader.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(command: Sequence[str], env: Mapping[str, str]) -> Iterator[None]:
    """Run a server from the repository's root in a session of its own, silent, until the block ends."""
    server = subprocess.Popen(
        command,
        cwd=Path(__file__).resolve().parents[1],
        env=env,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        end_session(server)
