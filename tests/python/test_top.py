"""`volley top` at a terminal: what it draws, its keys, and how it leaves the terminal."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios

import pytest
from cluster import BIN, environment, wait_until


class Screen:
    """`volley top` with a terminal of 24 lines and 80 columns."""

    def __init__(self, cluster, *arguments):
        self.terminal, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(side)
        command = [BIN / "volley", "top", "--cluster", cluster, "--interval", "1", *arguments]
        variables = environment() | {"TERM": "xterm", "NO_COLOR": "1", "XDG_CONFIG_HOME": "/nonexistent"}
        # A session of its own: there is no other terminal that it could find.
        self.process = subprocess.Popen(
            command, stdin=side, stdout=side, stderr=subprocess.PIPE, env=variables, start_new_session=True
        )
        self.side, self.written = side, ""

    def read(self):
        """All that was written, with the sequences that move and paint."""
        while select.select([self.terminal], [], [], 0)[0]:
            self.written += os.read(self.terminal, 65_536).decode(errors="replace")
        return self.written

    def text(self):
        """What the terminal shows: only what changes is written, wherever it is."""
        blank = [[" "] * 80 for _ in range(24)]
        cells, row, column = [list(line) for line in blank], 0, 0
        for numbers, command, character in re.findall(r"\x1b\[(\??[0-9;]*)([A-Za-z])|([^\x1b])", self.read()):
            if character:
                cells[min(row, 23)][min(column, 79)] = character
                column += 1
            elif command == "H":
                row, column = (int(number) - 1 for number in (numbers or "1;1").split(";"))
            elif command == "J":
                cells = [list(line) for line in blank]
        return "\n".join("".join(line) for line in cells)

    def wait_for(self, *texts):
        wait_until(lambda: all(text in self.text() for text in texts) or self.process.poll() is not None, 30, texts)
        assert self.process.poll() is None, self.process.stderr.read()

    def press(self, keys):
        os.write(self.terminal, keys.encode())

    def end(self):
        code = self.process.wait(timeout=30)
        assert termios.tcgetattr(self.side) == self.before, "the terminal is as it was"
        return code

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        os.close(self.terminal)
        os.close(self.side)


@pytest.fixture
def screen(shared):
    shown = Screen(shared.address(shared.coordinators[0]), "--prefix", "t/top")
    yield shown
    shown.close()


def test_nodes_tables_and_details_are_shown(shared, db, screen):
    db.put("t/top/rides", {"id": [1, 2, 3]})
    screen.wait_for("nodes alive", *(f"{node.host}:8816" for node in shared.nodes), " gets, ")
    assert "not known" not in screen.text(), "the metrics of the nodes are read"
    assert not re.search("\x1b\\[3[1-7]m", screen.read()), "there are no colours with NO_COLOR"
    screen.press("\t")
    screen.wait_for("t/top/rides", "version")
    screen.press("\r")
    screen.wait_for("shard_by", "replicas")
    screen.press("q")
    assert screen.end() == 0
    assert "\x1b[?1049l" in screen.read(), "the screen before is shown again"


def test_interrupt_is_an_end_like_any_other(screen):
    screen.wait_for("nodes alive")
    screen.press("\x03")
    assert screen.end() == 0


def test_termination_leaves_the_terminal_as_it_was(screen):
    screen.wait_for("nodes alive")
    screen.process.terminate()
    assert screen.end() == 130


def test_without_a_terminal_it_is_refused(shared):
    command = [BIN / "volley", "top", "--cluster", shared.address(shared.coordinators[0])]
    for more, reason in (([], "draws on a terminal"), (["--json"], "has no JSON")):
        ended = subprocess.run([*command, *more], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
        assert ended.returncode == 1 and reason in ended.stderr and not ended.stdout, ended
