"""Dagster's web interface and daemon, where the port is free: `python -m assets.ui --port 3000`, `make ui`."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from assets.launchpad import FILE, file_in_use
from assets.run import set_home
from grasp_pipeline.errors import GraspError

HOST = "127.0.0.1"
LAUNCHPAD = "/locations/grasp_pipeline/jobs/curate/playground"
TRIED = 100
"""Ports above a taken one that are looked at for a free one."""


def is_free(port: int) -> bool:
    """Return whether nobody listens at a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the web server does
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def taken(port: int, target: str = "ui") -> str | None:
    """Return what to do where a port that a target of the Makefile wants is taken; None where it is free."""
    if is_free(port):
        return None
    free = next((other for other in range(port + 1, min(port + TRIED, 2**16)) if is_free(other)), None)
    remedy = f"take {free}: make {target} PORT={free}" if free else f"name another: make {target} PORT=NUMBER"
    return f"the port {port} of {HOST} is taken, perhaps by another `make {target}`; {remedy}"


def port_number(given: str) -> int:
    """Return a port as it was given."""
    if not (given.isdecimal() and 0 < int(given) < 2**16):
        raise argparse.ArgumentTypeError(f"{given!r} is no port; give a number from 1 to 65535")
    return int(given)


def unusable(config: Path) -> str | None:
    """Return why the launchpad cannot start from a run configuration; None where it can."""
    from assets import graph as _graph  # noqa: F401  declares every stage
    from assets.settings import read_config
    from assets.stages import check_run_config

    try:
        check_run_config(read_config(config)["ops"])
    except GraspError as error:
        return str(error)
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Become `dg dev`; returns the exit status where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m assets.ui", description="Start the web interface.")
    parser.add_argument("--port", type=port_number, default=3000, help="port of 127.0.0.1")
    parser.add_argument("--config", type=Path, help="run configuration that the launchpad starts from")
    options = parser.parse_args(arguments)
    port, config = options.port, options.config or file_in_use()
    told = taken(port) or unusable(config)
    if told is None:
        set_home()
        os.environ[FILE] = str(config.absolute())
        print(f"Dagster will be at http://{HOST}:{port}; end it with Ctrl-C.", flush=True)
        print(f"Launch with {config}: http://{HOST}:{port}{LAUNCHPAD}", flush=True)
        program = str(Path(sys.executable).parent / "dg")
        os.execv(program, [program, "dev", "-w", "workspace.yaml", "-h", HOST, "-p", str(port)])
    print(f"Error: {told}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
