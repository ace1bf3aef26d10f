"""`volley drop` at a terminal: it asks before a table with rows is dropped."""

import os

import pyarrow as pa
import pytest

from cluster import BIN, get, put
from terminal import shown_at, start_at_terminal
from tls_cluster import volley

TABLE = pa.table({"i": pa.array(range(3), pa.int64())})


def answered(answer, *words):
    """Runs `volley` on a terminal of its own, on which the answer is typed; returns its exit code and what was shown."""
    process, master = start_at_terminal(BIN / "volley", *words)
    os.write(master, f"{answer}\n".encode())
    shown = "".join(shown_at(master))
    os.close(master)
    return process.wait(timeout=30), shown


def test_table_with_rows_is_dropped_after_a_yes_only(shared, client, name):
    words = ("--cluster", shared.address(shared.coordinators[0]), "drop", name)
    put(client, name, TABLE)
    for answer in ("", "no"):
        code, shown = answered(answer, *words)
        assert code == 1 and f"Drop {name} with 3 rows?" in shown and "is not dropped" in shown, shown
        assert get(client, name).num_rows == 3
    code, shown = answered("y", *words)
    assert code == 0 and f"`volley restore {name}` brings it back" in shown, shown
    with pytest.raises(KeyError, match=name):
        get(client, name)


def test_nothing_is_asked_with_yes_or_without_rows_or_terminal(shared, client, name):
    words = ("--cluster", shared.address(shared.coordinators[0]), "drop", name)
    put(client, name, TABLE)
    code, shown = answered("no", *words, "--yes")
    assert code == 0 and "[y/N]" not in shown, shown
    put(client, name, TABLE.slice(0, 0))
    code, shown = answered("no", *words)
    assert code == 0 and "[y/N]" not in shown, shown
    put(client, name, TABLE)
    assert volley(*words, stdin="no\n").returncode == 0
