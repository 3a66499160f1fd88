"""Progress of long work: rate and remaining time, to whoever listens (a terminal, Dagster's event log)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

Listener = Callable[[str], None]


class Line(str):
    """A progress message with shorter forms of itself, for where a line must not wrap."""

    shorter: tuple[str, ...] = ()

    def within(self, width: int) -> str:
        """Return the longest form of at most so many characters, cut where even the shortest is longer."""
        for form in (str(self), *self.shorter):
            if len(form) <= width:
                return form
        last = self.shorter[-1] if self.shorter else str(self)
        return f"{last[: max(width - 1, 0)]}…"


def silent(_: str) -> None:
    """Discard progress messages."""


def duration(seconds: float) -> str:
    """Format seconds for people: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Reports ``done/total unit, rate, remaining`` to a listener, at most once per ``every`` seconds."""

    def __init__(
        self,
        what: str,
        total: float,
        unit: str,
        listener: Listener = silent,
        every: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0.0
        self._listener, self._every, self._clock = listener, every, clock
        self._start = self._last = clock()

    def advance(self, amount: float) -> None:
        """Add to the work done; tells the listener when enough time has passed since it was last told."""
        self.done += amount
        now = self._clock()
        if now - self._last >= self._every and self.done < self.total:
            self._last = now
            self._listener(self.line(now))

    def line(self, now: float | None = None) -> Line:
        """Return the present state in words."""
        elapsed = (self._clock() if now is None else now) - self._start
        rate = self.done / elapsed if elapsed > 0 else 0.0
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        remaining = duration(left) if left != float("inf") else "unknown"
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}"
        done = f"{self.done:,.0f} of {self.total:,.0f} {self.unit}"
        line = Line(f"{self.what}: {done}, {speed} {self.unit}/s, {remaining} left")
        share = f"{self.done / self.total:.0%}"
        line.shorter = (f"{self.what}: {done}, {remaining} left", f"{self.what}: {share}, {remaining} left")
        return line


def quiet_libraries() -> None:
    """Switch off the progress bars of libraries, which would break into our lines; what the user has set stays."""
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
        os.environ.setdefault(name, "1")
    # A library that was imported before has read its environment already.
    for module, function, variable in (
        ("huggingface_hub.utils", "disable_progress_bars", "HF_HUB_DISABLE_PROGRESS_BARS"),
        ("transformers.utils.logging", "disable_progress_bar", "HF_HUB_DISABLE_PROGRESS_BARS"),
        ("datasets.utils", "disable_progress_bars", "HF_DATASETS_DISABLE_PROGRESS_BARS"),
    ):
        if module in sys.modules and os.environ[variable] == "1":
            getattr(sys.modules[module], function)()
