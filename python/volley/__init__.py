"""Arrow tables of a Volley cluster: put with one call, fetched in parallel.

>>> import volley
>>> db = volley.connect()  # the cluster of VOLLEY_CLUSTER; or its address: volley.connect("grpc+tls://host:8815")
>>> db.put("trips", {"id": [1, 2, 3, 4], "fare": [9.5, 20.0, 3.2, 12.5]})["rows"]
4
>>> db.get("trips", where="fare > 10").to_pandas()["id"].to_list()
[2, 4]

Any number of threads share a :class:`Database`. ``volley.aio`` has the same for asyncio; ``volley.dask``, ``volley.duckdb``,
``volley.ibis``, ``volley.polars``, ``volley.ray`` and ``volley.torch`` connect these libraries.
"""

from __future__ import annotations

import importlib
from typing import Any

from ._database import ClusterStatus, Database, TableRef, connect
from ._dev import DevCluster, dev
from ._errors import (
    AlreadyExists,
    Cancelled,
    Conflict,
    DataLoss,
    Error,
    InvalidArgument,
    LimitExceeded,
    PermissionDenied,
    SchemaMismatch,
    TableNotFound,
    Timeout,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from ._partitions import Partition
from ._table import Scan, Table
from ._volley import Batch, Schema, __version__
from ._write import Writer

__all__ = [
    "AlreadyExists",
    "Batch",
    "Cancelled",
    "ClusterStatus",
    "Conflict",
    "DataLoss",
    "Database",
    "DevCluster",
    "Error",
    "InvalidArgument",
    "LimitExceeded",
    "Partition",
    "PermissionDenied",
    "Scan",
    "Schema",
    "SchemaMismatch",
    "Table",
    "TableNotFound",
    "TableRef",
    "Timeout",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
    "Writer",
    "__version__",
    "connect",
    "dev",
]

#: Modules that need other libraries, so they are imported when they are used: ``volley.polars`` needs Polars.
_CONNECTORS = frozenset({"aio", "dask", "duckdb", "ibis", "polars", "ray", "torch"})


def __getattr__(name: str) -> Any:
    if name in _CONNECTORS:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
