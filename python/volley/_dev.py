"""A cluster on this machine, for notebooks and tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import threading
import weakref
from typing import Any

from ._database import Database, connect


def _program() -> str:
    """The program ``volley``: of ``VOLLEY_BIN``, of this installation, or of the search path."""
    installed = os.path.join(sysconfig.get_path("scripts"), "volley")
    for path in (os.environ.get("VOLLEY_BIN"), installed, shutil.which("volley")):
        if path and os.access(path, os.X_OK):
            return path
    raise FileNotFoundError("there is no program volley: install the package from its wheel, or set VOLLEY_BIN to it")


class DevCluster:
    """A running cluster. It ends with its block, with :meth:`stop`, and with the process."""

    def __init__(self, process: subprocess.Popen[str], address: str):
        self._process = process
        #: Where clients connect.
        self.address = address
        # Also if nobody holds it any more, and at the end of the process.
        weakref.finalize(self, _terminate, process)

    def connect(self, **options: Any) -> Database:
        """A connection to it."""
        return connect(self.address, **options)

    def stop(self) -> None:
        """Ends it. Without a folder of its own its tables are gone."""
        _terminate(self._process)

    def __enter__(self) -> DevCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def dev(nodes: int = 3, coordinators: int = 1, data_dir: str | os.PathLike[str] | None = None, port: int = 0) -> DevCluster:
    """Starts a cluster on this machine, and returns when it serves.

    >>> with volley.dev() as cluster:  # doctest: +SKIP
    ...     db = cluster.connect()
    """
    arguments = [_program(), "dev", "--nodes", str(nodes), "--coordinators", str(coordinators), "--port", str(port)]
    if data_dir is not None:
        arguments += ["--data-dir", os.fspath(data_dir)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline().strip()
    except BaseException:
        # Such as Ctrl-C, which the cluster does not get: it has a session of its own.
        _terminate(process)
        raise
    if not line.startswith("ready "):
        process.kill()
        process.wait()
        raise RuntimeError(f"the cluster did not start; its errors are above. It said: {line or 'nothing'}")
    # What it prints further must not fill the pipe.
    threading.Thread(target=_discard, args=(process.stdout,), daemon=True).start()
    return DevCluster(process, line.removeprefix("ready "))


def _discard(stream: Any) -> None:
    for _ in stream:
        pass


def _terminate(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
    process.wait()
