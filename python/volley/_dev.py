"""A cluster on this machine, for notebooks and tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
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

    def __init__(self, process: subprocess.Popen[str], address: str, tls_ca: str | None, temporary: str | None):
        self._process = process
        #: Where clients connect.
        self.address = address
        #: The certificate of the authority that clients trust; None: there is no TLS.
        self.tls_ca = tls_ca
        # Also if nobody holds it any more, and at the end of the process.
        self._end = weakref.finalize(self, _end, process, temporary)

    def connect(self, **options: Any) -> Database:
        """A connection to it."""
        settings: dict[str, Any] = {"tls_ca": self.tls_ca}
        return connect(self.address, **(settings | options))

    def stop(self) -> None:
        """Ends it. Without a folder of its own its tables are gone."""
        self._end()

    def __enter__(self) -> DevCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def dev(
    nodes: int = 3,
    coordinators: int = 1,
    data_dir: str | os.PathLike[str] | None = None,
    port: int = 0,
    *,
    tls: bool = False,
) -> DevCluster:
    """Starts a cluster on this machine, and returns when it serves.

    ``tls``: for clients and between members, with certificates in the folder ``tls`` of ``data_dir``; :meth:`DevCluster.connect` trusts
    them, and others do by ``cluster.tls_ca``.

    >>> with volley.dev(nodes=1) as cluster:
    ...     cluster.connect().tables()
    []
    """
    arguments = [_program(), "dev", "--nodes", str(nodes), "--coordinators", str(coordinators), "--port", str(port)]
    # A folder that the program makes is not known here, and its certificates are needed.
    temporary = tempfile.mkdtemp(prefix="volley-dev-") if tls and data_dir is None else None
    folder = temporary if data_dir is None else os.fspath(data_dir)
    if folder is not None:
        arguments += ["--data-dir", folder]
    if tls:
        arguments.append("--tls")
    tls_ca = os.path.join(os.path.abspath(folder), "tls", "ca.crt") if tls and folder is not None else None
    try:
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, start_new_session=True)
    except BaseException:
        _remove(temporary)
        raise
    assert process.stdout is not None
    try:
        line = process.stdout.readline().strip()
    except BaseException:
        # Such as Ctrl-C, which the cluster does not get: it has a session of its own.
        _end(process, temporary)
        raise
    if not line.startswith("ready "):
        process.kill()
        _end(process, temporary)
        raise RuntimeError(f"the cluster did not start; its errors are above. It said: {line or 'nothing'}")
    # What it prints further must not fill the pipe.
    threading.Thread(target=_discard, args=(process.stdout,), daemon=True).start()
    return DevCluster(process, line.removeprefix("ready "), tls_ca, temporary)


def _discard(stream: Any) -> None:
    for _ in stream:
        pass


def _end(process: subprocess.Popen[str], temporary: str | None) -> None:
    if process.poll() is None:
        process.terminate()
    process.wait()
    _remove(temporary)


def _remove(folder: str | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
