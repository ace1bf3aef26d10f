"""Steps of a long test, each with a name, a duration and facts for the report."""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from workload import Failed, Wrong

ROOT = Path(__file__).resolve().parents[2]
# By these variables `volley` and the clients of the workload log in.
LOGIN = ("VOLLEY_USER", "VOLLEY_PASSWORD")


class TestFailure(Exception):
    """A failed check, in one sentence."""


def run(*command, seconds=600, refused=False, **more):
    """Runs a command to its end; TestFailure if it fails (with `refused`: if it does not)."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, **more)
    except subprocess.TimeoutExpired as error:
        raise TestFailure(f"`{' '.join(words)}` did not end in {seconds} s") from error
    except FileNotFoundError as error:
        raise TestFailure(f"{words[0]} is not installed") from error
    if bool(done.returncode) != refused:
        outcome = "was not refused" if refused else f"ended with {done.returncode}"
        raise TestFailure(f"`{' '.join(words)}` {outcome}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done


def wait_until(condition, seconds, what):
    """Polls until `condition()` is true, and returns its value; `what` may be a function that describes the current state."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TestFailure(f"not within {seconds} s: {what() if callable(what) else what}")
        pause.wait(0.3)
    return value


class Steps:
    """Runs steps one after another, prints the result of each, and keeps a table of them."""

    def __init__(self):
        self.rows = []
        self.work = None

    @contextmanager
    def step(self, name):
        """A step, with a list to which it appends facts. Clients, if any, must make progress afterwards."""
        facts, begin = [], time.monotonic()
        print(f"        {name} ...", flush=True)
        yield facts
        took = time.monotonic() - begin
        if self.work:
            self.work.progress()
            facts.append(sentence(self.work.figures()))
        self.rows.append((name, took, "; ".join(facts)))
        print(f"{took:6.1f} s  {name}" + "".join(f"\n          {fact}" for fact in facts), flush=True)

    def table(self):
        """The steps as Markdown."""
        lines = [f"| {name} | {took:.1f} | {facts} |" for name, took, facts in self.rows]
        return "\n".join(["| step | seconds | facts |", "|---|---|---|", *lines]) + "\n"


def sentence(figures):
    return (
        f"{figures['appends']} appends, {figures['reads']} reads, {figures['repeated']} attempts repeated, "
        f"the longest call {figures['longest']:.1f} s"
    )


def test_options(about):
    """The common options of these tests."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    release = ROOT / "target/release"
    parser.add_argument("--binaries", type=Path, default=release, help="where cargo put the binaries [target/release]")
    parser.add_argument("--table", type=Path, help="write the steps to this file, as Markdown")
    parser.add_argument("--keep", action="store_true", help="keep everything at the end")
    return parser


def run_test(title, make, given):
    """Runs `make(given)`, a test with `run`, `end(failed)` and `steps`; ends the process with the failure, if there is one."""
    # A test that is terminated still removes what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    # It logs in only as it sets by itself.
    for variable in LOGIN:
        os.environ.pop(variable, None)
    test, failed = None, True
    try:
        test = make(given)
        test.run()
        failed = False
    except (TestFailure, Failed, Wrong) as error:
        sys.exit(f"{title}: {error}")
    finally:
        if test:
            if given.table:
                given.table.write_text(test.steps.table())
            test.end(failed)
    print(f"{title}: ok")
