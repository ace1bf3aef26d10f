"""A line that shows how far a call is, where somebody looks at it."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from ._volley import Counter

#: How often the line is drawn, in seconds.
_INTERVAL = 0.2


class Progress:
    """Counts what goes through a call. It draws a line if it is wanted and the standard error is a terminal."""

    def __init__(self, wanted: bool, what: str, total_rows: int | None = None):
        self.counter = Counter()
        self._what, self._total = what, total_rows
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True) if wanted and sys.stderr.isatty() else None

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        if self._thread:
            self._thread.join()
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _draw(self) -> None:
        while not self._ended.wait(_INTERVAL):
            rows, size = self.counter.rows, self.counter.bytes
            seconds = max(time.monotonic() - self._began, 1e-9)
            share = f" {100 * rows // self._total}%" if self._total else ""
            sys.stderr.write(f"\r\x1b[K{self._what}:{share} {rows:,} rows, {size / seconds / 1e6:,.0f} MB/s")
            sys.stderr.flush()
