"""Servers that tests start in a process session of their own."""

from __future__ import annotations

import os
import signal
import subprocess


def end_session(leader: subprocess.Popen[bytes]) -> None:
    """End a process and all of its session: politely, and after 30 seconds at once."""
    os.killpg(leader.pid, signal.SIGTERM)
    try:
        leader.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()
