"""The finalists protocol outside Dagster: what ships is measured on sealed documents against every comparison arm."""
