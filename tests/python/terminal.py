"""Programs on a terminal of their own."""

import codecs
import os
import pty
import subprocess

from cluster import environment


def start_at_terminal(*command, **variables):
    """Starts a program; returns its process and the descriptor by which its terminal is read and typed at."""
    master, slave = pty.openpty()
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment() | variables)
    os.close(slave)
    return process, master


def shown_at(master):
    """What is shown, piece by piece, until all programs have left the terminal."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        try:
            found = os.read(master, 65_536)
        except OSError:
            return
        if not found:
            return
        yield decoder.decode(found)
