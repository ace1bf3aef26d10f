"""docs/tutorial.md, line by line: its commands and programs in their order, against the cluster that its first command starts.

A block of `sh` or `python` is run as it stands; a block of `text` after it is what it prints. Two things differ from what a reader does: the
cluster takes a free port, so the address of the page is replaced by its own, and its end is by a signal.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from cluster import BIN, environment

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "tutorial.md"
ADDRESS = "grpc://127.0.0.1:8815"
SECONDS = 120
BLOCK = re.compile(r"^```(sh|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    """The blocks of code of the page: the language, the code, and what it prints, or None."""
    found = []
    for language, code in BLOCK.findall(PAGE.read_text()):
        if language == "text":
            found[-1] = (*found[-1][:2], code)
        else:
            found.append((language, code, None))
    return found


def normal(text):
    """The lines of an output, without what differs from run to run: times and sizes, and the width that they have in tables."""
    text = re.sub(r"\b\d+(\.\d+)? ?(s|min|B|kB|MB|KiB|MiB)\b", "# \\2", text)
    text = re.sub(r"# (B|kB|MB|KiB|MiB)\b", "# bytes", text)
    return [" ".join(line.split()) for line in text.strip().splitlines()]


@pytest.fixture
def tutorial(tmp_path):
    """The page's cluster, started by its first command: the folder in which it runs, and its address."""
    language, code, _ = blocks()[0]
    assert language == "sh" and code.startswith("volley dev ")
    words = [str(BIN / "volley"), *code.split()[1:], "--port", "0"]
    log = open(tmp_path / "dev.log", "w")
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=log, text=True, env=environment())
    try:
        line = process.stdout.readline().strip()
        assert line.startswith("ready grpc://"), (line, (tmp_path / "dev.log").read_text())
        yield tmp_path, line.removeprefix("ready ")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
        assert process.returncode == 0, (tmp_path / "dev.log").read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        log.close()


def test_each_block_prints_what_the_tutorial_says(tutorial):
    folder, address = tutorial
    path = os.pathsep.join([str(BIN), str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])
    variables = environment() | {"PATH": path, "VOLLEY_CLUSTER": address, "XDG_CONFIG_HOME": str(folder), "NO_COLOR": "1"}
    for language, code, printed in blocks()[1:]:
        command = ["bash", "-euc"] if language == "sh" else [sys.executable, "-c"]
        done = subprocess.run(
            [*command, code.replace(ADDRESS, address)],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}"
        if printed is not None:
            assert normal(done.stdout) == normal(printed), code


def test_tutorial_has_an_output_for_most_blocks():
    found = blocks()
    assert {language for language, _, _ in found} == {"sh", "python"}
    assert sum(printed is not None for _, _, printed in found) >= len(found) - 2
