"""Shows how far a call is, where somebody looks at it: a line in a terminal, a bar in a notebook."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from ._html import escaped, visible
from ._volley import Counter

#: How often it is drawn, in seconds.
_INTERVAL = 0.2


class _TerminalLine:
    """A line of the standard error, which is gone at the end."""

    def draw(self, what: str, share: int | None, rows: str) -> None:
        percent = "" if share is None else f" {share}%"
        sys.stderr.write(f"\r\x1b[K{visible(what)}:{percent} {rows}")
        sys.stderr.flush()

    def end(self, what: str, rows: str) -> None:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


class _NotebookBar:
    """A bar below the cell, which stays as a line of figures."""

    def __init__(self, library: Any):
        self._library = library
        self._shown: Any = None

    def draw(self, what: str, share: int | None, rows: str) -> None:
        value = "" if share is None else f' value="{share}" max="100"'
        self._show(f"{escaped(what)}: <progress{value}></progress> {escaped(rows)}")

    def end(self, what: str, rows: str) -> None:
        self._show(f"{escaped(what)}: {escaped(rows)}")

    def _show(self, text: str) -> None:
        shown = self._library.HTML(text)
        if self._shown is None:
            self._shown = self._library.display(shown, display_id=True)
        else:
            self._shown.update(shown)


def _place() -> _TerminalLine | _NotebookBar | None:
    """Where to draw; None: nobody looks."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    # IPython in a terminal has no kernel.
    if getattr(shell, "kernel", None) is not None:
        import importlib

        return _NotebookBar(importlib.import_module("IPython.display"))
    return _TerminalLine() if sys.stderr is not None and sys.stderr.isatty() else None


class Progress:
    """Counts what goes through a call, and draws it if that is wanted and somebody looks."""

    def __init__(self, wanted: bool, what: str, total_rows: int | None = None):
        self._what, self._total = what, total_rows
        self._ended = threading.Event()
        self._place = _place() if wanted else None
        #: None: nobody looks, and nothing is counted.
        self.counter = Counter() if self._place else None
        self._thread = threading.Thread(target=self._draw, daemon=True) if self._place else None

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        if self._thread:
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        if self._thread and self._place:
            self._thread.join()
            self._place.end(self._what, self._figures())

    def _figures(self) -> str:
        rows, size = (self.counter.rows, self.counter.bytes) if self.counter else (0, 0)
        seconds = max(time.monotonic() - self._began, 1e-9)
        return f"{rows:,} rows, {size / seconds / 1e6:,.0f} MB/s"

    def _draw(self) -> None:
        while not self._ended.wait(_INTERVAL):
            share = min(100 * self.counter.rows // self._total, 100) if self._total and self.counter else None
            if self._place:
                self._place.draw(self._what, share, self._figures())
