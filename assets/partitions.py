"""Shards as Dagster partitions: a fixed number of slots, filled in order of arrival."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection

import dagster as dg
from dagster._core.storage.tags import PARTITION_NAME_TAG

from grasp_pipeline.errors import ConfigError


def shard_names() -> list[str]:
    """Return the names of the shard slots; `GRASP_SHARDS` sets their number (default 12).

    Raises:
        ConfigError: GRASP_SHARDS is not a number from 1 to 10000.
    """
    text = os.environ.get("GRASP_SHARDS", "12")
    if not text.isdigit() or not 1 <= int(text) <= 10_000:
        raise ConfigError(f"GRASP_SHARDS is {text!r}; set it to a number of shards from 1 to 10000")
    return [f"shard-{number:04d}" for number in range(int(text))]


SHARDS = dg.StaticPartitionsDefinition(shard_names())
"""The same slots at every load, so that one launch can name the whole range before any document was read."""

WHOLE_RANGE = {
    "dagster/asset_partition_range_start": SHARDS.get_first_partition_key() or "",
    "dagster/asset_partition_range_end": SHARDS.get_last_partition_key() or "",
}
"""Run tags that make one run cover unpartitioned assets and every shard."""


def names_shards(tags: Collection[str]) -> bool:
    """Return whether a run's tags say which shards it makes."""
    return bool({PARTITION_NAME_TAG, *WHOLE_RANGE}.intersection(tags))


warnings.filterwarnings("ignore", message=".*`backfill_policy`.*", category=dg.BetaWarning)
ONE_RUN = dg.BackfillPolicy.single_run()
"""On every asset: a graph that mixes partitioned and unpartitioned assets runs in one launch only with it."""
