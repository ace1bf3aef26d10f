"""What an attack is, and what the cluster must answer."""

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable


# Codes that name a mistake or an excess of the client; all others of an attack's own calls are faults of the cluster.
CLIENT_CODES = {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "FAILED_PRECONDITION", "OUT_OF_RANGE", "NOT_FOUND"}
# What a text may not show of the server's inside.
INSIDE = re.compile(r"panicked|RUST_BACKTRACE|src/[a-z_/]+\.rs|volley-test-")


@dataclasses.dataclass(frozen=True)
class Effort:
    """How hard an attack tries. The short form tries each once, with a part of the streams and connections."""

    seconds: float
    share: float

    def rounds(self):
        """Numbers: at least one, until the time is over."""
        end, number = time.monotonic() + self.seconds, 0
        while number == 0 or time.monotonic() < end:
            yield number
            number += 1

    def count(self, whole):
        return max(int(whole * self.share), 1)


SHORT, LONG = Effort(0, 0.05), Effort(10, 1)


@dataclasses.dataclass(frozen=True)
class Attack:
    """`run(cluster, effort)` raises AssertionError if an answer is wrong, and returns what it did, as text."""

    name: str
    about: str
    run: Callable
    # What each unit of its effort may take beside the budgets, and how many units there are.
    bytes_each: int = 0
    units: int = 0
    # Whether every path that the members open is checked, which makes them slow: then latencies mean nothing.
    watches_paths: bool = False
    needs_users: bool = False
    # What Volley does not do yet: the long form then expects a failure.
    known_fault: str = ""

    def extra_bytes(self, effort):
        return self.bytes_each * effort.count(self.units) if self.units else 0


def check_refused(what, result, words, codes=CLIENT_CODES):
    """The call failed with one of these codes, and its text matches `words`."""
    code, text, _ = result
    assert code in codes, f"{what}: {code} {text[:500]!r}, expected one of {sorted(codes)}"
    assert re.search(words, text, re.I), f"{what}: {code} {text[:500]!r} does not match {words!r}"
    check_text(what, text)


def check_clean(what, result, codes=CLIENT_CODES):
    """The call succeeded, or was refused with a reason."""
    code, text, _ = result
    if code != "OK":
        assert code in codes and text, f"{what}: {code} {text[:500]!r}"
        check_text(what, text)


def check_text(what, text):
    assert len(text) <= 4096 and not INSIDE.search(text), f"{what}: {text[:1000]!r}"


class Problems:
    """Collects wrong answers, so that one does not hide the others."""

    def __init__(self):
        self.texts = {}

    @contextlib.contextmanager
    def collected(self):
        try:
            yield
        except AssertionError as problem:
            self.texts[str(problem)] = None

    def raise_any(self):
        assert not self.texts, f"{len(self.texts)} wrong answers:\n" + "\n".join(list(self.texts)[:40])


def tally(names):
    """Counted names as text."""
    counts = {name: 0 for name in names}
    for name in names:
        counts[name] += 1
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]))


