"""What the processes use is seen while they run."""

from __future__ import annotations

import mmap
import time

from grasp_pipeline.planning.usage import Usage


def test_processor_time_and_memory_are_those_of_the_time_asked_for() -> None:
    with Usage() as usage:
        time.sleep(0.2)
        begun, before = time.time(), time.process_time()
        held = mmap.mmap(-1, 60_000_000)  # of the system: what earlier tests freed cannot serve
        held.write(bytes(60_000_000))
        while time.process_time() - before < 0.3:
            held[0] = (held[0] + 1) % 200
        time.sleep(0.1)
        ended, used = time.time(), time.process_time() - before
        time.sleep(0.1)
    seconds, peak = usage.between(begun, ended)
    assert abs(seconds - used) < 0.15
    assert peak > usage.held_at(begun - 0.05) + 40_000_000
