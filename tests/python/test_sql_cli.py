"""`volley sql`: where rows go, statements from arguments, files and the standard input, and the prompt."""

import csv
import io
import json
import os
import signal
import subprocess
import threading

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest

from cluster import BIN, environment, get, put, wait_until
from sql_calls import ENDLESS, sql_name
from terminal import shown_at, start_at_terminal
from tls_cluster import volley

TABLE = pa.table({"id": pa.array(range(500), pa.int64()), "kind": [("ant", None)[i % 2] for i in range(500)]})


@pytest.fixture
def table(client, name):
    put(client, name, TABLE)
    return sql_name(name)


@pytest.fixture
def sql(shared):
    """Runs `volley sql` against a member; returns its standard output."""

    def run(*words, member=None, code=0, flags=(), **options):
        address = shared.address(member or shared.coordinators[0])
        result = volley("--cluster", address, *flags, "sql", *words, **options)
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout if code == 0 else result.stderr

    return run


def test_rows_are_csv_without_a_terminal(shared, sql, table):
    for member in shared.members():
        text = sql(f"SELECT id, kind FROM {table} WHERE id >= 497 ORDER BY id", member=member)
        assert list(csv.reader(io.StringIO(text))) == [["id", "kind"], ["497", ""], ["498", "ant"], ["499", ""]]
    assert len(sql(f"SELECT * FROM {table}").splitlines()) == 501, "all rows"


def test_rows_are_json_lines_with_the_flag(sql, table):
    statement = f"SELECT id, kind FROM {table} WHERE id < 2 ORDER BY id"
    expected = [{"id": 0, "kind": "ant"}, {"id": 1, "kind": None}]
    for text in (sql(statement, flags=["--json"]), sql(statement, "--format", "json"), sql(statement, "--format", "jsonl")):
        assert [json.loads(line) for line in text.splitlines()] == expected


def test_table_shows_some_rows_and_says_that_there_are_more(sql, table):
    text = sql(f"SELECT * FROM {table}", "--rows", "3")
    assert "| id " in text and "the first 3 rows of 500; --rows N" in text and "| 3 " not in text
    text = sql(f"SELECT * FROM {table} WHERE id >= 0", "--rows", "3")
    assert "the first 3 rows, and there are more" in text
    assert sql(f"SELECT count(*) AS n FROM {table}", "--rows", "3").splitlines()[-1] == "1 row"
    assert sql(f"SELECT id FROM {table} WHERE id < 0", "--rows", "3").splitlines()[-1] == "0 rows"


def test_rows_go_into_files_of_each_format(sql, table, tmp_path):
    statement = f"SELECT * FROM {table}"
    for extension, read in (
        ("parquet", pq.read_table),
        ("arrow", lambda path: ipc.open_file(path).read_all()),
        ("arrows", lambda path: ipc.open_stream(path).read_all()),
    ):
        path = tmp_path / f"rows.{extension}"
        assert "500 rows into" in sql(statement, "-o", path)
        assert read(path).equals(TABLE), extension
    path = tmp_path / "rows.csv"
    report = json.loads(sql(statement, "-o", path, "--null", "NA", flags=["--json"]))
    assert (report["rows"], report["file"]) == (500, str(path))
    assert path.read_text().splitlines()[:3] == ["id,kind", "0,ant", "1,NA"]
    before = path.read_bytes()
    assert "nothing_here" in sql("SELECT sum(nothing_here) FROM " + table, "-o", path, code=1)
    assert path.read_bytes() == before, "a statement that fails leaves the file"


def test_statements_come_from_files_and_the_standard_input(sql, client, name, tmp_path):
    table, path = sql_name(name), tmp_path / "script.sql"
    path.write_text(f"-- a table; and its rows\nCREATE TABLE {table} (id BIGINT, text VARCHAR);\n"
                    f"INSERT INTO {table} VALUES (1, 'a;b'), (2, 'it''s');\nSELECT count(*) AS n FROM {table};\n")
    assert sql("-f", path).splitlines() == ["CREATE: 0 rows", "INSERT: 2 rows", "n", "2"]
    assert get(client, name)["text"].to_pylist() == ["a;b", "it's"]
    for words in (["-"], ["-f", "-"]):
        assert sql(*words, stdin=f"SELECT max(id) AS m FROM {table}").splitlines() == ["m", "2"]
    failed = sql("-f", path, code=1)
    assert "CREATE TABLE" in failed and "exists" in failed, "the statement that failed is named"
    assert get(client, name).num_rows == 2, "those after it did not run"
    reported = [json.loads(line) for line in sql(f"DROP TABLE {table}", flags=["--json"]).splitlines()]
    assert [(report["statement"], report["rows"]) for report in reported] == [("DROP", 0)]


def test_wrong_use_is_an_error_with_its_reason(sql, table, tmp_path):
    for words, why in (
        ([f"SELECT sum(idd) FROM {table}"], "id"),
        ([f"DELETE FROM {table}"], "CREATE OR REPLACE TABLE"),
        (["SELECT * FROM nothing_here"], "nothing_here"),
        ([" -- nothing"], "no statement"),
        ([], "no statement"),
        (["SELECT 1; SELECT 2", "-o", tmp_path / "a.csv"], "one statement"),
        (["SELECT 1", "-o", tmp_path / "a.unknown"], "--format"),
        (["-f", tmp_path / "missing.sql"], "missing.sql"),
        ([f"SELECT * FROM {table}", "--format", "parquet", "--null", "x"], "--null"),
    ):
        assert why in sql(*words, code=1), words


def test_interrupt_ends_a_statement_with_its_own_code(shared):
    command = [BIN / "volley", "--cluster", shared.address(shared.nodes[0]), "sql", ENDLESS]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # Before the program handles signals the system ends it.
    wait_until(lambda: handles(process, signal.SIGINT), 20, "the program handles interrupts")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130 and "interrupted" in error, error


def handles(process, number):
    """Whether a process handles a signal."""
    with open(f"/proc/{process.pid}/status") as status:
        [mask] = [line.split()[1] for line in status if line.startswith("SigCgt:")]
    return int(mask, 16) >> (number - 1) & 1 == 1


class Prompt:
    """`volley sql` on a terminal of its own."""

    def __init__(self, address, states):
        command = [BIN / "volley", "--cluster", address, "sql"]
        variables = {"TERM": "xterm", "NO_COLOR": "1", "XDG_STATE_HOME": str(states)}
        self.process, self.master = start_at_terminal(*command, **variables)
        self.all, self.start = "", 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for piece in shown_at(self.master):
            self.all += piece

    @property
    def text(self):
        """What was shown since the last text was typed."""
        return self.all[self.start:]

    def type(self, text):
        self.start = len(self.all)
        os.write(self.master, text.encode())

    def wait(self, *words):
        self._wait(lambda: all(word in self.text for word in words), f"the terminal shows {words}")

    def wait_prompt(self, after):
        """Waits until it asks again after a word. What is typed before is no key: it would lose Ctrl-D."""
        self._wait(lambda: "volley> " in self.text.partition(after)[2], f"the prompt follows {after!r}")

    def _wait(self, condition, what):
        try:
            wait_until(condition, 30, what)
        except AssertionError as error:
            raise AssertionError(f"{error}, but {self.text!r}") from None

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def prompt(shared, tmp_path):
    opened = []

    def start():
        opened.append(Prompt(shared.address(shared.coordinators[0]), tmp_path))
        opened[-1].wait("volley> ")
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_prompt_runs_statements_and_commands(prompt, name, table, tmp_path):
    first = prompt()
    for typed, shown in (
        (f"SELECT count(*) * 2\rFROM {table};\r", ("1000", "1 row")),
        ("\\timing\r", ("times are shown",)),
        ("SELECT 6 * 7;\r", ("42", "time: ")),
        (f"\\d {name}\r", ("kind", "Utf8")),
        ("\\d\r", (name.rpartition("/")[2],)),
        ("SELECT nothing_here;\r", ("error: ",)),
    ):
        first.type(typed)
        first.wait(*shown)
        first.wait_prompt(shown[-1])
    first.type("\\q\r")
    assert first.process.wait(timeout=20) == 0
    history = tmp_path / "volley" / "sql_history"
    assert "6 * 7" in history.read_text() and history.stat().st_mode & 0o077 == 0
    second = prompt()
    # The arrow key shows the last line of the history.
    second.type("\x1b[A")
    second.wait("\\q")
    second.type("\r")
    assert second.process.wait(timeout=20) == 0


def test_interrupt_cancels_the_statement_and_not_the_prompt(prompt):
    opened = prompt()
    opened.type(ENDLESS + ";\r")
    wait_until(lambda: opened.text.endswith("\n"), 20, "the statement is sent")

    def cancelled():
        if "error: cancelled" in opened.text:
            return True
        opened.process.send_signal(signal.SIGINT)
        return False

    wait_until(cancelled, 30, "the statement is cancelled")
    opened.type("SELECT 6 * 7;\r")
    opened.wait("42")
    opened.wait_prompt("1 row")
    opened.type("\x04")
    assert opened.process.wait(timeout=20) == 0


def test_tab_completes_the_name_of_a_column(prompt, client, name):
    column = f"only_{name[-12:]}"
    put(client, name, pa.table({column: pa.array([471_100], pa.int64())}))
    opened = prompt()
    opened.type(f"SELECT {column[:-4]}")

    def completed():
        # The prompt reads names without waiting for them; until they are there, the key does nothing.
        os.write(opened.master, b"\t")
        return column in opened.text

    wait_until(completed, 30, "the name is completed")
    opened.type(f" + 11 AS n FROM {sql_name(name)};\r")
    opened.wait("471111")
