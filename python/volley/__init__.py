"""Arrow tables of a Volley cluster: put with one call, fetched in parallel.

>>> import volley
>>> db = volley.connect("grpc://127.0.0.1:8815")  # doctest: +SKIP
>>> db.put("trips", frame, shard_by=["id"])  # doctest: +SKIP
>>> db.get("trips", where="fare > 10").to_pandas()  # doctest: +SKIP

Any number of threads share a :class:`Database`. ``volley.aio`` has the same for asyncio.
"""

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
