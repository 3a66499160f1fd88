"""Errors meant for the user as Dagster shows them: the sentence, without a trace."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from dagster._core.errors import DagsterUserCodeProcessError
from dagster_shared.error import SerializableErrorInfo

from grasp_pipeline.errors import GraspError, StoreError, out_of_room, reason_in

TRACES = "GRASP_TRACES"
"""Environment variable that keeps the traces, for who mends this code."""


def sentence(error: GraspError) -> Exception:
    """Return an error that the web interface and the logs show as its message alone.

    Dagster tells an error that comes from another process as that process told it; ours is told as having no trace.
    """
    if os.environ.get(TRACES):
        return error
    told = SerializableErrorInfo(message=f"{error}\n", stack=[], cls_name=type(error).__name__)
    return DagsterUserCodeProcessError(str(error), user_code_process_error_infos=[told])


def telling(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step or check that fails with a sentence where the user can act, and says so where there is no room."""

    def told(error: Exception) -> Exception:
        if isinstance(error, GraspError):
            return sentence(error)
        if not out_of_room(error):
            return error
        return sentence(
            StoreError(
                f"{make.__name__} found no room for what it writes ({reason_in(error)}); make room where the store and "
                "the machine's temporary files lie, and launch again: what was committed stays"
            )
        )

    @wraps(make)
    def whole(*arguments: Any, **given: Any) -> Any:
        try:
            return make(*arguments, **given)
        except Exception as error:
            if (said := told(error)) is error:
                raise
            raise said from error

    @wraps(make)
    def piece_by_piece(*arguments: Any, **given: Any) -> Iterator[Any]:
        try:
            yield from make(*arguments, **given)
        except Exception as error:
            if (said := told(error)) is error:
                raise
            raise said from error

    return piece_by_piece if inspect.isgeneratorfunction(make) else whole
