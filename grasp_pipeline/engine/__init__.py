"""Work cut into blocks, and what maps a function over them: this process, local processes, Ray.

`Engine` is the seam. Whoever has heavy work cuts it into blocks in a way that does not depend on the number of workers,
and asks `map_blocks`; rows, order and errors are then the same whichever engine runs it.
"""

from __future__ import annotations

from grasp_pipeline.engine.cluster import RayEngine
from grasp_pipeline.engine.jobs import map_jobs
from grasp_pipeline.engine.local import LocalEngine
from grasp_pipeline.engine.protocol import BuiltOnce, Engine, SerialEngine

__all__ = ["BuiltOnce", "Engine", "LocalEngine", "RayEngine", "SerialEngine", "map_jobs"]
