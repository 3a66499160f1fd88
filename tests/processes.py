"""Servers that tests start in a process session of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess


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
